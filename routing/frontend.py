"""The sockets of one process of `locci-dns`, and what answers at them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import structlog

from fleet.clock import Clock
from fleet.errors import Code, LocciError
from routing.adapters import cookie_secret, hot_answers, zone_keys
from routing.adapters.endpoints import parse_listen
from routing.adapters.handover import Pair
from routing.adapters.hot_answers import HotAnswers
from routing.adapters.hot_listener import HotPath, listener_for
from routing.adapters.tcp import TcpListener
from routing.adapters.transfers import Permission, Transfers, load_keys
from routing.adapters.udp import UdpListener, bind_udp, share_by_network
from routing.answering import Answering
from routing.core.answer import Manners
from routing.core.cookies import CookieJar
from routing.core.dnssec import Signer
from routing.core.rate_limit import RateLimiter
from routing.settings import DnsSettings

log = structlog.get_logger()

_PORT_TRIES: Final = 20
_ALONE_TRIES: Final = 10
_ALONE_S: Final = 0.2
_LEAVE_S: Final = 2.0
_LEAVE_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Counts:
    """What a process has counted, by response code where it is a tuple. `connections` are open now."""

    udp_rcodes: tuple[int, ...] = (0,) * 16
    tcp_rcodes: tuple[int, ...] = (0,) * 16
    silent: int = 0
    unsent: int = 0
    shed: int = 0
    limited_dropped: int = 0
    limited_slipped: int = 0
    connections: int = 0

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Counts:
        """Counts that went through JSON."""
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**read)

    def __add__(self, other: Counts) -> Counts:
        """Both together."""
        summed: dict[str, Any] = {}
        for field in fields(self):
            one, two = getattr(self, field.name), getattr(other, field.name)
            both = isinstance(one, tuple)
            summed[field.name] = tuple(a + b for a, b in zip(one, two, strict=True)) if both else one + two
        return Counts(**summed)


def manners_of(settings: DnsSettings, node: str) -> Manners:
    """What the answers of a host say besides records. Makes the secret of cookies at the first start."""
    jar = CookieJar(cookie_secret.load(settings.cookie_secret, secrets.token_bytes)) if settings.cookies else None
    identity = node if settings.identity is None else settings.identity
    return Manners(identity, settings.version, jar, Signer(zone_keys.sign), settings.tcp_idle_s)


def limiter_of(settings: DnsSettings) -> RateLimiter:
    """The limit of like answers, as it is set for the whole host."""
    return RateLimiter(settings.responses_per_second, settings.rate_limit_slip, settings.rate_limit_exempt)


def hot_of(settings: DnsSettings) -> HotAnswers | None:
    """The compiled loop, where it is built and wanted."""
    library = hot_answers.load() if settings.compiled else None
    return None if library is None else HotAnswers(library, secrets.randbits(64))


class Frontend:
    """Answers clients over UDP and TCP until it is closed. Raises INVALID_ARGUMENT for keys that cannot be read."""

    def __init__(self, settings: DnsSettings, answering: Answering, clock: Clock):
        self._answering = answering
        keys = load_keys(Path(settings.transfer_keys)) if settings.transfer_keys else None
        answering.keys = keys or {}
        permission = Permission(tuple(settings.transfer_networks), keys)
        self.transfers = Transfers(permission, lambda: answering.table, clock)
        self._udp: list[UdpListener] = []
        self._tcp = TcpListener(
            answering.respond,
            self.transfers.answer,
            connections_max=settings.tcp_connections_max,
            per_network_max=settings.tcp_connections_per_network,
            idle_s=settings.tcp_idle_s,
        )

    async def listen(self, text: str, port: int | None = None, shared: int = 1) -> int:
        """Begins to answer at an address; the port, which `port` overrides. With `shared` above 1 so many processes
        answer there. Raises LocciError."""
        host, wanted = parse_listen(text, "listen")
        wanted = wanted if port is None else port
        with explained(text):
            if shared > 1 and wanted and port is None:
                await _bind_alone(host, wanted)
            for attempt in range(_PORT_TRIES):
                listener = bind_udp(host, wanted, shared > 1)
                found = int(listener.getsockname()[1])
                try:
                    await self._tcp.listen(host, found, shared > 1)
                except OSError:
                    listener.close()
                    # A port that the kernel chose for UDP may be taken for TCP.
                    if wanted or attempt == _PORT_TRIES - 1:
                        raise
                    continue
                break
        if port is None:
            self._share(listener, shared)
        self._answer_at(listener)
        return found

    def _share(self, listener: socket.socket, shared: int) -> None:
        if shared > 1 and not share_by_network(listener, shared):
            per_second = -(-self._answering.limiter.per_second // shared)
            self._answering.limit(per_second)
            log.warning("limit_split", reason="this kernel cannot share sockets by network", per_second=per_second)

    def _answer_at(self, listener: socket.socket) -> int:
        hot, answering = self._answering.hot, self._answering
        path = None if hot is None else HotPath(hot, answering.respond_and_teach, answering.respond_limited)
        udp = listener_for(listener, answering.respond, path, answering.recall)
        udp.start(asyncio.get_running_loop())
        self._udp.append(udp)
        return udp.port

    async def adopt(self, pair: Pair, shared: int = 1) -> int:
        """The same at sockets that another process has bound, and may go on to answer at."""
        udp_number, tcp_number = pair
        listener = socket.socket(fileno=os.dup(udp_number))
        await self._tcp.adopt(socket.socket(fileno=os.dup(tcp_number)))
        self._share(listener, shared)
        return self._answer_at(listener)

    def pairs(self, texts: Sequence[str]) -> dict[str, Pair]:
        """Its sockets, for another process: new descriptors, in the order of the addresses."""
        numbers = zip((udp.fileno() for udp in self._udp), self._tcp.filenos(), strict=True)
        return {text: (os.dup(udp), os.dup(tcp)) for text, (udp, tcp) in zip(texts, numbers, strict=True)}

    def counts(self) -> Counts:
        """What this process has counted."""
        answering = self._answering
        return Counts(
            tuple(answering.all_udp_rcodes()),
            tuple(answering.tcp_rcodes),
            answering.silent,
            sum(udp.unsent for udp in self._udp),
            sum(udp.shed for udp in self._udp),
            answering.limiter.dropped,
            answering.limiter.slipped,
            self._tcp.connections,
        )

    async def leave(self) -> None:
        """Stops to answer, where another process does now: nothing that was asked here is left without its answer."""
        loop = asyncio.get_running_loop()
        for udp in self._udp:
            udp.close(loop)
        self._udp = []
        self._tcp.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                # One that the loop has accepted already is there a moment later.
                await asyncio.sleep(_LEAVE_LOOK_S)
                while self._tcp.connections:
                    await asyncio.sleep(_LEAVE_LOOK_S)

    def close(self) -> None:
        """Stops to answer."""
        loop = asyncio.get_running_loop()
        for udp in self._udp:
            udp.close(loop)
        self._udp = []
        self._tcp.close()
        hot, self._answering.hot = self._answering.hot, None
        if hot is not None:
            hot.close()


async def _bind_alone(host: str, port: int) -> None:
    """Makes sure that no other program has the port, for whoever shares one would not be told. Workers of a process
    that was killed a moment ago get time to end. Raises OSError."""
    for patience in range(_ALONE_TRIES, 0, -1):
        try:
            bind_udp(host, port).close()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or patience == 1:
                raise
            await asyncio.sleep(_ALONE_S)
        else:
            return


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turns what the system says of an address into an error for people."""
    try:
        yield
    except PermissionError as error:
        message = f"{where}: not permitted to listen there; run as root or grant CAP_NET_BIND_SERVICE"
        raise LocciError(Code.PERMISSION_DENIED, "NOT_PERMITTED", message) from error
    except OSError as error:
        message = f"{where}: cannot listen there: {error.strerror or error}"
        raise LocciError(Code.FAILED_PRECONDITION, "CANNOT_LISTEN", message) from error
