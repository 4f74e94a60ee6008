"""Visitors of a soak that speak HTTP/2: several questions at once, resets in the middle, windows that stay shut."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable

import h2.exceptions

from tests.integration.edge.client import Response
from tests.integration.edge.h2_client import H2Client
from tests.integration.edge.soak import PATIENCE_S, Question, ask, check

AT_ONCE = 8


class H2Visitor:
    """Asks until `until` says that it is enough; what came of it is counted in `seen`."""

    def __init__(self, port: int, rng: random.Random, seen: Counter[str]):
        self._port = port
        self._rng = rng
        self._seen = seen
        self._client: H2Client | None = None

    async def visit(self, until: Callable[[], bool], *, manners: float = 0.9) -> None:
        """Below 1, `manners` is the share of questions whose answers are waited for."""
        try:
            while not until():
                questions = [ask(self._rng) for _ in range(self._rng.randint(1, AT_ONCE))]
                polite = self._rng.random() < manners
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await (self._all(questions, manners) if polite else self._vanish(questions))
                except TimeoutError:
                    raise AssertionError(f"stuck: {questions}") from None
                except ConnectionError:
                    self._leave()
                    self._seen["h2 closed"] += 1
                except h2.exceptions.ProtocolError:
                    if self._client is not None and not self._client.gone:
                        raise
                    self._leave()
                    self._seen["h2 closed"] += 1
        finally:
            self._leave()

    async def _ask(self, client: H2Client, question: Question) -> int:
        more = [(name.lower(), value) for name, value in question.headers.items()]
        posts = question.method == "POST"
        number = await client.ask(question.target, question.method, end=not posts, more=more)
        if posts:
            client.h2.send_data(number, b"x" * 100, end_stream=True)
            await client.flush()
        return number

    async def _all(self, questions: list[Question], manners: float) -> None:
        client = await self._connected()
        asked = [(await self._ask(client, question), question) for question in questions]
        given_up = set()
        for number, _ in asked:
            if self._rng.random() > manners and not client.answers[number].ended:
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    client.h2.reset_stream(number)
                    given_up.add(number)
        await client.flush()
        for number, question in asked:
            if number in given_up:
                self._seen["h2 reset"] += 1
                continue
            answer = await client.read(number)
            if not answer.status:
                self._seen["h2 unanswered"] += 1
                continue
            fields = {name: value for name, value in answer.headers.items() if not name.startswith(":")}
            self._seen["h2 " + check(question, Response(answer.status, fields, answer.body, answer.ended))] += 1
        client.answers.clear()
        if client.gone or client.goaway is not None:
            self._leave()

    async def _vanish(self, questions: list[Question]) -> None:
        """Asks, takes no more than its windows hold, or nothing, and is gone."""
        client = await self._connected()
        client.hold = True
        for question in questions:
            await self._ask(client, question)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rng.uniform(0.0, 0.2)):
                while not client.gone:
                    await client._step()
        client.writer.transport.abort()
        self._client = None
        self._seen["h2 vanished"] += 1

    async def _connected(self) -> H2Client:
        if self._client is None:
            self._client = await H2Client.open(self._port)
        return self._client

    def _leave(self) -> None:
        if self._client is not None:
            self._client.writer.close()
            self._client = None
