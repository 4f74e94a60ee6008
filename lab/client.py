"""A client that asks again and again, as a browser or a probe would: resolve, connect, ask, read.

It runs inside a client host's namespace and writes one JSON object per request to standard output. Nothing is hidden:
no request is repeated, names are resolved anew each time by the host's resolver (which caches as resolvers do), and a
request that has no whole answer with status 200 in time has failed. Requests start at a fixed rate, whether or not
earlier ones have ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype

from lab.samples import Sample

_BODY_BYTES_MAX: Final = 65536


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for: an http URL's parts."""

    hostname: str
    path: str
    port: int = 80


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class FailedRequestError(Exception):
    """Why a request failed, in a few words."""


async def resolve(hostname: str, resolver: str, port: int) -> str:
    """The first address of a name, as the resolver answers."""
    query = dns.message.make_query(hostname, dns.rdatatype.A)
    answer = await dns.asyncquery.udp(query, resolver, port=port)
    for rrset in answer.answer:
        if rrset.rdtype == dns.rdatatype.A:
            return str(rrset[0])
    raise FailedRequestError(f"no address: {dns.rcode.to_text(answer.rcode())}")


async def fetch(address: str, target: Target) -> Answer:
    """The response to one GET on a connection of its own."""
    reader, writer = await asyncio.open_connection(address, target.port)
    try:
        head = f"GET {target.path} HTTP/1.1\r\nHost: {target.hostname}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        received = await reader.readuntil(b"\r\n\r\n")
        status_line, *lines = received.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Answer(int(status_line.split()[1]), headers, await _body(reader, headers))
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    """The body, whole: cut short it is an error (RFC 9112, section 6.3)."""
    if "content-length" in headers:
        length = int(headers["content-length"])
        if length > _BODY_BYTES_MAX:
            raise FailedRequestError(f"a body of {length} bytes")
        return await reader.readexactly(length)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        return body
    return await reader.read(_BODY_BYTES_MAX)


async def ask(target: Target, resolver: str, timeout_s: float, *, resolver_port: int = 53) -> Sample:
    """One request, from the name to the last byte, within `timeout_s`."""
    began = time.monotonic()
    address, status, error = "", 0, ""
    headers: Mapping[str, str] = {}
    content: dict[str, Any] = {}
    try:
        async with asyncio.timeout(timeout_s):
            address = await resolve(target.hostname, resolver, resolver_port)
            answer = await fetch(address, target)
        status, headers = answer.status, answer.headers
        if status == 200:
            content = json.loads(answer.body)
        else:
            error = f"status {status}"
    except TimeoutError:
        error = f"no answer within {timeout_s:g} s"
    except (OSError, EOFError, ValueError, IndexError, FailedRequestError, dns.exception.DNSException) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Sample(
        at=began,
        seconds=time.monotonic() - began,
        ok=not error,
        status=status,
        error=error,
        address=address,
        region=str(content.get("region", "")),
        version=str(content.get("version", "")),
        cache=headers.get("cache-status", ""),
    )


async def run(target: Target, resolver: str, rate: float, timeout_s: float) -> None:
    """Asks `rate` times a second until SIGTERM or SIGINT; requests in progress come to their end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running: set[asyncio.Task[None]] = set()
    next_at = loop.time()
    while not stop.is_set():
        task = loop.create_task(_ask_and_write(target, resolver, timeout_s))
        running.add(task)
        task.add_done_callback(running.discard)
        next_at += 1.0 / rate
        try:
            await asyncio.wait_for(stop.wait(), max(0.0, next_at - loop.time()))
        except TimeoutError:
            continue
    if running:
        await asyncio.wait(running, timeout=timeout_s + 1.0)


async def _ask_and_write(target: Target, resolver: str, timeout_s: float) -> None:
    sample = await ask(target, resolver, timeout_s)
    sys.stdout.write(json.dumps(asdict(sample)) + "\n")
    sys.stdout.flush()


def main() -> int:
    """`python -m lab.client --hostname NAME …`."""
    parser = argparse.ArgumentParser(prog="lab.client", description=__doc__)
    parser.add_argument("--hostname", required=True)
    parser.add_argument("--path", default="/")
    parser.add_argument("--resolver", default="127.0.0.1")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds after which a request has failed")
    arguments = parser.parse_args()
    target = Target(arguments.hostname, arguments.path)
    asyncio.run(run(target, arguments.resolver, arguments.rate, arguments.timeout))
    return 0


if __name__ == "__main__":
    sys.exit(main())
