"""What is shipped, a clean host to bring it to, and a control plane."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.engine_fixture import EngineHost, engine_host
from tests.integration.packaging.clean_root import ROOT, CleanHost, ControlPlane, control_plane

__all__ = ["engine_host"]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that `make packages` makes."""
    out = tmp_path_factory.mktemp("packages")
    subprocess.run([ROOT / "tools/packages", "--out", out], check=True, timeout=600, capture_output=True)
    return out


@pytest.fixture
def host(engine_host: EngineHost, tmp_path: Path) -> Iterator[CleanHost]:
    clean = CleanHost(tmp_path / "root", engine_host)
    try:
        yield clean
    finally:
        clean.close()
        engine_host.remove_containers()


@pytest.fixture
def fleet(engine_host: EngineHost, tmp_path: Path) -> Iterator[ControlPlane]:
    with control_plane(tmp_path, engine_host) as running:
        yield running
