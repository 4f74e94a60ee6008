"""The report of a run as text, as a page, and beside another."""

from __future__ import annotations

import html.parser

from cli.drill_page import as_html
from cli.drill_report import as_text, bound_s, compared, stages

RUN = {
    "name": "drills/cut-eu/runs/3",
    "spec": {
        "fault": "FAULT_KIND_REGION_CUT",
        "target": "regions/eu",
        "hostname": "hello.example.net",
        "withdraw_objective": "3s",
    },
    "fault_time": "2026-11-23T10:00:00Z",
    "marks": [
        {"stage": "rerouted", "after": "3.4s", "detail": "served from <us>"},
        {"stage": "fault", "detail": "every link is cut"},
        {"stage": "withdrawn", "after": "1.8s", "detail": "no name server answers with eu"},
    ],
    "requests": "200",
    "failed_requests": "40",
    "passed": True,
}


def test_stages_stand_beside_objective_and_bound() -> None:
    found = stages(RUN, 2.0)
    assert [(s.name, s.after_s, s.objective_s) for s in found] == [
        ("fault", 0.0, None),
        ("withdrawn", 1.8, 3.0),
        ("rerouted", 3.4, 10.0),
    ]
    assert bound_s("withdrawn", 2.0, 2.15) == 2.15
    assert round(bound_s("rerouted", 2.0, 2.15) or 0, 2) == 5.15


def test_the_bound_follows_from_what_dns_servers_said() -> None:
    told = RUN | {"cut_proven_within": "4.150s"}
    assert [s.bound_s for s in stages(told, 2.0)] == [None, 4.15, 7.15]


def test_the_text_is_for_people() -> None:
    text = as_text(RUN, 2.0)
    assert "region cut of regions/eu" in text
    assert "rerouted      3.40 s    10.00 s   5.15 s  served from <us>" in text
    assert "200 requests, 40 failed (20.0 %)" in text
    assert text.endswith("passed")
    missed = as_text(RUN | {"passed": False, "failures": ["restored: never"]}, 2.0)
    assert missed.endswith("missed: restored: never")


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)


def test_the_page_holds_a_picture_and_nothing_foreign() -> None:
    page = as_html(RUN, 2.0)
    tags = Tags()
    tags.feed(page)
    assert {"svg", "circle", "table"} <= set(tags.found)
    assert not {"script", "link", "img"} & set(tags.found)
    assert "&lt;us&gt;" in page
    assert "<us>" not in page
    assert "http" not in page
    assert "Missed its objectives" in as_html(RUN | {"passed": False, "failures": ["x"]}, 2.0)


def test_a_run_without_marks_has_a_report_all_the_same() -> None:
    assert "0 requests" in as_text({}, 0.0)
    assert "<svg" in as_html({}, 0.0)


def test_two_runs_side_by_side() -> None:
    client = {"region": "regions/eu", "node": "nodes/us-1", "requests": "30", "failed": "3", "longest_gap": "4.100s"}
    asked = RUN | {"clients": [client]}
    assert "eu            us-1                 30       3     0       4.10 s" in as_text(asked, 0.0)
    assert "<td>us-1</td><td>-</td><td class=n>30</td>" in as_html(asked, 0.0)
    assert "computed bound" not in as_text(asked, 0.0).partition("CLIENTS")[2]
    assert "computed bound of a gap 11.15 s, measured 4.10 s: held" in as_text(asked, 5.0)
    slow = RUN | {"clients": [client | {"longest_gap": "12s"}]}
    assert "measured 12.00 s: exceeded" in as_html(slow, 5.0)
    later = RUN | {"name": "drills/cut-eu/runs/4", "failed_requests": "10"}
    later["marks"] = [{"stage": "withdrawn", "after": "1.5s"}, {"stage": "restored", "after": "9s"}]
    lines = compared(RUN, later).splitlines()
    assert lines[0].split() == ["STAGE", "run", "3", "run", "4", "CHANGE"]
    assert any(line.split() == ["withdrawn", "1.80", "s", "1.50", "s", "-0.30", "s"] for line in lines)
    assert any(line.split() == ["restored", "-", "9.00", "s"] for line in lines)
    assert lines[-1].split() == ["failed", "requests", "40", "10", "-30"]
