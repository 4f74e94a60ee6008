"""Drills in files: what is declared, and what is said when it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.drill_file import FAULTS, drills_in
from cli.failure import Failure
from cli.main import command_names

GOOD = """
name: cut-eu
fault: region-cut
target: regions/eu
hostname: hello.example.net
duration: 20s
schedule: "0 3 * * tue"
blocked: ["mon-fri 08:00-18:00"]
max_failed_percent: 20
"""


def test_a_file_declares_several_drills() -> None:
    (first, spec), (second, _) = drills_in(GOOD + "---" + GOOD.replace("cut-eu", "cut-us"), "d.yaml")
    assert (first, second) == ("cut-eu", "cut-us")
    assert spec["fault"] == "FAULT_KIND_REGION_CUT"
    assert spec["fault_duration"] == "20s"
    assert spec["blocked"] == ["mon-fri 08:00-18:00"]
    assert spec["max_failed_percent"] == 20


@pytest.mark.parametrize(
    ("before", "after", "said", "line"),
    [
        ("fault: region-cut", "fault: flood", "use region-cut", 3),
        ("duration: 20s", "durations: 20s", "no key of a drill", 6),
        ("duration: 20s", "duration: soon", "is not a duration", 6),
        ("max_failed_percent: 20", "max_failed_percent: many", "no whole number", 9),
        ('["mon-fri 08:00-18:00"]', "always", "list of windows", 8),
        ("name: cut-eu\n", "", "name: is missing", 1),
    ],
)
def test_what_is_wrong_is_said_with_its_line(before: str, after: str, said: str, line: int) -> None:
    with pytest.raises(Failure, match=said) as caught:
        drills_in(GOOD.replace(before, after), "d.yaml")
    assert caught.value.where in (f"d.yaml:{line}", "d.yaml:1", "d.yaml:2")


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(Failure, match="no drill"):
        drills_in("", "d.yaml")


STEPS = """
name: game-day
hostname: hello.example.net
steps:
  - title: eu is cut off
    fault: region-cut
    targets: [regions/eu]
    duration: 20s
  - at: 10s
    fault: clock-jump
    targets: [nodes/us-1]
    clock_offset: -10m
"""


def test_steps_are_declared_with_their_times() -> None:
    ((name, spec),) = drills_in(STEPS, "d.yaml")
    assert name == "game-day"
    assert "fault" not in spec
    first, second = spec["steps"]
    assert (first["fault"], first["targets"]) == ("FAULT_KIND_REGION_CUT", ["regions/eu"])
    assert (first["title"], first["fault_duration"]) == ("eu is cut off", "20s")
    assert (second["start_offset"], second["clock_offset"]) == ("10s", "-600s")


@pytest.mark.parametrize(
    ("before", "after", "said", "line"),
    [
        ("fault: clock-jump", "fault: flood", "steps\\[1\\].fault: 'flood' is not known", 10),
        ("targets: [nodes/us-1]", "target: nodes/us-1", "is no key of a step", 11),
        ("targets: [nodes/us-1]", "targets: nodes/us-1", "must be a list such as", 11),
        ("at: 10s", "at: soon", "steps\\[1\\].at: 'soon' is not a duration", 9),
        ("name: game-day", "name: game-day\nfault: region-cut", "belongs into a step", 3),
    ],
)
def test_what_is_wrong_in_a_step_is_said_with_its_line(before: str, after: str, said: str, line: int) -> None:
    with pytest.raises(Failure, match=said) as caught:
        drills_in(STEPS.replace(before, after), "d.yaml")
    assert caught.value.where == f"d.yaml:{line}"


ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "docs" / "examples" / "drills").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_declare_drills(path: Path) -> None:
    assert drills_in(path.read_text(), path.name)
    assert f"drills/{path.name}" in (ROOT / "docs" / "examples" / "README.md").read_text()


def test_every_fault_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "drills.md").read_text()
    assert [fault for fault in FAULTS if f"| `{fault}` |" not in text] == []
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert drills_in(block, "drills.md")


def test_a_drill_is_named_in_the_singular_as_well() -> None:
    assert {"drill", "drills"} <= command_names()
