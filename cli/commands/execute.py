"""`locci exec`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Final
from urllib.parse import urlsplit

import grpc
import typer

from cli import context
from cli.commands.logs import replica_name
from cli.failure import UNREACHABLE, USAGE, ApiFailure, Failure
from cli.session import context_in_effect
from fleet.rpc.channel import operator_channel
from fleet.rpc.errors import from_rpc_error
from locci.v1 import exec_pb2, exec_pb2_grpc

GRPC_PORT: Final = 7444
_PIECE_BYTES: Final = 32 * 1024
_REQUESTS_MAX: Final = 16


def execute(
    app: Annotated[
        str, typer.Argument(metavar="APP[/REPLICA]", help="An app, for one of its healthy replicas, or a replica.")
    ],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run, and its arguments.")],
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Pass standard input on.")] = False,
    terminal: Annotated[bool, typer.Option("--tty", "-t", help="With a terminal.")] = False,
) -> None:
    """Run a command in a container. It ends with the command's own exit code."""
    name = replica_name(app)
    if terminal and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("--tty: this is no terminal", hint="leave -t away", exit_code=USAGE)
    start = exec_pb2.ExecStart(name=name, command=command, tty=terminal)
    if terminal:
        start.size.CopyFrom(_size())
    raise typer.Exit(asyncio.run(_run(context_in_effect(), start, interactive=interactive)))


Call = grpc.aio.StreamStreamCall[exec_pb2.ExecRequest, exec_pb2.ExecResponse]


@contextlib.asynccontextmanager
async def conversation(held: context.Context, start: exec_pb2.ExecStart) -> AsyncIterator[Call]:
    """A call that has begun with `start`. What it ends with, in this block, is raised as a Failure."""
    endpoint = held.grpc or f"{urlsplit(held.server).hostname}:{GRPC_PORT}"
    async with operator_channel(endpoint, held.ca_pem.encode(), held.token) as channel:
        call = exec_pb2_grpc.ExecServiceStub(channel).Exec()
        try:
            await call.write(exec_pb2.ExecRequest(start=start))
            # Nothing is said to a call that may have been refused: that would hide why.
            await call.read()
            yield call
        except grpc.RpcError as broken:
            error = from_rpc_error(broken)
            if broken.code() is grpc.StatusCode.UNAVAILABLE and error.reason == "UNAVAILABLE":
                message = f"the control plane cannot be reached: {error.message}"
                raise Failure(message, where=endpoint, exit_code=UNREACHABLE) from None
            raise ApiFailure(error, where=start.name) from None
        finally:
            call.cancel()


async def _run(held: context.Context, start: exec_pb2.ExecStart, *, interactive: bool) -> int:
    async with conversation(held, start) as call:
        with _raw_terminal() if start.tty else contextlib.nullcontext():
            return await _converse(call, start, interactive=interactive)


async def _converse(call: Call, start: exec_pb2.ExecStart, *, interactive: bool) -> int:
    requests: asyncio.Queue[exec_pb2.ExecRequest] = asyncio.Queue(_REQUESTS_MAX)
    sending = asyncio.create_task(_send(call, requests))
    reading = asyncio.create_task(_read_input(requests)) if interactive else None
    if reading is None:
        await requests.put(exec_pb2.ExecRequest(end_of_stdin=True))
    with _resizes(requests) if start.tty else contextlib.nullcontext():
        try:
            while isinstance(response := await call.read(), exec_pb2.ExecResponse):
                match response.WhichOneof("output"):
                    case "stdout":
                        _write(sys.stdout.fileno(), response.stdout)
                    case "stderr":
                        _write(sys.stderr.fileno(), response.stderr)
                    case "exit_code":
                        return response.exit_code
            code = await call.code()
            raise Failure(f"the call ended without an exit code ({code.name})")
        finally:
            sending.cancel()
            if reading is not None:
                reading.cancel()


async def _send(call: Call, requests: asyncio.Queue[exec_pb2.ExecRequest]) -> None:
    """What the call says of itself when it has ended is found by who reads it."""
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
        while True:
            await call.write(await requests.get())


async def _read_input(requests: asyncio.Queue[exec_pb2.ExecRequest]) -> None:
    async for piece in _pieces(sys.stdin.fileno()):
        await requests.put(exec_pb2.ExecRequest(stdin=piece))
    await requests.put(exec_pb2.ExecRequest(end_of_stdin=True))


async def _pieces(descriptor: int) -> AsyncIterator[bytes]:
    """What comes on a descriptor. Files are always ready, and epoll takes none: they are read at once."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:
        while piece := os.read(descriptor, _PIECE_BYTES):
            yield piece
        return
    try:
        while True:
            await ready.wait()
            ready.clear()
            if not select.select([descriptor], [], [], 0)[0]:
                # It was said twice of the same.
                continue
            if not (piece := os.read(descriptor, _PIECE_BYTES)):
                return
            yield piece
    finally:
        loop.remove_reader(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _size() -> exec_pb2.TerminalSize:
    found = shutil.get_terminal_size()
    return exec_pb2.TerminalSize(columns=found.columns, rows=found.lines)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes to the command, Ctrl-C as well; the terminal is as before at the end."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizes(requests: asyncio.Queue[exec_pb2.ExecRequest]) -> Iterator[None]:
    def resized() -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        told = exec_pb2.TerminalSize(columns=size.columns, rows=size.lines)
        with contextlib.suppress(asyncio.QueueFull):
            requests.put_nowait(exec_pb2.ExecRequest(resize=told))

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
