"""`locci audit`: who did what, in a chain that cannot be changed unnoticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli import columns
from cli.client import Json
from cli.failure import FAILED, USAGE, Failure
from cli.output import Format, Output, line, note, show
from cli.session import run
from fleet.audit import verify_chain

app = typer.Typer(help="The audit: who changed what, or was refused.", no_args_is_help=True)


def _records(expression: str = "") -> list[Json]:
    return run(lambda c: c.pages("auditRecords", "audit_records", {"filter": expression}))


@app.command()
def ls(
    expression: Annotated[
        str,
        typer.Option("--filter", help="Only those that match, as in 'code != \"OK\"' or 'method = \"AppService.*\"'."),
    ] = "",
    output: Output = Format.TABLE,
) -> None:
    """List records, oldest first."""
    show(_records(expression), columns.AUDIT_RECORDS, output, "no records")


@app.command()
def export() -> None:
    """Write all records to standard output, one JSON document a line, to be kept elsewhere."""
    for record in _records():
        line(json.dumps(record, ensure_ascii=False, sort_keys=True))


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Option("--file", help="An export to check, instead of the control plane's.")
    ] = None,
) -> None:
    """Compute every hash of the chain anew; exit code 1 when it is broken."""
    if file is None:
        answer = run(lambda c: c.get("auditRecords:verify"))
        problem, count, head = answer.get("problem", ""), int(answer.get("records", 0)), answer.get("head", "")
    else:
        records = _read(file)
        problem, count, head = verify_chain(records), len(records), records[-1]["hash"] if records else ""
    if problem:
        hint = "compare with an earlier export, and look who could write to the store"
        raise Failure(f"the audit is broken: {problem}", hint=hint, exit_code=FAILED)
    line(f"whole: {count} records")
    note(f"head {head}: keep it elsewhere, and nobody can cut the end of the chain unnoticed")


def _read(file: Path) -> list[Json]:
    try:
        records = [json.loads(text) for text in file.read_text().splitlines() if text.strip()]
    except (OSError, ValueError) as error:
        raise Failure(f"{file} is no export of the audit: {error}", exit_code=USAGE) from error
    if not all(isinstance(record, dict) for record in records):
        raise Failure(f"{file} is no export of the audit: each line must be a JSON object", exit_code=USAGE)
    return records
