"""`locci lab suite`: a fresh fleet is taken through the default drills, and one report says what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, assert_never

from fleet.errors import Code, LocciError
from lab import bringup
from lab.control import SupervisorControl
from lab.drill import DrillPlan, record_drill, run_drill
from lab.progress import Progress
from lab.record import load_record
from lab.samples import Clients
from lab.scenes import ScenePlayer, kill
from lab.story import HOSTNAME, StepFailedError, Story
from lab.suite_drills import SHORT, SUITE, AgentDrill, CutDrill, Drill, SceneDrill
from lab.suite_page import as_html
from lab.suite_report import Outcome, as_text, to_json

_BEGIN_S: Final = 150.0
"""After the drill before, the fleet is whole again within this."""
_RUN_S: Final = 150.0
_POLL_S: Final = 0.3
_TERMINAL: Final = ("STATE_PASSED", "STATE_FAILED", "STATE_ABORTED")
_OBJECTIVES: Final = {"withdraw_objective": "10s", "reroute_objective": "20s"}


class Suite:
    """Runs drills against a fleet with the example deployed; the report of each run goes into `pages`."""

    def __init__(self, story: Story, control: SupervisorControl, pages: Path | None = None) -> None:
        self._story = story
        self._control = control
        self._scenes = ScenePlayer(story, control)
        self._pages = pages

    def play(self, drill: Drill) -> Outcome:
        """One drill, to its end; what goes wrong is part of the outcome."""
        began = time.monotonic()
        try:
            outcome = self._play(drill, began)
        except (LocciError, StepFailedError) as error:
            outcome = Outcome(drill.name, passed=False, seconds=_since(began), reason=str(error))
        return replace(outcome, title=drill.title, done=said(drill), page=self._page(drill))

    def _play(self, drill: Drill, began: float) -> Outcome:
        match drill:
            case AgentDrill():
                return self._by_agents(drill, began)
            case CutDrill():
                return self._cut(drill, began)
            case SceneDrill():
                return self._scenes.play(drill, began)
            case _:
                assert_never(drill)

    def _by_agents(self, drill: AgentDrill, began: float) -> Outcome:
        bounds: dict[str, Any] = {"hostname": HOSTNAME, **_OBJECTIVES}
        if "steps" not in drill.spec:
            bounds["fault_duration"] = f"{drill.duration_s}s"
        self._story.api.call("POST", "/v1/drills", {"spec": {**drill.spec, **bounds}}, query={"drill_id": drill.name})
        run = self._ended(drill, self._begun(drill.name))
        clients = tuple(_clients(client) for client in run.get("clients", []))
        counts = int(run.get("requests", 0)), int(run.get("failed_requests", 0))
        passed, marks = run["state"] == "STATE_PASSED", _marks(run)
        bound_s = _seconds(run.get("cut_proven_within", "")) or None
        reason, bound_s = str(run.get("reason", "")), bound_s if "withdrawn" in marks else None
        return Outcome(drill.name, passed, _since(began), marks, *counts, reason, clients=clients, bound_s=bound_s)

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

    def _ended(self, drill: AgentDrill, name: str) -> dict[str, Any]:
        """The run when it has ended. Meanwhile programs are killed, the control plane may be one of them."""
        deadline = time.monotonic() + drill.duration_s + _RUN_S
        faulty_at: float | None = None
        to_kill = list(drill.killed)
        run: dict[str, Any] = {}
        while run.get("state") not in _TERMINAL:
            if time.monotonic() > deadline:
                raise StepFailedError(f"{name} does not end: {run.get('reason', '')}")
            time.sleep(_POLL_S)
            try:
                run = self._story.api.call("GET", f"/v1/{name}")
            except LocciError as error:
                if error.code is not Code.UNAVAILABLE or not drill.killed:
                    raise
            if run.get("state") == "STATE_FAULTY" and faulty_at is None:
                faulty_at = time.monotonic()
            while to_kill and faulty_at is not None and time.monotonic() >= faulty_at + to_kill[0][0]:
                kill(self._control, to_kill.pop(0)[1])
        if to_kill:
            raise StepFailedError(f"{name} ended before {to_kill[0][1]}: {run.get('reason', '')}")
        return run

    def _cut(self, drill: CutDrill, began: float) -> Outcome:
        topology, api = self._story.topology, self._story.api
        client = next(host for host in topology.clients if host.region == drill.region)
        plan = DrillPlan(drill.region, HOSTNAME, client)
        found = run_drill(plan, topology, self._story.layout, api)
        run = api.call("GET", f"/v1/{record_drill(plan, found, api)}")
        clients = (found.clients,) if found.clients else ()
        bound_s = _seconds(run.get("cut_proven_within", "")) or None
        reason = "; ".join(found.failures)
        counts, marks, took_s = (found.requests, found.failed), _marks(run), _since(began)
        return Outcome(drill.name, found.passed, took_s, marks, *counts, reason, clients=clients, bound_s=bound_s)

    def _page(self, drill: Drill) -> str:
        """Writes the report of a drill's last run, where there is one; the name of the file."""
        if self._pages is None or isinstance(drill, SceneDrill):
            return ""
        path = self._pages / f"{drill.name}.html"
        path.unlink(missing_ok=True)
        # A run that did not pass has a report, and ends the command with an exit code.
        with suppress(StepFailedError):
            self._story.locci("drills", "report", drill.name, "--html", str(path))
        return path.name if path.exists() else ""


