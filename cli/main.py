"""`locci`: the command line of the fleet."""

from __future__ import annotations

import difflib
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import external
from cli.client import TIMEOUT_S
from cli.commands import (
    apps,
    audit,
    authorities,
    backup,
    certificates,
    confidential,
    contexts,
    copy_files,
    deploy,
    drills,
    events,
    execute,
    logs,
    nodes,
    operations,
    operators,
    placement,
    purge,
    records,
    regions,
    registries,
    rollout,
    routing,
    scale,
    status,
    tokens,
    top,
    upgrades,
    zones,
)
from cli.failure import FAILED, INTERRUPTED, USAGE, Failure
from cli.output import Format, Output, clean, dump, line
from cli.session import CONTEXT_FILE

app = typer.Typer(
    name="locci",
    help="Runs your edge: apps, regions, nodes, DNS. `locci NAME` runs `locci-NAME` when it is no command of its own: "
    "`locci agent join`, `locci lab up`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (
    deploy.apply,
    deploy.deploy,
    deploy.plan,
    deploy.validate,
    status.status,
    apps.ps,
    apps.releases,
    apps.rollouts,
    deploy.rollback,
    deploy.restart,
    scale.scale,
    placement.rebalance,
    purge.purge,
    events.events,
    logs.logs,
    top.top,
    contexts.login,
):
    app.command()(command)
app.command("exec")(execute.execute)
app.command("cp")(copy_files.copy)
for name, group in {
    "apps": apps,
    "regions": regions,
    "nodes": nodes,
    "tokens": tokens,
    "rollout": rollout,
    "operations": operations,
    "operators": operators,
    "audit": audit,
    "backup": backup,
    "ca": authorities,
    "zones": zones,
    "certificates": certificates,
    "secrets": confidential,
    "registries": registries,
    "records": records,
    "routing": routing,
    "drills": drills,
    "upgrade": upgrades,
    "context": contexts,
}.items():
    app.add_typer(group.app, name=name)
app.add_typer(drills.app, name="drill", hidden=True)


@app.callback()
def root(
    context: Annotated[
        Path | None,
        typer.Option("--context", help="The context file; else $LOCCI_CONTEXT, else ~/.config/locci/context.json."),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, max=3600, metavar="SECONDS", help="Time for each request.")
    ] = 40.0,
) -> None:
    """Options that come before the command."""
    CONTEXT_FILE.set(context)
    TIMEOUT_S.set(timeout)


@app.command()
def version(output: Output = Format.TABLE) -> None:
    """Show the version."""
    try:
        number = metadata.version("locci-cloud")
    except metadata.PackageNotFoundError:
        number = "unknown"
    if output.tabular:
        line(f"locci {number}")
    else:
        dump({"version": number, "python": platform.python_version()}, output)


def command_names() -> set[str]:
    """The names of the commands of this program."""
    group: Any = typer.main.get_command(app)
    return set(group.commands)


def main() -> None:
    """Entry point; the exit codes are in `cli.failure.EXIT_CODES`."""
    arguments = sys.argv[1:]
    first = arguments[0] if arguments else ""
    if first and not first.startswith("-") and first not in command_names():
        program = external.find(first)
        if program is not None:
            external.replace_process(program, arguments[1:])
        sys.exit(_fail(_unknown(first)))
    try:
        app(prog_name="locci")
    except Failure as failure:
        sys.exit(_fail(failure))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing more may be written to it.
        sys.stdout = None
        sys.exit(FAILED)


def _fail(failure: Failure) -> int:
    print(clean(failure.text()), file=sys.stderr)
    return failure.exit_code


def _unknown(name: str) -> Failure:
    known = sorted(command_names() | set(external.names()))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `locci {near[0]}`?" if near else "`locci --help` lists the commands"
    return Failure(f"{name!r} is not a locci command", hint=hint, exit_code=USAGE)


if __name__ == "__main__":
    main()
