"""The targets under hypothesis, and for a short time under atheris (a drill; `tests/README.md` says how for longer)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS

SECONDS = os.environ.get("LOCCI_FUZZ_S", "4")


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
@given(st.data())
@settings(max_examples=150)
def test_bytes(name: str, data: st.DataObject) -> None:
    """Seeds with pieces cut, doubled and put in, and bytes of all kinds."""
    content = bytearray(data.draw(st.sampled_from(SEEDS[name]) | st.binary(max_size=200)))
    for _ in range(data.draw(st.integers(0, 5))):
        at, size = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 8))
        content[at : at + size] = data.draw(
            st.sampled_from([b"", b"\r\n", b"\0", b"\n", b": ", b",", b'"', b"-", b"9"])
        )
    TARGETS[name](bytes(content))


@pytest.mark.drill
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("name", TARGETS)
def test_guided_by_coverage(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, SECONDS, str(tmp_path / "corpus")],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
