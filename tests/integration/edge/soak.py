"""What a soak of the edge is made of: an origin with bad days, clients with bad manners, bodies that name their URL."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.fakes.origin import Seen
from tests.integration.edge.client import Client, Response

LANGUAGES: Final = ("de", "en", "fr")
USERS: Final = ("alice", "bob", "carol")
KINDS: Final = {
    "shared": "max-age=2",
    "stale": "max-age=1, stale-while-revalidate=3, stale-if-error=10",
    "checked": "no-cache",
    "private": "private, max-age=5",
    "secret": "no-store",
    "signed": "max-age=5",
    "large": "max-age=2",
}
"""By first part of the path, what the origin says of caching. `signed` is asked for with credentials, `private` and
`secret` are for one user."""
_OWN: Final = ("private", "secret", "signed")
_SIZES: Final = {"large": 300_000}
PATIENCE_S: Final = 20.0
_FINE: Final = (200, 206, 304, 500, 502, 503, 504)


def body_of(target: str, language: str, user: str) -> bytes:
    """The only right body of a URL for this language and user."""
    kind = target.split("/")[1]
    seed = f"{target}|{language}|{user if kind in _OWN else ''}"
    digest = hashlib.sha256(seed.encode()).hexdigest()
    size = _SIZES.get(kind, 64 + int(digest[:3], 16) * 4)
    return (f"{seed}|{digest}\n".encode() * (size // 64 + 1))[:size]


def place_of(wanted: str, size: int) -> tuple[int, int] | None:
    """First and last byte of one range of bytes, when there is one."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
    if match is None or not (match[1] or match[2]):
        return None
    first = int(match[1]) if match[1] else max(0, size - int(match[2]))
    last = min(size - 1, int(match[2])) if match[1] and match[2] else size - 1
    return (first, last) if first <= last else None


