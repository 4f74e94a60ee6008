"""`locci cp`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tarfile
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Final

import typer

from cli import context
from cli.commands.execute import Call, conversation
from cli.commands.logs import replica_name
from cli.failure import USAGE, Failure
from cli.session import context_in_effect
from locci.v1 import exec_pb2

_PIECE_BYTES: Final = 60 * 1024
_IN_MEMORY_BYTES: Final = 8 * 2**20


def copy(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A path here, or APP[/REPLICA]:PATH.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The other of the two.")],
) -> None:
    """Copy a file or a directory out of a container, or into one."""
    remote = [":" in source and not Path(source).exists(), ":" in target]
    if remote[0] == remote[1]:
        message = "one of the two must be in a container, as in hello/0-3:/var/log"
        raise Failure(message, exit_code=USAGE)
    if remote[0]:
        app, _, path = source.partition(":")
        start = exec_pb2.ExecStart(name=replica_name(app), copy_from=_absolute(path))
        asyncio.run(_out(context_in_effect(), start, Path(target)))
        return
    app, _, path = target.partition(":")
    if not Path(source).exists():
        raise Failure("there is no such file", where=source, exit_code=USAGE)
    asyncio.run(_into(context_in_effect(), replica_name(app), Path(source), _absolute(path)))


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise Failure(f"{path!r} must be an absolute path in the container", exit_code=USAGE)
    return path


async def _out(held: context.Context, start: exec_pb2.ExecStart, target: Path) -> None:
    """Unpacks what comes: into `target` when that is a directory, else as `target`."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as archive:
        async with conversation(held, start) as call:
            await call.write(exec_pb2.ExecRequest(end_of_stdin=True))
            async for piece in _to_its_end(call):
                archive.write(piece)
        archive.seek(0)
        unpack(archive, PurePosixPath(start.copy_from).name, target)


def unpack(archive: IO[bytes], name: str, target: Path) -> None:
    """Unpacks an archive whose one root is `name`. Nothing is written outside of the target, no link leads out of it,
    files are the caller's own, and there is nothing but files, directories and links (as PEP 706 has it)."""
    inside = target.is_dir()
    folder = target if inside else target.parent
    try:
        with tarfile.open(fileobj=archive) as tar:
            for member in tar:
                if not inside:
                    member.name = _renamed(member.name, name, target.name)
                    if member.islnk():
                        member.linkname = _renamed(member.linkname, name, target.name)
                _check(member, os.path.realpath(folder))
                member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
                member.mode &= 0o777
                tar.extract(member, folder)
    except (OSError, tarfile.TarError) as error:
        raise Failure(f"cannot be unpacked: {error}", where=str(target)) from None


def _renamed(path: str, root: str, wanted: str) -> str:
    first, slash, rest = path.partition("/")
    return f"{wanted}{slash}{rest}" if first == root else path


def _check(member: tarfile.TarInfo, folder: str) -> None:
    """Raises a Failure for what is not to be unpacked; what was unpacked before, links as well, is looked through."""
    goal = os.path.join(
        os.path.realpath(os.path.join(folder, os.path.dirname(member.name))), os.path.basename(member.name)
    )
    leads = [goal, os.path.realpath(goal)]
    if member.issym():
        leads.append(os.path.realpath(os.path.join(os.path.dirname(goal), member.linkname)))
    elif member.islnk():
        leads.append(os.path.realpath(os.path.join(folder, member.linkname)))
    elif not (member.isreg() or member.isdir()):
        raise Failure(f"the archive holds something that is no file, directory or link: {member.name}")
    if ".." in member.name.split("/") or any(os.path.commonpath([folder, path]) != folder for path in leads):
        raise Failure(f"the archive holds what would be written outside, or leads there: {member.name}", where=folder)


async def _into(held: context.Context, name: str, source: Path, path: str) -> None:
    """With a slash at its end the path is a directory to copy into, else what the copy is to be called."""
    goal = PurePosixPath(path)
    called = source.resolve().name if path.endswith("/") else goal.name
    folder = str(goal) if path.endswith("/") else str(goal.parent)
    with tempfile.TemporaryFile() as archive:
        try:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                tar.add(source, arcname=called)
        except OSError as error:
            raise Failure(f"cannot be read: {error.strerror}", where=str(error.filename or source)) from None
        archive.seek(0)
        async with conversation(held, exec_pb2.ExecStart(name=name, copy_to=folder)) as call:
            sending = asyncio.create_task(_send(call, archive))
            try:
                async for _ in _to_its_end(call):
                    pass
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)


async def _send(call: Call, archive: IO[bytes]) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        while piece := os.read(archive.fileno(), _PIECE_BYTES):
            await call.write(exec_pb2.ExecRequest(stdin=piece))
        await call.write(exec_pb2.ExecRequest(end_of_stdin=True))


async def _to_its_end(call: Call) -> AsyncIterator[bytes]:
    while isinstance(response := await call.read(), exec_pb2.ExecResponse):
        match response.WhichOneof("output"):
            case "stdout":
                yield response.stdout
            case "exit_code":
                return
    code = await call.code()
    raise Failure(f"the copy broke off ({code.name})")
