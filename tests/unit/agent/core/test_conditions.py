"""The host's conditions turn at their bounds, and do not flap there."""

from __future__ import annotations

from agent.core.conditions import Condition, HostFigures, changed, judge

FINE = HostFigures(0.5, 0.5, 0.5, 0.1, 50_000.0)


def test_a_host_in_order_is_silent() -> None:
    after = judge(FINE, {}, 1.0)
    assert set(after) == {"DiskSpace", "Memory", "Load", "Clock", "Certificate", "Engine", "Registry"}
    assert all(condition.ok for condition in after.values())
    assert changed({}, after) == []


def test_a_full_disk_turns_once_and_returns_with_hysteresis() -> None:
    before: dict[str, Condition] = {}
    turns = []
    for moment, used in enumerate((0.89, 0.91, 0.89, 0.86, 0.84, 0.89)):
        after = judge(HostFigures(disk_used=used), before, float(moment))
        turns += [(moment, c.ok) for c in changed(before, after)]
        before = after
    assert turns == [(1, False), (4, True)]
    assert before["DiskSpace"].since == 4.0


def test_an_image_that_does_not_fit_is_trouble_whatever_the_disk_shows() -> None:
    after = judge(HostFigures(disk_used=0.5, space_reason="it does not fit"), {}, 1.0)
    assert (after["DiskSpace"].ok, after["DiskSpace"].message) == (False, "it does not fit")
    assert judge(HostFigures(disk_used=0.5), after, 2.0)["DiskSpace"].ok


def test_each_figure_has_its_bound() -> None:
    bad = HostFigures(0.95, 0.99, 9.0, -5.0, 60.0, "it is gone", "no route to host")
    after = judge(bad, {}, 1.0)
    assert not any(condition.ok for condition in after.values())
    assert "5.0 s behind" in after["Clock"].message
    assert after["Engine"].message == "it is gone"
    assert len(changed({}, after)) == 7


def test_what_is_not_known_stays_as_it_was() -> None:
    before = judge(HostFigures(clock_offset_s=9.0), {}, 1.0)
    assert not judge(HostFigures(), before, 2.0)["Clock"].ok