class Origin:
    """Answers what `body_of` says, and now and then does what origins do at their worst. For `tests.fakes.origin`."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self.faulty = False

    async def __call__(self, seen: Seen) -> None:
        headers = seen.headers
        kind = seen.target.split("/")[1]
        language, user = headers.get("accept-language", "en"), headers.get("authorization", headers.get("cookie", ""))
        body = body_of(seen.target, language, user)
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        fields = {"ETag": etag, "Cache-Control": KINDS[kind], "Vary": "Accept-Language", "Content-Type": "text/plain"}
        if headers.get("if-none-match") == etag and not (self.faulty and self._rng.random() < 0.25):
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            await seen.send(f"HTTP/1.1 304 X\r\n{lines}\r\n".encode())
            return
        status = 200
        place = place_of(headers.get("range", ""), len(body))
        if place is not None and headers.get("if-range") in (None, etag) and self._rng.random() < 0.8:
            status, fields["Content-Range"] = 206, f"bytes {place[0]}-{place[1]}/{len(body)}"
            body = body[place[0] : place[1] + 1]
        if self.faulty and self._rng.random() < 0.25:
            await self._fail(seen, status, body, fields)
        else:
            await seen.answer(status, body, **fields)

    async def _fail(self, seen: Seen, status: int, body: bytes, fields: dict[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        sized = f"HTTP/1.1 {status} X\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode()
        chunked = f"HTTP/1.1 {status} X\r\n{lines}Transfer-Encoding: chunked\r\n\r\n".encode()
        half = body[: len(body) // 2]
        match self._rng.choice(("slow", "cut", "close", "error", "hang", "garbage", "dribble", "chunks", "cut-chunks")):
            case "slow":
                await asyncio.sleep(self._rng.uniform(0.0, 0.8))
                await seen.answer(status, body, **fields)
            case "cut":
                await seen.send(sized + half)
                seen.writer.transport.abort()
            case "close":
                seen.writer.transport.abort()
            case "error":
                await seen.answer(503, b"try later")
            case "hang":
                await asyncio.sleep(2.0)
                seen.writer.transport.abort()
            case "garbage":
                await seen.send(self._rng.randbytes(200))
                seen.writer.transport.abort()
            case "dribble":
                await seen.send(sized)
                for start in range(0, len(body), len(body) // 5 + 1):
                    await seen.send(body[start : start + len(body) // 5 + 1])
                    await asyncio.sleep(0.02)
            case "chunks":
                await seen.send(chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            case _:
                await seen.send(chunked + b"%x\r\n%s" % (len(body), half))
                seen.writer.transport.abort()


@dataclass(frozen=True, slots=True)
class Question:
    """One request of a client."""

    method: str
    target: str
    headers: dict[str, str]
    language: str
    user: str


def ask(rng: random.Random) -> Question:
    """Some URLs are asked for often, others seldom."""
    kind = rng.choices(list(KINDS), (6, 4, 2, 2, 1, 2, 2))[0]
    target = f"/{kind}/{min(int(rng.expovariate(0.1)), 80)}"
    language, user = rng.choice(LANGUAGES), rng.choice(USERS) if kind in _OWN else ""
    headers = {"Accept-Language": language}
    if user:
        headers["Authorization" if kind == "signed" else "Cookie"] = user
    body = body_of(target, language, user)
    if rng.random() < 0.25:
        begin = rng.randrange(len(body))
        end = str(min(len(body) - 1, begin + rng.randrange(2000)))
        headers["Range"] = rng.choice((f"bytes={begin}-{end}", f"bytes={begin}-", f"bytes=-{end}", f"bytes=0-{end}"))
        if headers["Range"] == "bytes=-0":
            del headers["Range"]
    elif rng.random() < 0.1:
        headers["If-None-Match"] = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    if rng.random() < 0.2:
        headers["Accept-Encoding"] = "gzip"
    method = rng.choices(("GET", "HEAD", "POST"), (20, 2, 1))[0]
    return Question(method, target, headers, language, user)


def check(question: Question, response: Response) -> str:
    """What came of a question, in a word. Fails when what came is wrong."""
    wanted, status = body_of(question.target, question.language, question.user), response.status
    assert status in _FINE, (question, response.status, response.headers)
    if not response.whole:
        return "cut off"
    if status == 304:
        assert "If-None-Match" in question.headers, question
    elif status in (200, 206) and question.method != "HEAD":
        got = response.body
        if response.headers.get("content-encoding") == "gzip":
            assert question.headers.get("Accept-Encoding") == "gzip", (question, response.headers)
            got = gzip.decompress(got)
        if status == 206:
            unit, _, rest = response.headers["content-range"].partition(" ")
            first, last = map(int, rest.partition("/")[0].split("-"))
            assert (unit, rest.partition("/")[2]) == ("bytes", str(len(wanted))), response.headers
            wanted = wanted[first : last + 1]
        assert got == wanted, (question, response.headers, got[:200])
    return str(status)


class Visitor:
    """Asks until `until` says that it is enough; what came of it is counted in `seen`."""

    def __init__(self, port: int, rng: random.Random, seen: Counter[str]):
        self._port = port
        self._rng = rng
        self._seen = seen
        self._client: Client | None = None

    async def visit(self, until: Callable[[], bool], *, manners: float = 0.9) -> None:
        """Below 1, `manners` is the share of requests whose answer is waited for."""
        try:
            while not until():
                question = ask(self._rng)
                if self._rng.random() < manners:
                    self._seen[await self._one(question)] += 1
                else:
                    await self._vanish(question)
        finally:
            self._leave()

    async def _one(self, question: Question) -> str:
        client = await self._connected()
        try:
            async with asyncio.timeout(PATIENCE_S):
                body = b"x" * 100 if question.method == "POST" else None
                response = await client.get(question.target, question.method, body, **_names(question.headers))
        except TimeoutError:
            raise AssertionError(f"stuck: {question}") from None
        except (ConnectionError, asyncio.IncompleteReadError):
            self._leave()
            return "closed"
        if not response.whole or response.headers.get("connection") == "close":
            self._leave()
        return check(question, response)

    async def _vanish(self, question: Question) -> None:
        """Asks, perhaps twice at once, perhaps takes a little of the answer, and is gone."""
        client = await self._connected()
        lines = "".join(f"{name}: {value}\r\n" for name, value in question.headers.items())
        request = f"GET {question.target} HTTP/1.1\r\nHost: hello.test\r\n{lines}\r\n".encode()
        with contextlib.suppress(ConnectionError, TimeoutError):
            await client.send(request * self._rng.choice((1, 1, 3)))
            async with asyncio.timeout(self._rng.uniform(0.0, 0.1)):
                while await client.reader.read(1000):
                    await asyncio.sleep(0.01)
        client.reset()
        self._client = None
        self._seen["vanished"] += 1

    async def _connected(self) -> Client:
        if self._client is None:
            self._client = await Client.open(self._port)
        return self._client

    def _leave(self) -> None:
        if self._client is not None:
            self._client.writer.close()
            self._client = None


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in headers.items()}
