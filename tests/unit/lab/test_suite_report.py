"""The suite's list and its report."""

from __future__ import annotations

import html.parser
from pathlib import Path

from lab.samples import Clients, Sample, clients_of, course
from lab.suite import said
from lab.suite_drills import CHAPTERS, SHORT, SUITE, AgentDrill, SceneDrill
from lab.suite_page import as_html, summary
from lab.suite_report import Outcome, as_text, to_json
from locci.v1 import drill_pb2

OUTCOMES = [
    Outcome(
        *("suite-cut-us", True, 9.0, {"detected": 1.2, "withdrawn": 1.5, "rerouted": 3.0}, 100, 4),
        title="us is <cut> off",
        done="agents: region-cut of regions/us",
        clients=(Clients("us", 60, 4, 1, 2.5), Clients("eu", 40, 0, 0, 0.0)),
        bound_s=2.15,
        page="suite-cut-us.html",
    ),
    Outcome("kill-edge-us", False, 60.0, reason="client-us is not served <after> the kill"),
]


def test_the_report_says_what_came_of_each() -> None:
    lines = as_text(OUTCOMES).splitlines()
    cut = ["suite-cut-us", "passed", "1.20", "s", "1.50", "s", "3.00", "s", "2.50", "s", "100", "4"]
    assert lines[1].split() == cut
    assert lines[2].endswith("not served <after> the kill")
    assert lines[-1] == "1 of 2 drills passed"
    kept = to_json(OUTCOMES)
    assert not kept["ok"]
    assert kept["drills"][0]["clients"][0]["longest_gap_s"] == 2.5


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]


def test_the_page_is_for_people_and_holds_nothing_foreign() -> None:
    page = as_html(OUTCOMES, 0.0, 90.0, "drill-suite")
    tags = Tags()
    tags.feed(page)
    assert {"svg", "rect", "table"} <= set(tags.found)
    assert not {"script", "link", "img"} & set(tags.found)
    assert tags.links == ["drill-suite/suite-cut-us.html"]
    assert "1 of 2 drills passed" in page
    assert "us is &lt;cut&gt; off" in page
    assert "not served &lt;after&gt; the kill" in page
    assert "computed bound 2.15 s" in page
    assert "us 56 of 60, eu 40 of 40" in page
    assert "0 of 0 drills passed" in as_html([], 0.0, 1.0, "x")


def test_the_summary_is_in_sentences() -> None:
    text = summary(OUTCOMES)
    assert "of 100 requests 96.0 % were answered" in text
    assert "after 1.5 s in the median and 1.5 s at worst, in 1 of 1 drills within the bound" in text
    assert "without an answer for 2.5 s at most (suite-cut-us)" in text
    lost = Outcome("all-edges", True, 9.0, requests=50, failed=50, hopeless=True)
    assert "of 100 requests 96.0 % were answered" in summary([*OUTCOMES, lost])
    assert text.endswith("Not passed: kill-edge-us.")
    assert summary(OUTCOMES[:1]).endswith("the fleet was whole again.")


def test_names_are_unique_and_the_short_form_is_a_part() -> None:
    names = [drill.name for drill in SUITE]
    assert len(set(names)) == len(names)
    assert set(SHORT) < set(names)
    assert all(drill.title and said(drill) for drill in SUITE)
    assert [drill for chapter in CHAPTERS for drill in chapter.drills] == list(SUITE)


def test_every_fault_is_in_the_suite_and_what_the_lab_does_is_in_the_documentation() -> None:
    kinds = {step["fault"] for drill in SUITE if isinstance(drill, AgentDrill) for step in _steps(drill)}
    known = set(drill_pb2.FaultKind.keys()) - {"FAULT_KIND_UNSPECIFIED"}
    # A host of one region is that region in the lab.
    assert known - kinds == {"FAULT_KIND_NODE_CUT"}
    text = (Path(__file__).parents[3] / "docs/drills.md").read_text()
    assert all(f"`{drill.name}`" in text for drill in SUITE if isinstance(drill, SceneDrill))


def _steps(drill: AgentDrill) -> list[dict[str, str]]:
    return list(drill.spec.get("steps", [drill.spec]))


def test_a_gap_counts_from_the_last_good_answer_or_the_fault() -> None:
    asked = [(0.5, False), (1.0, False), (2.0, True), (3.0, True), (3.5, False), (4.5, True)]
    samples = [Sample(at=100.0 + at, seconds=0.1, ok=ok) for at, ok in asked]
    assert clients_of("eu", samples, 100.0) == Clients("eu", 6, 3, 0, 2.1)
    assert course(samples, 100.0)[:3] == ((0.0, 0, 0), (0.5, 0, 0), (1.0, 1, 1))
    assert course(samples, 100.0)[-1] == (4.501, 6, 3)
    assert course([], 100.0) == ((0.0, 0, 0),)
    many = [Sample(at=float(at), seconds=0.0, ok=True) for at in range(1000)]
    assert len(course(many, 0.0)) <= 102
