"""`locci rebalance`, and what changes of the fleet would do to replicas."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import columns
from cli.client import Json, new_request_id
from cli.failure import FAILED, USAGE, Failure
from cli.listing import names_of
from cli.output import Format, Output, dump, note, show
from cli.session import name_of, run

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would start, stop and move, and why.")]


def rebalance(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app's id.", autocompletion=names_of("apps"))] = "",
    every: Annotated[bool, typer.Option("--all", help="All apps.")] = False,
    moves: Annotated[int, typer.Option("--moves", min=1, max=100, help="So many replicas move at a time.")] = 1,
    dry_run: DryRun = False,
    output: Output = Format.TABLE,
) -> None:
    """Move replicas to where they would be placed now; each stops once another serves in its place."""
    if bool(name) == every:
        raise Failure("give either an app or --all", exit_code=USAGE)
    body: Json = {"app": name_of("apps", name) if name else "apps/-", "max_moves": moves, "validate_only": dry_run}
    answer = run(lambda c: c.call("POST", "placement:rebalance", body=body | {"request_id": new_request_id()}))
    changes = answer.get("changes", [])
    _say(answer, output)
    if output.tabular:
        what = "would move" if dry_run else "move"
        note(f"{len(changes)} replicas {what}" if changes else "nothing is placed better elsewhere")


def foretell(change: str, name: str, output: Format = Format.TABLE) -> None:
    """Shows what a change, as in `drain_node`, would do. Raises a Failure when it would be refused."""
    answer = run(lambda c: c.call("POST", "placement:plan", body={change: name}))
    _say(answer, output)
    if not answer.get("allowed"):
        raise Failure(str(answer.get("refusal", "")) or "it would be refused", where=name, exit_code=FAILED)
    if output.tabular and not answer.get("changes"):
        note("no replica would start, stop or move")


def _say(answer: Json, output: Format) -> None:
    if not output.tabular:
        dump(answer, output)
    elif answer.get("changes"):
        show(answer["changes"], columns.CHANGES, output, "")
