"""The region's Redis as an operator names it: one server, a master that Sentinel watches, or a cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from agent.edge.redis_address import Address, address_of
from agent.edge.redis_cluster import ClusterLink
from agent.edge.redis_discovery import Sentinels, always
from agent.edge.redis_link import Answered, RedisLink

SENTINEL_PORT: Final = 26379
REDIS_PORT: Final = 6379


class Link(Protocol):
    """Takes commands about one key and gives back their replies."""

    def ask(self, command: bytes, answered: Answered) -> None:
        """Sends a command. `answered` is called later, once, whatever happens."""
        ...

    def reset(self, why: str) -> None:
        """Ends what is connected; the next command finds out where to go."""
        ...

    async def close(self) -> None:
        """Ends it for good."""
        ...


@dataclass(frozen=True, slots=True)
class Region:
    """Where the region's Redis is to be found."""

    seeds: tuple[Address, ...]
    """The server, the Sentinels, or some nodes of the cluster."""
    service: str = ""
    """The name under which Sentinel watches the master; empty without Sentinel."""
    cluster: bool = False
    server: Address = field(default_factory=Address)
    """How a server that Sentinel names is talked to; its host and port mean nothing."""

    def connect(self, timeout_s: float) -> Link:
        """A connection on which a command may take so long."""
        if self.cluster:
            return ClusterLink(self.seeds, timeout_s)
        if self.service:
            return RedisLink(Sentinels(self.seeds, self.service, self.server).locate, timeout_s)
        return RedisLink(always(self.seeds[0]), timeout_s)


Connect = Callable[[float], Link]


def region_of(url: str) -> Region:
    """What a `redis_url` means. Raises ValueError, which says what is wrong."""
    scheme, plus, kind = urlsplit(url).scheme.partition("+")
    if not plus:
        return Region((address_of(url),))
    if kind not in ("sentinel", "cluster") or scheme not in ("redis", "rediss"):
        raise ValueError(
            "of schemes with a plus there are redis+sentinel, redis+cluster, rediss+sentinel, rediss+cluster"
        )
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    options = dict(parse_qsl(parts.query))
    username, password = options.pop("sentinel_username", ""), options.pop("sentinel_password", "")
    server = address_of(f"{scheme}://{login}{at}localhost/?{urlencode(options)}")
    name = parts.path.strip("/")
    if kind == "cluster":
        if name or server.database:
            raise ValueError("a cluster has no databases and no name, as in redis+cluster://one:6379,two:6379")
        return Region(_places(hosts, server, REDIS_PORT), cluster=True)
    if not name:
        raise ValueError("the name of the master is missing, as in redis+sentinel://one:26379,two:26379/mymaster")
    asked = dataclasses.replace(server, database=0, username=username, password=password)
    return Region(_places(hosts, asked, SENTINEL_PORT), name, server=server)


def _places(hosts: str, like: Address, port: int) -> tuple[Address, ...]:
    found = []
    for text in hosts.split(","):
        place = urlsplit(f"//{text}")
        if not place.hostname:
            raise ValueError(f"{text!r} is not host or host:port")
        changes: dict[str, Any] = {"host": place.hostname, "port": place.port or port}
        found.append(dataclasses.replace(like, **changes))
    return tuple(found)
