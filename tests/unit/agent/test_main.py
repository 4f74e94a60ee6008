"""The command line's own small decisions."""

from __future__ import annotations

import socket

import pytest

from agent import main
from fleet.errors import LocciError


@pytest.mark.parametrize(
    ("host", "expected"),
    [("Edge-1.example.net", "edge-1"), ("10", "node-10"), ("a_b", "a-b"), ("x" * 60, "x" * 40)],
)
def test_a_host_name_becomes_a_node_id(monkeypatch: pytest.MonkeyPatch, host: str, expected: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert main.default_name() == expected


def test_labels_are_pairs() -> None:
    assert main.labels(["disk=ssd", "note=a=b", "empty="]) == {"disk": "ssd", "note": "a=b", "empty": ""}
    with pytest.raises(LocciError, match="KEY=VALUE"):
        main.labels(["disk"])


def test_the_status_is_readable() -> None:
    answer = {
        "node": "eu-1",
        "region": "eu",
        "server": "https://c:7443",
        "connected": False,
        "accepted_revision": 7,
        "applied_revision": 6,
        "engine": {"version": "", "address": "unix:///d.sock", "reason": "cannot be reached"},
        "edge": {"connected": 1, "generation": 4, "serving": 3},
        "replicas": [
            {"resource": "replicas/web/0/1", "phase": "BACKOFF", "ready": False, "restarts": 2, "reason": "exit code 3"}
        ],
    }
    text = main.as_text(answer)
    assert "NOT CONNECTED" in text
    assert "accepted 7, applied 6" in text
    assert "cannot be reached" in text
    assert "backoff, not ready, 2 restart(s): exit code 3" in text
