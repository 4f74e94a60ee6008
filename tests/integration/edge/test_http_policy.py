"""What an app may ask of the edge: fields, redirects, rewrites, pages, maintenance, bounds."""

from __future__ import annotations

import asyncio

import pytest

from locci.v1 import edge_pb2, manifest_pb2
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge


def wanting(origin: Origin, **wanted: object) -> edge_pb2.EdgeRoute:
    found = route("hello", ["hello.test", "www.hello.test"], [origin.address])
    found.http.CopyFrom(manifest_pb2.HttpPolicy(**wanted))  # type: ignore[arg-type]
    return found


def field(name: str, value: str) -> manifest_pb2.HeaderField:
    return manifest_pb2.HeaderField(name=name, value=value)


async def cacheable(seen: Seen) -> None:
    await seen.answer(200, b"x" * 6, Cache_Control="max-age=60", Server="secret/1.0", X_Kept="1", X_Twice="app")


RULES = {
    "request_headers": manifest_pb2.HeaderRules(
        remove=["Cookie"], set=[field("X-From", "edge")], add=[field("Accept-Language", "de")]
    ),
    "response_headers": manifest_pb2.HeaderRules(
        remove=["server"],
        set=[field("Cache-Control", "no-store"), field("X-Frame-Options", "DENY")],
        add=[field("Set-Cookie", "a=b")],
    ),
}


@pytest.fixture
async def plain(make_edge: MakeEdge) -> Edge:
    return await make_edge()


async def test_fields_are_changed_both_ways_also_of_what_is_stored(plain: Edge, origin: Origin) -> None:
    origin.handler = cacheable
    await plain.serve(wanting(origin, **RULES))
    for expected in ("fwd=uri-miss; stored", "hit", "hit"):
        response = await fetch(plain.port, "/a", Cookie="id=1", X_From="me", Accept_Language="en")
        assert expected in response.cache
        headers = response.headers
        assert "server" not in headers
        assert (headers["cache-control"], headers["x-frame-options"], headers["set-cookie"]) == (
            "no-store",
            "DENY",
            "a=b",
        )
        assert headers["x-kept"] == "1"
    head = await fetch(plain.port, "/a", "HEAD")
    assert ("hit" in head.cache, "server" in head.headers) == (True, False)
    posted = await fetch(plain.port, "/a", "POST", b"x", Cookie="id=1")
    assert ("server" in posted.headers, posted.headers["x-frame-options"]) == (False, "DENY")
    assert len(origin.seen) == 2
    for seen in origin.seen:
        assert ("cookie" in seen.headers, seen.headers["x-from"]) == (False, "edge")
        assert seen.raw_head.lower().count(b"x-from:") == 1
    assert origin.seen[0].raw_head.count(b"Accept-Language: ") == 2


async def test_other_rules_count_for_what_is_stored_at_once(plain: Edge, origin: Origin) -> None:
    origin.handler = cacheable
    await plain.serve(wanting(origin))
    async with await Client.open(plain.port) as client:
        for _ in range(3):
            assert (await client.get("/a")).headers["server"] == "secret/1.0"
        await plain.serve(wanting(origin, **RULES))
        for _ in range(3):
            response = await client.get("/a")
            assert ("hit" in response.cache, "server" in response.headers) == (True, False)
        await plain.serve(wanting(origin))
        assert (await client.get("/a")).headers["server"] == "secret/1.0"
    assert len(origin.seen) == 1


async def test_the_short_way_to_replicas_obeys_too(plain: Edge, origin: Origin) -> None:
    changed = wanting(origin, rewrites=[manifest_pb2.Rewrite(prefix="/api", target="/v1{rest}")], **RULES)
    changed.cache.disabled = True
    await plain.serve(changed)
    async with await Client.open(plain.port) as client:
        for number in range(5):
            response = await client.get(f"/api/{number}?q=1", Cookie="id=1")
            assert (response.status, response.headers["x-frame-options"]) == (200, "DENY")
    assert [seen.target for seen in origin.seen] == [f"/v1/{number}?q=1" for number in range(5)]
    assert all("cookie" not in seen.headers and seen.headers["x-from"] == "edge" for seen in origin.seen)


