"""Cutting and healing the links of a lab that runs, with a record that survives whoever cuts."""

from __future__ import annotations

from lab import network
from lab.faults import Faults
from lab.layout import Layout
from lab.record import load_faults, load_record, save_faults
from lab.topology import Topology


def partition(lab: str, layout: Layout, target: str, *, source: str | None = None, one_way: bool = False) -> Faults:
    """Cuts a host or region from everyone, or from `source`; the cuts there are then.

    With `one_way` the target hears nothing and is still heard. NOT_FOUND when there is no such lab, host or region.
    """
    topology = load_record(layout, lab).topology
    targets = topology.expand(target)
    before = load_faults(layout)
    if source is not None:
        after = before.separate(targets, topology.expand(source), one_way=one_way)
    elif one_way:
        after = before.deafen(targets)
    else:
        after = before.cut_off(targets)
    _change(topology, layout, before, after)
    return after


def heal(lab: str, layout: Layout, target: str | None = None) -> Faults:
    """Undoes the cuts that the target has a part in, or all; the cuts that are left."""
    topology = load_record(layout, lab).topology
    before = load_faults(layout)
    after = before.heal(None if target is None else topology.expand(target))
    _change(topology, layout, before, after)
    if target is None:
        network.enforce(topology, after)
    return after


def _change(topology: Topology, layout: Layout, before: Faults, after: Faults) -> None:
    """Writes down first, then does: a crash in between leaves too much on record, never too little, for `heal`."""
    save_faults(layout, Faults(before.down | after.down, before.silences | after.silences))
    network.apply(topology, before, after)
    save_faults(layout, after)
