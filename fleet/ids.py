"""Ids and resource names (AIP-122): `regions/eu`, `apps/hello/releases/3`."""

from __future__ import annotations

import re
from typing import Final

from fleet.errors import invalid

REGION_ID_LENGTH_MAX: Final = 32
NODE_ID_LENGTH_MAX: Final = 40
APP_ID_LENGTH_MAX: Final = 40

_ID = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")
_HOST_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def check_id(value: str, field: str, length_max: int) -> str:
    """`value`, or INVALID_ARGUMENT when it is no id of at most `length_max` characters."""
    if len(value) > length_max or not _ID.fullmatch(value):
        raise invalid(
            field,
            f"{field}: {value!r} is not an id: use 1-{length_max} of a-z, 0-9 and '-', "
            "starting with a letter and ending with a letter or digit",
        )
    return value


def check_hostname(value: str, field: str) -> str:
    """`value` as a DNS name in lower case without the last dot, or INVALID_ARGUMENT (RFC 1035, section 2.3.4)."""
    name = value.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or len(labels) < 2 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise invalid(field, f"{field}: {value!r} is not a host name such as www.example.net")
    return name


def last_part(name: str) -> str:
    """The id at the end of a resource name."""
    return name.rsplit("/", 1)[-1]


def parse(name: str, pattern: str, field: str = "name") -> tuple[str, ...]:
    """The variable parts of `name` by a pattern such as `apps/*/releases/*`, or INVALID_ARGUMENT."""
    expected, got = pattern.split("/"), name.split("/")
    if len(expected) != len(got) or any(e not in ("*", g) or not g for e, g in zip(expected, got, strict=True)):
        raise invalid(field, f"{field}: {name!r} is not of the form {pattern.replace('*', '{id}')}")
    return tuple(g for e, g in zip(expected, got, strict=True) if e == "*")
