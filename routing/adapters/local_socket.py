"""The unix socket of the running program: one JSON request on a line, one JSON answer on a line."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fleet.errors import Code, LocciError, failed_precondition, invalid

_REQUEST_MAX: Final = 4096
_ANSWER_MAX: Final = 64 << 20
_DEADLINE_S: Final = 5.0

Handler = Callable[[Mapping[str, Any]], dict[str, Any]]


async def serve(path: Path, handler: Handler) -> asyncio.Server:
    """Answers at `path`, which only this user may open. Raises OSError."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                line = await reader.readline()
                writer.write(json.dumps(_answer(handler, line)).encode() + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            # The other side left, or said nothing, or too much: there is nobody to tell.
            return
        finally:
            writer.close()

    path.unlink(missing_ok=True)
    mask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(answer, str(path), limit=_REQUEST_MAX)
    finally:
        os.umask(mask)


def _answer(handler: Handler, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise invalid("request", "the request is no JSON object")
        return {"ok": True, "result": handler(request)}
    except LocciError as error:
        return {"ok": False, "code": error.code.name, "reason": error.reason, "message": error.message}
    except ValueError as error:
        return {"ok": False, "code": Code.INVALID_ARGUMENT.name, "reason": "NOT_JSON", "message": str(error)}


async def call(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the running program. Raises FAILED_PRECONDITION when none is running, or what it raised."""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=_ANSWER_MAX)
            writer.write(json.dumps(request).encode() + b"\n")
            answer = json.loads(await reader.readline())
            writer.close()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise failed_precondition("NOT_RUNNING", f"no locci-dns is running with {path}: start it first") from error
    except PermissionError as error:
        raise LocciError(
            Code.PERMISSION_DENIED, "NOT_PERMITTED", f"{path} is not yours to open: run as root"
        ) from error
    except (OSError, TimeoutError, ValueError) as error:
        raise LocciError(Code.UNAVAILABLE, "NO_ANSWER", f"{path} does not answer: {error}") from error
    if not answer.get("ok"):
        code = next((c for c in Code if c.name == answer.get("code")), Code.INTERNAL)
        raise LocciError(code, str(answer.get("reason", "UNKNOWN")), str(answer.get("message", "")))
    result: dict[str, Any] = answer["result"]
    return result
