"""What a lab was made with, and which of its links are cut, as kept in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from fleet.errors import not_found
from fleet.files import write_atomic
from lab.faults import Faults
from lab.layout import Layout
from lab.topology import Topology, plan


@dataclass(frozen=True, slots=True)
class LabRecord:
    """A lab's parameters; times are seconds since 1970, `boot_id` tells whether the machine was restarted since."""

    name: str
    regions: int
    nodes_per_region: int
    https_port: int
    grpc_port: int
    boot_id: str
    created: float
    ready: bool = False

    @property
    def topology(self) -> Topology:
        """The lab's plan."""
        return plan(self.name, self.regions, self.nodes_per_region)


def save_record(layout: Layout, record: LabRecord) -> None:
    """Writes the record, durably."""
    write_atomic(layout.record, json.dumps(asdict(record), indent=1).encode())


def load_record(layout: Layout, lab: str) -> LabRecord:
    """The lab's record, or NOT_FOUND."""
    record = find_record(layout)
    if record is None:
        raise not_found(lab, f"there is no lab {lab} in {layout.root}; `locci-lab up --name {lab}` makes one")
    return record


def find_record(layout: Layout) -> LabRecord | None:
    """The lab's record; None when there is none or it cannot be read."""
    try:
        data: dict[str, Any] = json.loads(layout.record.read_text())
        return LabRecord(**data)
    except (OSError, ValueError, TypeError):
        return None


def load_faults(layout: Layout) -> Faults:
    """The cuts as recorded; none when there is no record."""
    try:
        return Faults.from_json(json.loads(layout.faults.read_text()))
    except (OSError, ValueError, TypeError):
        return Faults()


def save_faults(layout: Layout, faults: Faults) -> None:
    """Writes the cuts down, durably."""
    write_atomic(layout.faults, json.dumps(faults.to_json()).encode())
