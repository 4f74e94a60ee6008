"""What all tests share: an end on request runs the fixtures' ends, and what needs the same lab runs in one process."""

from __future__ import annotations

import signal
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

GROUPS = {"fleet": "fleet", "engine_host": "engine"}
"""Session fixtures that take long to bring up, each once per run: their tests go to one worker."""
ORDER = ("fleet", "engine", "integration", "simulation", "fuzz", "contract", "unit")
"""The longest first, so that no worker is left alone with them at the end."""


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# How long an example takes says nothing: the machine may be busy, and the first text of a fresh clone takes seconds.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

for _number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, _interrupted)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers (`-n`), sorts the tests and keeps each module's in one of them."""
    if not getattr(config.option, "loadgroup", False):
        return
    ranks: dict[pytest.Item, int] = {}
    for item in items:
        module = item.nodeid.split("::")[0]
        shared = next((group for name, group in GROUPS.items() if name in getattr(item, "fixturenames", ())), "")
        item.add_marker(pytest.mark.xdist_group(shared or module))
        ranks[item] = ORDER.index(shared or module.split("/")[1])
    items.sort(key=ranks.__getitem__)
