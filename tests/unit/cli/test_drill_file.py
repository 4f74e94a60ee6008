"""Drills in files: what is declared, and what is said when it is wrong."""

from __future__ import annotations

import pytest

from cli.drill_file import drills_in
from cli.failure import Failure

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
