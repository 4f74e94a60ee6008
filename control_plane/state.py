"""Desired state in memory: a mirror of the store that every change goes through.

Reads are synchronous and never block; a change is committed first and mirrored then, in the order of revisions.
What is read here belongs to the mirror: copy it before you change it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from control_plane.ports import Committed, Delete, EventQuery, Put, Store, Transaction
from fleet.errors import not_found
from locci.v1 import (
    access_pb2,
    app_pb2,
    authority_pb2,
    backup_pb2,
    certificate_pb2,
    drill_pb2,
    enrolment_pb2,
    event_pb2,
    node_pb2,
    purge_pb2,
    region_pb2,
    registry_pb2,
    release_pb2,
    replica_pb2,
    resource_pb2,
    routing_pb2,
    secret_pb2,
    upgrade_pb2,
    zone_pb2,
)

M = TypeVar("M", bound=Message)
R = TypeVar("R")

_WATCHER_EVENTS_MAX = 1_000
_CHANGES_KEPT = 20_000


class Table(Generic[M]):
    """The objects of one kind, by name."""

    def __init__(self, kind: str, message: type[M]):
        self.kind = kind
        self.message = message
        self._rows: dict[str, M] = {}
        self._pairs: dict[str, tuple[str, M]] = {}
        """What `items` gives, made once each: thousands made anew with each look keep the garbage collector busy."""
        self._revisions: dict[str, int] = {}
        self.changes = 0
        """Rises with each object that changes, comes or goes."""
        self._changed: list[str] = []
        """The names of the last changes, oldest first; bounded."""
        self._names: list[str] | None = []
        """All names in order; None after one came or went, until they are asked for."""

    def get(self, name: str) -> M | None:
        """The object, or None."""
        return self._rows.get(name)

    def need(self, name: str) -> M:
        """The object. Raises NOT_FOUND."""
        row = self._rows.get(name)
        if row is None:
            raise not_found(name)
        return row

    def copy(self, name: str) -> M:
        """A copy to change. Raises NOT_FOUND."""
        result = self.message()
        result.CopyFrom(self.need(name))
        return result

    def revision(self, name: str) -> int:
        """The revision of the object's last change; 0 when there is none."""
        return self._revisions.get(name, 0)

    def values(self) -> list[M]:
        """All objects, by name."""
        return [self._rows[name] for name in self._ordered()]

    def items(self) -> list[tuple[str, M]]:
        """All names and objects, by name."""
        return [self._pairs[name] for name in self._ordered()]

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ordered())

    def last(self) -> M | None:
        """The object with the highest name."""
        return self._rows[self._ordered()[-1]] if self._rows else None

    def first_name(self) -> str:
        """The lowest name; there is one."""
        return self._ordered()[0]

    def _ordered(self) -> list[str]:
        if self._names is None:
            self._names = sorted(self._rows)
        return self._names

    def since(self, changes: int) -> set[str] | None:
        """Names of the objects that changed, came or went since there were so many `changes`; None when that is too
        long ago to tell."""
        count = self.changes - changes
        if count > len(self._changed):
            return None
        return set(self._changed[len(self._changed) - count :])

    def mirror(self, name: str, body: bytes | None, revision: int) -> None:
        """Takes over what the store holds; only the mirror itself calls this."""
        self.changes += 1
        self._changed.append(name)
        if len(self._changed) > 2 * _CHANGES_KEPT:
            del self._changed[:_CHANGES_KEPT]
        if body is None:
            self._rows.pop(name, None)
            self._pairs.pop(name, None)
            self._revisions.pop(name, None)
            self._names = None
            return
        row = self.message.FromString(body)
        if "revision" in row.DESCRIPTOR.fields_by_name:
            row.revision = revision  # type: ignore[attr-defined]
        if "etag" in row.DESCRIPTOR.fields_by_name:
            row.etag = str(revision)  # type: ignore[attr-defined]
        if name not in self._rows:
            self._names = None
        self._rows[name] = row
        self._pairs[name] = (name, row)
        self._revisions[name] = revision


