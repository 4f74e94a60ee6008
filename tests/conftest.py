"""What all tests share: an end on request runs the fixtures' ends, and what needs the same lab runs in one process."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

import psutil
import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

SHARED = ("tests/integration/system", "tests/integration/agent")
"""Folders whose tests share what takes long to bring up, a fleet and an engine: each folder goes to one worker."""
ALONE = "tests/simulation"
"""Tests that share nothing: each goes to whoever is free."""
ORDER = (*SHARED, "tests/integration", "tests/fuzz", "tests/contract", "tests/unit", ALONE)
"""The longest first and what can be divided last, so that no worker is left alone at the end."""

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
    workers = [each for each in psutil.Process().children() if _is_worker(each)]
    began = [child for worker in workers for child in worker.children(recursive=True)]
    for worker in workers:
        worker.terminate()
    psutil.wait_procs(began, timeout=TEARDOWN_S)


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "execnet" in " ".join(process.cmdline())
    return False


class Scheduling(LoadScopeScheduling):
    """With several workers (`-n`): what is set up for a module, or for a folder, is set up once."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(ALONE):
            return nodeid
        return next((folder for folder in SHARED if nodeid.startswith(folder)), nodeid.split("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """Instead of xdist's own ones."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers, sorts the tests as they are to begin."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=lambda item: next(rank for rank, top in enumerate(ORDER) if item.nodeid.startswith(top)))
