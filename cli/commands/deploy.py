"""`locci apply`, `deploy`, `plan`, `validate`, `rollback`: from a manifest to running replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from cli import columns, manifest, rollouts
from cli.client import Client, Json, new_request_id
from cli.commands.placement import DryRun, foretell
from cli.durations import seconds_text
from cli.failure import ApiFailure
from cli.manifest import Source
from cli.output import Format, Output, dump, last, line, note, show
from cli.session import name_of, run

Files = Annotated[
    list[str],
    typer.Option("-f", "--file", help="A manifest, or several in one file; - is standard input. May be repeated."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Follow the rollout to its end; exit 7 unless it succeeds.")]
Timeout = Annotated[str, typer.Option(help="With waiting: give up after so long; the rollout goes on.")]


def validate(file: Files) -> None:
    """Check manifests without the control plane: fields, types, names, ports."""
    for source in manifest.load(file):
        line(f"{source.file}: app {source.name} is valid")


def plan(file: Files, output: Output = Format.TABLE) -> None:
    """Show what applying manifests would start, stop and replace; nothing is changed."""
    sources = manifest.load(file)

    async def ask(client: Client) -> list[Json]:
        return [await _apply(client, source, validate_only=True) for source in sources]

    _show_plans(sources, run(ask), output)


def apply(
    file: Files,
    wait: Wait = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The same as `locci plan`.")] = False,
    timeout: Timeout = "30m",
    output: Output = Format.TABLE,
) -> None:
    """Make the fleet hold apps as their manifests say. Applying the same again does nothing."""
    if dry_run:
        plan(file, output)
        return
    sources = manifest.load(file)
    timeout_s = float(seconds_text(timeout, "--timeout").removesuffix("s"))

    async def work(client: Client) -> list[Json]:
        answers = [await _apply(client, source, validate_only=False) for source in sources]
        for answer in answers if wait else []:
            await _follow(client, answer, timeout_s)
        return answers

    answers = run(work)
    if not output.tabular:
        dump(answers, output)
        return
    for answer in answers:
        line(_outcome(answer))
        if not wait and answer.get("rollout"):
            app = last(answer["app"]["name"])
            note(f"the rollout goes on: `locci rollouts {app}` shows how, `locci ps {app}` the replicas")


def deploy(file: Files, timeout: Timeout = "30m", output: Output = Format.TABLE) -> None:
    """Apply manifests and follow their rollouts to the end: the same as `locci apply --wait`."""
    apply(file, wait=True, dry_run=False, timeout=timeout, output=output)


def rollback(
    app: Annotated[str, typer.Argument(metavar="APP", help="The app's id.")],
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="The release's number; without it, the last good one.")
    ] = None,
    wait: Wait = False,
    dry_run: DryRun = False,
    timeout: Timeout = "30m",
    output: Output = Format.TABLE,
) -> None:
    """Go back to an older release at once."""
    name = name_of("apps", app)
    if dry_run:
        foretell("rollback_app", name if to is None else f"{name}/releases/{to}", output)
        return
    timeout_s = float(seconds_text(timeout, "--timeout").removesuffix("s"))
    body: Json = {"request_id": new_request_id()}
    if to is not None:
        body["release"] = f"{name}/releases/{to}"

    async def work(client: Client) -> Json:
        rollout = await client.call("POST", f"{name}:rollback", body=body)
        return await rollouts.wait_for(client, rollout["name"], timeout_s) if wait else rollout

    show([run(work)], columns.ROLLOUTS, output, "")


def restart(
    app: Annotated[str, typer.Argument(metavar="APP", help="The app's id.")],
    wait: Wait = False,
    dry_run: DryRun = False,
    timeout: Timeout = "30m",
    output: Output = Format.TABLE,
) -> None:
    """Make every container of an app anew, one after the other, by the app's own rollout policy."""
    timeout_s = float(seconds_text(timeout, "--timeout").removesuffix("s"))
    body: Json = {"request_id": new_request_id(), "validate_only": dry_run}

    async def work(client: Client) -> Json:
        answer = await client.call("POST", f"{name_of('apps', app)}:restart", body=body)
        if wait and not dry_run:
            await _follow(client, answer, timeout_s)
        return answer

    answer = run(work)
    if dry_run:
        show(answer.get("changes", []), columns.CHANGES, output, "nothing runs that could be restarted")
    elif output.tabular:
        line(_outcome(answer))
    else:
        dump(answer, output)


async def _apply(client: Client, source: Source, *, validate_only: bool) -> Json:
    body = {"manifest": source.body(), "validate_only": validate_only, "request_id": new_request_id()}
    try:
        return await client.call("POST", "apps:apply", body=body)
    except ApiFailure as failure:
        raise source.blame(failure) from failure


async def _follow(client: Client, answer: Json, timeout_s: float) -> None:
    """Waits for the rollout that applying began, or, when nothing changed, for the one that the app has."""
    name = answer.get("rollout", {}).get("name") or answer.get("app", {}).get("rollout")
    if name:
        answer["rollout"] = await rollouts.wait_for(client, name, timeout_s)


def _outcome(answer: Json) -> str:
    app = last(answer.get("app", {}).get("name"))
    if answer.get("unchanged"):
        return f"{app}: unchanged, release {last(answer.get('app', {}).get('latest_release'))}"
    release, rollout = answer.get("release", {}), answer.get("rollout", {})
    image = str(release.get("pinned_image", ""))
    return f"{app}: release {release.get('number', '?')} {rollouts.state(rollout)}, {image}"


def _show_plans(sources: Sequence[Source], answers: Sequence[Json], output: Format) -> None:
    if not output.tabular:
        dump(answers, output)
        return
    for source, answer in zip(sources, answers, strict=True):
        changes = answer.get("changes", [])
        note(f"{source.name}: {'unchanged' if answer.get('unchanged') else f'{len(changes)} changes'}")
        if changes:
            show(changes, columns.CHANGES, output, "")
