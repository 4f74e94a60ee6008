"""The rules of style that a program can check: sizes, names, no sleeping in virtual time, nothing left for later."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
PROGRAMS = ("agent", "cli", "control_plane", "fleet", "lab", "routing")


def _tracked(*folders: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "--", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / line for line in listed.stdout.splitlines() if line.endswith(".py")]
    return [path for path in paths if path.exists() and not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))]


SOURCES = _tracked(*PROGRAMS, "bench", "tests")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, f"{node.name} is too long"


def test_no_vague_or_shadowing_file_names() -> None:
    vague = {"utils", "util", "common", "helpers", "misc"}
    shadowing = set(sys.stdlib_module_names) | {"docker", "redis", "grpc", "aiohttp", "dns", "yaml", "rich", "typer"}
    for path in _tracked(*PROGRAMS):
        assert path.stem not in vague, path
        if path.parent.name != "v1":
            assert path.stem not in shadowing, path


def test_virtual_time_never_sleeps() -> None:
    for path in _tracked("tests/unit", "tests/simulation"):
        assert path == Path(__file__) or not re.search(r"(?<!\.)(?<!def )\bsleep\(|time\.sleep\(", path.read_text()), (
            path
        )


def test_nothing_left_for_later() -> None:
    for path in _tracked(*PROGRAMS):
        found = re.findall(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b", path.read_text())
        assert not found, path
