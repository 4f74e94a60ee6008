from __future__ import annotations

import pytest

from agent.edge.core import resp
from agent.edge.redis_cluster import _key
from agent.edge.redis_region import region_of


def test_one_server() -> None:
    region = region_of("redis://:pw@cache.test:7000/2")
    assert (region.service, region.cluster) == ("", False)
    (seed,) = region.seeds
    assert (seed.host, seed.port, seed.password, seed.database) == ("cache.test", 7000, "pw", 2)


def test_a_master_that_sentinel_watches() -> None:
    region = region_of("redis+sentinel://user:pw@one,two:1234,[::1]:99/mymaster?db=3&sentinel_password=other")
    assert [(seed.host, seed.port) for seed in region.seeds] == [("one", 26379), ("two", 1234), ("::1", 99)]
    assert {(seed.username, seed.password, seed.database) for seed in region.seeds} == {("", "other", 0)}
    assert region.service == "mymaster"
    assert (region.server.username, region.server.password, region.server.database) == ("user", "pw", 3)
    assert region.server.tls is None


def test_a_cluster() -> None:
    region = region_of("rediss+cluster://:pw@one,two:7001?ssl_cert_reqs=none")
    assert region.cluster
    assert [(seed.host, seed.port, seed.password) for seed in region.seeds] == [
        ("one", 6379, "pw"),
        ("two", 7001, "pw"),
    ]
    assert all(seed.tls is not None for seed in region.seeds)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://one:1", "the name of the master is missing"),
        ("redis+cluster://one/1", "no databases"),
        ("redis+cluster://one?db=1", "no databases"),
        ("redis+ring://one", "there are redis"),
        ("http+cluster://one", "there are redis"),
        ("redis+cluster://one,,two", "not host"),
        ("redis+cluster://one:x", ""),
        ("ftp://one", ""),
    ],
)
def test_what_is_no_region(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        region_of(url)


def test_the_key_of_a_command() -> None:
    assert _key(resp.get(b"a\r\nb")) == b"a\r\nb"
    assert _key(resp.put(b"name", b"$4\r\nvalue", 5)) == b"name"
    assert _key(resp.command(b"EXPIRE", b"x" * 12, b"5")) == b"x" * 12
