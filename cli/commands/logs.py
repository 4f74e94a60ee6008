"""`locci logs`."""

from __future__ import annotations

import datetime
import json
import re
from typing import Annotated

import typer

from cli.client import Client, Json
from cli.failure import USAGE, ApiFailure, Failure
from cli.output import Format, Output, clean, last, line, note
from cli.session import run
from fleet.contract import error_of

_SPAN = re.compile(r"(\d+)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def logs(
    app: Annotated[
        str, typer.Argument(metavar="APP[/REPLICA]", help="An app, or one of its replicas, as in hello/0-3.")
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with lines as they are written.")] = False,
    tail: Annotated[int, typer.Option("--tail", "-n", min=1, max=10_000, help="So many last lines of each.")] = 100,
    since: Annotated[str, typer.Option(help="Only lines since then: a span as in 10m, or a time (RFC 3339).")] = "",
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="With the time of each line.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """What an app's containers write. With -o json each line is one object."""
    name = replica_name(app)
    params: Json = {"tail_lines": tail, "follow": follow}
    if since:
        params["since_time"] = _time(since)

    async def read(client: Client) -> None:
        async for event in client.stream(f"{name}/logs", params, ""):
            if event.kind == "end":
                return
            if event.kind == "error":
                raise ApiFailure(error_of(0, json.loads(event.data)), where=name)
            _say(json.loads(event.data), timestamps, output)

    run(read)


def replica_name(app: str) -> str:
    """The resource name of `hello` or `hello/0-3`."""
    parts = app.removeprefix("apps/").replace("/replicas/", "/").split("/")
    if len(parts) > 2 or not all(re.fullmatch(r"[a-z0-9@-]+", part) for part in parts):
        raise Failure(f"{app!r} is no app, and no replica as in hello/0-3", exit_code=USAGE)
    return f"apps/{parts[0]}" + (f"/replicas/{parts[1]}" if len(parts) == 2 else "")


def _time(since: str) -> str:
    span = _SPAN.fullmatch(since)
    if span is None:
        return since
    ago = datetime.timedelta(seconds=int(span[1]) * _SECONDS[span[2]])
    return (datetime.datetime.now(datetime.UTC) - ago).isoformat().replace("+00:00", "Z")


def _say(lines: Json, timestamps: bool, output: Format) -> None:
    origin = f"{last(lines['replica'])}@{last(lines.get('node', ''))}"
    if lines.get("problem"):
        note(f"{origin}: {lines['problem']}")
    for found in lines.get("lines", []):
        if output is Format.JSON:
            line(json.dumps({"replica": lines["replica"], "node": lines.get("node", ""), **found}, ensure_ascii=False))
            continue
        stamp = f"{found.get('time', '')} " if timestamps else ""
        line(f"{origin} | {stamp}{clean(found.get('text', ''))}")
