"""The suite's list and its report."""

from __future__ import annotations

from lab.suite_report import SHORT, SUITE, Outcome, as_text, to_json


def test_the_report_says_what_came_of_each() -> None:
    outcomes = [
        Outcome("cut-eu", True, 9.0, {"detected": 1.2, "withdrawn": 1.5, "rerouted": 3.0}, 100, 4),
        Outcome("kill-edge-us", False, 60.0, reason="client-us is not served after the kill"),
    ]
    lines = as_text(outcomes).splitlines()
    assert lines[1].split() == ["cut-eu", "passed", "1.20", "s", "1.50", "s", "3.00", "s", "100", "4"]
    assert lines[2].endswith("not served after the kill")
    assert lines[-1] == "1 of 2 drills passed"
    assert not to_json(outcomes)["ok"]


def test_names_are_unique_and_the_short_form_is_a_part() -> None:
    names = [drill.name for drill in SUITE]
    assert len(set(names)) == len(names)
    assert set(SHORT) < set(names)
