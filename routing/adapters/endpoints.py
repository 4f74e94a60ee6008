"""Listening addresses as people write them."""

from __future__ import annotations

import ipaddress

from fleet.errors import invalid


def parse_listen(text: str, field: str) -> tuple[str, int]:
    """Address and port of `192.0.2.1:53` or `[2001:db8::1]:53`, or INVALID_ARGUMENT."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        number = int(port)
        ipaddress.ip_address(host)
    except ValueError:
        number = -1
    if not 0 <= number <= 65_535:
        raise invalid(field, f"{field}: {text!r} should read like 192.0.2.1:53 or [2001:db8::1]:53")
    return host, number
