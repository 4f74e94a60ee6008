"""`locci lab suite`: a fresh fleet is taken through the default drills, and one report says what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, assert_never

from fleet.errors import Code, LocciError
from lab import bringup
from lab.control import SupervisorControl
from lab.drill import DrillPlan, record_drill, run_drill
from lab.observers import ClientLoop
from lab.progress import Progress
from lab.record import load_record
from lab.samples import Sample
from lab.story import HOSTNAME, StepFailedError, Story
from lab.suite_report import SHORT, SUITE, AgentDrill, CutDrill, Drill, KillDrill, Outcome, as_text, to_json
from lab.topology import Host

_BEGIN_S: Final = 90.0
"""After the drill before, the fleet is whole again within this."""
_RUN_S: Final = 150.0
_SERVED_S: Final = 60.0
_STEADY: Final = 20
_RATE: Final = 10.0
_POLL_S: Final = 0.3
_TERMINAL: Final = ("STATE_PASSED", "STATE_FAILED", "STATE_ABORTED")
_OBJECTIVES: Final = {"withdraw_objective": "10s", "reroute_objective": "20s"}


class Suite:
    """Runs drills against a fleet with the example deployed."""

    def __init__(self, story: Story, control: SupervisorControl) -> None:
        self._story = story
        self._control = control

    def play(self, drill: Drill) -> Outcome:
        """One drill, to its end; what goes wrong is part of the outcome."""
        began = time.monotonic()
        try:
            match drill:
                case AgentDrill():
                    return self._by_agents(drill, began)
                case KillDrill():
                    return self._kill(drill, began)
                case CutDrill():
                    return self._cut(drill, began)
                case _:
                    assert_never(drill)
        except (LocciError, StepFailedError) as error:
            return Outcome(drill.name, passed=False, seconds=_since(began), reason=str(error))

    def _by_agents(self, drill: AgentDrill, began: float) -> Outcome:
        api = self._story.api
        bounds: dict[str, Any] = {"hostname": HOSTNAME, **_OBJECTIVES}
        if "steps" not in drill.spec:
            bounds["fault_duration"] = f"{drill.duration_s}s"
        api.call("POST", "/v1/drills", {"spec": {**drill.spec, **bounds}}, query={"drill_id": drill.name})
        name = self._begun(drill.name)
        deadline = time.monotonic() + drill.duration_s + _RUN_S
        while (run := api.call("GET", f"/v1/{name}")).get("state") not in _TERMINAL:
            if time.monotonic() > deadline:
                raise StepFailedError(f"{name} does not end: {run.get('reason', '')}")
            time.sleep(_POLL_S)
        marks: dict[str, float] = {}
        for mark in run.get("marks", []):
            marks.setdefault(mark["stage"], float(mark.get("after", "0s").removesuffix("s")))
        counts = int(run.get("requests", 0)), int(run.get("failed_requests", 0))
        passed = run["state"] == "STATE_PASSED"
        return Outcome(drill.name, passed, _since(began), marks, *counts, reason=str(run.get("reason", "")))

    def _begun(self, drill: str) -> str:
        """The name of the run, which begins as soon as the fleet bears it. Raises what refused it to the end."""
        deadline = time.monotonic() + _BEGIN_S
        while True:
            try:
                return str(self._story.api.call("POST", f"/v1/drills/{drill}:run", {})["name"])
            except LocciError as error:
                if error.code is not Code.FAILED_PRECONDITION or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def _kill(self, drill: KillDrill, began: float) -> Outcome:
        """Passes when clients of its region are served again, from wherever; how many failed meanwhile is counted."""
        client = self._client_near(drill.host)
        with ExitStack() as stack:
            loop = stack.enter_context(ClientLoop(self._story.topology, client, HOSTNAME, rate=_RATE))
            _served(loop, 0.0, f"{client.name} is not served to begin with")
            killed_at = time.monotonic()
            answer = self._control.call("kill", host=drill.host, program=drill.program, hold=False)
            if not answer["killed"]:
                raise StepFailedError(f"{drill.program} on {drill.host} did not run")
            _served(loop, killed_at, f"{client.name} is not served after the kill")
            loop.stop()
            samples = loop.samples(killed_at)
        failed = sum(not sample.ok for sample in samples)
        return Outcome(drill.name, passed=True, seconds=_since(began), requests=len(samples), failed=failed)

    def _cut(self, drill: CutDrill, began: float) -> Outcome:
        client = next(host for host in self._story.topology.clients if host.region == drill.region)
        plan = DrillPlan(drill.region, HOSTNAME, client)
        found = run_drill(plan, self._story.topology, self._story.layout, self._story.api)
        record_drill(plan, found, self._story.api)
        marks: dict[str, float] = {}
        for mark in found.marks:
            marks.setdefault(mark.stage, mark.after_s)
        reason = "; ".join(found.failures)
        return Outcome(drill.name, found.passed, _since(began), marks, found.requests, found.failed, reason)

    def _client_near(self, host: str) -> Host:
        """The client host of a node's region; the first for a host without a region's clients."""
        clients, region = self._story.topology.clients, self._story.topology.host(host).region
        return next((client for client in clients if client.region == region), clients[0])


def run(name: str, report: Path, *, short: bool, progress: Progress) -> bool:
    """Brings a fleet up, plays the drills and takes it down; whether all passed. Raises LocciError."""
    layout = bringup.up(bringup.UpOptions(name=name), progress)
    outcomes: list[Outcome] = []
    try:
        story = Story(load_record(layout, name).topology, layout)
        story.push_images()
        story.deploy()
        suite = Suite(story, SupervisorControl(layout))
        for drill in chosen(short=short):
            outcomes.append(suite.play(drill))
            last = outcomes[-1]
            said = "ok  " if last.passed else "FAIL"
            progress.say(f"{said}  {last.name} ({last.seconds:.1f} s){'' if last.passed else ': ' + last.reason}")
    except StepFailedError as error:
        outcomes.append(Outcome("deploy", passed=False, seconds=0.0, reason=str(error)))
    finally:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(to_json(outcomes), indent=1) + "\n")
        bringup.down(name, layout)
    print(as_text(outcomes))
    return all(outcome.passed for outcome in outcomes)


def chosen(*, short: bool) -> Sequence[Drill]:
    """The drills of the whole suite, or of its short form."""
    return [drill for drill in SUITE if not short or drill.name in SHORT]


def _served(loop: ClientLoop, since: float, otherwise: str) -> None:
    def steady(samples: Sequence[Sample]) -> bool:
        last = samples[-_STEADY:]
        return len(last) == _STEADY and all(sample.ok for sample in last)

    if not loop.wait(steady, since=since, timeout_s=_SERVED_S):
        raise StepFailedError(otherwise)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)
