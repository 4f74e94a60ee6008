"""What the connections of one worker share."""

from __future__ import annotations

import itertools
import math
import random
import secrets
from collections import Counter
from typing import TYPE_CHECKING, assert_never

from agent.edge.core import cache_key, http_date
from agent.edge.core.balance import Endpoint
from agent.edge.core.cache_rules import NO_RULES
from agent.edge.core.entry import StoredResponse, Variants, made_stale
from agent.edge.core.headers import traceparent
from agent.edge.core.http_rules import NO_HTTP_RULES
from agent.edge.core.known_heads import KnownHeads
from agent.edge.core.memory_store import MemoryStore
from agent.edge.core.purges import Effect
from agent.edge.core.request_head import RequestHead
from agent.edge.core.routing import Route, Table
from agent.edge.core.sightings import RoundTrips
from agent.edge.counters import Counters
from agent.edge.loans import Loans
from agent.edge.ports import SecondTier
from agent.edge.settings import EdgeSettings
from fleet.clock import Clock
from fleet.path_rules import without_port

if TYPE_CHECKING:
    from agent.edge.access_log import AccessLog
    from agent.edge.fill import Fill
    from agent.edge.rates import Rates

UNCACHEABLE_MAX = 10_000
UNCACHEABLE_S = 5.0


