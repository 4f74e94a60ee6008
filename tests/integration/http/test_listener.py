"""The listener on loopback TLS with small services: everything that a client can do to it."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from control_plane.core.quota import Quota, Quotas
from control_plane.http.dispatch import Limits
from control_plane.http.listener import HttpListener, split_address, start_http
from fleet.errors import LocciError
from tests.fakes.authority import Authority
from tests.integration.http.small_services import TOKEN, Regions, authenticate, services
from tests.integration.http.wire import careless, raw, request, status

QUOTA = Quota(rate_per_s=0.01, burst=30)
LIMITS = Limits(body_s=0.4, request_s=0.8, requests=3, streams=2, enrol_burst=3, enrol_every_s=60.0, heartbeat_s=0.1)
JSON = "Content-Type: application/json\r\n"


@dataclass
class Served:
    """A running listener and a client that speaks for the one good token."""

    listener: HttpListener
    client: aiohttp.ClientSession
    regions: Regions
    ready: bool = True

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.listener.port}"

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.client.request(method, self.url + path, **options) as response:
            content = await response.read()
            return response.status, json.loads(content) if content else None


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    key, chain = Authority().server()
    (tmp_path / "server.pem").write_bytes(key + chain)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem")
    regions = Regions()
    connector = aiohttp.TCPConnector(ssl=careless())
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as client:
        here = Served(None, client, regions)  # type: ignore[arg-type]
        here.listener = await start_http(
            services(regions),
            authenticate,
            "127.0.0.1:0",
            tls,
            lambda: "" if here.ready else "it starts",
            LIMITS,
            Quotas(QUOTA),
        )
        yield here
        await here.listener.close()


async def test_calls_carry_requests_and_answers(served: Served) -> None:
    code, answer = await served.call("POST", "/v1/regions?region_id=eu&validate_only=true", json={"latitude": 5})
    assert (code, answer["name"], answer["latitude"], answer["longitude"]) == (200, "regions/eu", 5.0, 0.0)
    assert served.regions.last.validate_only
    await served.call("GET", "/v1/regions")
    assert served.regions.caller is not None
    assert served.regions.caller.principal == "operators/good"
    assert await served.call("DELETE", "/v1/regions/eu") == (200, {})
    await served.call("PATCH", "/v1/regions/eu", json={"display_name": ""})
    assert list(served.regions.last.update_mask.paths) == ["display_name"]


async def test_every_answer_has_a_request_id(served: Served) -> None:
    for path in ("/v1/regions", "/v1/regions/none", "/nowhere", "/healthz"):
        async with served.client.get(served.url + path, headers={"X-Request-Id": "mine-1"}) as response:
            assert response.headers["X-Request-Id"] == "mine-1"
        async with served.client.get(served.url + path, headers={"X-Request-Id": "not mine"}) as response:
            assert len(response.headers["X-Request-Id"]) == 32


async def test_long_answers_are_compressed_for_who_takes_that(served: Served) -> None:
    url = f"{served.url}/v1/regions?page_size=50"
    async with served.client.get(url, headers={"Accept-Encoding": "gzip"}, auto_decompress=False) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert len(json.loads(gzip.decompress(await response.read()))["regions"]) == 50
    async with served.client.get(url, headers={"Accept-Encoding": "identity"}) as response:
        assert "Content-Encoding" not in response.headers


async def test_head_and_options(served: Served) -> None:
    async with served.client.head(f"{served.url}/v1/regions") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert int(response.headers["Content-Length"]) > 0
    async with served.client.options(f"{served.url}/v1/regions") as response:
        assert (response.status, response.headers["Allow"]) == (204, "GET, HEAD, POST")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic Zm9v", "Bearer é", "Bearer " + "x" * 3000])
async def test_a_token_that_is_not_good_gets_words_that_tell_nothing(served: Served, header: str) -> None:
    answer = await raw(served.listener.port, request("GET", "/v1/regions", f"Authorization: {header}\r\n"))
    assert status(answer) == 401
    assert b"WWW-Authenticate: Bearer" in answer
    assert b"table of tokens" not in answer


async def test_who_may_come_without_a_token(served: Served) -> None:
    for path, expected in (("/v1/ca", 200), ("/healthz", 200), ("/openapi.json", 200), ("/metrics", 200)):
        assert status(await raw(served.listener.port, request("GET", path))) == expected


async def test_enrolment_is_bounded_per_client(served: Served) -> None:
    body = {"token": "t", "csr_pem": "c", "node_id": "n"}
    codes = [(await served.call("POST", "/v1/nodes:enrol", json=body))[0] for _ in range(5)]
    assert codes == [401, 401, 401, 429, 429]
    assert (await served.call("GET", "/v1/ca"))[0] == 200


async def test_an_error_inside_shows_nothing_of_the_inside(served: Served) -> None:
    code, problem = await served.call("GET", "/v1/regions/broken")
    assert (code, problem["code"]) == (500, "INTERNAL")
    assert "secret" not in json.dumps(problem)
    assert problem["request_id"] in problem["detail"]


async def test_a_request_has_a_deadline_and_slots_are_bounded(served: Served) -> None:
    slow = [asyncio.create_task(served.call("GET", "/v1/regions/slow")) for _ in range(3)]
    await asyncio.sleep(0.2)
    code, problem = await served.call("GET", "/v1/regions")
    assert (code, problem["reason"]) == (503, "OVERLOADED")
    assert [(await task)[0] for task in slow] == [504] * 3
    assert (await served.call("GET", "/v1/regions"))[0] == 200


async def test_each_token_has_a_rate_and_is_told_what_is_left(served: Served) -> None:
    async with served.client.get(f"{served.url}/v1/regions") as response:
        assert int(response.headers["RateLimit-Limit"]) == QUOTA.burst
        assert int(response.headers["RateLimit-Remaining"]) == QUOTA.burst - 1
    answers = [await served.call("GET", "/v1/regions") for _ in range(QUOTA.burst)]
    code, problem = answers[-1]
    assert (code, problem["reason"], problem["code"]) == (429, "RATE_EXCEEDED", "RESOURCE_EXHAUSTED")
    async with served.client.get(f"{served.url}/v1/regions") as response:
        assert int(response.headers["Retry-After"]) >= 1
    assert (await served.call("GET", "/healthz"))[0] == 200


async def test_what_a_client_does_not_take_is_not_sent(served: Served) -> None:
    for accept, expected in (
        ("text/html", 406),
        ("application/json;q=0", 406),
        ("application/*", 200),
        ("text/html, */*;q=0.1", 200),
    ):
        code, _ = await served.call("GET", "/v1/regions", headers={"Accept": accept})
        assert code == expected, accept


async def test_every_field_that_is_wrong_is_named(served: Served) -> None:
    body = {"latitude": "north", "nome": 1, "networks": [5]}
    code, problem = await served.call("POST", "/v1/regions?region_id=eu", json=body)
    assert code == 400
    assert [error["field"] for error in problem["errors"]] == ["region.latitude", "region.nome", "region.networks[0]"]
    assert problem["field"] == "region.latitude"


async def test_readiness(served: Served) -> None:
    assert (await served.call("GET", "/readyz"))[0] == 200
    served.ready = False
    code, problem = await served.call("GET", "/readyz")
    assert (code, problem["reason"]) == (503, "NOT_READY")


@pytest.mark.parametrize(
    ("content", "expected", "reason"),
    [
        (b"\x16\x03\x01garbage\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET /v1/regions HTTP/1.1\r\nHost: h\r\nBad Header: x\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431, "HEADERS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, "HEADERS_TOO_LARGE"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431, "HEADERS_TOO_LARGE"),
        (request("GET", "/v1/nothing", token=TOKEN), 404, "NO_SUCH_PATH"),
        (request("PUT", "/v1/regions", token=TOKEN), 405, "METHOD_NOT_ALLOWED"),
        (request("POST", "/healthz"), 405, "METHOD_NOT_ALLOWED"),
        (request("GET", "/v1/regions/%ff", token=TOKEN), 400, "INVALID_FIELD"),
        (request("GET", "/v1/regions?page_size=x", token=TOKEN), 400, "INVALID_FIELD"),
        (request("GET", "/v1/regions?%ff=1", token=TOKEN), 400, ""),
        (request("POST", "/v1/regions", f"{JSON}Content-Length: 1\r\n", b"{", TOKEN), 400, "MALFORMED_JSON"),
        (request("POST", "/v1/regions", f"{JSON}Content-Length: 2000000\r\n", b"{}", TOKEN), 413, "BODY_TOO_LARGE"),
        (request("POST", "/v1/regions", f"{JSON}Content-Length: 9\r\n", b"{", TOKEN), 408, "BODY_TOO_SLOW"),
        (
            request("POST", "/v1/regions", f"{JSON}Transfer-Encoding: chunked\r\n", b"zz\r\n", TOKEN),
            400,
            "MALFORMED_REQUEST",
        ),
        (request("POST", "/v1/regions", "Content-Length: 2\r\n", b"{}", TOKEN), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (
            request("POST", "/v1/regions", "Content-Type: text/plain\r\nContent-Length: 2\r\n", b"{}", TOKEN),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            request("POST", "/v1/regions", f"{JSON}Content-Encoding: gzip\r\nContent-Length: 2\r\n", b"{}", TOKEN),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            request("POST", "/v1/regions", f"{JSON}Expect: tea\r\nContent-Length: 2\r\n", b"{}", TOKEN),
            417,
            "EXPECTATION_FAILED",
        ),
        (request("GET", "/v1/regions", f"{JSON}Content-Length: 2\r\n", b"{}", TOKEN), 400, "UNEXPECTED_BODY"),
    ],
)
async def test_what_is_not_in_order_gets_a_problem(served: Served, content: bytes, expected: int, reason: str) -> None:
    answer = await raw(served.listener.port, content)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status(answer) == expected
    assert b"application/problem+json" in head
    assert b"Traceback" not in answer
    problem = json.loads(body)
    assert problem["status"] == expected
    assert problem["reason"] == reason or not reason
    assert (await served.call("GET", "/v1/regions"))[0] == 200


async def test_a_body_that_grows_beyond_the_limit_in_chunks(served: Served) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65_536

    headers = {"Content-Type": "application/json"}
    code, problem = await served.call("POST", "/v1/regions", data=chunks(), headers=headers)
    assert (code, problem["reason"]) == (413, "BODY_TOO_LARGE")


async def test_a_client_that_asks_before_it_sends(served: Served) -> None:
    code, answer = await served.call("POST", "/v1/regions?region_id=eu", json={}, expect100=True)
    assert (code, answer["name"]) == (200, "regions/eu")


@pytest.mark.parametrize("content", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 500, b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_what_is_no_tls(served: Served, content: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.listener.port)
    writer.write(content)
    if content and not content.startswith(b"\x16"):
        async with asyncio.timeout(30):
            await reader.read()
    writer.close()
    assert (await served.call("GET", "/v1/regions"))[0] == 200


async def read_stream(served: Served, query: str, headers: dict[str, str] | None = None) -> str:
    async with asyncio.timeout(30):
        async with served.client.get(f"{served.url}/v1/events:watch{query}", headers=headers or {}) as response:
            assert response.content_type == "text/event-stream"
            return (await response.read()).decode()


async def test_a_stream_sends_events_and_says_its_end(served: Served) -> None:
    text = await read_stream(served, "?after_sequence=4")
    assert [line for line in text.splitlines() if line.startswith("id: ")] == ["id: 5", "id: 6", "id: 7"]
    assert text.endswith("event: end\ndata: {}\n\n")


async def test_a_stream_goes_on_where_it_was_left(served: Served) -> None:
    assert "id: 10\n" in await read_stream(served, "?after_sequence=4", {"Last-Event-ID": "9"})


async def test_a_stream_that_cannot_begin_is_a_problem(served: Served) -> None:
    code, problem = await served.call("GET", "/v1/events:watch?subject=apps/none")
    assert (code, problem["code"]) == (404, "NOT_FOUND")


async def test_a_stream_that_breaks_says_so(served: Served) -> None:
    text = await read_stream(served, "?subject=apps/broken")
    problem = json.loads(text.partition("event: error\ndata: ")[2])
    assert problem["code"] == "INTERNAL"
    assert "secret" not in text


async def test_streams_are_alive_bounded_and_end_with_the_server(served: Served) -> None:
    streams = [asyncio.create_task(read_stream(served, "?subject=apps/silent")) for _ in range(2)]
    await asyncio.sleep(0.5)
    code, problem = await served.call("GET", "/v1/events:watch")
    assert (code, problem["reason"]) == (503, "OVERLOADED")
    assert (await served.call("GET", "/v1/regions"))[0] == 200
    await served.listener.close()
    for stream in streams:
        text = await stream
        assert text.count(": heartbeat") >= 2
        assert "event: end" not in text


async def test_an_address_that_is_taken(served: Served) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(LocciError, match="cannot listen at"):
        await start_http([], authenticate, f"127.0.0.1:{served.listener.port}", tls, lambda: "")


def test_addresses() -> None:
    assert split_address("127.0.0.1:7443") == ("127.0.0.1", 7443)
    assert split_address("[::1]:0") == ("::1", 0)
    for wrong in ("7443", "h:", "h:x", "h:70000"):
        with pytest.raises(LocciError, match="host:port"):
            split_address(wrong)
