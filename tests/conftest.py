"""What all tests share: an end on request runs the fixtures' ends, and what needs the same lab runs in one process."""

from __future__ import annotations

import os
import signal
from types import FrameType

import psutil
import pytest
from hypothesis import HealthCheck, settings

GROUPS = {"fleet": "fleet", "engine_host": "engine"}
"""Session fixtures that take long to bring up, each once per run: their tests go to one worker."""
ORDER = ("fleet", "engine", "integration", "simulation", "fuzz", "contract", "unit")
"""The longest first, so that no worker is left alone with them at the end."""

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TEARDOWN_S = 60
"""How long workers may take to end what they began when a run is interrupted."""


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)  # A second one would break off what ends because of the first.
    raise KeyboardInterrupt


# How long an example takes says nothing: the machine may be busy, and the first text of a fresh clone takes seconds.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

for _number in INTERRUPTS:
    signal.signal(_number, _interrupted)


@pytest.hookimpl
def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Lets workers end their fixtures, for which xdist alone leaves them too little time."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        return
    workers = [each for each in psutil.Process().children() if "execnet" in " ".join(each.cmdline())]
    began = [child for worker in workers for child in worker.children(recursive=True)]
    for worker in workers:
        worker.terminate()
    psutil.wait_procs(began, timeout=TEARDOWN_S)


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
