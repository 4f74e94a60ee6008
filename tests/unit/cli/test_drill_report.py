"""The report of a run as text, as a page, and beside another."""

from __future__ import annotations

import html.parser

from cli.drill_page import as_html
from cli.drill_picture import spans_of
from cli.drill_report import as_text, bound_s, checks, compared, stages
from cli.drill_summary import summary

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
    "cut_proven_within": "2.150s",
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
    untold = {key: value for key, value in RUN.items() if key != "cut_proven_within"}
    assert [s.bound_s for s in stages(untold, 2.0)] == [None, None, None], "nobody has said it"


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


def samples(failed_at: range) -> list[dict[str, str]]:
    failed = 0
    found = []
    for second in range(30):
        failed += second in failed_at
        found.append({"after": f"{second}.5s", "requests": str(second + 1), "failed": str(failed)})
    return found


GAME_DAY = {
    "name": "drills/game-day/runs/7",
    "state": "STATE_FAILED",
    "spec": {
        "hostname": "shop.example.net",
        "steps": [
            {
                "title": "eu <is> cut",
                "fault": "FAULT_KIND_REGION_CUT",
                "targets": ["regions/eu"],
                "fault_duration": "9s",
            },
            {"fault": "FAULT_KIND_PROGRAM_KILLED", "program": "edge", "targets": ["nodes/us-1"]}
            | {"start_offset": "12s", "fault_duration": "8s"},
            {
                "fault": "FAULT_KIND_BAD_RELEASE",
                "targets": ["apps/shop"],
                "start_offset": "20s",
                "fault_duration": "9s",
            },
        ],
    },
    "marks": [
        {"stage": "fault", "step": 1},
        {"stage": "withdrawn", "after": "2s", "step": 1},
        {"stage": "healed", "after": "9s", "step": 1},
        {"stage": "restored", "after": "11s", "step": 1},
        {"stage": "fault", "after": "12s", "step": 2},
        {"stage": "withdrawn", "after": "17s", "step": 2},
        {"stage": "healed", "after": "20s", "step": 2},
        {"stage": "fault", "after": "20s", "step": 3},
        {"stage": "rolled-back", "after": "26s", "step": 3},
    ],
    "failures": ["step 2, withdrawn: after 5.000 s; the objective is 3 s"],
    "clients": [
        {"region": "regions/eu", "requests": "30", "failed": "3", "longest_gap": "4s", "samples": samples(range(3, 6))}
    ],
}


def test_objectives_of_steps_count_from_their_own_beginning() -> None:
    found = {check.what: (check.measured_s, check.met) for check in checks(GAME_DAY, 0.0)}
    assert found["Step 1: withdrawn from every DNS answer"] == (2.0, True)
    assert found["Step 1: back in every DNS answer after the fault"] == (2.0, True)
    assert found["Step 2: withdrawn from every DNS answer"] == (5.0, False)
    assert found["Step 2: back in every DNS answer after the fault"] == (None, False)
    assert found["Step 3: the bad release is rolled back by itself"] == (6.0, True)
    assert found["No client is without an answer for longer"] == (4.0, True)


def test_the_page_shows_steps_and_clients_over_time() -> None:
    page = as_html(GAME_DAY, 0.0, GAME_DAY | {"signed_report": "{}", "signature": "MEU="})
    assert page.count('class="fault"') == 3
    assert page.count('class="none"') == 3, "three seconds without an answer"
    assert "eu &lt;is&gt; cut" in page
    assert "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" in page
    assert "locci drill report game-day --run 7 --verify" in page
    assert "This run is not signed" in as_html(GAME_DAY, 0.0)
    word = {"node": "nodes/eu-1", "time": "2026-11-24T03:00:02.512Z", "text": "was <undone>"}
    said = as_html(GAME_DAY | {"said": [word]}, 0.0)
    assert "03:00:02.5" in said
    assert "was &lt;undone&gt;" in said
    assert "step 2  12-20 s     program-killed edge of nodes/us-1" in as_text(GAME_DAY, 0.0)
    assert "2    withdrawn" in as_text(GAME_DAY, 0.0)


def test_spans_of_clients_that_began_anew_take_nothing_back() -> None:
    counts = [(1, 10, 0), (2, 11, 1), (3, 1, 0), (4, 12, 1)]
    client = {"samples": [{"after": f"{at}s", "requests": str(n), "failed": str(bad)} for at, n, bad in counts]}
    assert [(s.begin_s, s.end_s, s.requests, s.failed) for s in spans_of(client)] == [(1, 2, 1, 1), (2, 4, 1, 0)]


def test_the_page_begins_with_sentences() -> None:
    text = summary(RUN, checks(RUN, 2.0))
    assert text.startswith(
        "For 30 s at most eu was cut off from everything. After 1.80 s no DNS answer named eu, within the computed"
    )
    assert "within the computed bound of 2.15 s" in text
    assert "Of 200 requests of clients 160 were answered." in text
    assert "Not everything was as before" in text
    assert text.split(".")[0] in as_html(RUN, 2.0)
    assert "<span class=met>held</span>" in as_html(RUN, 2.0)
    assert "<span class=missed>exceeded</span>" in as_html(RUN | {"cut_proven_within": "1s"}, 2.0)
    day = summary(GAME_DAY | {"requests": "30", "failed_requests": "3"}, checks(GAME_DAY, 0.0))
    assert "After 5.00 s no DNS answer named us-1." in day
    assert "For 8.0 s us-1 had its edge killed and kept down." in day
    assert "The bad release was rolled back by itself after 6.0 s." in day
    assert "Nobody was without an answer for longer than 4.0 s, in eu." in day
    assert summary({}, []) == ""
    assert "All 5 requests of clients were answered." in summary({"marks": [{}], "requests": "5"}, [])