class EdgeState:
    """Tables, cache, counters. Everything here has a bound."""

    __slots__ = (
        "_date",
        "_request_numbers",
        "_request_prefix",
        "_uncacheable",
        "access_log",
        "asked",
        "clients_connected",
        "clock",
        "counters",
        "draining",
        "endpoints",
        "fill_bytes",
        "fills",
        "forgotten",
        "https_port",
        "known_heads",
        "loans",
        "monotonic",
        "part_fills",
        "purge_round",
        "rates",
        "retiring",
        "rng",
        "round_trips",
        "settings",
        "store",
        "table",
        "tier",
        "upstream_timeout_s",
        "wall",
    )

    def __init__(self, settings: EdgeSettings, clock: Clock, rng: random.Random, tier: SecondTier | None):
        self.settings = settings
        self.clock = clock
        self.wall = clock.wall
        self.monotonic = clock.monotonic
        self.rng = rng
        self.tier = tier
        self.counters = Counters()
        self.round_trips = RoundTrips()
        self.store: MemoryStore[StoredResponse | Variants] = MemoryStore(settings.ram_cache_bytes)
        self.table = Table()
        self.purge_round = 0
        """Rises whenever orders to purge came."""
        self.endpoints: dict[str, Endpoint] = {}
        self.draining = False
        """Connections end with their next answer."""
        self.retiring = False
        """Draining, while another worker serves in this one's place."""
        self.upstream_timeout_s = settings.upstream_timeout_s
        self.access_log: AccessLog | None = None
        self.rates: Rates | None = None
        """None when no rate is limited."""
        self.https_port = 0
        """Where plain requests are sent to; 0 when there is no listener with TLS."""
        self.known_heads = KnownHeads()
        self.fills: dict[bytes, Fill] = {}
        self.part_fills: dict[bytes, dict[bytes, Fill]] = {}
        """Fetches of parts, by primary key and by what is wanted of it."""
        self.fill_bytes = 0
        """What runs of fetches has come, or is known to come, and may be stored."""
        self.loans = Loans()
        self.forgotten = 0
        """Rises whenever something was forgotten that the second tier may still have."""
        self.clients_connected: Counter[bytes] = Counter()
        """Open connections by client, when their number is limited."""
        self.asked: Counter[str] = Counter()
        """Requests in progress, of apps that have a bound of them."""
        self._uncacheable: dict[bytes, float] = {}
        self._date = (-1, b"")
        self._request_prefix = secrets.token_hex(8).encode()
        self._request_numbers = itertools.count(1)

    def apply(self, table: Table) -> None:
        """Swaps the table. What is stored is dropped when a hostname went, changed hands or lost its cache."""
        before, self.table = self.table, table
        owners, now_owners = _owners(before), _owners(table)
        # Nothing enters beside others at the start: then all get their full share at once.
        entered = self.clock.monotonic() if owners else -math.inf
        known = self.endpoints
        self.endpoints = {addr: known.get(addr) or Endpoint(addr, entered=entered) for addr in now_owners}
        for address, endpoint in self.endpoints.items():
            if owners.get(address) != now_owners[address]:
                endpoint.forgive()  # failures of whoever had the address before
        for host, route in before.by_host.items():
            after = table.by_host.get(host)
            if after is None or after.app != route.app or _is_tighter(route, after):
                self.store.clear()
                break
        self._take_orders(before)
        self._uncacheable.clear()
        self.known_heads.clear()  # keys follow the rules of the table

    def _take_orders(self, before: Table) -> None:
        """Compares what is stored anew with orders to purge and rules; nobody joins a fetch that they came after."""
        known = {route.app: (route.purges, route.http) for route in before.routes}
        changed = {route.app for route in self.table.routes if known.get(route.app) != (route.purges, route.http)}
        if changed:
            self.purge_round += 1
            self.fills = {key: fill for key, fill in self.fills.items() if fill.route.app not in changed}
            for key in list(self.part_fills):
                if any(fill.route.app in changed for fill in self.part_fills[key].values()):
                    del self.part_fills[key]

    def is_behind(self, head: RequestHead) -> bool:
        """Whether another edge that asks knows an order to purge that is not known here so far."""
        known = head.fields.get(b"locci-purge")
        if known is None or not known.isdigit() or len(known) > 18:
            return False
        route = self.table.find(head.host)
        return route is not None and int(known) > route.purges.sequence

    def purged(self, key: bytes, entry: StoredResponse) -> StoredResponse | None:
        """The entry as orders to purge leave it: as it is, stale, or not at all."""
        if entry.checked == self.purge_round:
            return entry
        _, _, host, path = key.split(b"/", 3)
        route = self.table.find(host)
        if route is not None:
            new = entry.sequence < route.purges.sequence
            match route.purges.effect(key, entry.fields, entry.sequence) if new else Effect.NONE:
                case Effect.NONE:
                    pass
                case Effect.STALE:
                    entry = made_stale(entry, self.clock.wall())
                    entry.sequence = route.purges.sequence
                    self.counters.purged_total += 1
                case Effect.GONE:
                    self.counters.purged_total += 1
                    return None
                case never:
                    assert_never(never)
            if entry.edits != route.http.response:
                entry.edits = route.http.response
                entry.block_second = -1
                entry.fixed = b""
            if route.http is not NO_HTTP_RULES and route.http.stops(without_port(host), b"/" + path):
                return entry  # looked at again each time, since requests for it are answered by the app's rules
        entry.checked = self.purge_round
        return entry

    def in_progress(self) -> dict[str, int]:
        """Requests in progress at draining replicas, by the replica's name."""
        found: dict[str, int] = {}
        for route in self.table.routes:
            for local in route.local:
                if local.draining:
                    count = self.endpoints[local.address].outstanding
                    found[local.replica] = found.get(local.replica, 0) + count
        return found

    def passed(self) -> list[tuple[str, int, int, str]]:
        """Of each other node: requests that it answered, those that were lost, and how the last one was."""
        peers = {peer.address: peer.node for route in self.table.routes for peer in route.peers}
        found: dict[str, tuple[int, int, str]] = {}
        for address, node in peers.items():
            endpoint = self.endpoints[address]
            answered, lost, reason = found.get(node, (0, 0, ""))
            found[node] = answered + endpoint.answers, lost + endpoint.losses, endpoint.loss or reason
        return [(node, *counts) for node, counts in sorted(found.items())]

    def request_id(self) -> bytes:
        """An id that no other request has."""
        return b"%b-%x" % (self._request_prefix, next(self._request_numbers))

    def date(self) -> bytes:
        """A Date field's value for now."""
        second = int(self.wall())
        if self._date[0] != second:
            self._date = (second, http_date.render(second))
        return self._date[1]

    def trace(self) -> bytes:
        """A trace context that begins here."""
        return traceparent(self.rng.getrandbits(192))

    def key(self, scheme: bytes, host: bytes, target: bytes) -> bytes:
        """The primary key of a target, by the rules of the app that has the host."""
        route = self.table.find(host)
        return cache_key.primary(scheme, host, target, route.rules if route is not None else NO_RULES)

    def fill_of(self, key: bytes, part: bytes) -> Fill | None:
        """The fetch that runs for the key; with `part`, for that part of it."""
        return self.part_fills.get(key, {}).get(part) if part else self.fills.get(key)

    def enter_fill(self, fill: Fill) -> None:
        """Lets others join."""
        (self.part_fills.setdefault(fill.key, {}) if fill.part else self.fills)[fill.part or fill.key] = fill

    def leave_fill(self, fill: Fill) -> None:
        """Nobody joins any more."""
        if self.fill_of(fill.key, fill.part) is not fill:
            return
        if not fill.part:
            del self.fills[fill.key]
            return
        del self.part_fills[fill.key][fill.part]
        if not self.part_fills[fill.key]:
            del self.part_fills[fill.key]

    def is_uncacheable(self, key: bytes) -> bool:
        """Whether the key's last response could not be stored: its requests then do not wait for each other."""
        until = self._uncacheable.get(key)
        return until is not None and self.monotonic() < until

    def mark_uncacheable(self, key: bytes) -> None:
        """Remembers for a few seconds that responses of the key cannot be stored."""
        if len(self._uncacheable) >= UNCACHEABLE_MAX:
            self._uncacheable.clear()
        self._uncacheable[key] = self.clock.monotonic() + UNCACHEABLE_S

    def keep(self, key: bytes, entry: StoredResponse, request: dict[bytes, bytes]) -> Variants | None:
        """Stores in RAM; returns the marker when the response varies."""
        if not entry.vary:
            self.store.put(key, entry, entry.cost_bytes)
            return None
        before = self.store.get(key)
        names = entry.vary
        if isinstance(before, Variants):
            names = tuple(sorted(set(names) | set(before.names)))
        if isinstance(before, Variants) and before.names == names:
            variants = before
        else:
            variants = Variants(names, secrets.token_hex(6).encode())
        self.keep_variant(key, entry, variants, request)
        return variants

    def keep_variant(self, key: bytes, entry: StoredResponse, variants: Variants, request: dict[bytes, bytes]) -> None:
        """Stores a variant and its marker in RAM."""
        self.store.put(key, variants, 400)
        self.store.put(variants.key(key, request), entry, entry.cost_bytes)

    def drop(self, key: bytes, request: dict[bytes, bytes]) -> None:
        """Drops from RAM what is stored for the request; other variants stay."""
        found = self.store.get(key)
        self.store.remove(found.key(key, request) if isinstance(found, Variants) else key)

    def forget(self, key: bytes) -> None:
        """Drops what is stored under a primary key, and lets no running fetch store it (RFC 9111 section 4.4)."""
        self.forgotten += 1
        self.store.remove(key)
        self._uncacheable.pop(key, None)
        whole = self.fills.pop(key, None)
        for fill in (*self.part_fills.pop(key, {}).values(), *((whole,) if whole is not None else ())):
            fill.may_store = False
        if self.tier is not None:
            self.tier.remove(key)

    def stored(self, key: bytes, request: dict[bytes, bytes]) -> tuple[StoredResponse | None, bool]:
        """What is stored for the request, and whether there are variants that do not fit it."""
        found, place = self.store.get(key), key
        varies = isinstance(found, Variants)
        if isinstance(found, Variants):
            place = found.key(key, request)
            found = self.store.get(place)
        if not isinstance(found, StoredResponse):
            return None, varies
        entry = self.purged(key, found)
        if entry is None:
            self.store.remove(place)
        elif entry is not found:
            self.store.put(place, entry, entry.cost_bytes)
        return entry, False

    def body_bytes_max(self, host: bytes) -> int:
        """How large the body of a request to a host may be."""
        most, route = self.settings.max_body_bytes, self.table.find(host)
        own = route.http.limits.body_bytes_max if route is not None else 0
        return min(most, own) if own else most

    def route(self, host: bytes) -> Route | None:
        """The route of a host."""
        return self.table.find(host)


def _is_tighter(before: Route, after: Route) -> bool:
    """Whether something that was stored under the route must not be given out under the new one."""
    redirects = after.redirect and not before.redirect
    return (before.cache and not after.cache) or redirects or before.hsts_s != after.hsts_s


def _owners(table: Table) -> dict[str, str]:
    """Whose each address is."""
    found = {local.address: local.replica for route in table.routes for local in route.local}
    return found | {
        peer.address: f"nodes/{peer.node}" for route in table.routes for peer in (*route.peers, *route.shield)
    }
