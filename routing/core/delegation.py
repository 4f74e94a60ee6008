"""What is wrong between a zone, its parent and its servers: judged from what each of them said.

RFC 1034, section 4.2.2; RFC 1912, section 2.8; RFC 4035, section 5; RFC 6891; RFC 7766.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Level(Enum):
    """How bad: clients are not served, or not by all; something is not as it should be; as it should be."""

    ERROR = "error"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence: what, where, and what to do."""

    level: Level
    message: str


@dataclass(frozen=True, slots=True)
class Expected:
    """A zone as the fleet serves it: its name servers with their addresses, and whether its answers are signed."""

    origin: str
    name_servers: Mapping[str, frozenset[str]]
    signed: bool = False


@dataclass(frozen=True, slots=True)
class ParentSaid:
    """What a server of the parent zone answers about the delegation. `problem` is why it answered nothing."""

    server: str
    problem: str = ""
    delegated: bool = False
    name_servers: frozenset[str] = frozenset()
    glue: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ServerSaid:
    """What one address of a name server answers for the zone. `problem` is why it answered nothing over UDP,
    `tcp_problem` over TCP. `ds` are the digests (SHA-256) of the keys that it shows."""

    name: str
    address: str
    problem: str = ""
    tcp_problem: str = ""
    authoritative: bool = False
    recursive: bool = False
    edns: bool = False
    serial: int | None = None
    name_servers: frozenset[str] = frozenset()
    ds: frozenset[str] = frozenset()


def findings(expected: Expected, parents: Sequence[ParentSaid], servers: Sequence[ServerSaid]) -> list[Finding]:
    """All that is wrong, the worst first; a single word of praise when nothing is."""
    found = [*_names(expected), *_of_parents(expected, parents), *_of_servers(expected, servers)]
    found += _keys(expected, parents, servers)
    if not found:
        count = len({server.name for server in servers})
        message = f"{expected.origin} is delegated to its {count} name servers, and all of them answer alike"
        return [Finding(Level.OK, message)]
    order = list(Level)
    return sorted(dict.fromkeys(found), key=lambda one: order.index(one.level))


def _names(expected: Expected) -> Iterator[Finding]:
    origin = expected.origin
    if not expected.name_servers:
        what = f"{origin} has no name server: no host with the role dns and an address has joined"
        yield Finding(Level.ERROR, f"{what}; join one (`locci dns join`)")
    elif len(expected.name_servers) == 1:
        what = f"{origin} has one name server only"
        yield Finding(Level.WARNING, f"{what}: the zone is gone with it; join a second host, elsewhere (RFC 2182)")
    for name, addresses in sorted(expected.name_servers.items()):
        if not addresses:
            yield Finding(Level.ERROR, f"{name} has no address; join its host again with --address")


def _of_parents(expected: Expected, parents: Sequence[ParentSaid]) -> Iterator[Finding]:
    origin, ours = expected.origin, frozenset(expected.name_servers)
    if not parents:
        what = f"no name server of the zone above {origin} was found"
        yield Finding(Level.ERROR, f"{what}; see that the resolver answers, or name one with --parent")
    for parent in parents:
        where = f"the parent's server {parent.server}"
        if parent.problem:
            yield Finding(Level.WARNING, f"{where} says nothing of {origin}: {parent.problem}; ask again later")
        elif not parent.delegated:
            names = ", ".join(sorted(ours)) or "its name servers"
            what = f"{where} does not delegate {origin}: nobody finds it"
            yield Finding(Level.ERROR, f"{what}; have NS records for {names} entered there")
        else:
            yield from _of_delegation(where, expected, parent)


