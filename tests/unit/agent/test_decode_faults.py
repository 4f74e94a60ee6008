"""Each fault is understood, or refused for itself alone with a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core.faults import Extent, Kind
from agent.core.policy import LocalPolicy
from agent.decode_faults import wanted
from fleet.snapshot import Snapshot
from locci.v1 import drill_pb2, resource_pb2


def snapshot(**fields: Any) -> Snapshot:
    fault = drill_pb2.InjectedFault(run="drills/cut/runs/1", **fields)
    fault.duration.seconds = fault.duration.seconds or 30
    return Snapshot(1, {"faults/cut/1": resource_pb2.Resource(name="faults/cut/1", version="1", fault=fault)})


def test_a_slow_link_is_understood() -> None:
    asked = drill_pb2.InjectedFault(fault=drill_pb2.FAULT_KIND_LINK_SLOW, rate_kbit=500)
    asked.delay.FromMilliseconds(120)
    fields = {"fault": asked.fault, "rate_kbit": 500, "delay": asked.delay}
    (found,) = wanted(snapshot(**fields), LocalPolicy())
    assert (found.kind, found.extent, found.refused) == (Kind.SLOW, Extent(delay_ms=120, rate_kbit=500), "")


@pytest.mark.parametrize(
    ("fields", "policy", "said"),
    [
        ({"fault": drill_pb2.FAULT_KIND_NODE_CUT}, LocalPolicy(drills=False), "policy (drills)"),
        ({"fault": drill_pb2.FAULT_KIND_DISK_FULL}, LocalPolicy(forbidden_faults=("disk-full",)), "forbidden_faults"),
        ({"fault": drill_pb2.FAULT_KIND_PROGRAM_KILLED, "program": "sshd"}, LocalPolicy(), "none of"),
        ({"fault": drill_pb2.FAULT_KIND_BAD_RELEASE}, LocalPolicy(), "upgrade it"),
        ({"fault": drill_pb2.FAULT_KIND_CLOCK_JUMP}, LocalPolicy(), "clock_offset"),
        ({"fault": drill_pb2.FAULT_KIND_REGISTRY_CUT}, LocalPolicy(), "destinations"),
        ({"fault": drill_pb2.FAULT_KIND_TRAFFIC_SURGE, "destinations": ["192.0.2.1"]}, LocalPolicy(), "of a hostname"),
        ({"fault": 999}, LocalPolicy(), "upgrade it"),
        ({"fault": drill_pb2.FAULT_KIND_LINK_LOSSY}, LocalPolicy(), "loss_percent"),
        ({"fault": drill_pb2.FAULT_KIND_LINK_LOSSY, "loss_percent": 101}, LocalPolicy(), "loss_percent"),
        ({"fault": drill_pb2.FAULT_KIND_LINK_SLOW}, LocalPolicy(), "how slow"),
        ({"fault": drill_pb2.FAULT_KIND_PROGRAM_FROZEN, "program": "agent"}, LocalPolicy(), "none of"),
    ],
)
def test_what_is_refused_says_why(fields: dict[str, Any], policy: LocalPolicy, said: str) -> None:
    (found,) = wanted(snapshot(**fields), policy)
    assert said in found.refused
