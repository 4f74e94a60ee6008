"""Pages of filtered and ordered lists."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.services import listing
from fleet.errors import LocciError
from locci.v1 import node_pb2

ROWS = [
    (f"nodes/n{i:02}", node_pb2.Node(name=f"nodes/n{i:02}", region=f"regions/r{i % 3}", cordoned=i % 2 == 0))
    for i in range(20)
]


def names(request: node_pb2.ListNodesRequest) -> list[str]:
    """All pages, one after another."""
    found: list[str] = []
    for _ in range(100):
        rows, request.page_token = listing.page(request, ROWS)
        found += [row.name for row in rows]
        assert len(rows) <= (request.page_size or 100)
        if not request.page_token:
            return found
    raise AssertionError("pages without end")


@given(st.integers(1, 25), st.sampled_from(["", "cordoned = true", "region = regions/r1"]))
def test_pages_together_are_the_list(size: int, text: str) -> None:
    whole = names(node_pb2.ListNodesRequest(filter=text))
    assert names(node_pb2.ListNodesRequest(filter=text, page_size=size)) == whole
    assert len(whole) == {"": 20, "cordoned = true": 10, "region = regions/r1": 7}[text]


@given(st.integers(1, 25), st.sampled_from(["region desc", "cordoned, region desc", "name desc", "labels.x"]))
def test_ordered_pages_together_are_the_ordered_list(size: int, order: str) -> None:
    whole = names(node_pb2.ListNodesRequest(order_by=order))
    assert sorted(whole) == [name for name, _ in ROWS]
    assert names(node_pb2.ListNodesRequest(order_by=order, page_size=size)) == whole


def test_the_order_is_what_was_asked_for() -> None:
    found = names(node_pb2.ListNodesRequest(order_by="region desc, name"))
    rows = dict(ROWS)
    assert [rows[name].region for name in found] == sorted((row.region for _, row in ROWS), reverse=True)
    for _, group in itertools.groupby(found, key=lambda name: rows[name].region):
        within = list(group)
        assert within == sorted(within)


def test_filters_see_what_is_shown() -> None:
    def shown(row: node_pb2.Node) -> node_pb2.Node:
        return node_pb2.Node(name=row.name, healthy_replicas=int(row.name[-2:]))

    rows, _ = listing.page(node_pb2.ListNodesRequest(filter="healthy_replicas > 17"), ROWS, shown=shown)
    assert [row.name for row in rows] == ["nodes/n18", "nodes/n19"]


def test_a_token_is_bound_to_its_list() -> None:
    first = node_pb2.ListNodesRequest(filter="cordoned = true", page_size=2)
    _, token = listing.page(first, ROWS)
    for other in (
        node_pb2.ListNodesRequest(page_token=token),
        node_pb2.ListNodesRequest(filter="cordoned = true", order_by="name", page_token=token),
        node_pb2.ListNodesRequest(filter="cordoned = false", page_token=token),
    ):
        with pytest.raises(LocciError, match="another filter"):
            listing.page(other, ROWS)
    other_size = node_pb2.ListNodesRequest(filter="cordoned = true", page_size=5, page_token=token)
    assert len(listing.page(other_size, ROWS)[0]) == 5


@given(st.text(max_size=40))
def test_made_up_tokens_are_refused(token: str) -> None:
    if token:
        with pytest.raises(LocciError) as caught:
            listing.page(node_pb2.ListNodesRequest(page_token=token), ROWS)
        assert caught.value.field == "page_token"


def test_a_page_size_below_zero_is_refused() -> None:
    with pytest.raises(LocciError, match="page_size"):
        listing.page(node_pb2.ListNodesRequest(page_size=-1), ROWS)
