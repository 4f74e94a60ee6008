"""Zone transfers to secondaries (AXFR, RFC 5936; IXFR answered in full, RFC 1995, section 4) with TSIG (RFC 8945), and
NOTIFY (RFC 1996).

A secondary does not steer: hostnames go to it with the addresses of all regions, whatever their health.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import structlog

from fleet.clock import Clock
from fleet.errors import invalid
from routing.adapters.refusals import BAD_SIGNATURES, Keys, refusal, unproven
from routing.core import wire
from routing.core.model import Region, RoutingTable
from routing.core.zone import CompiledZone, Names, Record, compile_names

log = structlog.get_logger()

_MESSAGE_BYTES: Final = 16_000
_NOTIFY_TRIES: Final = 4
_NOTIFY_TIMEOUT_S: Final = 2.0
_KINDS: Final = (dns.rdatatype.AXFR, dns.rdatatype.IXFR)
_ALGORITHMS: Final = {
    "hmac-sha256": dns.tsig.HMAC_SHA256,
    "hmac-sha384": dns.tsig.HMAC_SHA384,
    "hmac-sha512": dns.tsig.HMAC_SHA512,
}
_SECRET_BYTES_MIN: Final = 16


@dataclass(frozen=True, slots=True)
class Permission:
    """Who may have zones: clients in `networks`, and whoever signs with one of `keys`."""

    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()
    keys: Keys | None = None


def load_keys(path: Path) -> dict[dns.name.Name, dns.tsig.Key]:
    """Keys from a file: lines of name, algorithm and secret in base64. Raises INVALID_ARGUMENT."""
    found: dict[dns.name.Name, dns.tsig.Key] = {}
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("transfer_keys", f"transfer_keys: {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        at = f"transfer_keys: {path}, line {number}"
        if len(parts) != 3 or parts[1] not in _ALGORITHMS:
            known = ", ".join(_ALGORITHMS)
            raise invalid("transfer_keys", f"{at}: it is not of the form NAME ALGORITHM SECRET ({known}; base64)")
        try:
            secret = base64.b64decode(parts[2], validate=True)
            name = dns.name.from_text(parts[0])
        except (binascii.Error, dns.exception.DNSException) as error:
            raise invalid("transfer_keys", f"{at}: {error}") from error
        if len(secret) < _SECRET_BYTES_MIN:
            raise invalid("transfer_keys", f"{at}: a secret needs {_SECRET_BYTES_MIN} bytes")
        found[name] = dns.tsig.Key(name, secret, _ALGORITHMS[parts[1]])
    return found


class Transfers:
    """Answers transfers of the zones of one table at a time."""

    def __init__(self, permission: Permission, table: Callable[[], RoutingTable], clock: Clock):
        self._permission = permission
        self._clock = clock
        self._table = table
        self.served = self.refused = 0

    def answer(self, data: bytes, source: bytes) -> list[bytes] | None:
        """The messages of a transfer over TCP; None when it is nothing of the kind, or not for this client."""
        if not _is_transfer(data):
            return None
        keys = dict(self._permission.keys or {})
        try:
            query = dns.message.from_wire(data, keyring=keys, ignore_trailing=False)
        except dns.exception.DNSException as error:
            self.refused += 1
            log.warning("transfer_refused", reason=str(error) or type(error).__name__)
            if isinstance(error, BAD_SIGNATURES):
                return [unproven(data, error, keys, self._clock.wall())]
            return [refusal(data, dns.rcode.FORMERR)]
        if not self._may(query, source):
            self.refused += 1
            return None
        names = compile_names(self._table())
        zone = names.zones.get((query.question[0].name.to_wire() or b"").lower())
        if zone is None or zone.keys:
            # Signed answers are made as they are given: a copy without signatures would be taken for an attack.
            self.refused += 1
            return [refusal(data, dns.rcode.NOTAUTH if zone is None else dns.rcode.REFUSED)]
        self.served += 1
        return _messages(query, zone, names, self._table().regions)

    def _may(self, query: dns.message.Message, source: bytes) -> bool:
        address = ipaddress.ip_address(source)
        return query.had_tsig or any(address in network for network in self._permission.networks)


def _is_transfer(data: bytes) -> bool:
    end = data.find(0, 12) + 1
    return len(data) >= 17 and not data[2] & 0xF8 and data[end : end + 2] in (wire.AXFR, wire.IXFR)


def zone_records(zone: CompiledZone, names: Names, regions: Mapping[str, Region]) -> Iterable[tuple[bytes, Record]]:
    """What a secondary gets but the SOA: owner in wire form, type, time to live, data."""
    for owner, entry in sorted(names.entries.items()):
        if entry.zone is not zone:
            continue
        for kind, found in sorted(entry.fixed.items()):
            if kind not in (wire.ANY, wire.SOA):
                yield from ((owner, record) for record in found.records)
        if entry.steered >= 0:
            hostname = names.classes[entry.steered]
            home = {region for region, count in hostname.replicas if count}
            for region in regions.values():
                for edge in region.edges if not home or region.id in home else ():
                    for text in (*edge.ipv4, *edge.ipv6):
                        packed = ipaddress.ip_address(text).packed
                        kind = wire.A if len(packed) == 4 else wire.AAAA
                        yield owner, (kind, hostname.ttl_s, packed)
    for cut in names.cuts.values():
        if zone.holds(cut.owner):
            yield from ((cut.owner, record) for record in (*cut.servers, *cut.signers))
            yield from cut.glue


def _messages(
    query: dns.message.Message, zone: CompiledZone, names: Names, regions: Mapping[str, Region]
) -> list[bytes]:
    """All records between two copies of the SOA (RFC 5936, section 2.2)."""
    (soa,) = zone.soa().records
    records = [(zone.wire_name, soa), *zone_records(zone, names, regions), (zone.wire_name, soa)]
    chunks: list[list[tuple[bytes, Record]]] = [[]]
    size = 0
    for owner, record in records:
        size += len(owner) + 10 + len(record[2])
        if size > _MESSAGE_BYTES and chunks[-1]:
            chunks.append([])
            size = 0
        chunks[-1].append((owner, record))
    result, context = [], None
    for number, chunk in enumerate(chunks):
        message = dns.message.make_response(query)
        message.flags = dns.flags.QR | dns.flags.AA
        if number:
            message.question = []
        for owner, (kind, ttl_s, data) in chunk:
            rdtype = dns.rdatatype.RdataType.make(int.from_bytes(kind, "big"))
            rdata = dns.rdata.from_wire(dns.rdataclass.IN, rdtype, data, 0, len(data))
            name, _ = dns.name.from_wire(owner, 0)
            message.answer.append(dns.rrset.from_rdata(name, ttl_s, rdata))
        result.append(message.to_wire(max_size=65_535, multi=len(chunks) > 1, tsig_ctx=context))
        context = message.tsig_ctx
    return result


class Notifier:
    """Tells secondaries of zones whose serial has changed; each until it answers or has been asked often enough."""

    def __init__(self, targets: Sequence[tuple[str, int]]):
        self._targets = targets
        self._serials: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, table: RoutingTable) -> None:
        """Looks which serials have changed; those of the first table are told too."""
        for origin, zone in table.zones.items():
            if self._serials.get(origin) != zone.serial:
                for host, port in self._targets:
                    task = asyncio.create_task(_notify(origin, host, port))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        self._serials = {origin: zone.serial for origin, zone in table.zones.items()}

    async def close(self) -> None:
        """Tells nobody any more."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _notify(origin: str, host: str, port: int) -> None:
    message = dns.message.make_query(dns.name.from_text(origin), dns.rdatatype.SOA)
    message.set_opcode(dns.opcode.NOTIFY)
    message.flags |= dns.flags.AA
    message.flags &= ~dns.flags.RD
    for attempt in range(_NOTIFY_TRIES):
        with contextlib.suppress(OSError, dns.exception.DNSException):
            await dns.asyncquery.udp(message, host, port=port, timeout=_NOTIFY_TIMEOUT_S * 2**attempt)
            return
        await asyncio.sleep(_NOTIFY_TIMEOUT_S)
    log.warning("secondary_silent", zone=origin, secondary=f"{host}:{port}")
