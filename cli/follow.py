"""Follows a stream of the API over broken connections and restarts of the control plane."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from cli.client import Client, Json
from cli.failure import UNREACHABLE, ApiFailure, Failure
from fleet.backoff import Backoff
from fleet.contract import error_of

GIVE_UP_S: Final = 60.0
"""Without any contact for so long, following ends."""

_BACKOFF: Final = Backoff(base_s=0.25, cap_s=5.0)


async def follow(
    client: Client, path: str, params: Mapping[str, Any], note: Callable[[str], None], last_id: str = ""
) -> AsyncIterator[Json]:
    """Messages of a stream, until the server says that it is complete.

    Connects again from the last id on. `note` is told when the connection breaks. Raises the Failure that the server
    gives, or the last one when there was no contact for GIVE_UP_S.
    """
    heard = time.monotonic()
    attempt = 0
    while True:
        broken = Failure("the stream broke off", where=client.server, exit_code=UNREACHABLE)
        try:
            async with aclosing(client.stream(path, params, last_id)) as events:
                async for event in events:
                    heard, attempt = time.monotonic(), 0
                    last_id = event.id or last_id
                    if event.kind == "end":
                        return
                    if event.kind == "error":
                        raise _error(event.data, path)
                    yield json.loads(event.data)
        except Failure as failure:
            if failure.exit_code != UNREACHABLE:
                raise
            broken = failure
        if time.monotonic() - heard > GIVE_UP_S:
            raise broken
        if attempt == 0:
            note(f"connection lost, trying again: {broken.what}")
        await asyncio.sleep(max(0.05, _BACKOFF.delay_s(attempt, random.random())))
        attempt += 1


def _error(data: str, path: str) -> ApiFailure:
    problem = json.loads(data)
    return ApiFailure(error_of(int(problem.get("status", 500)), problem), where=path)
