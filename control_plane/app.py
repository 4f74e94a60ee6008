"""The composition root: wires the adapters to the ports, and the parts to each other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import structlog
from google.protobuf.wrappers_pb2 import StringValue

from control_plane import decode, logins
from control_plane.adapters.acme_client import Account, AcmeClient, external_account, fresh_key
from control_plane.adapters.registry import RegistryClient
from control_plane.adapters.sqlite_store import SqliteStore
from control_plane.automatic_certificates import AutomaticCertificates
from control_plane.backups import Backups
from control_plane.controller import Controller
from control_plane.core.access import OperatorToken, matches, parse_operator_token, secret_hash
from control_plane.core.pace import Pace
from control_plane.core.quota import Quota, Quotas
from control_plane.idempotency import Idempotency
from control_plane.latencies import ClientLatencies
from control_plane.load_shedding import LoadShedding
from control_plane.observed import Observed
from control_plane.origin import open_origin, use_stored
from control_plane.pacing import Pacing
from control_plane.ports import Store
from control_plane.reports import Reports
from control_plane.rpc import GrpcServers
from control_plane.services.access import ROLE_PREFIX, AuditService, OperatorTokenService
from control_plane.services.apps import AppService
from control_plane.services.authorities import AuthorityService
from control_plane.services.backups import BackupService
from control_plane.services.caller import Caller
from control_plane.services.certificates import CertificateService
from control_plane.services.confidential import SecretService
from control_plane.services.context import Context
from control_plane.services.drills import DrillService
from control_plane.services.enrolment import EnrolmentService
from control_plane.services.events import EventService
from control_plane.services.execution import ExecService
from control_plane.services.guard import guarded
from control_plane.services.join_tokens import JoinTokenService
from control_plane.services.logins import RegistryService
from control_plane.services.logs import LogService
from control_plane.services.nodes import NodeService
from control_plane.services.operations import OperationService
from control_plane.services.placement import PlacementService
from control_plane.services.purges import PurgeService
from control_plane.services.record_sets import RecordSetService
from control_plane.services.regions import RegionService
from control_plane.services.registry import Service
from control_plane.services.releases import ReleaseService, RolloutService
from control_plane.services.replicas import ReplicaService
from control_plane.services.routing_overrides import RoutingOverrideService
from control_plane.services.sync import SHUTDOWN_RETRY_S, SyncServicer
from control_plane.services.upgrades import UpgradeService
from control_plane.services.watches import WatchService
from control_plane.services.zones import RoutingService, ZoneService
from control_plane.sessions import Hub
from control_plane.settings import ServerSettings
from control_plane.state import Batch, State
from control_plane.views import Manifests, Overcommit
from fleet.clock import Clock, SystemClock
from fleet.errors import Code, LocciError
from fleet.files import write_atomic
from locci.v1 import (
    access_pb2,
    agent_pb2,
    app_pb2,
    authority_pb2,
    backup_pb2,
    certificate_pb2,
    drill_pb2,
    enrolment_pb2,
    event_pb2,
    exec_pb2,
    logs_pb2,
    node_pb2,
    operation_pb2,
    placement_pb2,
    purge_pb2,
    region_pb2,
    registry_pb2,
    release_pb2,
    replica_pb2,
    routing_pb2,
    secret_pb2,
    upgrade_pb2,
    watch_pb2,
    zone_pb2,
)

log = structlog.get_logger()

STOP_GRACE_S: Final = 3.0
LAST_USE_STEP_S: Final = 300.0
"""A token's last use is kept in the store no more often than that."""
TLS_LOOK_S: Final = 3600.0
"""Time between looks at the own certificate's age."""


class HttpListener(Protocol):
    """The HTTPS side, once it listens."""

    async def close(self) -> None:
        """Stops to listen."""
        ...


Authenticate = Callable[[str], Awaitable[Caller]]
StartHttp = Callable[
    [list[Service], Authenticate, str, ssl.SSLContext, Callable[[], str], None, Quotas],
    Awaitable[HttpListener],
]
"""Services, how a token is checked, `address:port`, TLS, whether it is ready, the usual limits, callers' quotas."""


