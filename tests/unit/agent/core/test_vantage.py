"""What a host tells of others: looks of its own, and requests that were lost on the way."""

from __future__ import annotations

from collections import Counter

from agent.core.vantage import RISE, WATCHED_MAX, Neighbour, Passes, Sight, findings, watched

US = [Neighbour(f"us-{n}", "us", f"192.0.2.{n}") for n in range(40)]


def test_a_few_of_other_regions_are_watched_and_always_the_same() -> None:
    own = Neighbour("eu-2", "eu", "192.0.2.200")
    found = watched("eu-1", "eu", [*US, own, Neighbour("eu-1", "us", "")])
    assert len(found) == WATCHED_MAX
    assert {n.region for n in found} == {"us"}
    assert found == watched("eu-1", "eu", reversed(US))
    kept = set(watched("eu-1", "eu", [n for n in US if n != found[0]]))
    assert set(found[1:]) <= kept, "who goes moves nobody else"


def test_everybody_is_watched_by_somebody() -> None:
    hosts = [f"eu-{n}" for n in range(40)]
    seen = Counter(n.node for host in hosts for n in watched(host, "eu", US))
    assert len(seen) == len(US)
    assert max(seen.values()) <= 20


def test_a_bad_look_is_told_at_once_and_good_ones_after_a_while() -> None:
    sight = Sight().looked("", 1.0)
    assert (sight.healthy, sight.since) == (True, 1.0)
    sight = sight.looked("no answer", 2.0).looked("no answer", 3.0)
    assert (sight.healthy, sight.since, sight.reason) == (False, 2.0, "no answer")
    for n in range(RISE - 1):
        sight = sight.looked("", 4.0 + n)
        assert sight.healthy is False
    assert sight.looked("", 9.0).healthy is True
    assert sight.looked("again", 9.0).looked("", 10.0).good_looks == 1


def test_lost_requests_count_when_none_was_answered() -> None:
    lost = Passes().counted(0, 2, "refused", 10.0)
    assert lost.trouble(10.0) == ""
    lost = lost.counted(0, 1, "reset", 11.0)
    assert "3 requests that were passed to it in 5 s were lost, and none was answered (reset)" in lost.trouble(11.0)
    assert lost.counted(1, 0, "", 12.0).trouble(12.0) == "", "one answer: it is partly in reach"
    assert lost.trouble(16.0) == "", "it was long ago"


def test_everything_is_told_by_node() -> None:
    sights = {"us-1": Sight().looked("", 1.0, 0.08), "us-2": Sight().looked("no answer", 2.0), "us-3": Sight()}
    lost = Passes().counted(0, 9, "refused", 3.0)
    found = {f.node: f for f in findings(sights, {"us-1": lost, "us-4": lost, "us-5": Passes()}, 3.0)}
    assert {node: f.healthy for node, f in found.items()} == {"us-1": False, "us-2": False, "us-4": False}
    assert "9 requests" in found["us-1"].reason
    assert found["us-2"].reason == "no answer"
    assert {f.node: f.healthy for f in findings(sights, {"us-1": lost}, 9.0)} == {"us-1": True, "us-2": False}
