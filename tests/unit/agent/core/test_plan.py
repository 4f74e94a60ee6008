"""The next steps, from what is wanted and what is there."""

from __future__ import annotations

from agent.core.edge_view import Drain, EdgeRoute, EdgeView, Endpoint
from agent.core.messages import BeginDrain, CancelPull, CreateAndStart, PullImage, RemoveContainer, StopContainer
from agent.core.model import Container, Memory, Route, Setback
from agent.core.plan import choose, next_time, plan
from agent.core.world import World
from tests.unit.agent.play import IMAGE, ended, replica, running, target

OTHER_IMAGE = IMAGE.replace("web", "other")


def world(*containers: Container, wanted: int = 1) -> World:
    """A world with these containers and `wanted` replicas of release 1, the image at hand."""
    found = World(target=target(*(replica(n) for n in range(wanted))))
    found.containers = {container.id: container for container in containers}
    found.images = {IMAGE}
    return found


def test_nothing_is_planned_before_a_target_is_known() -> None:
    found = world(running("c1", replica()))
    found.target = None
    assert plan(found, 0.0) == []


def test_what_is_there_and_wanted_is_left_alone() -> None:
    assert plan(world(running("c1", replica())), 0.0) == []


def test_images_are_pulled_once_and_at_most_three_at_a_time() -> None:
    found = world()
    replicas = [replica(n, image=f"{IMAGE[:-1]}{n // 2}") for n in range(10)]
    found.target, found.images = target(*replicas), set()
    assert plan(found, 0.0) == [PullImage(f"{IMAGE[:-1]}{n}") for n in range(3)]
    found.pulling = {f"{IMAGE[:-1]}0", OTHER_IMAGE}
    assert plan(found, 0.0)[:2] == [CancelPull(OTHER_IMAGE), PullImage(f"{IMAGE[:-1]}1")]


def test_a_pull_that_failed_waits_for_its_time() -> None:
    found = world()
    found.images = set()
    found.pull_setbacks = {IMAGE: Setback(1, 5.0, "refused")}
    assert plan(found, 4.9) == []
    assert next_time(found, 4.9) == 5.0
    assert plan(found, 5.0) == [PullImage(IMAGE)]


def test_a_replica_in_back_off_does_not_hold_up_others() -> None:
    found = world(wanted=2)
    found.memory = {replica().identity: Memory(failures=1, retry_at=5.0)}
    assert plan(found, 0.0) == [CreateAndStart(replica(1))]


def test_of_two_containers_of_one_replica_the_ready_one_stays() -> None:
    found = world(running("a", replica()), running("b", replica()), ended("c", replica()))
    found.readiness = {}
    assert choose(found)[replica().identity].id == "a"
    assert plan(found, 0.0) == [StopContainer("b", 10.0), RemoveContainer("c")]


def test_one_that_the_edge_knows_is_drained_before_it_is_stopped() -> None:
    old = running("c1", replica(release=9))
    found = world(old)
    endpoint = Endpoint("c1", old.resource, "10.0.0.1:8080")
    found.served = EdgeView((EdgeRoute(Route("web", ("web.test",)), (endpoint,)),))
    assert plan(found, 0.0) == [
        CreateAndStart(replica()),
        BeginDrain("c1", 2.0),
    ]
    found.drains = {"c1": Drain("web", endpoint, 0.0, 2.0, generation=3, serving_since=1.0)}
    assert StopContainer("c1", 10.0) not in plan(found, 2.9)
    assert StopContainer("c1", 10.0) in plan(found, 3.0)


def test_one_whose_start_is_under_way_is_not_ended_in_the_middle() -> None:
    old = ended("c1", replica(release=9))
    found = world(running("c2", replica()), old)
    found.starting = {old.identity: "c1"}
    assert plan(found, 0.0) == []


def test_at_most_eight_are_ended_at_a_time() -> None:
    found = world(*(ended(f"c{n}", replica(n)) for n in range(20)), wanted=0)
    assert len(plan(found, 0.0)) == 8
    found.removing = {f"c{n}" for n in range(5)}
    assert len(plan(found, 0.0)) == 3
