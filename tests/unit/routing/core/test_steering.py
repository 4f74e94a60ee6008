"""The chain of filters: what is hard, what gives way, and that it can say why."""

from __future__ import annotations

import pytest

from routing.core.model import Condition, EdgeEndpoint, Family, Hostname, Policy, Region
from routing.core.steering import Client, Decision, Outcome, decide, distance_km
from tests.unit.routing.tables import AP, EU, EVERYWHERE, US, everything, regions

ALL = regions()
NEAR_EU = (EU, US, AP)


def choose(hostname: Hostname, order: tuple[str, ...] | None = NEAR_EU, out: tuple[str, ...] = ()) -> Decision:
    rotation = frozenset(key for key in everything(ALL) if key[0].split("-")[0] not in out)
    return decide(hostname, ALL, Client(order), rotation, Family.IPV4)


def test_distances() -> None:
    assert distance_km(50.1, 8.7, ALL[US]) == pytest.approx(6200, rel=0.01)
    assert distance_km(50.1, 8.7, ALL[EU]) == pytest.approx(0, abs=1e-6)
    assert distance_km(0, -179.9, Region("x", 0, 179.9)) == pytest.approx(22.2, rel=0.01)


@pytest.mark.parametrize(
    ("hostname", "order", "out", "chosen"),
    [
        (Hostname("h", replicas=EVERYWHERE), NEAR_EU, (), (EU,)),
        (Hostname("h", replicas=EVERYWHERE), NEAR_EU, (EU,), (US,)),
        (Hostname("h", replicas=EVERYWHERE), NEAR_EU, (EU, US), (AP,)),
        (Hostname("h", replicas=EVERYWHERE), None, (EU,), (AP, US)),
        (Hostname("h", replicas=((EU, 0), (US, 2), (AP, 1))), NEAR_EU, (), (US,)),
        (Hostname("h", replicas=((EU, 0), (US, 0))), NEAR_EU, (), (EU,)),
        (Hostname("h", replicas=((US, 1), (AP, 0))), NEAR_EU, (), (US,)),
        (Hostname("h", replicas=((US, 1), (AP, 0))), NEAR_EU, (US,), (AP,)),
        (Hostname("h"), NEAR_EU, (EU,), (US,)),
        (Hostname("h", policy=Policy.ALL, replicas=EVERYWHERE), NEAR_EU, (US,), (EU, AP)),
        (Hostname("h", policy=Policy.FAILOVER, order=(AP, US), replicas=EVERYWHERE), NEAR_EU, (), (AP,)),
        (Hostname("h", policy=Policy.FAILOVER, order=(AP, US), replicas=EVERYWHERE), NEAR_EU, (AP, US), (EU,)),
        (Hostname("h", policy=Policy.FAILOVER, order=("gone", US), replicas=EVERYWHERE), NEAR_EU, (), (US,)),
        (Hostname("h", jurisdictions=(US,), replicas=EVERYWHERE), NEAR_EU, (), (US,)),
        (Hostname("h", jurisdictions=("mars",), replicas=EVERYWHERE), NEAR_EU, (), ()),
    ],
)
def test_choice(
    hostname: Hostname, order: tuple[str, ...] | None, out: tuple[str, ...], chosen: tuple[str, ...]
) -> None:
    assert choose(hostname, order, out).regions == chosen


def test_all_down_fails_open_within_the_jurisdiction() -> None:
    everyone = choose(Hostname("h", replicas=EVERYWHERE), out=(EU, US, AP))
    assert (everyone.outcome, everyone.regions) == (Outcome.FAIL_OPEN, NEAR_EU)
    bound = choose(Hostname("h", jurisdictions=(EU, US), replicas=EVERYWHERE), out=(EU, US))
    assert (bound.outcome, set(bound.regions)) == (Outcome.FAIL_OPEN, {EU, US})
    closed = choose(Hostname("h", fail_closed=True, replicas=EVERYWHERE), out=(EU, US, AP))
    assert (closed.outcome, closed.addresses) == (Outcome.FAIL_CLOSED, ())


def test_revoked_edges_are_never_answered() -> None:
    edges = (
        EdgeEndpoint("a", ("192.0.2.1",), condition=Condition.REVOKED),
        EdgeEndpoint("b", ("192.0.2.2",), condition=Condition.LOST),
    )
    of = {EU: Region(EU, 50, 8, edges=edges)}
    decision = decide(Hostname("h"), of, Client((EU,)), frozenset(), Family.IPV4)
    assert (decision.outcome, decision.addresses) == (Outcome.FAIL_OPEN, ("192.0.2.2",))


def test_only_edges_in_rotation_are_answered() -> None:
    of = regions(edges=3)
    rotation = everything(of) - {("eu-2", Family.IPV4)}
    assert decide(Hostname("h"), of, Client(NEAR_EU), rotation, Family.IPV4).addresses == ("192.0.2.11", "192.0.2.13")


def test_it_says_why() -> None:
    steps = {step.filter: step for step in choose(Hostname("h", replicas=((EU, 1), (US, 0), (AP, 1))), out=(EU,)).steps}
    assert list(steps) == ["placement", "jurisdiction", "address", "order", "replicas", "health", "pick"]
    assert steps["replicas"].dropped == ((US, "no healthy replica"),)
    assert steps["health"].dropped == ((EU, "no edge in rotation"),)
    assert steps["pick"].kept == (AP,)
