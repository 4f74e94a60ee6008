"""`make demo`: three regions on this machine; deploy, serve, steer, fail over, each line with its time."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fleet.errors import Code, LocciError
from lab import bringup
from lab.demo_report import DemoReport, Step
from lab.layout import default_layout
from lab.progress import Progress
from lab.record import load_record
from lab.story import StepFailedError, Story, hints
from lab.topology import plan

REGIONS: Final = 3
_EXIT_CODES: Final = {Code.INVALID_ARGUMENT: 2, Code.PERMISSION_DENIED: 3}


class Demo:
    """Runs the steps one after the other, keeps what came of each, and stops at the first that fails."""

    def __init__(self, name: str, progress: Progress) -> None:
        self._name = name
        self._progress = progress
        self._steps: list[Step] = []
        self._story: Story | None = None
        self._complete = False
        self.is_up = False
        """Whether there is a fleet of our own: one that was there before is not ours to take down."""

    def run(self) -> None:
        """All steps; LocciError when the fleet cannot be brought up, otherwise failures are in the report."""
        began = time.monotonic()
        layout = bringup.up(bringup.UpOptions(name=self._name, regions=REGIONS), self._progress)
        self.is_up = True
        story = self._story = Story(load_record(layout, self._name).topology, layout)
        self._keep("fleet up", began, f"{REGIONS} regions, {len(story.topology.nodes)} nodes")
        steps: list[tuple[str, Callable[[], str]]] = [
            ("agents joined", story.agents_joined),
            ("images pushed", story.push_images),
            ("release 1 deployed", story.deploy),
            ("DNS by place", story.dns_by_place),
            ("cache", story.cache),
            ("rolling update", story.rolling_update),
            ("bad release", story.bad_release),
            ("region lost", story.region_lost),
        ]
        self._complete = all(self._step(name, step) for name, step in steps)

    def _step(self, name: str, step: Callable[[], str]) -> bool:
        began = time.monotonic()
        try:
            return self._keep(name, began, step())
        except (StepFailedError, LocciError) as error:
            return self._keep(name, began, str(error), ok=False)

    def _keep(self, name: str, began: float, detail: str, *, ok: bool = True) -> bool:
        seconds = round(time.monotonic() - began, 2)
        self._steps.append(Step(name, ok, seconds, detail))
        self._progress.say(f"{'ok  ' if ok else 'FAIL'}  {name}: {detail} ({seconds:.1f} s)")
        return ok

    def failed_to_start(self, error: LocciError) -> None:
        """Keeps it as a step that failed."""
        self._keep("fleet up", time.monotonic() - self._progress.elapsed_s, error.message, ok=False)

    def report(self) -> DemoReport:
        """What came of it, so far."""
        regions = tuple(region.id for region in plan(self._name, REGIONS, 1).regions)
        story = self._story
        return DemoReport(
            regions=regions,
            steps=tuple(self._steps),
            rollout=story.rollout if story else None,
            rollback=story.rollback if story else None,
            drill=story.drill if story else None,
            complete=self._complete,
        )


def _interrupted(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def run(name: str, path: Path, *, keep: bool) -> int:
    """The demo's exit code: 0 when every step went well, else as every program."""
    progress = Progress(sys.stdout)
    demo = Demo(name, progress)
    try:
        try:
            demo.run()
        except LocciError as error:
            demo.failed_to_start(error)
            return _EXIT_CODES.get(error.code, 1)
        return 0 if demo.report().ok else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        keep = False
        return 130
    finally:
        # From here on an impatient second Ctrl-C must not leave half a fleet behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        layout = default_layout(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(demo.report().to_json(), indent=1, ensure_ascii=False) + "\n")
        progress.say(f"report in {path}")
        if demo.is_up and keep:
            print(hints(layout, name))
        elif demo.is_up and bringup.down(name, layout):
            progress.say("fleet down, nothing left")


def main() -> int:
    """Entry point of `python -m lab.demo`."""
    parser = argparse.ArgumentParser(prog="lab.demo", description=__doc__)
    parser.add_argument("--name", default="demo", help="the lab's name")
    parser.add_argument("--report", type=Path, default=Path("build/demo-report.json"), help="where the report goes")
    parser.add_argument("--keep", action="store_true", help="leave the fleet running, and say what to try")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    return run(arguments.name, arguments.report, keep=arguments.keep)


if __name__ == "__main__":
    sys.exit(main())