def run(name: str, report: Path, *, short: bool, progress: Progress) -> bool:
    """Brings a fleet up, plays the drills and takes it down; whether all passed. Raises LocciError."""
    pages = report.with_suffix("")
    pages.mkdir(parents=True, exist_ok=True)
    began_at = time.time()
    layout = bringup.up(bringup.UpOptions(name=name), progress)
    outcomes: list[Outcome] = []
    try:
        story = Story(load_record(layout, name).topology, layout)
        story.push_images()
        story.deploy()
        suite = Suite(story, SupervisorControl(layout), pages)
        for drill in chosen(short=short):
            outcomes.append(suite.play(drill))
            last = outcomes[-1]
            word = "ok  " if last.passed else "FAIL"
            progress.say(f"{word}  {last.name} ({last.seconds:.1f} s){'' if last.passed else ': ' + last.reason}")
    except StepFailedError as error:
        outcomes.append(Outcome("deploy", passed=False, seconds=0.0, reason=str(error)))
    finally:
        report.write_text(json.dumps(to_json(outcomes), indent=1) + "\n")
        page = report.with_suffix(".html")
        page.write_text(as_html(outcomes, began_at, time.time(), pages.name))
        bringup.down(name, layout)
    print(as_text(outcomes))
    progress.say(f"{page} is the report as a page")
    return all(outcome.passed for outcome in outcomes)


def chosen(*, short: bool) -> Sequence[Drill]:
    """The drills of the whole suite, or of its short form."""
    return [drill for drill in SUITE if not short or drill.name in SHORT]


def said(drill: Drill) -> str:
    """What a drill does, in a few words."""
    match drill:
        case CutDrill(_, region):
            return f"the lab cuts every link of {region}"
        case SceneDrill():
            return "; ".join(str(action) for action in drill.actions)
        case AgentDrill():
            steps = drill.spec.get("steps", [{**drill.spec, "targets": [drill.spec.get("target", "")]}])
            parts = [f"{_fault(step)} of {', '.join(step['targets'])}" for step in steps]
            parts += [f"{action} after {after_s:g} s" for after_s, action in drill.killed]
            return "agents: " + "; ".join(parts)


def _fault(step: dict[str, Any]) -> str:
    name = str(step["fault"]).removeprefix("FAULT_KIND_").lower().replace("_", "-")
    return f"{name} {step.get('program', '')}".strip()


def _marks(run: dict[str, Any]) -> dict[str, float]:
    marks: dict[str, float] = {}
    for mark in run.get("marks", []):
        marks.setdefault(mark["stage"], _seconds(mark.get("after", "")))
    return marks


def _clients(row: dict[str, Any]) -> Clients:
    requests, failed, slow = (int(row.get(key, 0)) for key in ("requests", "failed", "slow"))
    return Clients(str(row["region"]).rpartition("/")[2], requests, failed, slow, _seconds(row.get("longest_gap", "")))


def _seconds(text: str) -> float:
    return float(text.removesuffix("s") or 0)


def _since(began: float) -> float:
    return round(time.monotonic() - began, 2)