class ControlPlane:
    """One control-plane process. `prepare`, then `start`, then `stop`. Without `start_http` it speaks gRPC only."""

    def __init__(
        self,
        settings: ServerSettings,
        start_http: StartHttp | None = None,
        clock: Clock | None = None,
        store: Store | None = None,
        leads: Callable[[], bool] = lambda: True,
    ):
        """`store` is SQLite in the data directory unless it is given; `leads` says whether it may still act."""
        self.settings = settings
        self._leads = leads
        self._start_http = start_http
        self._http: HttpListener | None = None
        self.clock = clock or SystemClock()
        # Comparable with stored times, and never set back or forward while this process runs.
        self._offset = self.clock.wall() - self.clock.monotonic()
        self._store = store or SqliteStore(settings.data_dir / "locci.db", self.clock.wall)
        self.state = State(self._store)
        self._backups = Backups(self.state, settings, self.clock)
        self.registry = RegistryClient(settings.insecure_registries, self._login)
        self.grpc = GrpcServers()
        self._controlling: asyncio.Task[None] | None = None
        self._renewing: list[asyncio.Task[None]] = []
        self._tls: ssl.SSLContext | None = None
        self._ready = False

    def _login(self, host: str) -> tuple[str, str] | None:
        return logins.login(self.state, self.vault, host)

    def steady(self) -> float:
        """Seconds since 1970 at the start, counted on by the monotonic clock."""
        return self.clock.monotonic() + self._offset

    @property
    def is_ready(self) -> bool:
        """Whether requests can be answered."""
        return self._ready and self._controlling is not None and not self._controlling.done()

    def not_ready(self) -> str:
        """What keeps requests from being answered, in a sentence; empty when nothing does."""
        if self._controlling is not None and self._controlling.done():
            return "the controller has ended; the log says why"
        return "" if self._ready else "it is starting or stopping"

    async def prepare(self) -> None:
        """Creates what is missing: directories, store, CA, the first operator token. Opens the store."""
        directory = self.settings.data_dir
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except PermissionError as error:
            message = f"{error.filename}: {error.strerror}; run as the owner of {directory}, or change data_dir"
            raise LocciError(Code.PERMISSION_DENIED, "NOT_PERMITTED", message) from error
        except OSError as error:
            message = f"{error.filename or directory}: {error.strerror}"
            raise LocciError(Code.FAILED_PRECONDITION, "DATA_DIR_UNUSABLE", message) from error
        await self._store.open()
        await self.state.load()
        origin = open_origin(self.settings, self.state, self.clock.wall)
        self.authority, self.vault = origin.authority, origin.vault
        await self.state.transact(lambda batch: origin.note(self.state, batch, self.clock.wall()))
        token = await self._admin_token()
        self._token = token
        self._write_context()

    async def _admin_token(self) -> str:
        path = self.settings.data_dir / "admin.token"
        if path.exists():
            token = parse_operator_token(path.read_text().strip())
            if token is not None and f"operatorTokens/{token.id}" in self.state.secrets:
                return token.text()
        fresh = OperatorToken(secrets.token_hex(6), secrets.token_urlsafe(32))

        def build(batch: Batch) -> None:
            name = f"operatorTokens/{fresh.id}"
            batch.put(self.state.secrets, name, StringValue(value=secret_hash(fresh.secret)), 0)
            batch.event("OperatorTokenCreated", "the control plane made its first operator token", name)

        await self.state.transact(build)
        write_atomic(path, (fresh.text() + "\n").encode())
        return fresh.text()

    def _write_context(self) -> None:
        host = host_of(self.settings.advertise[0]) if self.settings.advertise else "localhost"
        context = {
            "server": f"https://{_bracketed(host)}:{port_of(self.settings.http_listen)}",
            "grpc": f"{_bracketed(host)}:{port_of(self.settings.grpc_listen)}",
            "ca_pem": self.authority.ca_pem,
            "token": self._token,
        }
        write_atomic(self.settings.data_dir / "context.json", json.dumps(context, indent=2).encode())

    async def authenticate(self, text: str) -> Caller:
        """The caller of a bearer token. Raises UNAUTHENTICATED."""
        token = parse_operator_token(text.strip())
        known = self.state.secrets.get(f"operatorTokens/{token.id}") if token else None
        if token is None or known is None or not matches(token.secret, known.value):
            message = "the token is not known here: log in again, or use the context file of this control plane"
            raise LocciError(Code.UNAUTHENTICATED, "TOKEN_UNKNOWN", message)
        name = f"operatorTokens/{token.id}"
        row = self.state.operator_tokens.get(name)
        if row is None:
            return Caller(f"operators/{token.id}", "admin")
        now = self.clock.wall()
        if now >= row.expire_time.seconds:
            message = "the token has ended: ask an administrator for a new one"
            raise LocciError(Code.UNAUTHENTICATED, "TOKEN_EXPIRED", message)
        self.context.last_use[name] = now
        if now - row.last_use_time.seconds >= LAST_USE_STEP_S:
            await self._note_use(name, now)
        role = access_pb2.OperatorRole.Name(row.role).removeprefix(ROLE_PREFIX).lower()
        return Caller(f"operators/{token.id}", role, tuple(row.scopes))

    async def _note_use(self, name: str, now: float) -> None:
        """Keeps when a token was used; that it cannot be kept refuses nobody."""

        def note(batch: Batch) -> None:
            if name in self.state.operator_tokens:
                row = self.state.operator_tokens.copy(name)
                row.last_use_time.CopyFrom(decode.timestamp(now))
                batch.put(self.state.operator_tokens, name, row)

        with contextlib.suppress(LocciError):
            await self.state.transact(note)

    def build(self) -> list[Service]:
        """Makes the parts, and the list of services that both gRPC and HTTP are derived from."""
        settings, now = self.settings, self.steady()
        self.observed = Observed(now, now + settings.restart_grace_s)
        self.manifests = Manifests(self.state, Overcommit(settings.cpu_overcommit, settings.memory_overcommit))
        pace = Pace(settings.heartbeat_interval_s, settings.heartbeats_per_s)
        pacing = Pacing(self.state, self.manifests, pace, settings.lost_after_s)
        self.hub = Hub(self.observed, self.steady, pacing)
        woken = asyncio.Event()
        self.reports = Reports(self.state, self.observed, self.steady, woken.set)
        self.controller = Controller(
            self.state,
            self.observed,
            self.manifests,
            self.hub,
            self.reports,
            woken,
            self.vault,
            self.clock,
            self.steady,
            suspect_after_s=settings.suspect_after_s,
            pacing=pacing,
            sign_report=self.authority.sign_report,
            leads=self._leads,
        )
        self.context = Context(
            state=self.state,
            observed=self.observed,
            manifests=self.manifests,
            hub=self.hub,
            controller=self.controller,
            authority=self.authority,
            registry=self.registry,
            clock=self.clock,
            steady=self.steady,
            node_endpoints=tuple(self._node_endpoints()),
            idempotency=Idempotency(self.state, self.clock),
            vault=self.vault,
            backups=self._backups,
            releases_kept=self.settings.releases_kept,
        )
        self._announce_trust()
        return guarded(services(self.context, self._authorities_changed), self.state, self.clock)

    def _authorities_changed(self) -> None:
        """Trusts, signs and shows certificates by what the store says now, and tells every node."""
        use_stored(self.authority, self.state, self.vault)
        self._refresh_tls()
        self._write_context()
        self._announce_trust()

    def _announce_trust(self) -> None:
        trust = agent_pb2.Trust(fingerprints=self.authority.fingerprints, issuer=self.authority.issuer)
        self.hub.announce(trust)

    def _refresh_tls(self) -> None:
        """New connections get the certificate that is good now; one whose half of life is over is replaced."""
        names = [host_of(name) for name in self.settings.advertise]
        key_and_chain = self.authority.server_certificate(names)
        self.grpc.show(key_and_chain, self.authority.ca_pem.encode())
        if self._tls is not None:
            self._tls.load_cert_chain(self.authority.server_pem)

    async def _keep_tls(self) -> None:
        while True:
            await self.clock.sleep(TLS_LOOK_S)
            try:
                self._refresh_tls()
            except OSError as error:
                log.error("certificate_not_renewed", reason=str(error))

    def _node_endpoints(self) -> list[str]:
        port = port_of(self.settings.node_listen)
        return [f"{_bracketed(host_of(name))}:{_own_port(name) or port}" for name in self.settings.advertise]

    async def start(self, before_listening: Callable[[], Awaitable[None]] | None = None) -> None:
        """Listens, and begins to control. `prepare` comes first; `before_listening` frees the addresses."""
        offered = self.build()
        settings = self.settings
        self._refresh_tls()
        quotas = Quotas(
            Quota(settings.rate_per_s, settings.rate_burst, settings.requests_per_token, settings.watches_per_token)
        )
        await self._backups.clear_up()
        await self.controller.look_safely()
        self._controlling = asyncio.create_task(self.controller.run())
        if before_listening is not None:
            await before_listening()
        await self.grpc.start(
            offered,
            SyncServicer(self.context, self.reports),
            self.state,
            self.authenticate,
            operator_listen=settings.grpc_listen,
            node_listen=settings.node_listen,
            quotas=quotas,
        )
        if self._start_http is not None:
            self._tls = server_context(self.authority.server_pem)
            self._http = await self._start_http(
                offered, self.authenticate, settings.http_listen, self._tls, self.not_ready, None, quotas
            )
        self.shedding = LoadShedding(
            self.state, self.observed, self.clock, wake=self.controller.wake, leads=self._leads
        )
        self.latencies = ClientLatencies(
            self.state,
            self.observed,
            self.manifests,
            self.clock,
            wake=self.controller.wake,
            leads=self._leads,
        )
        work = (self._keep_tls(), self._automatic().run(), self.shedding.run(), self.latencies.run())
        self._renewing = [asyncio.create_task(part) for part in work]
        self._ready = True
        log.info("started", http=settings.http_listen, grpc=settings.grpc_listen, nodes=settings.node_listen)

    def _automatic(self) -> AutomaticCertificates:
        """Who looks after certificates for host names."""
        settings = self.settings
        external = external_account(settings.acme_eab_kid, settings.acme_eab_hmac_key_file)

        def served() -> list[str]:
            publication = self.controller.publication
            return [h.hostname for h in publication.hostnames] if publication is not None else []

        def connect(key_pem: bytes) -> AcmeClient:
            contact = tuple(settings.acme_contact)
            return AcmeClient(Account(settings.acme_directory, contact, settings.acme_ca_file, key_pem, external))

        return AutomaticCertificates(
            self.state,
            self.observed,
            self.vault,
            self.clock,
            random.Random(),
            served=served,
            wake=self.controller.wake,
            leads=self._leads,
            directory=settings.acme_directory,
            connect=connect,
            fresh_key=fresh_key,
        )

    async def wait(self) -> None:
        """Returns when the controller has ended, which it does only by failing."""
        assert self._controlling is not None
        await self._controlling

    async def stop(self) -> None:
        """Says goodbye to nodes and ends everything within a few seconds."""
        self._ready = False
        for task in self._renewing:
            task.cancel()
        await asyncio.gather(*self._renewing, return_exceptions=True)
        if self._controlling is not None:
            self.hub.end_all("the control plane is stopping", SHUTDOWN_RETRY_S)
            self._controlling.cancel()
            await asyncio.gather(self._controlling, return_exceptions=True)
            await asyncio.gather(self.grpc.stop(STOP_GRACE_S), self._stop_http())
        await self._backups.stop()
        await self.registry.close()
        await self._store.close()

    async def _stop_http(self) -> None:
        if self._http is not None:
            await self._http.close()


