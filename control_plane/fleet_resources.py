"""Resources that follow from desired state alone, the same for every node that holds them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from google.protobuf import duration_pb2

from control_plane import certificates as owned
from control_plane import decode, zone_files
from control_plane import zone_keys as keys
from control_plane.core.acme import covers
from control_plane.core.purges import place
from control_plane.observed import Observed
from control_plane.ports import Vault
from control_plane.state import State
from fleet.ids import last_part
from locci.v1 import agent_pb2, node_pb2, purge_pb2, resource_pb2, zone_pb2

_CHALLENGE_TTL_S: Final = 1.0


def zone_keys(state: State, vault: Vault | None) -> Iterable[resource_pb2.Resource]:
    """What DNS servers sign with."""
    if vault is None:
        return
    for name, sealed in state.zone_keys.items():
        origin = last_part(name)
        yield resource_pb2.Resource(name=f"zonekeys/{origin}", zone_keys=keys.unseal(vault, origin, sealed))


def purges(state: State) -> dict[str, purge_pb2.PurgeMarks]:
    """By app: what edges may use no more of what they have stored of it."""
    found: dict[str, purge_pb2.PurgeMarks] = {}
    for name, row in state.purges.items():  # by app and sequence
        marks = found.setdefault(name.split("/")[1], purge_pb2.PurgeMarks())
        marks.floor = max(marks.floor, row.floor)
        mark = marks.marks.add(sequence=int(last_part(name)), soft=row.soft, tag=row.tag or None)
        if row.url:
            mark.url = place(row.url)
        elif row.prefix:
            mark.prefix = place(row.prefix)
    return found


def certificates(state: State, vault: Vault | None, served: Collection[str]) -> Iterable[resource_pb2.Resource]:
    """Those that are for a host name of an app."""
    if vault is None:
        return
    for name, row in state.certificates.items():
        sealed = state.certificate_keys.get(name)
        if sealed is None or not any(covers(one, host) for one in row.hostnames for host in served):
            continue
        material = resource_pb2.CertificateMaterial(
            certificate=last_part(name),
            hostnames=row.hostnames,
            chain_pem=row.chain_pem,
            private_key_pem=owned.unseal_key(vault, name, sealed),
            expire_time=row.expire_time,
        )
        yield resource_pb2.Resource(name=name, certificate=material)


def by_zone(rows: Iterable[zone_pb2.RecordSet]) -> dict[str, list[zone_pb2.RecordSet]]:
    """Record sets by the name of their zone."""
    result: dict[str, list[zone_pb2.RecordSet]] = {}
    for row in rows:
        result.setdefault(row.name.partition("/recordSets/")[0], []).append(row)
    return result


def records(origin: str, row: zone_pb2.RecordSet, zone_ttl_s: float) -> resource_pb2.ZoneRecords:
    """A record set as DNS servers hold it."""
    return resource_pb2.ZoneRecords(
        owner=zone_files.absolute(row.owner, origin),
        type=row.type,
        ttl=decode.duration(row.ttl.seconds or zone_ttl_s or 3600.0),
        data=row.data,
    )


def zone_records(
    state: State, origin: str, rows: Iterable[zone_pb2.RecordSet], zone_ttl_s: float
) -> list[resource_pb2.ZoneRecords]:
    """What operators declared in a zone, and what proves to a certificate authority that its host names are ours (RFC
    8555, section 8.4)."""
    result = [records(origin, row, zone_ttl_s) for row in rows]
    for name, challenge in state.dns_challenges.items():
        if challenge.origin != origin:
            continue
        owner = last_part(name)
        there = next((r for r in result if r.owner == owner and r.type == "TXT"), None)
        if there is None:
            there = resource_pb2.ZoneRecords(owner=owner, type="TXT", ttl=decode.duration(_CHALLENGE_TTL_S))
            result.append(there)
        there.data.extend(f'"{value}"' for value in challenge.values)
    return result


def http_proofs(state: State, hostnames: Collection[str]) -> resource_pb2.HttpProofs | None:
    """What edges answer to a certificate authority that asks for these host names."""
    found = [row for row in state.http_challenges.values() if row.hostname in hostnames]
    return resource_pb2.HttpProofs(challenges=found) if found else None


def cut_proven_within(state: State, observed: Observed) -> duration_pb2.Duration | None:
    """How long the slowest DNS server of the fleet needs to prove a cut: by its last heartbeat, else by its settings;
    None while none says so."""
    told = (
        _cut_proven_s(session, observed.session(last_part(node.name), session.role).heartbeat)
        for node in state.nodes.values()
        if node.condition != node_pb2.NODE_CONDITION_REVOKED
        for session in node.sessions
        if session.role == node_pb2.NODE_ROLE_DNS
    )
    longest_s = max(told, default=0.0)
    return decode.duration(longest_s) if longest_s else None


def _cut_proven_s(session: node_pb2.NodeSession, beat: agent_pb2.Heartbeat) -> float:
    now = beat.HasField("cut_proven_within")
    return decode.span_s(beat.cut_proven_within if now else session.cut_proven_within)
