"""Answers to queries that are refused before anything is looked up, those with a bad signature among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdtypes.ANY.TSIG
import dns.tsig

from routing.core import wire

BAD_SIGNATURES: Final = (
    dns.message.UnknownTSIGKey,
    dns.tsig.BadSignature,
    dns.tsig.BadTime,
    dns.tsig.BadKey,
    dns.tsig.BadAlgorithm,
)
"""What dnspython raises for a query whose TSIG record does not prove who asks."""

Keys = Mapping[dns.name.Name, dns.tsig.Key]

_RR_HEAD: Final = b"\x00\xfa\x00\xff\0\0\0\0"
"""Type, class and time to live of a TSIG record (RFC 8945, section 4.2)."""


def refusal(data: bytes, rcode: dns.rcode.Rcode) -> bytes:
    """An answer without records; the question is as it was."""
    end = data.find(0, 12) + 5
    flags = wire.QR | int(rcode)
    return data[:2] + wire.head(flags, (1, 0, 0, 0)) + data[12:end]


def unproven(data: bytes, error: dns.exception.DNSException, keys: Keys, now_s: float) -> bytes:
    """NOTAUTH with a TSIG record that says why (RFC 8945, section 5.2). `now_s` is in seconds since 1970.

    BADKEY and BADSIG are unsigned: what they would be signed with is not shared, or not proven to be. BADTIME is signed
    with the query's key and tells the time here, so that the other side can trust it and set its clock.
    """
    plain = refusal(data, dns.rcode.NOTAUTH)
    try:
        query = dns.message.from_wire(data, keyring=False)
    except dns.exception.DNSException:
        return plain
    if query.tsig is None:
        return plain
    name, asked = query.tsig.name, query.tsig[0]
    key = keys.get(name)
    if isinstance(error, dns.tsig.BadTime) and key is not None:
        told = asked.replace(mac=b"", error=dns.rcode.BADTIME, other=int(now_s).to_bytes(6, "big"))
        told, _ = dns.tsig.sign(plain, key, told, asked.time_signed, asked.mac)  # type: ignore[no-untyped-call]
    else:
        code = dns.rcode.BADSIG if isinstance(error, dns.tsig.BadSignature) else dns.rcode.BADKEY
        told = asked.replace(mac=b"", error=code, other=b"")
    rdata, owner = bytes(told.to_wire()), name.to_wire() or b""
    record = owner + _RR_HEAD + len(rdata).to_bytes(2, "big") + rdata
    return plain[:10] + b"\0\1" + plain[12:] + record
