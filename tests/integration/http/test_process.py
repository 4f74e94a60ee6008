"""A real `locci-server` process under clients that know no manners."""

from __future__ import annotations

import asyncio
import json
import random

from tests.integration.http.conftest import RealServer
from tests.integration.http.wire import raw, request, status


async def test_it_outlives_garbage(server: RealServer) -> None:
    rng = random.Random(7)
    valid = request(
        "POST", "/v1/apps:apply", "Content-Type: application/json\r\nContent-Length: 2\r\n", b"{}", server.token
    )
    attempts = []
    for _ in range(60):
        content = bytearray(valid)
        for _ in range(rng.randrange(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        attempts.append(bytes(content) + b"\r\n\r\n")
    attempts += [rng.randbytes(rng.randrange(1, 3000)) + b"\r\n\r\n" for _ in range(20)]
    for start in range(0, len(attempts), 20):
        batch = attempts[start : start + 20]
        answers = await asyncio.gather(*(raw(server.port, each, seconds=1) for each in batch), return_exceptions=True)
        for attempt, answer in zip(batch, answers, strict=True):
            assert isinstance(answer, bytes | TimeoutError), (attempt, answer)
            assert not isinstance(answer, bytes) or (status(answer) < 500 and b"Traceback" not in answer), attempt
    assert status(await raw(server.port, request("GET", "/readyz"))) == 200


async def test_many_slow_clients_do_not_keep_others_out(server: RealServer) -> None:
    head = request(
        "POST", "/v1/apps:apply", "Content-Type: application/json\r\nContent-Length: 100\r\n", b"{", server.token
    )
    slow = [asyncio.create_task(raw(server.port, head, seconds=30)) for _ in range(50)]
    await asyncio.sleep(0.2)
    async with asyncio.timeout(30):
        assert status(await raw(server.port, request("GET", "/v1/regions", token=server.token))) == 200
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_an_oversized_body(server: RealServer) -> None:
    big = 2 << 20
    content = request(
        "POST",
        "/v1/apps:apply",
        f"Content-Type: application/json\r\nContent-Length: {big}\r\n",
        b" " * big,
        server.token,
    )
    assert status(await raw(server.port, content)) == 413


async def test_the_document_describes_what_is_served(server: RealServer) -> None:
    answer = await raw(server.port, request("GET", "/openapi.json"))
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    for path, item in document["paths"].items():
        for verb in item:
            if ":watch" in path or path in ("/v1/nodes:enrol", "/v1/nodes:recover"):
                continue
            code = status(await raw(server.port, request(verb.upper(), path.replace("{", "").replace("}", ""))))
            assert code == (200 if item[verb].get("security") == [] else 401), (verb, path)