def services(context: Context, authorities_changed: Callable[[], None] = lambda: None) -> list[Service]:
    """Every service of the contract but the nodes' stream."""

    def named(module: object, name: str, implementation: object, access: str = "operator") -> Service:
        descriptor = module.DESCRIPTOR.services_by_name[name]  # type: ignore[attr-defined]
        return Service(descriptor, implementation, access)  # type: ignore[arg-type]

    return [
        named(region_pb2, "RegionService", RegionService(context)),
        named(node_pb2, "NodeService", NodeService(context)),
        named(enrolment_pb2, "JoinTokenService", JoinTokenService(context)),
        named(enrolment_pb2, "EnrolmentService", EnrolmentService(context), "public"),
        named(app_pb2, "AppService", AppService(context)),
        named(release_pb2, "ReleaseService", ReleaseService(context)),
        named(release_pb2, "RolloutService", RolloutService(context)),
        named(replica_pb2, "ReplicaService", ReplicaService(context)),
        named(event_pb2, "EventService", EventService(context)),
        named(drill_pb2, "DrillService", DrillService(context)),
        named(upgrade_pb2, "UpgradeService", UpgradeService(context)),
        named(zone_pb2, "ZoneService", ZoneService(context)),
        named(zone_pb2, "RecordSetService", RecordSetService(context)),
        named(purge_pb2, "PurgeService", PurgeService(context)),
        named(registry_pb2, "RegistryService", RegistryService(context)),
        named(secret_pb2, "SecretService", SecretService(context)),
        named(authority_pb2, "AuthorityService", AuthorityService(context, authorities_changed)),
        named(backup_pb2, "BackupService", BackupService(context)),
        named(certificate_pb2, "CertificateService", CertificateService(context)),
        named(access_pb2, "OperatorTokenService", OperatorTokenService(context)),
        named(access_pb2, "AuditService", AuditService(context)),
        named(routing_pb2, "RoutingService", RoutingService(context)),
        named(routing_pb2, "RoutingOverrideService", RoutingOverrideService(context)),
        named(placement_pb2, "PlacementService", PlacementService(context)),
        named(logs_pb2, "LogService", LogService(context)),
        named(exec_pb2, "ExecService", ExecService(context)),
        named(operation_pb2, "OperationService", OperationService(context, RolloutService(context))),
        named(watch_pb2, "WatchService", WatchService(context)),
    ]


def server_context(pem: Path) -> ssl.SSLContext:
    """TLS for the HTTPS listener."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pem)
    return context


def host_of(address: str) -> str:
    """The host of `host`, `host:port`, `[v6]:port` or a bare IPv6 address."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def _own_port(address: str) -> int:
    rest = address.rpartition("]")[2] if address.startswith("[") else address if address.count(":") == 1 else ""
    port = rest.rpartition(":")[2]
    return int(port) if ":" in rest and port.isdigit() else 0


def port_of(listen: str) -> int:
    """The port of `address:port`. Raises INVALID_ARGUMENT."""
    port = listen.rpartition(":")[2]
    if not port.isdigit() or int(port) > 65535:
        message = f"{listen!r} must be address:port, as in 0.0.0.0:7443"
        raise LocciError(Code.INVALID_ARGUMENT, "INVALID_FIELD", message, field="listen")
    return int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
