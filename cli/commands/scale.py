"""`locci scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.client import Json, new_request_id
from cli.output import note
from cli.session import name_of, run


def scale(
    name: Annotated[str, typer.Argument(metavar="APP", help="The app's id.")],
    replicas: Annotated[int, typer.Argument(min=1, help="Replicas in each region.")],
    total: Annotated[bool, typer.Option("--total", help="Replicas over all regions instead.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
) -> None:
    """Change how many replicas an app has; those that stay are not restarted."""
    full = name_of("apps", name)
    body: Json = {"replicas" if total else "replicas_per_region": replicas, "validate_only": dry_run}
    answer = run(lambda c: c.call("POST", f"{full}:scale", body=body | {"request_id": new_request_id()}))
    for change in answer.get("changes", []):
        action = str(change.get("action", "")).removeprefix("ACTION_").lower()
        note(f"{action} {change.get('replica', '')} {change.get('node', '')}: {change.get('reason', '')}")
    note(f"{full} already has so many" if answer.get("unchanged") else f"{full} is {'to be ' * dry_run}scaled")
