"""Runs a command's work with a client of the context in effect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from cli import context
from cli.client import Client
from cli.failure import USAGE, Failure

T = TypeVar("T")

CONTEXT_FILE: ContextVar[Path | None] = ContextVar("CONTEXT_FILE", default=None)
"""The file given by `--context`."""


def run(work: Callable[[Client], Awaitable[T]]) -> T:
    """What `work` returns."""
    return run_with(context_in_effect(), work)


def context_in_effect() -> context.Context:
    """The context that commands use."""
    return context.load(context.path_in_effect(CONTEXT_FILE.get()))


def run_with(held: context.Context, work: Callable[[Client], Awaitable[T]]) -> T:
    """What `work` returns, with a context that is not in effect."""

    async def inside() -> T:
        async with Client(held) as client:
            return await work(client)

    return asyncio.run(inside())


def name_of(collection: str, given: str) -> str:
    """The resource name of what a person calls `hello` or `apps/hello`."""
    identifier = given.removeprefix(f"{collection}/")
    if not identifier or any(c in identifier for c in "/:?#%") or not identifier.isprintable() or " " in identifier:
        raise Failure(f"{given!r} is no name of one of the {collection}", exit_code=USAGE)
    return f"{collection}/{identifier}"


def pairs_of(given: list[str], option: str) -> dict[str, str]:
    """The pairs in a list of `key=value`."""
    result: dict[str, str] = {}
    for pair in given:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise Failure(f"{option}: {pair!r} is not of the form key=value", exit_code=USAGE)
        result[key] = value
    return result
