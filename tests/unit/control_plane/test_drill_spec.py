"""What a drill declares, as it is stored: also drills and runs of before there were steps."""

from __future__ import annotations

from control_plane.core.drill import FaultStep, State
from control_plane.drill_spec import (
    duration_s,
    fault_steps,
    keeps_from,
    overlap,
    steps_of,
    subjects,
    title_of,
    withdraws,
)
from control_plane.drills import run_of
from locci.v1 import drill_pb2

OLD = drill_pb2.DrillSpec(
    fault=drill_pb2.FAULT_KIND_PROGRAM_FROZEN, target="nodes/eu-1", program="edge", hostname="hello.example.net"
)


def step(fault: drill_pb2.FaultKind.ValueType, at_s: int, lasts_s: int, program: str = "") -> drill_pb2.DrillStep:
    found = drill_pb2.DrillStep(fault=fault, targets=["nodes/eu-1"], program=program)
    found.start_offset.FromSeconds(at_s)
    found.fault_duration.FromSeconds(lasts_s)
    return found


def test_a_drill_of_a_single_fault_has_one_step() -> None:
    (found,) = steps_of(OLD)
    assert (found.fault, list(found.targets), found.program) == (OLD.fault, ["nodes/eu-1"], "edge")
    assert duration_s(found) == 30.0
    assert withdraws(found)
    assert title_of(found) == "program-frozen edge of nodes/eu-1"
    assert fault_steps(OLD) == (FaultStep(duration_s=30.0),)
    assert subjects(OLD) == ["nodes/eu-1"]


def test_runs_that_were_stored_before_read_as_they_were() -> None:
    row = drill_pb2.DrillRun(name="drills/d/runs/1", spec=OLD, state=drill_pb2.DrillRun.STATE_FAULTY)
    row.marks.add(stage="fault")
    row.fault_time.FromSeconds(100)
    run = run_of(drill_pb2.DrillRun.FromString(row.SerializeToString()))
    assert (run.state, run.duration_s, run.fault_at) == (State.FAULTY, 30.0, 100.0)
    assert run.has("fault")


def test_steps_overlap_when_both_are_in_effect() -> None:
    cut = step(drill_pb2.FAULT_KIND_NODE_CUT, 0, 10)
    assert overlap(cut, step(drill_pb2.FAULT_KIND_NODE_CUT, 9, 5))
    assert not overlap(cut, step(drill_pb2.FAULT_KIND_NODE_CUT, 10, 5))


def test_some_faults_keep_a_host_from_asking_others() -> None:
    assert keeps_from(step(drill_pb2.FAULT_KIND_NODE_CUT, 0, 10), "agent")
    assert keeps_from(step(drill_pb2.FAULT_KIND_PROGRAM_KILLED, 0, 10, "dns"), "dns")
    assert not keeps_from(step(drill_pb2.FAULT_KIND_PROGRAM_KILLED, 0, 10, "redis"), "dns")
