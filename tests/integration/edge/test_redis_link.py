"""The connection to Redis, with a server that misbehaves in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest

from agent.edge import redis_link
from agent.edge.core import resp
from agent.edge.redis_address import Address
from agent.edge.redis_link import LinkError, RedisLink

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Listens on a unix socket and does with each connection what the test says."""

    def __init__(self, path: Path):
        self.path = path
        self.behaviour: Behaviour
        self.connections = 0
        self._server: asyncio.Server

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.behaviour(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    def stop(self) -> None:
        self._server.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path / "r.sock")
    await made.start()
    yield made
    made.stop()


MakeLink = Callable[..., RedisLink]


@pytest.fixture
async def link(server: Server) -> AsyncIterator[MakeLink]:
    made: list[RedisLink] = []

    def make(timeout_s: float = 5.0, **more: Any) -> RedisLink:
        async def locate() -> Address:
            return Address(path=str(server.path), **more)

        made.append(RedisLink(locate, timeout_s))
        return made[-1]

    yield make
    for each in made:
        await each.close()


def asked(link: RedisLink, command: bytes) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link.ask(command, future.set_result)  # a second call would raise
    return future


async def commands(reader: asyncio.StreamReader) -> AsyncIterator[list[bytes]]:
    replies = resp.Replies()
    while data := await reader.read(65536):
        for command in replies.feed(data):
            yield command


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers GET with the name, everything else with OK."""
    async for command in commands(reader):
        name = command[1]
        writer.write(b"$%d\r\n%b\r\n" % (len(name), name) if command[0] == b"GET" else b"+OK\r\n")


async def test_many_at_once_share_one_connection(server: Server, link: MakeLink) -> None:
    server.behaviour = echo
    made = link()
    names = [b"%d" % number for number in range(2000)]
    assert await asyncio.gather(*(asked(made, resp.get(name)) for name in names)) == names
    assert server.connections == 1


async def test_it_begins_with_who_it_is(server: Server, link: MakeLink) -> None:
    seen: list[list[bytes]] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command in commands(reader):
            seen.append(command)
            writer.write(b"+OK\r\n")

    server.behaviour = note
    assert await asked(link(username="u", password="p", database=2), resp.get(b"a")) == b"OK"
    assert seen == [[b"AUTH", b"u", b"p"], [b"SELECT", b"2"], [b"GET", b"a"]]


async def test_a_wrong_password_is_a_failure(server: Server, link: MakeLink) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for _ in commands(reader):
            writer.write(b"-WRONGPASS no\r\n")

    server.behaviour = refuse
    answer = await asked(link(password="p"), resp.get(b"a"))
    assert isinstance(answer, LinkError)
    assert "WRONGPASS" in str(answer)


async def test_errors_are_answers_of_one_command_only(server: Server, link: MakeLink) -> None:
    async def moody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command in commands(reader):
            writer.write(b"-ERR no\r\n" if command[1] == b"bad" else b"$-1\r\n")

    server.behaviour = moody
    made = link()
    good, bad, more = await asyncio.gather(*(asked(made, resp.get(name)) for name in (b"a", b"bad", b"b")))
    assert (good, more) == (None, None)
    assert isinstance(bad, hiredis.ReplyError)


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\0", b"$abc\r\n", b"*-5\r\n"])
async def test_garbage_fails_all_that_wait_and_the_next_begins_anew(
    server: Server, link: MakeLink, garbage: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(garbage)
        await reader.read()

    server.behaviour = talk
    made = link()
    answers = await asyncio.gather(*(asked(made, resp.get(b"a")) for _ in range(5)))
    assert all(isinstance(answer, LinkError) for answer in answers)
    server.behaviour = echo
    assert await asked(made, resp.get(b"a")) == b"a"


async def test_a_reply_that_nobody_asked_for(server: Server, link: MakeLink) -> None:
    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"$1\r\na\r\n$5\r\nother\r\n")
        await reader.read()

    server.behaviour = chatty
    made = link()
    assert await asked(made, resp.get(b"a")) == b"a"
    server.behaviour = echo
    assert await asked(made, resp.get(b"b")) == b"b", "not the answer that came too early"


async def test_half_an_answer_and_the_end(server: Server, link: MakeLink) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"$1\r\na\r\n$10\r\nhal")

    server.behaviour = half
    made = link()
    whole, cut = await asyncio.gather(asked(made, resp.get(b"a")), asked(made, resp.get(b"b")))
    assert whole == b"a"
    assert isinstance(cut, LinkError)


async def test_who_waits_too_long_is_told_and_the_late_reply_is_nobodys(server: Server, link: MakeLink) -> None:
    late = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for command in commands(reader):
            if command[1] == b"slow":
                await late.wait()
            writer.write(b"$%d\r\n%b\r\n" % (len(command[1]), command[1]))

    server.behaviour = slow
    made = link(0.05)
    answer = await asked(made, resp.get(b"slow"))
    assert "in time" in str(answer)
    late.set()
    async with asyncio.timeout(5):
        while await asked(made, resp.get(b"quick")) != b"quick":
            pass
    assert server.connections == 1


async def test_a_server_that_hangs_is_left(server: Server, link: MakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_link, "HUNG_S", 0.05)
    left = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass
        left.set()

    server.behaviour = hang
    made = link(0.02)
    assert isinstance(await asked(made, resp.get(b"a")), LinkError)
    async with asyncio.timeout(5):
        await left.wait()
    server.behaviour = echo
    async with asyncio.timeout(5):
        while await asked(made, resp.get(b"a")) != b"a":
            pass


async def test_nobody_there(tmp_path: Path) -> None:
    async def locate() -> Address:
        return Address(path=str(tmp_path / "nothing.sock"))

    made = RedisLink(locate, 5.0)
    answers = await asyncio.gather(*(asked(made, resp.get(b"a")) for _ in range(3)))
    assert all("no connection" in str(answer) for answer in answers)
    await made.close()
    assert "closed" in str(await asked(made, resp.get(b"a")))


async def test_one_that_fails_in_its_answer_does_not_harm_the_next(server: Server, link: MakeLink) -> None:
    server.behaviour = echo
    made = link()

    def fail(_: Any) -> None:
        raise RuntimeError("a fault of the caller")

    made.ask(resp.get(b"a"), fail)
    assert await asked(made, resp.get(b"b")) == b"b"


async def test_who_ends_the_connection_in_its_answer(server: Server, link: MakeLink) -> None:
    server.behaviour = echo
    made = link()
    made.ask(resp.get(b"a"), lambda _: made.reset("a new master"))
    second = asked(made, resp.get(b"b"))
    assert isinstance(await second, LinkError)
    assert await asked(made, resp.get(b"c")) == b"c"
    assert server.connections == 2