@dataclass
class Batch:
    """Changes and events of one transaction."""

    changes: list[Put | Delete] = field(default_factory=list)
    events: list[event_pb2.Event] = field(default_factory=list)

    def put(self, table: Table[M], name: str, row: M, expected: int | None = None) -> None:
        """Writes an object; `expected` is the revision that it must have now, 0 for none."""
        self.changes.append(Put(table.kind, name, row.SerializeToString(deterministic=True), expected))

    def delete(self, table: Table[Any], name: str, expected: int | None = None) -> None:
        """Removes an object."""
        self.changes.append(Delete(table.kind, name, expected))

    def removes(self, table: Table[Any], name: str) -> bool:
        """Whether this transaction removes an object already."""
        return any(isinstance(c, Delete) and (c.kind, c.name) == (table.kind, name) for c in self.changes)

    def event(
        self,
        kind: str,
        message: str,
        *subjects: str,
        severity: event_pb2.Severity.ValueType = event_pb2.SEVERITY_INFO,
        source: str = "control-plane",
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Tells what happened; the main subject comes first."""
        event = event_pb2.Event(
            type=kind, severity=severity, subjects=subjects, message=message, source=source, details=details or {}
        )
        self.events.append(event)

    def __bool__(self) -> bool:
        return bool(self.changes or self.events)


class State:
    """Everything that the control plane wants and knows for good."""

    def __init__(self, store: Store):
        self._store = store
        self._committing = asyncio.Lock()
        self._watchers: set[asyncio.Queue[event_pb2.Event]] = set()
        self._changed = asyncio.Event()
        self.committing: list[Callable[[Batch], None]] = []
        """Each may add to a transaction that changes something, last of all."""
        self.revision = 0
        self.requests = Table("requests", BytesValue)
        """By `requests/{hash of caller, method and request id}`: what was asked, when, and the answer."""
        self.operator_tokens = Table("operatorTokens", access_pb2.OperatorToken)
        self.audit_records = Table("auditRecords", access_pb2.AuditRecord)
        """By `auditRecords/{sequence with 20 digits}`."""
        self.regions = Table("regions", region_pb2.Region)
        self.nodes = Table("nodes", node_pb2.Node)
        self.join_tokens = Table("joinTokens", enrolment_pb2.JoinToken)
        self.apps = Table("apps", app_pb2.App)
        self.releases = Table("releases", release_pb2.Release)
        self.rollouts = Table("rollouts", release_pb2.Rollout)
        self.assignments = Table("assignments", replica_pb2.Replica)
        """By `apps/{app}/replicas/{ordinal}-{release}@{node}`."""
        self.drills = Table("drills", drill_pb2.Drill)
        self.drill_runs = Table("drillRuns", drill_pb2.DrillRun)
        self.upgrades = Table("upgrades", upgrade_pb2.Upgrade)
        self.zones = Table("zones", zone_pb2.Zone)
        self.overrides = Table("routingOverrides", routing_pb2.RoutingOverride)
        self.client_latencies = Table("clientLatencies", resource_pb2.ClientLatencies)
        """By `latencies/{part}`: what is published of client networks."""
        self.record_sets = Table("recordSets", zone_pb2.RecordSet)
        self.purges = Table("purges", purge_pb2.Purge)
        """By `apps/{app}/purges/{sequence}`, the sequence with 15 digits."""
        self.confidential = Table("secrets", secret_pb2.Secret)
        self.secret_values = Table("secretValues", BytesValue)
        """By `secrets/{secret}/{version}`: the value, sealed."""
        self.certificates = Table("certificates", certificate_pb2.Certificate)
        self.certificate_keys = Table("certificateKeys", BytesValue)
        """By `certificates/{certificate}`: the private key in PEM, sealed."""
        self.dns_challenges = Table("dnsChallenges", certificate_pb2.DnsChallenge)
        """By `dnsChallenges/{owner}`: what a certificate authority asks DNS for while an order is in progress."""
        self.http_challenges = Table("httpChallenges", certificate_pb2.HttpChallenge)
        """By `httpChallenges/{token}`: what it asks edges for."""
        self.acme_keys = Table("acmeKeys", BytesValue)
        """By `acmeKeys/{hash of the directory's address}`: the account's private key in PEM, sealed."""
        self.registries = Table("registries", registry_pb2.Registry)
        self.registry_passwords = Table("registryPasswords", BytesValue)
        """By `registries/{registry}`: the password, sealed."""
        self.zone_keys = Table("zoneKeys", BytesValue)
        """By `zones/{origin}`: the keys of a signed zone, a sealed `ZoneKeys`."""
        self.zone_contents = Table("zoneContents", StringValue)
        """By origin: the hash of what the zone serves; its revision is the zone's serial."""
        self.origins = Table("origins", StringValue)
        """`master-key`: what only the fleet's master key opens, in base64."""
        self.authorities = Table("authorities", authority_pb2.Authority)
        self.authority_keys = Table("authorityKeys", BytesValue)
        """By `authorities/{authority}`: the private key in PEM, sealed."""
        self.backups = Table("backups", backup_pb2.Backup)
        self.secrets = Table("secretHashes", StringValue)
        """By `joinTokens/{id}` or `operatorTokens/{id}`: hexadecimal SHA-256 of the secret."""
        self._tables: dict[str, Table[Any]] = {t.kind: t for t in vars(self).values() if isinstance(t, Table)}

    async def load(self) -> None:
        """Mirrors the store as it is."""
        for row in await self._store.load():
            if row.kind in self._tables:
                self._tables[row.kind].mirror(row.name, row.body, row.revision)
        self.revision = await self._store.revision()

    async def transact(self, build: Callable[[Batch], R]) -> R:
        """Runs `build` against the present state and commits what it has put into the batch.

        `build` must not wait; whatever it raises leaves everything as it was. Raises UNAVAILABLE when the store
        cannot be written.
        """
        async with self._committing:
            batch = Batch()
            result = build(batch)
            if batch:
                for add in self.committing:
                    add(batch)
                await _to_its_end(self._commit(batch))
        return result

    async def _commit(self, batch: Batch) -> None:
        self._mirror(batch, await self._store.commit(Transaction(tuple(batch.changes), tuple(batch.events))))

    def _mirror(self, batch: Batch, committed: Committed) -> None:
        for change in batch.changes:
            body = change.body if isinstance(change, Put) else None
            self._tables[change.kind].mirror(change.name, body, committed.revision)
        self.revision = committed.revision
        self._announce(committed)

    def _announce(self, committed: Committed) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for event in committed.events:
            for watcher in self._watchers:
                if watcher.full():
                    # Too slow: it finds the gap by the sequence and reads what it missed from the store.
                    watcher.get_nowait()
                watcher.put_nowait(event)

    async def wait_change(self, timeout_s: float) -> None:
        """Returns after the next commit, or after `timeout_s`."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            return

    async def events(self, query: EventQuery) -> list[event_pb2.Event]:
        """Events from the store."""
        return await self._store.events(query)

    async def follow(self, after: int) -> AsyncIterator[event_pb2.Event]:
        """Every event after the sequence `after`, without a gap; 0 begins with the next event. Ends with its reader."""
        queue: asyncio.Queue[event_pb2.Event] = asyncio.Queue(_WATCHER_EVENTS_MAX)
        self._watchers.add(queue)
        try:
            seen = after
            while after and (page := await self._missed(seen, None)):
                for event in page:
                    seen = sequence_of(event)
                    yield event
            while True:
                event = await queue.get()
                if seen and sequence_of(event) > seen + 1:
                    for missed in await self._missed(seen, sequence_of(event)):
                        seen = sequence_of(missed)
                        yield missed
                if sequence_of(event) > seen:
                    seen = sequence_of(event)
                    yield event
        finally:
            self._watchers.discard(queue)

    async def _missed(self, after: int, before: int | None) -> list[event_pb2.Event]:
        query = EventQuery(limit=_WATCHER_EVENTS_MAX, after=after, before=before or 0, ascending=True)
        return await self._store.events(query)


def sequence_of(event: event_pb2.Event) -> int:
    """The number in an event's name."""
    return int(event.name.rpartition("/")[2])


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Waits for `work` also when the caller is cancelled meanwhile.

    What is in the store must be in the mirror too, before anybody builds on it. Raises what `work` raises, else the
    caller's cancellation.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
