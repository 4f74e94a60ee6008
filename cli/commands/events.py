"""`locci events`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli import columns
from cli.client import Client, Json
from cli.follow import follow
from cli.output import Format, Output, clean, dump, last, line, note, show
from cli.session import run


def events(
    subject: Annotated[str, typer.Option(help="Only events about this, as in apps/hello or nodes/eu-1.")] = "",
    kind: Annotated[str, typer.Option("--type", help="Only events of this type, as in NodeJoined.")] = "",
    limit: Annotated[int, typer.Option("-n", "--limit", min=0, max=100_000, help="So many of the newest.")] = 50,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="Go on with events as they happen.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """What happened, oldest first. With --follow and -o json each event is one line."""

    async def read(client: Client) -> None:
        newest = await client.pages("events", "events", {"subject": subject, "type": kind}, limit) if limit else []
        newest.reverse()
        if not follow_:
            show(newest, columns.EVENTS, output, "no events")
            return
        for event in newest:
            _say(event, output)
        since = last(newest[-1]["name"]) if newest else ""
        params = {"subject": subject, "after_sequence": since}
        async for event in follow(client, "events:watch", params, note, since):
            if not kind or event.get("type") == kind:
                _say(event, output)

    run(read)


def _say(event: Json, output: Format) -> None:
    if output is Format.JSON:
        line(json.dumps(event, ensure_ascii=False))
    elif output is Format.YAML:
        line("---")
        dump(event, output)
    else:
        line("  ".join(clean(cell(event)).replace("\n", " ") for _, cell in columns.EVENTS))