async def test_rewrites_change_what_replicas_are_asked_for_and_not_the_key(plain: Edge, origin: Origin) -> None:
    origin.handler = cacheable
    rewrites = [
        manifest_pb2.Rewrite(path="/old", target="/new?x=1"),
        manifest_pb2.Rewrite(prefix="/app", hostnames=["www.hello.test"], target="/{host}{rest}"),
        manifest_pb2.Rewrite(prefix="/", target="/sub{path}"),
    ]
    await plain.serve(wanting(origin, rewrites=rewrites))
    for target, host in (("/old?y=2", "hello.test"), ("/app/a?b", "www.hello.test"), ("/app/a?b", "hello.test")):
        for expected in ("stored", "hit"):
            assert expected in (await fetch(plain.port, target, Host=host)).cache
    assert [seen.target for seen in origin.seen] == ["/new?x=1", "/www.hello.test/a?b", "/sub/app/a?b"]


async def test_clients_are_sent_elsewhere_even_if_something_is_stored(plain: Edge, origin: Origin) -> None:
    origin.handler = cacheable
    await plain.serve(wanting(origin))
    async with await Client.open(plain.port) as client:
        for _ in range(2):
            assert (await client.get("/old")).status == 200
            assert (await client.get("/other")).status == 200
        redirects = [
            manifest_pb2.Redirect(path="/old", location="/new", status=301),
            manifest_pb2.Redirect(prefix="/docs", location="https://docs.test{rest}"),
            manifest_pb2.Redirect(
                prefix="/", hostnames=["www.hello.test"], location="https://hello.test{path}", status=302
            ),
        ]
        await plain.serve(wanting(origin, redirects=redirects))
        for _ in range(2):
            response = await client.get("/old?a=1")
            assert (response.status, response.headers["location"]) == (301, "/new?a=1")
            assert "detail=redirect" in response.cache
            assert "hit" in (await client.get("/other")).cache
        assert (await client.get("/old")).headers["location"] == "/new"
        response = await client.get("/docs/a?b", "POST", b"xyz")
        assert (response.status, response.headers["location"]) == (308, "https://docs.test/a?b")
        response = await client.get("/a", "HEAD", Host="www.hello.test")
        assert (response.status, response.headers["location"]) == (302, "https://hello.test/a")
        await plain.serve(wanting(origin))
        assert "hit" in (await client.get("/old")).cache


async def test_a_page_takes_the_place_of_errors_for_those_who_read_html(plain: Edge, origin: Origin) -> None:
    page = "<h1>{status}</h1><p>{message} &middot; {request_id}</p>"
    pages = [
        manifest_pb2.ErrorPage(statuses=[503], html="<h1>gone</h1>"),
        manifest_pb2.ErrorPage(statuses=[404, 500], html=page, replace_app=True),
    ]
    await plain.serve(wanting(origin, error_pages=pages))

    async def broken(seen: Seen) -> None:
        status = int(seen.target[1:])
        await seen.answer(status, b"stack trace", Retry_After="7", Cache_Control="max-age=60", X_Debug="1")

    origin.handler = broken
    async with await Client.open(plain.port) as client:
        for target, shown in (("/500", True), ("/404", True), ("/503", False), ("/200", False)):
            for _ in range(2):
                response = await client.get(target, Accept="text/html,*/*", X_Request_Id="abcdefgh-1")
                assert response.status == int(target[1:])
                if not shown:
                    assert response.body == b"stack trace"
                    continue
                text = f"<h1>{target[1:]}</h1>".encode()
                assert response.body.startswith(text), response.body
                assert b"abcdefgh-1" in response.body
                assert (response.headers["content-type"], response.headers["retry-after"]) == (
                    "text/html; charset=utf-8",
                    "7",
                )
                assert "x-debug" not in response.headers
        assert (await client.get("/404", Accept="application/json")).body == b"stack trace"
        posted = await client.get("/500", "POST", b"x")
        assert posted.body.startswith(b"<h1>500</h1>")
    assert origin.connections <= 2, "a short body is read to its end"
    await origin.stop()
    response = await fetch(plain.port, "/x")
    assert (response.status, response.body) == (503, b"<h1>gone</h1>")
    assert b"no healthy replica" in (await fetch(plain.port, "/x", Accept="application/json")).body


