from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.balance import EJECTION_CAP_S, SERVER_ERRORS_MAX, Endpoint, order
from agent.edge.core.routing import ATTEMPTS_MAX, Local, Peer, Route, candidates, may_retry, problems, table


def route(local: list[str], peers: list[str] = [], draining: list[str] = []) -> Route:  # noqa: B006
    locals_ = [Local(f"replicas/{a}", a, False) for a in local] + [Local(f"replicas/{a}", a, True) for a in draining]
    return Route("app", ("a.test",), True, 1000, tuple(locals_), tuple(Peer("r", p, p) for p in peers))


def tried(found: Route, endpoints: dict[str, Endpoint], now: float = 0.0, local_only: bool = False) -> list[str]:
    return [c.endpoint.address for c in candidates(found, endpoints, now, 0.0, local_only=local_only)]


def endpoints(*addresses: str) -> dict[str, Endpoint]:
    return {address: Endpoint(address) for address in addresses}


def test_local_first_then_peers_in_their_order() -> None:
    found = endpoints("l:1", "p:1", "p:2")
    assert tried(route(["l:1"], ["p:2", "p:1"]), found) == ["l:1", "p:2", "p:1"]
    assert tried(route(["l:1"], ["p:2", "p:1"]), found, local_only=True) == ["l:1"]


def test_what_is_ejected_comes_last() -> None:
    found = endpoints("l:1", "p:1", "p:2")
    found["l:1"].failed(0.0)
    found["p:1"].failed(0.0)
    assert tried(route(["l:1"], ["p:1", "p:2"]), found, 0.5) == ["p:2", "l:1", "p:1"]
    assert tried(route(["l:1"], ["p:1", "p:2"]), found, 2.0) == ["l:1", "p:1", "p:2"]


def test_draining_replicas_get_nothing_new_unless_there_is_nothing_else() -> None:
    found = endpoints("l:1", "l:2", "p:1")
    assert tried(route(["l:1"], draining=["l:2"]), found) == ["l:1"]
    assert tried(route([], ["p:1"], draining=["l:2"]), found) == ["p:1"]
    assert tried(route([], draining=["l:2"]), found) == ["l:2"]


def test_the_number_of_tries_has_a_bound() -> None:
    many = [f"l:{n + 1}" for n in range(20)]
    assert len(tried(route(many), endpoints(*many))) == ATTEMPTS_MAX


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.floats(0, 1, exclude_max=True))
def test_of_two_the_one_with_less_to_do(outstanding: list[int], randomness: float) -> None:
    group = [Endpoint(str(n), outstanding=count) for n, count in enumerate(outstanding)]
    available, ejected = order(group, 0.0, randomness)
    assert not ejected
    assert sorted(e.address for e in available) == sorted(e.address for e in group)
    if len(group) > 1:
        assert available[0].outstanding < max(outstanding) or outstanding.count(max(outstanding)) > 1


def test_only_one_request_tries_an_endpoint_that_was_ejected() -> None:
    endpoint = Endpoint("l:1")
    endpoint.failed(0.0)
    assert not endpoint.available(0.5)
    assert endpoint.available(1.0)
    endpoint.begin(1.0)
    assert not endpoint.available(1.1)
    endpoint.answered(200, 1.2)
    endpoint.end()
    assert endpoint.available(1.2)
    assert endpoint.outstanding == 0


def test_ejections_grow_to_a_cap() -> None:
    endpoint, now, waits = Endpoint("l:1"), 0.0, []
    for _ in range(10):
        endpoint.failed(now)
        waits.append(endpoint.ejected_until - now)
        now = endpoint.ejected_until
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == EJECTION_CAP_S


def test_server_errors_in_a_row_eject() -> None:
    endpoint = Endpoint("l:1")
    for _ in range(SERVER_ERRORS_MAX - 1):
        endpoint.answered(503, 0.0)
    endpoint.answered(500, 0.0)
    for _ in range(SERVER_ERRORS_MAX - 1):
        endpoint.answered(502, 0.0)
    assert endpoint.available(0.0)
    endpoint.answered(504, 0.0)
    assert not endpoint.available(0.0)


@pytest.mark.parametrize(
    ("idempotent", "sent", "replayable", "again"),
    [
        (True, True, True, True),
        (True, True, False, False),
        (False, True, True, False),
        (False, False, True, True),
        (False, False, False, False),
    ],
)
def test_retries(idempotent: bool, sent: bool, replayable: bool, again: bool) -> None:
    assert may_retry(idempotent=idempotent, sent=sent, replayable=replayable) == again


def test_hosts_are_found_with_and_without_a_port() -> None:
    found = table(1, "n", "r", "", "", (route(["l:1"]),))
    assert found.find(b"a.test") is found.find(b"a.test:8080") is not None
    assert found.find(b"b.test") is None
    assert found.find(b"[::1]") is None
    assert problems(found) == []
