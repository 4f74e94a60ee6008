"""Addresses beside answers that name a host: MX and SRV (RFC 1035, section 3.3.9; RFC 2782), HTTPS and SVCB (RFC 9460,
section 4.1). Only those that are the same for every client: a steered address would bind the answer to a place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from routing.core import wire
from routing.core.wire import Rcode
from routing.core.zone import Entry, Names, Record, Tail, tail

_MX: Final = b"\x00\x0f"
_SRV: Final = b"\x00\x21"
_SERVICES: Final = (b"\x00\x40", b"\x00\x41")
_TARGET_AT: Final = {_MX: 2, _SRV: 6} | dict.fromkeys(_SERVICES, 2)
"""Where the host's name begins in the data of a record."""
_MOST: Final = 24


def with_addresses(names: Names) -> Names:
    """The same names; answers that name hosts of our zones bring the addresses of these."""
    changed: dict[bytes, Entry] = {}
    for owner, entry in names.entries.items():
        kinds = entry.fixed.keys() & _TARGET_AT.keys()
        more = {kind: _with(names, owner, kind, entry.fixed[kind]) for kind in kinds}
        if more:
            changed[owner] = replace(entry, fixed=entry.fixed | more)
    return replace(names, entries=names.entries | changed)


def _with(names: Names, owner: bytes, kind: bytes, found: Tail) -> Tail:
    beside = [record for host in _hosts(owner, kind, found.records) for record in _of(names, host, kind)][:_MOST]
    if not beside:
        return found
    extra = b"".join(wire.record(host, *record) for host, record in beside)
    whole = tail(Rcode.NOERROR, tuple(body + extra for body in found.bodies), len(found.records), 0, len(beside))
    return replace(whole, slim=found, records=found.records)


def _hosts(owner: bytes, kind: bytes, records: Iterable[Record]) -> Iterable[bytes]:
    """The names that the records send clients to, each once."""
    targets = dict.fromkeys(_name_in(data, _TARGET_AT[kind]) for _, _, data in records)
    if kind in _SERVICES and b"\0" in targets and owner[:2] != b"\1*":
        # The root stands for the owner itself.
        targets[owner] = None
    targets.pop(b"\0", None)
    return targets


def _name_in(data: bytes, start: int) -> bytes:
    at = start
    while data[at]:
        at += 1 + data[at]
    return data[start : at + 1].lower()


def _of(names: Names, host: bytes, kind: bytes) -> Iterable[tuple[bytes, Record]]:
    holder, entry = names.zone_of(host), names.entries.get(host)
    if holder is None or entry is None or entry.alias or entry.steered >= 0:
        return
    for wanted in (wire.A, wire.AAAA):
        if wanted in entry.fixed:
            yield from ((host, record) for record in entry.fixed[wanted].records)
