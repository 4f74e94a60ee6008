"""Which endpoints are looked at, and how many requests are tried again."""

from __future__ import annotations

from agent.edge.core.balance import Endpoint
from agent.edge.core.checks import due
from agent.edge.core.retry_budget import MOST, RetryBudget


def test_what_cannot_be_reached_is_looked_at_and_not_tried() -> None:
    lost, broken, well = Endpoint("a:1"), Endpoint("b:1"), Endpoint("c:1")
    endpoints = {endpoint.address: endpoint for endpoint in (lost, broken, well)}
    lost.failed(100.0, reached=False)
    broken.failed(100.0)
    assert due(endpoints, (), {}, 100.0) == ["a:1"]
    assert due(endpoints, (), {"a:1": 99.5}, 100.0) == []
    assert (lost.available(200.0), broken.available(200.0)) == (False, True)
    lost.reached(200.0)
    assert lost.available(200.0)
    assert lost.share(200.0) < 1, "few requests at first"
    broken.reached(200.0)
    assert broken.ejections == 1, "that it can be reached was no question"


def test_an_answer_counts_as_well() -> None:
    endpoint = Endpoint("a:1")
    endpoint.failed(100.0, reached=False)
    endpoint.answered(200, 101.0)
    assert endpoint.available(101.0)


def test_other_edges_that_nobody_asks_are_looked_at() -> None:
    endpoints = {address: Endpoint(address) for address in ("local:1", "peer:1", "busy:1", "asked:1", "broken:1")}
    endpoints["busy:1"].begin(10.0)
    endpoints["asked:1"].answered(200, 98.0, 0.1)
    endpoints["broken:1"].failed(99.0)
    peers = {"peer:1", "busy:1", "asked:1", "broken:1"}
    assert due(endpoints, peers, {}, 100.0) == ["peer:1"]
    assert due(endpoints, peers, {"peer:1": 96.0}, 100.0) == []
    assert due(endpoints, peers, {"peer:1": 96.0}, 104.0) == ["peer:1"], "one at a time, the longest not seen first"
    assert due(endpoints, peers, {"peer:1": 104.0}, 104.0) == ["asked:1"]


def test_retries_are_a_part_of_all_requests() -> None:
    budget = RetryBudget()
    assert sum(budget.spend(0.0) for _ in range(5000)) == MOST
    for _ in range(1000):
        budget.earn()
    assert 195 <= sum(budget.spend(0.0) for _ in range(5000)) <= 200
    assert sum(budget.spend(5.0) for _ in range(5000)) == 50
    assert sum(budget.spend(1e6) for _ in range(5000)) == MOST
