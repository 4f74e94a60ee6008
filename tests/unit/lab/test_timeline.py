from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lab.samples import Poll, Sample, Sighting
from lab.timeline import Objectives, Observed, report, withdrawn

EU, US = "10.77.1.11", "10.77.2.11"
FAULT, HEAL, END = 100.0, 110.0, 115.0


def _sample(at: float, region: str, *, seconds: float = 0.01, ok: bool = True) -> Sample:
    return Sample(at=at, seconds=seconds, ok=ok, region=region if ok else "")


def _poll(at: float, *addresses: str, server: str = "us-1") -> Poll:
    return Poll(at, server, frozenset(addresses))


OBSERVED = Observed(
    region="eu",
    region_addresses=frozenset({EU}),
    surviving_servers=frozenset({"us-1"}),
    wall_offset=1_000_000.0,
    fault_at=FAULT,
    healed_at=HEAL,
    ended_at=END,
    samples=[
        _sample(99.0, "eu"),
        _sample(100.5, "eu", seconds=2.0, ok=False),
        _sample(101.0, "eu", seconds=2.0, ok=False),
        _sample(104.0, "us", seconds=0.25),
        _sample(105.0, "us"),
        _sample(111.0, "us"),
        _sample(113.0, "eu", seconds=0.5),
        _sample(114.0, "eu"),
        _sample(116.0, "eu", ok=False),
    ],
    polls=[_poll(99.9, EU), _poll(100.1, EU), _poll(102.5, US), _poll(105.0, US), _poll(112.0, EU)],
    sightings=[
        Sighting(99.0, "NodeSuspect", "earlier"),
        Sighting(102.0, "EndpointWithdrawn", "eu-1 is out of rotation"),
        Sighting(101.4, "ProbeFailed", "us-1 finds eu-1 out of order"),
    ],
)


def test_every_stage_is_measured_from_the_fault() -> None:
    measured = report(OBSERVED, Objectives())
    assert measured.to_json() == {
        "region": "eu",
        "detected_s": 1.4,
        "withdrawn_s": 2.5,
        "rerouted_s": 4.25,
        "restored_s": 13.5,
        "requests": 7,
        "failed": 2,
    }
    assert [mark.stage for mark in measured.marks] == [
        "fault",
        "detected",
        "withdrawn",
        "rerouted",
        "healed",
        "restored",
    ]
    assert measured.passed
    assert measured.fault_time == 1_000_100.0


def test_a_missed_objective_is_named() -> None:
    measured = report(OBSERVED, Objectives(withdraw_s=2.0, reroute_s=4.0))
    assert measured.failures == (
        "withdrawn: after 2.50 s, wanted within 2 s",
        "rerouted: after 4.25 s, wanted within 4 s",
    )


def test_what_never_happened_is_a_failure_and_not_a_number() -> None:
    nothing = replace(OBSERVED, samples=[], polls=[], sightings=[])
    measured = report(nothing, Objectives())
    assert measured.withdrawn_s is measured.detected_s is measured.rerouted_s is measured.restored_s is None
    assert len(measured.failures) == 4


def test_a_server_that_answers_with_the_region_again_has_not_withdrawn_it() -> None:
    assert withdrawn([_poll(101.0, US), _poll(102.0, EU), _poll(103.0, US)], OBSERVED) == 103.0
    assert withdrawn([_poll(101.0, US), _poll(102.0, EU)], OBSERVED) is None
    assert withdrawn([_poll(101.0, US), _poll(102.0, EU, US)], OBSERVED) is None


def test_silence_and_an_empty_answer_are_no_withdrawal() -> None:
    assert withdrawn([_poll(101.0, US), Poll(102.0, "us-1", None)], OBSERVED) is None
    assert withdrawn([_poll(101.0)], OBSERVED) is None


def test_every_surviving_server_counts_and_no_other() -> None:
    both = replace(OBSERVED, surviving_servers=frozenset({"us-1", "ap-1"}))
    polls = [_poll(101.0, US), _poll(103.0, US, server="ap-1")]
    assert withdrawn(polls, both) == 103.0
    assert withdrawn(polls[:1], both) is None
    assert withdrawn([*polls, _poll(104.0, EU, server="eu-1")], both) == 103.0
    assert withdrawn(polls, replace(both, surviving_servers=frozenset())) is None


@given(st.lists(st.tuples(st.floats(FAULT, END), st.sampled_from([(EU,), (US,), (EU, US), ()])), max_size=40))
def test_after_the_withdrawal_no_answer_names_the_region(asked: list[tuple[float, tuple[str, ...]]]) -> None:
    polls = [_poll(at, *addresses) for at, addresses in asked]
    at = withdrawn(polls, OBSERVED)
    if at is not None:
        later = [poll for poll in polls if at < poll.at < HEAL]
        assert all(poll.addresses and EU not in poll.addresses for poll in later)


def test_people_read_the_timeline_and_the_verdict() -> None:
    text = report(OBSERVED, Objectives()).to_text()
    assert "withdrawn" in text
    assert text.endswith("passed")
    missed = report(OBSERVED, Objectives(withdraw_s=0.1)).to_text()
    assert "missed: " in missed.splitlines()[-1]