def _of_delegation(where: str, expected: Expected, parent: ParentSaid) -> Iterator[Finding]:
    origin, ours = expected.origin, frozenset(expected.name_servers)
    strange, missing = sorted(parent.name_servers - ours), sorted(ours - parent.name_servers)
    if not parent.name_servers & ours:
        what = f"{where} delegates {origin} to {', '.join(strange)}, none of which is a server of this fleet"
        yield Finding(Level.ERROR, f"{what}: clients get other answers; have the NS records there replaced")
    elif strange:
        what = f"{where} delegates {origin} also to {', '.join(strange)}, which this fleet does not know"
        yield Finding(Level.ERROR, f"{what}: some clients get other answers or none; have these NS records removed")
    if missing and parent.name_servers & ours:
        what = f"{where} does not name {', '.join(missing)} for {origin}"
        yield Finding(Level.WARNING, f"{what}: it is asked less than it could be; have NS records for it entered there")
    for name in sorted(parent.name_servers & ours):
        glue, addresses = parent.glue.get(name, frozenset()), expected.name_servers[name]
        if name.endswith(f".{origin}") and not glue:
            what = f"{where} gives no address (glue) for {name}, which is below {origin}: nobody can find it"
            yield Finding(Level.ERROR, f"{what}; have {', '.join(sorted(addresses))} entered there")
        elif glue and glue != addresses:
            what = f"{where} gives {', '.join(sorted(glue))} for {name}, which is at {', '.join(sorted(addresses))}"
            yield Finding(Level.ERROR, f"{what}; have the glue there replaced")


def _of_servers(expected: Expected, servers: Sequence[ServerSaid]) -> Iterator[Finding]:
    origin = expected.origin
    for server in servers:
        where = f"{server.name} at {server.address}"
        if server.problem:
            what = f"{where} does not answer over UDP: {server.problem}"
            yield Finding(Level.ERROR, f"{what}; see that locci-dns runs there and that port 53 is open")
            continue
        if not server.authoritative or server.serial is None:
            what = f"{where} does not answer for {origin} itself (lame)"
            yield Finding(
                Level.ERROR, f"{what}; see whether it is locci-dns that listens there, and that it has its table"
            )
            continue
        if server.tcp_problem:
            what = f"{where} does not answer over TCP: {server.tcp_problem}"
            yield Finding(Level.ERROR, f"{what}; large answers need it: open port 53 for TCP too (RFC 7766)")
        if server.recursive:
            what = f"{where} offers recursion"
            yield Finding(
                Level.WARNING, f"{what}: another program answers in the place of locci-dns, or in front of it"
            )
        if not server.edns:
            what = f"{where} answers without EDNS"
            yield Finding(
                Level.WARNING, f"{what}: something on the way takes it out; clients' networks are not seen (RFC 6891)"
            )
        if server.name_servers != frozenset(expected.name_servers):
            names = ", ".join(sorted(server.name_servers)) or "nobody"
            yield Finding(
                Level.WARNING, f"{where} names {names} as servers of {origin}; it has not the newest table yet"
            )
    serials = {s.serial: s for s in servers if s.serial is not None}
    if len(serials) > 1:
        told = ", ".join(
            f"{s.serial} at {s.name}" for s in sorted(serials.values(), key=lambda s: (s.serial or 0, s.name))
        )
        what = f"the servers of {origin} hold different versions (serials {told})"
        yield Finding(Level.WARNING, f"{what}; when it stays so, see what `locci nodes ls` says of those behind")


def _keys(expected: Expected, parents: Iterable[ParentSaid], servers: Iterable[ServerSaid]) -> Iterator[Finding]:
    origin = expected.origin
    shown = frozenset(ds for server in servers for ds in server.ds)
    for parent in parents:
        if parent.problem or not parent.delegated:
            continue
        where = f"the parent's server {parent.server}"
        known = {ds for ds in parent.ds if ds.split()[2] == "2"}
        if parent.ds and not shown:
            what = f"{where} says that {origin} is signed, but no key is shown: validating resolvers answer nothing"
            yield Finding(Level.ERROR, f"{what}; sign the zone, or have the DS records there removed")
        elif known and not known & shown:
            what = f"{where} has DS records for other keys than {origin} shows: validating resolvers answer nothing"
            yield Finding(Level.ERROR, f"{what}; have them replaced by {'; '.join(sorted(shown))}")
        elif expected.signed and shown and not parent.ds:
            what = f"{origin} is signed, but {where} has no DS record: nobody checks it"
            yield Finding(Level.WARNING, f"{what}; have one of these entered there: {'; '.join(sorted(shown))}")
