"""A whole lab for tests that need the whole system: brought up once, taken down at the end, whatever happens.

Use it in a test module with `from tests.integration.lab_fixture import Fleet, fleet`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from lab import bringup
from lab.api import ApiClient
from lab.control import SupervisorControl
from lab.layout import Layout
from lab.progress import Progress
from lab.readiness import Readiness
from lab.record import load_record
from lab.story import Story
from lab.topology import Topology


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running lab: three regions with one node each, the example's images in its registry, no app."""

    name: str
    layout: Layout
    topology: Topology
    api: ApiClient
    control: SupervisorControl
    readiness: Readiness
    story: Story
    """The demo's steps, each of which can be run by itself; also `locci` and commands on hosts."""


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """The lab of this test session."""
    name = f"tf{os.getpid() % 1_000_000}"
    layout = bringup.up(bringup.UpOptions(name=name), Progress())
    try:
        topology = load_record(layout, name).topology
        control = SupervisorControl(layout)
        story = Story(topology, layout)
        story.push_images()
        yield Fleet(name, layout, topology, story.api, control, Readiness(topology, layout, control), story)
    finally:
        bringup.down(name, layout)
