"""Synthetic clients of drills: once a second this host asks DNS and fetches, as its own clients and as those of the
targets' regions do, and counts what comes of it.

The host's own clients ask a real resolver, as any program on it does, and leave keeping answers to that. No resolver
here is one of a target's region: for its clients the DNS servers are asked directly in the name of an address there,
and answers are kept for their time to live, as a resolver does.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dns.asyncquery
import dns.edns
import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype

from agent.adapters.fetch import fetch_status
from agent.core.tally import Tally
from fleet.clock import Clock
from fleet.snapshot import Snapshot
from locci.v1 import agent_pb2, drill_pb2

INTERVAL_S: Final = 1.0
ASKED_S_MAX: Final = 1_200.0
"""No run takes longer: whoever goes on to want it then is out of order."""
_ASKERS_MAX: Final = 4
_SERVERS_MAX: Final = 3
_DNS_S: Final = 1.0
_FETCH_S: Final = 3.0
_RESOLVER_S: Final = 2.0
"""A resolver asks others in turn."""
_STATUS_MAX: Final = 499
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_LOCAL: Final = "127.0.0.1"
HOST: Final = "host"
SERVERS: Final = "servers"


class FailedError(Exception):
    """Why a request failed, in a few words."""


@dataclass(slots=True)
class _Kept:
    """An answer of DNS, and until when it holds."""

    addresses: list[str]
    until: float


class DrillClients:
    """The clients of every run that wants some of this host."""

    def __init__(self, clock: Clock, resolver: str = SERVERS):
        """`resolver` is the address of one, `host` for the host's own, or `servers` for none; a drill can say
        otherwise."""
        self._clock = clock
        self._resolver = resolver
        self._asked: dict[tuple[str, str], str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tallies: dict[tuple[str, str], Tally] = {}

    def want(self, snapshot: Snapshot) -> None:
        """The clients of these resources ask, and no others. On the event loop only."""
        wanted = {name: resource.drill_client for name, resource in snapshot.of_type("drillclients").items()}
        for name in self._tasks.keys() - wanted.keys():
            self._tasks.pop(name).cancel()
        self._tallies = {key: tally for key, tally in self._tallies.items() if key[0] in wanted}
        self._asked = {key: whom for key, whom in self._asked.items() if key[0] in wanted}
        for name, asked in wanted.items():
            if name not in self._tasks:
                self._tasks[name] = asyncio.create_task(self._ask_all(name, asked))

    def counts(self) -> list[agent_pb2.DrillClientCounts]:
        """What was counted so far, for the next heartbeat."""
        found = []
        for (resource, region), tally in sorted(self._tallies.items()):
            row = agent_pb2.DrillClientCounts(
                resource=resource,
                region=region,
                requests=tally.requests,
                failed=tally.failed,
                slow=tally.slow,
                last_failure=tally.last_failure,
                resolver=self._asked.get((resource, region), ""),
            )
            row.longest_gap.FromMilliseconds(round(tally.gap_s * 1e3))
            found.append(row)
        return found

    async def close(self) -> None:
        """Nobody asks any more."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=1.0)

    async def _ask_all(self, name: str, asked: drill_pb2.DrillClient) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASKED_S_MAX), asyncio.TaskGroup() as group:
                for asker in asked.askers[:_ASKERS_MAX]:
                    group.create_task(self._ask(name, asked, asker))

    async def _ask(self, name: str, asked: drill_pb2.DrillClient, asker: drill_pb2.DrillAsker) -> None:
        key = (name, asker.region)
        self._tallies[key] = Tally()
        resolvers = [] if asker.address else resolvers_of(asked.resolver or self._resolver)
        servers = list(asked.name_servers)
        self._asked[key] = f"{resolvers[0]} (resolver)" if resolvers else "the DNS servers"
        client = _Client(asked.hostname, resolvers or servers, asker.address, self._clock, caches=not resolvers)
        while True:
            began = self._clock.monotonic()
            failure = await client.request()
            ended = self._clock.monotonic()
            self._tallies[key] = self._tallies.get(key, Tally()).with_answer(began, ended, failure)
            await self._clock.sleep(max(0.0, INTERVAL_S - (ended - began)))


class _Client:
    """One client: of resolvers, or, when it `caches`, behind a resolver of its own that asks `servers`."""

    def __init__(self, hostname: str, servers: list[str], address: str, clock: Clock, *, caches: bool):
        self._caches = caches
        self._hostname = hostname
        self._servers = servers
        self._address = address
        self._clock = clock
        self._kept = _Kept([], 0.0)
        self._avoided = ""

    async def request(self) -> str:
        """One request; why it failed, or an empty text."""
        try:
            if not self._caches or self._clock.monotonic() >= self._kept.until:
                self._kept = await self._resolve()
            # Its next try goes to another address of the answer, as that of a browser does.
            address = min(self._kept.addresses, key=lambda address: address == self._avoided)
            self._avoided = ""
            try:
                async with asyncio.timeout(_FETCH_S):
                    status = await fetch_status(address, self._hostname)
                if status > _STATUS_MAX:
                    return f"{address}: status {status}"
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                self._avoided = address
                reason = f"no answer within {_FETCH_S:g} s" if isinstance(error, TimeoutError) else str(error)
                return f"{address}: {reason or type(error).__name__}"[:200]
        except FailedError as error:
            return str(error)[:200]
        return ""

    async def _resolve(self) -> _Kept:
        """The newest answer. A server that does not answer is asked last the next time."""
        try:
            options: list[dns.edns.Option] = [dns.edns.ECSOption(self._address)] if self._address else []
        except ValueError as error:
            raise FailedError(f"the clients' address {self._address!r} is no address of IPv4 or IPv6") from error
        reason = "there is no DNS server"
        for server in self._servers[:_SERVERS_MAX]:
            query = dns.message.make_query(self._hostname, dns.rdatatype.A, use_edns=0, options=options)
            try:
                answer = await dns.asyncquery.udp(query, server, timeout=_DNS_S if self._caches else _RESOLVER_S)
            except (OSError, ValueError, dns.exception.DNSException) as error:
                reason = _why(server, error)
                self._servers.append(self._servers.pop(self._servers.index(server)))
                continue
            found = [(rrset.ttl, [str(r) for r in rrset]) for rrset in answer.answer if rrset.rdtype == dns.rdatatype.A]
            if not found:
                raise FailedError(f"{server}: no address: {dns.rcode.to_text(answer.rcode())}")
            ttl_s, addresses = found[-1]
            return _Kept(addresses, self._clock.monotonic() + ttl_s)
        raise FailedError(f"DNS: {reason}")


def _why(server: str, error: Exception) -> str:
    """What went wrong with a DNS server, in a few words."""
    # The library says nothing beside the type of text that is no address; an answer that is garbage is a DNSException.
    if isinstance(error, ValueError):
        return f"{server!r} is no address of a DNS server: IPv4 or IPv6 is wanted"
    return f"{server}: {error or type(error).__name__}"


def resolvers_of(resolver: str) -> list[str]:
    """Addresses of the resolvers that clients ask; none where they ask the DNS servers directly."""
    if resolver == SERVERS:
        return []
    if resolver != HOST:
        return [resolver]
    try:
        lines = (line.split() for line in _RESOLV_CONF.read_text().splitlines())
    except OSError:
        return [_LOCAL]
    # resolv.conf(5): without one, the resolver is on the host itself.
    return [line[1] for line in lines if len(line) > 1 and line[0] == "nameserver"] or [_LOCAL]
