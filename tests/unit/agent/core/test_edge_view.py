"""What the edge serves: replicas that are ready, and with two releases side by side only those of one of them."""

from __future__ import annotations

import pytest

from agent.core.edge_view import edge_view
from agent.core.model import Container, Peer, Replica, Route
from tests.unit.agent.play import replica, running

PEER = Peer("eu", "eu-2", "192.0.2.2:7447", 1)


def pair(wanted: Replica) -> tuple[Replica, Container]:
    return wanted, running(f"c-{wanted.spec_hash}", wanted)


OLD, NEW = pair(replica(0, 1, "old")), pair(replica(0, 2, "new"))


@pytest.mark.parametrize(
    ("only", "peers", "ready", "asked"),
    [
        ("", (), [OLD, NEW], {"c-old", "c-new"}),
        ("old", (), [OLD, NEW], {"c-old"}),
        ("new", (), [OLD, NEW], {"c-new"}),
        ("old", (PEER,), [NEW], set()),
        ("old", (), [NEW], {"c-new"}),
    ],
    ids=["any", "the old one", "the new one", "another node has it", "nothing else is in reach"],
)
def test_which_of_two_releases_is_asked(
    only: str, peers: tuple[Peer, ...], ready: list[tuple[Replica, Container]], asked: set[str]
) -> None:
    view = edge_view([Route("web", ("web.test",), peers=peers, only_spec_hash=only)], ready, [])
    assert view.ready == asked
    assert {e.container_id for e in view.routes[0].local} == {c.id for _, c in ready}, "the others end what they have"
