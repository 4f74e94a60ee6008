"""`locci purge`."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from cli.client import Json, new_request_id
from cli.failure import USAGE, Failure
from cli.output import note
from cli.session import name_of, run

POLL_S: Final = 0.1


def purge(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app's id.")],
    url: Annotated[str, typer.Option("--url", help="One URL, in every variant, over http and https.")] = "",
    prefix: Annotated[str, typer.Option("--prefix", help="Every URL that begins so.")] = "",
    tag: Annotated[str, typer.Option("--tag", help="What carries this in Cache-Tag or Surrogate-Key.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Everything of the app.")] = False,
    soft: Annotated[bool, typer.Option("--soft", help="Count it as stale instead of dropping it.")] = False,
    wait_s: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the nodes; 0 for none.")] = 30.0,
) -> None:
    """Have edges use no more what they have stored of an app."""
    chosen = {key: value for key, value in (("url", url), ("prefix", prefix), ("tag", tag)) if value}
    if len(chosen) + everything != 1:
        raise Failure("say what to purge: one of --url, --prefix, --tag and --all", exit_code=USAGE)
    full = name_of("apps", name)
    body: Json = {**chosen, "soft": soft}
    row = run(lambda c: c.call("POST", f"{full}/purges", params={"request_id": new_request_id()}, body=body))
    purged: str = row["name"]
    deadline = time.monotonic() + wait_s
    while not row.get("done") and time.monotonic() < deadline:
        time.sleep(POLL_S)
        row = run(lambda c: c.get(purged))
    waiting = ", ".join(row.get("waiting_nodes", []))
    if row.get("done"):
        note(f"purged on every node that is there{f'; when they are back, on {waiting}' if waiting else ''}")
    elif wait_s:
        raise Failure(f"ordered, but not done after {wait_s:g} s on {waiting}; they do it when they can")
    else:
        note(f"{row['name']} is ordered")
