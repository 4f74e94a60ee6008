from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from cli import context
from cli.failure import Failure
from tests.fakes.authority import Authority

PEM = Authority().pem


def values(**changes: Any) -> dict[str, Any]:
    return {"server": "https://h:7443/", "grpc": "h:7444", "ca_pem": PEM, "token": "locciop1.id.secret", **changes}


def test_a_context_is_kept_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "context.json"
    held = context.check(values(), "here")
    context.save(held, path)
    assert context.load(path) == held
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (held.server, held.token_id()) == ("https://h:7443", "id")
    assert len(held.fingerprints()[0]) == 64


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"server": ""}, "server is missing"),
        ({"server": "http://h"}, "https:// URL"),
        ({"token": 5}, "token is not a string"),
        ({"ca_pem": "no"}, "CA cannot be read"),
    ],
)
def test_what_is_wrong_with_a_context(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    path = tmp_path / "context.json"
    path.write_text(json.dumps(values(**changes)))
    with pytest.raises(Failure, match=what):
        context.load(path)


@pytest.mark.parametrize(("text", "what"), [("{", "not JSON"), ("[]", "JSON object"), (None, "no context file")])
def test_files_that_are_none(tmp_path: Path, text: str | None, what: str) -> None:
    path = tmp_path / "context.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Failure, match=what) as caught:
        context.load(path)
    assert "secret" not in caught.value.text()


def test_which_file_is_in_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    monkeypatch.delenv("LOCCI_CONTEXT", raising=False)
    assert context.path_in_effect() == Path("/x/locci/context.json")
    monkeypatch.setenv("LOCCI_CONTEXT", "/y")
    assert context.path_in_effect() == Path("/y")
    assert context.path_in_effect(Path("/z")) == Path("/z")
