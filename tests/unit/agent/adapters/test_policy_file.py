"""The host's policy file is strict."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.policy_file import load
from agent.core.policy import LocalPolicy
from fleet.errors import LocciError


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load(tmp_path / "policy.toml") == LocalPolicy()


def test_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('registries = ["r.test/*"]\nhost_paths = ["/srv"]\ncapabilities = ["cap_net_admin"]\n')
    assert load(path) == LocalPolicy(("r.test/*",), ("/srv",), ("NET_ADMIN",), False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("registry = ['x']", "registry"),
        ("registries = 'x'", "registries"),
        ("privileged = 1", "privileged"),
        ("host_paths = ['srv']", "not absolute"),
        ("privileged", "is not TOML"),
        ("forbidden_faults = ['unknown']", "is no fault"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(LocciError, match=said):
        load(path)
