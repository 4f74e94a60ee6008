from __future__ import annotations

import json
from dataclasses import asdict

from lab.demo_report import DemoReport, RollbackFigures, RolloutFigures, Step, failures, rollout_figures
from lab.samples import Sample, parse_samples
from lab.timeline import DrillReport

GOOD = Step("a", ok=True, seconds=1.0, detail="")
BAD = Step("b", ok=False, seconds=1.0, detail="no")
DRILL = DrillReport("eu", 0.0, 1.0, 2.0, 3.0, 4.0, 5, 1, (), ())


def test_the_form_of_the_report() -> None:
    report = DemoReport(("eu",), (GOOD,), RolloutFigures(9, 0, 1.5), RollbackFigures(True, 7.0), DRILL, complete=True)
    assert report.to_json() == {
        "ok": True,
        "regions": ["eu"],
        "steps": [{"name": "a", "ok": True, "seconds": 1.0, "detail": ""}],
        "rollout": {"requests": 9, "failed": 0, "seconds": 1.5},
        "rollback": {"automatic": True, "seconds": 7.0},
        "drill": {
            "region": "eu",
            "detected_s": 1.0,
            "withdrawn_s": 2.0,
            "rerouted_s": 3.0,
            "restored_s": 4.0,
            "requests": 5,
            "failed": 1,
        },
    }


def test_a_failed_step_or_a_missing_one_is_not_ok() -> None:
    assert not DemoReport((), (GOOD, BAD), complete=True).ok
    assert not DemoReport((), (GOOD,)).ok
    assert DemoReport((), (GOOD,), complete=True).ok


def test_failed_requests_are_counted_and_explained() -> None:
    bad = [Sample(1.0, 2.0, ok=False, error="no answer within 2 s")] * 2 + [Sample(1.0, 0.1, ok=False, error="refused")]
    samples = [Sample(0.0, 0.1, ok=True), *bad]
    assert rollout_figures(samples, 1.234) == RolloutFigures(4, 3, 1.23)
    assert failures(samples) == "2 x no answer within 2 s; 1 x refused"


def test_half_a_line_is_left_out_and_requests_are_in_the_order_of_their_start() -> None:
    late, early = Sample(2.0, 0.1, ok=True, region="eu"), Sample(1.0, 2.5, ok=False, error="x")
    lines = [json.dumps(asdict(late)), json.dumps(asdict(early)), '{"at": 3.0, "sec']
    assert parse_samples(lines) == [early, late]
