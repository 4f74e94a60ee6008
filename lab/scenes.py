"""What a lab does to its fleet from outside while clients of every region ask, and whether the promise held."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any, Final, assert_never

from fleet.errors import Code, LocciError
from lab import links
from lab.control import SupervisorControl
from lab.lock import locked
from lab.observers import ClientLoop, NameServerWatch
from lab.samples import Poll, Sample, clients_of
from lab.story import HOSTNAME, Story, expect
from lab.suite_drills import Action, Cut, Heal, Kill, SceneDrill, Wait
from lab.suite_report import Outcome

_SERVED_S: Final = 60.0
_AT_HOME_S: Final = 150.0
"""A region that was out several times in ten minutes is held back for a minute and more (routing/core/verdict.py)."""
_STEADY: Final = 15
_RATE: Final = 8.0
_ALL_DOWN_S: Final = 6.0
_POLL_S: Final = 0.1


class ScenePlayer:
    """Plays scenes against a fleet with the example deployed."""

    def __init__(self, story: Story, control: SupervisorControl) -> None:
        self._story, self._control = story, control
        self._topology = story.topology

    def play(self, scene: SceneDrill, began: float) -> Outcome:
        """One scene, to its end; all is healed whatever happens. Raises StepFailedError or LocciError."""
        with ExitStack() as stack:
            topology = self._topology
            loops = [stack.enter_context(ClientLoop(topology, host, HOSTNAME, rate=_RATE)) for host in topology.clients]
            watches = [
                stack.enter_context(NameServerWatch(topology, server, HOSTNAME, topology.clients[-1]))
                for server in topology.name_servers
            ]
            self._all_served(loops, 0.0, "to begin with", at_home=True)
            before = self._control.programs()
            stack.callback(self._heal)
            fault_at = time.monotonic()
            for action in scene.actions:
                self._do(action)
            done_at = time.monotonic()
            if scene.served:
                self._all_served(loops, done_at, f"after {scene.actions[-1]}")
            else:
                time.sleep(_ALL_DOWN_S)
            healed_at = time.monotonic()
            self._heal()
            self._wait_programs(scene, before)
            self._all_served(loops, healed_at, "after all was healed", at_home=True)
            restored_at = time.monotonic()
            for loop in loops:
                loop.stop()
            _check_answers(scene, [poll for watch in watches for poll in watch.polls if poll.at >= fault_at])
            found = tuple(clients_of(loop.host.region, loop.samples(fault_at), fault_at) for loop in loops)
        failed = sum(clients.failed for clients in found)
        if scene.failed_max is not None:
            expect(failed <= scene.failed_max, f"{failed} requests failed; {scene.failed_max} may")
        marks = {"healed": round(healed_at - fault_at, 3), "restored": round(restored_at - fault_at, 3)}
        requests = sum(clients.requests for clients in found)
        took_s = round(time.monotonic() - began, 2)
        hopeless = not scene.served
        return Outcome(scene.name, True, took_s, marks, requests, failed, clients=found, hopeless=hopeless)

    def _do(self, action: Action) -> None:
        lab, layout = self._topology.lab, self._story.layout
        match action:
            case Cut(target, source, one_way):
                with locked(lab):
                    links.partition(lab, layout, target, source=source or None, one_way=one_way)
            case Kill():
                kill(self._control, action)
            case Heal(seconds):
                with locked(lab):
                    links.heal(lab, layout)
                time.sleep(seconds)
            case Wait(seconds):
                time.sleep(seconds)
            case _:
                assert_never(action)

    def _heal(self) -> None:
        with locked(self._topology.lab):
            links.heal(self._topology.lab, self._story.layout)
        self._control.call("release")

    def _wait_programs(self, scene: SceneDrill, before: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        """Every program that was killed runs again, as another process, and the control plane answers."""
        killed = {(action.host, action.program) for action in scene.actions if isinstance(action, Kill)}

        def missing() -> list[str]:
            now = self._control.programs()
            return [f"{p} on {h}" for h, p in sorted(killed) if now[h, p]["pid"] in (None, 0, before[h, p]["pid"])]

        _wait(lambda: not missing(), lambda: f"{', '.join(missing())} does not run again")
        _wait(self._answers, lambda: "the control plane does not answer")

    def _answers(self) -> bool:
        try:
            self._story.api.call("GET", "/v1/regions")
        except LocciError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            return False
        return True

    def _all_served(self, loops: Sequence[ClientLoop], since: float, when: str, *, at_home: bool = False) -> None:
        """Clients of every region are served without a failure for a while, `at_home` by their own region."""
        deadline = time.monotonic() + (_AT_HOME_S if at_home else _SERVED_S)
        for loop in loops:
            steady = partial(_steady, loop.host.region if at_home else "")
            served = loop.wait(steady, since=since, timeout_s=max(0.0, deadline - time.monotonic()))
            last = loop.samples(since)[-1:]
            expect(served, f"{loop.host.name} is not served{' from its region' * at_home} {when}; it saw {last}")


def kill(control: SupervisorControl, action: Kill) -> None:
    """Kills a program that runs. Raises StepFailedError when it does not."""
    answer = control.call("kill", host=action.host, program=action.program, hold=action.hold)
    expect(bool(answer["killed"]), f"{action.program} on {action.host} did not run")


def _check_answers(scene: SceneDrill, polls: Sequence[Poll]) -> None:
    empty = [poll.server for poll in polls if poll.addresses is not None and not poll.addresses]
    expect(not empty, f"the DNS server of {empty[:1]} answered with nothing")
    for server in sorted({poll.server for poll in polls}):
        answers = [poll.addresses for poll in polls if poll.server == server and poll.addresses]
        changes = sum(one != other for one, other in pairwise(answers))
        allowed = scene.changes_max
        expect(allowed is None or changes <= allowed, f"answers of {server} changed {changes} times; {allowed} may")
    if not scene.served:
        answered = {poll.server for poll in polls if poll.addresses}
        silent = {poll.server for poll in polls} - answered
        expect(not silent, f"the DNS servers of {', '.join(sorted(silent))} are silent")


def _steady(region: str, samples: Sequence[Sample]) -> bool:
    last = samples[-_STEADY:]
    return len(last) == _STEADY and all(sample.ok and region in ("", sample.region) for sample in last)


def _wait(holds: Callable[[], bool], otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + _SERVED_S
    while not holds():
        expect(time.monotonic() < deadline, otherwise())
        time.sleep(_POLL_S)