async def test_in_maintenance_nobody_is_served_but_those_who_are_let_in(make_edge: MakeEdge, origin: Origin) -> None:
    origin.handler = cacheable
    edge = await make_edge()
    await edge.serve(wanting(origin))
    async with await Client.open(edge.port) as client:
        for _ in range(2):
            assert (await client.get("/a")).status == 200
        look = manifest_pb2.MaintenancePolicy(html="<p>later: {status}</p>", allow=["192.0.2.0/24"])
        look.retry_after.FromSeconds(90)
        away = wanting(origin, maintenance=look)
        away.maintenance = True
        await edge.serve(away)
        for _ in range(2):
            response = await client.get("/a")
            assert (response.status, response.headers["retry-after"]) == (503, "90")
            assert (response.body, "detail=maintenance" in response.cache) == (b"<p>later: 503</p>", True)
        posted = await client.get("/a", "POST", b"xyz", Accept="application/json")
        assert (posted.status, posted.body) == (503, b"hello is in maintenance; come again later\n")
        look.allow.append("127.0.0.1")
        let_in = wanting(origin, maintenance=look)
        let_in.maintenance = True
        await edge.serve(let_in)
        for _ in range(2):
            assert "hit" in (await client.get("/a")).cache
        await edge.serve(away)
        assert (await client.get("/a")).status == 503, "what they were served is not served to others"
        assert (await client.get("/.well-known/locci/health")).status == 200
        await edge.serve(wanting(origin))
        assert "hit" in (await client.get("/a")).cache


async def test_rates_of_an_app_are_its_own(plain: Edge, origin: Origin) -> None:
    limits = manifest_pb2.TrafficLimits(client_rate=5 / 3600)
    limits.window.FromSeconds(3600)
    other = route("other", ["other.test"], [origin.address])
    page = manifest_pb2.ErrorPage(statuses=[429], html="<p>slowly</p>")
    await plain.serve(wanting(origin, limits=limits, error_pages=[page]), other)
    found = [(await fetch(plain.port, "/a")).status for _ in range(7)]
    assert found == [200] * 5 + [429] * 2
    refused = await fetch(plain.port, "/a")
    assert (refused.body, int(refused.headers["retry-after"]) > 0) == (b"<p>slowly</p>", True)
    assert (await fetch(plain.port, "/a", Host="other.test")).status == 200
    await plain.serve(wanting(origin, limits=limits), other)
    assert (await fetch(plain.port, "/a")).status == 429, "a new configuration forgets nothing"
    await plain.serve(wanting(origin, limits=manifest_pb2.TrafficLimits(rate=1000)), other)
    assert (await fetch(plain.port, "/a")).status == 200
    assert plain.counters.limited_total == 4
    await plain.serve(wanting(origin), other)
    assert plain.worker.state.rates is None


async def test_bodies_and_requests_in_progress_have_bounds(plain: Edge, origin: Origin) -> None:
    limits = manifest_pb2.TrafficLimits(max_body_bytes=10, max_in_progress=2)
    await plain.serve(wanting(origin, limits=limits))
    assert (await fetch(plain.port, "/", "POST", b"x" * 10)).status == 200
    assert (await fetch(plain.port, "/", "POST", b"x" * 11)).status == 413
    async with await Client.open(plain.port) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nabcdefgh\r\n")
        await client.send(b"8\r\nabcdefgh\r\n0\r\n\r\n")
        assert (await client.read()).status == 413
    go_on = asyncio.Event()

    async def slow(seen: Seen) -> None:
        await go_on.wait()
        await seen.answer(200, b"done")

    origin.handler, before = slow, len(origin.seen)
    asking = [asyncio.ensure_future(fetch(plain.port, f"/{number}")) for number in range(2)]
    await until(lambda: len(origin.seen) == before + 2)
    refused = await fetch(plain.port, "/3")
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    go_on.set()
    assert [(await one).status for one in asking] == [200, 200]
    assert (await fetch(plain.port, "/4")).status == 200
    assert plain.worker.state.asked["hello"] == 0
