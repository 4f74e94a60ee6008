"""Where a Redis is and how one is let in, from the URL that redis-py understands."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.edge.core import resp


@dataclass(frozen=True, slots=True)
class Address:
    """One server. `path` of a unix socket, or else `host` and `port`."""

    path: str = ""
    host: str = "localhost"
    port: int = 6379
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = None

    @property
    def name(self) -> str:
        """As people write it, without the password."""
        return self.path or f"{self.host}:{self.port}"

    def greeting(self) -> list[bytes]:
        """Commands with which a connection begins; each is answered OK."""
        commands = []
        if self.password:
            user = [self.username.encode()] if self.username else []
            commands.append(resp.command(b"AUTH", *user, self.password.encode()))
        if self.database:
            commands.append(resp.command(b"SELECT", b"%d" % self.database))
        return commands


def address_of(url: str) -> Address:
    """The server of a `unix://`, `redis://` or `rediss://` URL. Raises ValueError."""
    from redis.asyncio.connection import parse_url  # several megabytes that edges without Redis save

    found: Mapping[str, Any] = parse_url(url)
    return Address(
        str(found.get("path") or ""),
        str(found.get("host") or "localhost"),
        int(found.get("port") or 6379),
        str(found.get("username") or ""),
        str(found.get("password") or ""),
        int(found.get("db") or 0),
        _tls(found) if url.startswith("rediss://") else None,
    )


def _tls(found: Mapping[str, Any]) -> ssl.SSLContext:
    """After redis-py's options: the server is checked unless `ssl_cert_reqs=none` says otherwise."""
    try:
        context = ssl.create_default_context(cafile=found.get("ssl_ca_certs"))
        if str(found.get("ssl_cert_reqs", "required")) == "none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif str(found.get("ssl_check_hostname", "true")).lower() in ("false", "no", "0"):
            context.check_hostname = False
        if found.get("ssl_certfile"):
            context.load_cert_chain(found["ssl_certfile"], found.get("ssl_keyfile"))
    except OSError as error:
        raise ValueError(f"its certificates cannot be read: {error}") from error
    return context
