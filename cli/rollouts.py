"""Waits for a rollout and says how it goes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.status import Status

from cli.client import Client, Json
from cli.failure import ROLLOUT_FAILED, Failure
from cli.follow import follow
from cli.output import clean, last, note, word

WAIT_S: Final = 1800.0

_TERMINAL: Final = {"succeeded", "failed", "rolled-back", "superseded", "aborted"}
_OUTCOMES: Final = {
    "failed": "failed and stays where it is",
    "rolled-back": "failed; every replica is back on the last good release",
    "superseded": "was overtaken by a newer release",
    "aborted": "was ended by an operator",
}


def state(rollout: Json) -> str:
    """`running`, `succeeded`, `rolled-back`, …"""
    return word(rollout.get("state", ""), "ROLLOUT_STATE_")


def describe(rollout: Json) -> str:
    """Where a rollout stands, in a line."""
    release = last(rollout.get("to_release"))
    counts = f"{rollout.get('healthy', 0)} of {rollout.get('wanted', 0)} healthy"
    return f"{_app(rollout)}: release {release} {state(rollout)}, {counts}, {rollout.get('updated', 0)} started"


def _app(rollout: Json) -> str:
    parts = str(rollout.get("name", "")).split("/")
    return parts[1] if len(parts) > 1 else "?"


async def wait_for(client: Client, name: str, timeout_s: float) -> Json:
    """The rollout in its terminal state. Raises a Failure unless it succeeded, or after `timeout_s`."""
    progress = _Progress()
    try:
        async with asyncio.timeout(timeout_s):
            rollout = await _last_of(client, name, progress)
    except TimeoutError:
        hint = f"it goes on; `locci rollouts {name.split('/')[1]}` shows how"
        raise Failure(f"{name} was still on its way after {timeout_s:g} s", where=client.server, hint=hint) from None
    finally:
        progress.close()
    if state(rollout) != "succeeded":
        raise _failed(rollout)
    return rollout


async def _last_of(client: Client, name: str, progress: _Progress) -> Json:
    rollout: Json = {}
    async for rollout in follow(client, f"{name}:watch", {}, progress.say):
        progress.say(describe(rollout))
        if state(rollout) in _TERMINAL:
            return rollout
    return rollout or await client.get(name)


def _failed(rollout: Json) -> Failure:
    release = last(rollout.get("to_release"))
    outcome = _OUTCOMES.get(state(rollout), f"ended as {state(rollout)}")
    reason = str(rollout.get("reason") or "no reason was given").rstrip()
    what = f"{_app(rollout)}: release {release} {outcome}: {clean(reason)}"
    hint = f"`locci ps {_app(rollout)}` shows the replicas, `locci events --subject apps/{_app(rollout)}` what happened"
    return Failure(what, where=str(rollout.get("name", "")), hint=hint, exit_code=ROLLOUT_FAILED)


class _Progress:
    """One line that changes on a terminal; elsewhere a line for each change."""

    def __init__(self) -> None:
        self._said = ""
        self._status: Status | None = None
        if sys.stderr.isatty():
            self._status = Console(stderr=True).status("waiting")
            self._status.start()

    def say(self, text: str) -> None:
        """Shows `text`, when it is new."""
        if text == self._said:
            return
        self._said = text
        show: Callable[[str], None] = note if self._status is None else self._status.update
        show(clean(text))

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._status is not None:
            self._status.stop()
            if self._said:
                note(self._said)
