"""`locci ca`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import columns
from cli.listing import Filter, How, OrderBy, Watch, show_list
from cli.output import Format, Output, note, show
from cli.session import name_of, run

_HELP = "The fleet's certificate authorities, and how one takes the place of another."

app = typer.Typer(help=_HELP, no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="AUTHORITY", help="Its id, as `locci ca ls` lists it.")]
Force = Annotated[bool, typer.Option("--force", help="Also when nodes are behind; they may have to join again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only check.")]


@app.command()
def ls(filter_: Filter = "", order_by: OrderBy = "", watch: Watch = False, output: Output = Format.TABLE) -> None:
    """List the authorities, and how many nodes trust each and hold a certificate of it."""
    show_list(
        "authorities", "authorities", columns.AUTHORITIES, output, "no authorities", How(filter_, order_by, watch)
    )


@app.command()
def prepare(dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Make an authority that the fleet learns to trust; the active one goes on to sign."""
    row = run(lambda c: c.call("POST", "authorities:prepare", params={"validate_only": dry_run}))
    show([row], columns.AUTHORITIES, output, "")
    if not dry_run:
        note("next: `locci context trust` for each operator; when all nodes trust it, `locci ca activate`")


@app.command()
def activate(authority: Name, force: Force = False, dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Let a prepared authority sign the certificates of nodes; they are renewed at once."""
    _step(authority, "activate", force, dry_run, output)
    if not dry_run:
        note("next: when all nodes have a certificate of it, `locci ca retire` the one before")


@app.command()
def retire(authority: Name, force: Force = False, dry_run: DryRun = False, output: Output = Format.TABLE) -> None:
    """Forget an authority: what it has signed is not trusted any more."""
    _step(authority, "retire", force, dry_run, output)


def _step(authority: str, step: str, force: bool, dry_run: bool, output: Format) -> None:
    name, params = name_of("authorities", authority), {"force": force, "validate_only": dry_run}
    show([run(lambda c: c.call("POST", f"{name}:{step}", params=params))], columns.AUTHORITIES, output, "")
