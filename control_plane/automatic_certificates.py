"""Certificates that the fleet orders itself: one after the other, proven by its DNS servers and edges, renewed in time.

An order lives in this process only. One that was broken off, by a crash or because another control plane leads now, is
begun anew; the certificate that is there stays until the next one is.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from google.protobuf.wrappers_pb2 import BytesValue

from control_plane import certificates, decode, metrics
from control_plane.core import acme
from control_plane.observed import Observed, SessionFacts
from control_plane.ports import CertificateOrder, OrderingAuthority, Vault
from control_plane.state import Batch, State
from fleet.clock import Clock
from fleet.errors import LocciError, failed_precondition
from fleet.ids import last_part
from locci.v1 import certificate_pb2, event_pb2, node_pb2

log = structlog.get_logger()

_LOOK_S: Final = 1.0
_ORDER_DEADLINE_S: Final = 300.0
_SPREAD_DEADLINE_S: Final = 60.0
_ASK_EVERY_S: Final = 6 * 3600.0
"""So often the authority is asked when it wants a certificate to be renewed (RFC 9773, section 4.3)."""


class AutomaticCertificates:
    """Looks after the certificates of every host name that is served; acts only while this process leads."""

    def __init__(
        self,
        state: State,
        observed: Observed,
        vault: Vault,
        clock: Clock,
        rng: random.Random,
        *,
        served: Callable[[], Sequence[str]],
        wake: Callable[[], None],
        leads: Callable[[], bool],
        directory: str,
        connect: Callable[[bytes], OrderingAuthority],
        fresh_key: Callable[[], bytes],
    ):
        """`served` are the host names of apps; `connect` makes the authority's client from the account's key. Without a
        directory nothing is ordered, and certificates that end are told of all the same."""
        self._state = state
        self._observed = observed
        self._vault = vault
        self._clock = clock
        self._rng = rng
        self._served = served
        self._wake = wake
        self._leads = leads
        self._directory = directory
        self._connect = connect
        self._fresh_key = fresh_key
        self._authority: OrderingAuthority | None = None
        self._asked_at: dict[str, float] = {}

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await self._clock.sleep(_LOOK_S)
            try:
                if self._leads():
                    await self.look()
            except LocciError as error:
                log.warning("certificates_unattended", reason=error.message)
            except Exception:
                log.exception("certificates_unattended")

    async def look(self) -> None:
        """Tells of those that end, and orders the one that is most urgent."""
        served, now = set(self._served()), self._clock.wall()
        await self._state.transact(lambda batch: self._tidy(batch, served, now))
        if not self._directory:
            return
        due = acme.due(served, self._kept(), now)
        if due is not None:
            await self._order(due)
        else:
            await self._ask_authority(now)

    def _kept(self) -> list[acme.Kept]:
        return [
            acme.Kept(
                name,
                tuple(row.hostnames),
                row.automatic,
                row.wanted,
                row.expire_time.seconds,
                decode.seconds_of(row.order_time),
                row.failures,
            )
            for name, row in self._state.certificates.items()
        ]

    def _tidy(self, batch: Batch, served: set[str], now: float) -> None:
        """New rows for host names without a certificate, none for those that are not needed, and a word on each that
        ends soon. What a broken-off order left with DNS servers and edges goes."""
        self._end(batch)
        kept = self._kept()
        for name in acme.unused(served, kept, now):
            batch.delete(self._state.certificates, name)
            batch.delete(self._state.certificate_keys, name)
        if self._directory:
            for hostname in acme.missing(served, kept, now):
                row = certificate_pb2.Certificate(
                    name=f"certificates/{acme.certificate_id(hostname)}", hostnames=[hostname], automatic=True
                )
                row.create_time.CopyFrom(decode.timestamp(now))
                row.order_time.CopyFrom(decode.timestamp(now))
                batch.put(self._state.certificates, row.name, row)
        metrics.CERTIFICATE_ENDS.clear()
        for name, row in self._state.certificates.items():
            if not row.chain_pem:
                continue
            metrics.CERTIFICATE_ENDS.labels(last_part(name)).set(row.expire_time.seconds)
            expiring = acme.is_expiring(row.begin_time.seconds, row.expire_time.seconds, now)
            if expiring and not row.expiring and not batch.removes(self._state.certificates, name):
                self._tell_expiring(batch, row)

    def _tell_expiring(self, batch: Batch, row: certificate_pb2.Certificate) -> None:
        after = self._state.certificates.copy(row.name)
        after.expiring = True
        batch.put(self._state.certificates, row.name, after)
        what = f"{row.name} for {', '.join(row.hostnames)} ends {row.expire_time.ToDatetime():%Y-%m-%d %H:%M} UTC"
        todo = row.problem if row.automatic else f"replace it: locci certificates replace {last_part(row.name)}"
        message = f"{what}; {todo or 'it is on order'}"
        batch.event("CertificateExpiring", message, row.name, severity=event_pb2.SEVERITY_WARNING)

    # -- one order

    async def _order(self, due: acme.Kept) -> None:
        log.info("certificate_ordered", certificate=due.name, hostnames=due.hostnames)
        try:
            async with asyncio.timeout(_ORDER_DEADLINE_S):
                authority = await self._connected()
                order = await authority.order(due.hostnames, self._proven_by_http(due.hostnames))
                await self._show(order)
                chain_pem = await authority.finish(order)
        except LocciError as error:
            await self._note_failure(due, error.message)
        except TimeoutError:
            await self._note_failure(due, f"the order was not completed within {_ORDER_DEADLINE_S:g} s")
        else:
            await self._take(due, authority, chain_pem, order.key_pem)

    async def _connected(self) -> OrderingAuthority:
        if self._authority is None:
            name = f"acmeKeys/{hashlib.sha256(self._directory.encode()).hexdigest()[:16]}"
            if name not in self._state.acme_keys:
                sealed = BytesValue(value=self._vault.seal(self._fresh_key(), name))
                await self._state.transact(lambda batch: batch.put(self._state.acme_keys, name, sealed))
            self._authority = self._connect(self._vault.open(self._state.acme_keys.need(name).value, name))
        return self._authority

    def _proven_by_http(self, hostnames: Sequence[str]) -> list[str]:
        """Those in no zone of ours. Raises FAILED_PRECONDITION when one of them can be proven by DNS only."""
        origins = [last_part(name) for name in self._state.zones]
        result = [hostname for hostname in hostnames if acme.zone_of(hostname, origins) is None]
        served = self._served()
        for hostname in result:
            if hostname not in served:
                message = (
                    f"{hostname} is in no zone that this fleet answers for ({', '.join(origins) or 'none'}), and no "
                    "app has it: nothing can prove it to the authority; create its zone, or upload a certificate"
                )
                raise failed_precondition("NO_PROOF", message)
        return result

    async def _show(self, order: CertificateOrder) -> None:
        """Has every DNS server, and every edge, answer what the authority asks for."""
        origins = [last_part(name) for name in self._state.zones]

        def build(batch: Batch) -> None:
            for owner, values in order.dns.items():
                origin = acme.zone_of(owner.partition(".")[2], origins)
                row = certificate_pb2.DnsChallenge(origin=origin or "", values=values)
                batch.put(self._state.dns_challenges, f"dnsChallenges/{owner}", row)
            for hostname, (token, answer) in order.http.items():
                asked = certificate_pb2.HttpChallenge(hostname=hostname, token=token, key_authorization=answer)
                batch.put(self._state.http_challenges, f"httpChallenges/{token}", asked)

        await self._state.transact(build)
        self._wake()
        revision = self._state.revision
        if order.dns:
            await self._spread(node_pb2.NODE_ROLE_DNS, "DNS server", lambda facts: facts.accepted_revision >= revision)
        if order.http:
            await self._spread(node_pb2.NODE_ROLE_EDGE, "edge", lambda facts: facts.edge_revision >= revision)

    async def _spread(self, role: int, what: str, answers: Callable[[SessionFacts], bool]) -> None:
        """Returns when every program of a role that is connected answers by what it is asked for."""
        until = self._clock.monotonic() + _SPREAD_DEADLINE_S
        while True:
            there = {n: facts for (n, r), facts in self._observed.sessions.items() if r == role and facts.connected}
            behind = sorted(node for node, facts in there.items() if not answers(facts))
            if there and not behind:
                return
            if self._clock.monotonic() > until:
                if there and role == node_pb2.NODE_ROLE_EDGE and len(behind) < len(there):
                    # A host without an edge program serves nobody; the others are not to wait for it for ever.
                    return
                why = f"not taken by {', '.join(behind)}" if behind else f"no {what} is connected"
                raise failed_precondition("NOT_SPREAD", f"the proof could not be shown by every {what}: {why}")
            await self._state.wait_change(0.2)

    async def _take(self, due: acme.Kept, authority: OrderingAuthority, chain_pem: str, key_pem: str) -> None:
        now = self._clock.wall()
        try:
            found = certificates.examine(chain_pem, key_pem, now)
            missing = [host for host in due.hostnames if host not in found.hostnames]
            if missing:
                raise failed_precondition("WRONG_NAMES", f"the authority left out {', '.join(missing)}")
        except LocciError as error:
            await self._note_failure(due, f"what the authority issued cannot be used: {error.message}")
            return
        suggested_at = await _suggested(authority, chain_pem)

        def build(batch: Batch) -> None:
            self._end(batch)
            if due.name not in self._state.certificates:
                return
            row = self._state.certificates.copy(due.name)
            row.chain_pem, row.problem, row.failures = chain_pem, "", 0
            certificates.describe(row, found)
            order_at = acme.renew_at(found.begin_at, found.expire_at, suggested_at)
            row.order_time.CopyFrom(decode.timestamp(order_at))
            batch.put(self._state.certificates, row.name, row)
            sealed = certificates.seal_key(self._vault, row.name, found.key_pem)
            batch.put(self._state.certificate_keys, row.name, sealed)
            message = f"{row.name} for {', '.join(row.hostnames)} was issued; it ends {row.expire_time.ToJsonString()}"
            batch.event("CertificateIssued", message, row.name)

        await self._state.transact(build)
        self._asked_at[due.name] = now
        self._wake()
        metrics.CERTIFICATE_ORDERS.labels("issued").inc()

    async def _note_failure(self, due: acme.Kept, reason: str) -> None:
        metrics.CERTIFICATE_ORDERS.labels("failed").inc()
        # Whatever the authority thought of this connection or account is found out anew.
        self._authority = None

        def build(batch: Batch) -> None:
            self._end(batch)
            if due.name not in self._state.certificates:
                return
            row = self._state.certificates.copy(due.name)
            row.failures += 1
            retry_s = acme.retry_after_s(row.failures, self._rng.random())
            row.order_time.CopyFrom(decode.timestamp(self._clock.wall() + retry_s))
            repeated, row.problem = row.problem == reason, reason
            batch.put(self._state.certificates, row.name, row)
            if not repeated:
                message = f"{row.name} for {', '.join(row.hostnames)} could not be ordered: {reason}"
                batch.event("CertificateOrderFailed", message, row.name, severity=event_pb2.SEVERITY_ERROR)

        log.warning("certificate_order_failed", certificate=due.name, reason=reason)
        await self._state.transact(build)
        self._wake()

    def _end(self, batch: Batch) -> None:
        """Nothing is asked for any more."""
        for table in (self._state.dns_challenges, self._state.http_challenges):
            for name in table:
                batch.delete(table, name)

    async def _ask_authority(self, now: float) -> None:
        """Whether it wants a certificate to be renewed earlier, as after it had to revoke many; one at a time."""
        for name, row in self._state.certificates.items():
            if not row.automatic or not row.chain_pem or now - self._asked_at.get(name, 0.0) < _ASK_EVERY_S:
                continue
            self._asked_at[name] = now
            suggested_at = await _suggested(await self._connected(), row.chain_pem)
            if suggested_at is not None and suggested_at < decode.seconds_of(row.order_time):
                after = self._state.certificates.copy(name)
                after.order_time.CopyFrom(decode.timestamp(suggested_at))
                await self._state.transact(lambda batch: batch.put(self._state.certificates, name, after))  # noqa: B023
            return


async def _suggested(authority: OrderingAuthority, chain_pem: str) -> float | None:
    try:
        return await authority.suggested_renewal(chain_pem)
    except LocciError as error:
        log.info("renewal_not_suggested", reason=error.message)
        return None
