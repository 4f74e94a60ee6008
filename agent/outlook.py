"""Looks at other regions' edges, hears of this host's own edges what they saw, and tells the control plane both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from agent.core.model import Route
from agent.core.vantage import (
    LOOK_INTERVAL_S,
    PATIENCE_S,
    PROBE_PAUSE_S,
    PROBES,
    Finding,
    Neighbour,
    Passes,
    Sight,
    findings,
    probe_timeout_s,
    watched,
)
from fleet.clock import Clock
from locci.v1 import agent_pb2, edge_pb2

PORT: Final = 80
_PATH: Final = "/.well-known/locci/health"
_HEAD_BYTES_MAX: Final = 4096
_STALLED_S: Final = 0.25
_TELL_S: Final = 10.0
_NETWORKS_MAX: Final = 2048
_NETWORKS_PER_MESSAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """What one probe found: `reason` is empty when all is well, `silent` when nothing came back."""

    reason: str = ""
    silent: bool = False


Ask = Callable[[str], Awaitable[Asked]]


async def ask(address: str, port: int = PORT) -> Asked:
    """Asks an edge how it is, for as long as it takes."""
    host = f"[{address}]" if ":" in address else address
    try:
        reader, writer = await asyncio.open_connection(address, port, limit=_HEAD_BYTES_MAX)
        try:
            head = f"GET {_PATH} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: locci-agent\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            words = (await reader.readline()).split(maxsplit=2)
        finally:
            writer.transport.abort()
    except ConnectionRefusedError:
        return Asked("connection refused")
    except (OSError, ValueError) as error:
        return Asked(str(error) or type(error).__name__, silent=True)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1."):
        return Asked("it does not speak HTTP")
    return Asked() if words[1] == b"200" else Asked(f"it answered {words[1][:3].decode('latin-1')}")


class Outlook:
    """What this host sees of others. `tell` is called when a node turns."""

    def __init__(self, node: str, region: str, clock: Clock, tell: Callable[[], None], asking: Ask = ask):
        self._node, self._region = node, region
        self._clock = clock
        self._tell = tell
        self._ask = asking
        self._looks: dict[Neighbour, asyncio.Task[None]] = {}
        self._sights: dict[str, Sight] = {}
        self._passes: dict[str, Passes] = {}
        self._round_trips: dict[str, tuple[int, int]] = {}
        """By network: microseconds, summed over connections, and their number."""
        self._told: tuple[tuple[str, bool], ...] | None = None
        self._told_at = 0.0

    def want(self, routes: Iterable[Route]) -> None:
        """Looks at nodes to which these routes may pass requests, and at no others. On the event loop only."""
        peers = (peer for route in routes for peer in route.peers)
        neighbours = (Neighbour(p.node, p.region, p.address.rpartition(":")[0].strip("[]")) for p in peers)
        wanted = watched(self._node, self._region, neighbours)
        for neighbour in [neighbour for neighbour in self._looks if neighbour not in wanted]:
            self._looks.pop(neighbour).cancel()
            self._sights.pop(neighbour.node, None)
        for neighbour in wanted:
            if neighbour not in self._looks:
                self._looks[neighbour] = asyncio.create_task(self._watch(neighbour))

    async def close(self) -> None:
        """Looks no more."""
        tasks, self._looks = list(self._looks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def see(self, said: edge_pb2.EdgeSightings) -> None:
        """Takes over what an edge of this host has seen."""
        now = self._clock.monotonic()
        for found in said.passes:
            before = self._passes.get(found.node, Passes())
            self._passes[found.node] = before.counted(found.answered, found.failed, found.reason[:200], now)
        for trip in said.round_trips:
            micros, samples = self._round_trips.get(trip.network, (0, 0))
            if samples or len(self._round_trips) < _NETWORKS_MAX:
                self._round_trips[trip.network] = micros + trip.round_trip_us * trip.samples, samples + trip.samples
        if said.passes:
            self._tell_turns()

    def evidence(self) -> agent_pb2.Evidence | None:
        """What is to be told now; None when all of it was told a moment ago."""
        now = self._clock.monotonic()
        found = findings(self._sights, self._passes, now)
        turned = _turns(found) != self._told
        if not turned and now - self._told_at < _TELL_S:
            return None
        if not found and not self._round_trips and not self._told:
            return None
        self._told, self._told_at = _turns(found), now
        offset_s = self._clock.wall() - now
        message = agent_pb2.Evidence(complete=True)
        for finding in found:
            row = message.results.add(endpoint=f"nodes/{finding.node}", healthy=finding.healthy, reason=finding.reason)
            row.in_rotation = finding.healthy
            row.since.FromMilliseconds(int(1000 * (finding.since + offset_s)))
            row.round_trip.FromMicroseconds(int(1e6 * finding.round_trip_s))
        for network in list(self._round_trips)[:_NETWORKS_PER_MESSAGE]:
            micros, samples = self._round_trips.pop(network)
            trip = message.round_trips.add(network=network, samples=samples)
            trip.round_trip.FromMicroseconds(micros // max(1, samples))
        return message

    def _tell_turns(self) -> None:
        if _turns(findings(self._sights, self._passes, self._clock.monotonic())) != (self._told or ()):
            self._tell()

    async def _watch(self, neighbour: Neighbour) -> None:
        clock = self._clock
        while True:
            began = clock.monotonic()
            before = self._sights.get(neighbour.node, Sight())
            reason = await self._look(neighbour.address, before)
            now = clock.monotonic()
            if reason is not None:
                self._sights[neighbour.node] = before.looked(reason, now, (now - began) / 2)
                self._tell_turns()
            await clock.sleep(max(0.0, began + LOOK_INTERVAL_S - now))

    async def _look(self, address: str, before: Sight) -> str | None:
        """Why the edge is not in order, empty when it is; None when this host was too busy to tell."""
        timeout_s = probe_timeout_s(before)
        probes = {asyncio.ensure_future(self._probe(address, timeout_s))}
        launched, pause_s = 1, PATIENCE_S
        try:
            while True:
                asked_at = self._clock.monotonic()
                done, probes = await asyncio.wait(probes, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED)
                if self._clock.monotonic() - asked_at > pause_s + _STALLED_S:
                    return None
                found = [task.result() for task in done]
                if any(not one.reason for one in found):
                    return ""
                loud = next((one.reason for one in found if not one.silent), "")
                if loud:
                    return loud
                if launched < PROBES:
                    probes.add(asyncio.ensure_future(self._probe(address, timeout_s)))
                    launched, pause_s = launched + 1, PROBE_PAUSE_S
                elif not probes:
                    return found[-1].reason
                else:
                    pause_s = timeout_s
        finally:
            for task in probes:
                task.cancel()

    async def _probe(self, address: str, timeout_s: float) -> Asked:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(address)
        except TimeoutError:
            return Asked(f"no answer within {timeout_s:.2g} s", silent=True)


def _turns(found: Iterable[Finding]) -> tuple[tuple[str, bool], ...]:
    return tuple((finding.node, finding.healthy) for finding in found)
