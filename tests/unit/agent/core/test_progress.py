"""How far a pull is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.core.progress import Progress

MIB = 2**20


def after(*messages: dict[str, Any]) -> str:
    progress = Progress()
    for message in messages:
        progress.take(message)
    return str(progress)


def loading(layer: str, current: int, total: int) -> dict[str, Any]:
    return {"id": layer, "status": "Downloading", "progressDetail": {"current": current, "total": total}}


def test_layers_are_added_up() -> None:
    assert after() == ""
    assert after({"id": "a", "status": "Pulling fs layer"}, {"status": "Digest: sha256:0"}) == ""
    assert after(loading("a", 1 * MIB, 4 * MIB), loading("b", 2 * MIB, 6 * MIB)) == "3.0 of 10.0 MiB"
    assert after(loading("a", MIB, 4 * MIB), loading("a", 3 * MIB, 4 * MIB)) == "3.0 of 4.0 MiB"
    done = {"id": "a", "status": "Download complete"}
    assert after(loading("a", MIB, 4 * MIB), loading("b", MIB, 2 * MIB), done) == "5.0 of 6.0 MiB"
    assert after(loading("a", MIB, 4 * MIB), done) == "4.0 MiB are here and being unpacked"
    assert after({"id": "a", "status": "Already exists"}) == ""


@given(st.lists(st.dictionaries(st.sampled_from(["id", "status", "progressDetail"]), st.text() | st.integers())))
def test_garbage_is_passed_over(messages: list[dict[str, Any]]) -> None:
    assert after(*messages) == ""
