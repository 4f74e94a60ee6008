"""Which program a command line ends up in, and what a failure looks like."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cli import external, main
from cli.failure import DENIED, FAILED, NOT_FOUND, UNREACHABLE, ApiFailure, Failure
from fleet.errors import Code, LocciError, not_found


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    beside, path = tmp_path / "beside", tmp_path / "path"
    for folder in (beside, path):
        folder.mkdir()
        for name in ("locci-agent", f"locci-{folder.name}"):
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)
    (beside / "locci-notes").write_text("not a program")
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setenv("PATH", str(path))
    return tmp_path


def test_a_program_beside_this_one_comes_first(programs: Path) -> None:
    assert external.find("agent") == programs / "beside" / "locci-agent"
    assert external.find("path") == programs / "path" / "locci-path"
    assert external.names() == ["agent", "beside", "path"]


@pytest.mark.parametrize("name", ["nothing", "notes", "../agent", "Agent", "", "a b"])
def test_names_without_a_program(programs: Path, name: str) -> None:
    assert external.find(name) is None


def test_an_unknown_command_becomes_that_program(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[Path, list[str]]] = []

    def replace(program: Path, arguments: list[str]) -> None:
        became.append((program, arguments))
        raise SystemExit(0)

    monkeypatch.setattr(external, "replace_process", replace)
    monkeypatch.setattr(sys, "argv", ["locci", "agent", "join", "--token", "t"])
    with pytest.raises(SystemExit):
        main.main()
    assert became == [(programs / "beside" / "locci-agent", ["join", "--token", "t"])]


def test_a_command_that_nobody_knows(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["locci", "aply"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: 'aply' is not a locci command\n  hint: did you mean `locci apply`?\n"


def test_own_commands_win_over_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["locci", "version", "-o", "json"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 0
    assert '"version"' in capsys.readouterr().out


def test_failures_read_alike() -> None:
    assert (
        Failure("it broke", where="app.yaml:3", hint="mend it").text()
        == "error: it broke (app.yaml:3)\n  hint: mend it"
    )
    assert Failure("it broke").text() == "error: it broke"
    assert ApiFailure(not_found("apps/x"), "apps/x").hint == "`locci apps ls` lists what there is"


@pytest.mark.parametrize(
    ("code", "reason", "exit_code"),
    [
        (Code.NOT_FOUND, "NOT_FOUND", NOT_FOUND),
        (Code.UNAUTHENTICATED, "TOKEN_INVALID", DENIED),
        (Code.PERMISSION_DENIED, "ROLE", DENIED),
        (Code.UNAVAILABLE, "NOT_READY", UNREACHABLE),
        (Code.UNAVAILABLE, "REGISTRY_UNREACHABLE", FAILED),
        (Code.INTERNAL, "INTERNAL", FAILED),
    ],
)
def test_exit_codes(code: Code, reason: str, exit_code: int) -> None:
    assert ApiFailure(LocciError(code, reason, "m"), "w").exit_code == exit_code
