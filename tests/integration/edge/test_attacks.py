"""What attackers do to caches and proxies: deception, poisoning, bombs, requests that lead elsewhere, forged fields."""

from __future__ import annotations

import gzip

import pytest

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch
from tests.integration.edge.conftest import Edge, MakeEdge


async def raw(edge: Edge, data: bytes) -> tuple[int, bytes]:
    async with await Client.open(edge.port) as client:
        await client.send(data)
        answer = await client.read()
        return answer.status, answer.body


# ---- cache deception (Gil, 2017): a private page is stored because its path looks like a file's

LURES = ("/account/x.css", "/account;x.css", "/account%2fx.css", "/account%3bx.js", "/account/..%2fstatic/x.png",
         "/static/..%2faccount", "/account%0ax.css", "/account%23x.css", "/account?x.css", "/account%00.css",
         "/static/%2e%2e/account", "/account//x.css", "/ACCOUNT/X.CSS")  # fmt: skip


@pytest.mark.parametrize("lure", LURES)
async def test_a_path_that_looks_like_a_file_stores_nothing(edge: Edge, origin: Origin, lure: str) -> None:
    async def page(seen: Seen) -> None:
        await seen.answer(200, seen.headers["cookie"].encode(), Content_Type="text/html")

    origin.handler = page
    for user in ("victim", "attacker"):
        assert (await fetch(edge.port, lure, Cookie=user)).body == user.encode()
    assert len(edge.worker.state.store) == 0


async def test_paths_that_origins_may_see_as_one_are_stored_apart(edge: Edge, origin: Origin) -> None:
    async def echo(seen: Seen) -> None:
        await seen.answer(200, seen.target.encode(), Cache_Control="max-age=60")

    origin.handler = echo
    paths = ["/a/b", "/a%2fb", "/a%2Fb", "/a//b", "/a/./b", "/a/c/../b", "/a/b/", "/A/b", "/a/b?", "/a/b;x", "/a/b%20"]
    for _ in range(2):
        for path in paths:
            assert (await fetch(edge.port, path)).body.decode() == path
    assert [seen.target for seen in origin.seen] == paths


# ---- poisoning by what is not in the key (Kettle, 2018)


async def test_fields_about_the_client_cannot_poison(edge: Edge, origin: Origin) -> None:
    async def reflects(seen: Seen) -> None:
        names = ("host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-for", "x-real-ip",
                 "forwarded")  # fmt: skip
        body = " ".join(seen.headers.get(name, "-") for name in names)
        await seen.answer(200, body.encode(), Cache_Control="max-age=60")

    origin.handler = reflects
    evil = await fetch(
        edge.port,
        "/page",
        X_Forwarded_Host="evil.test",
        X_Forwarded_Proto="evil",
        X_Forwarded_Port="666",
        X_Forwarded_For="6.6.6.6",
        X_Real_IP="6.6.6.6",
        Forwarded="host=evil.test",
    )
    assert b"evil" not in evil.body
    assert b"6.6.6.6" not in evil.body
    assert b"666" not in evil.body


@pytest.mark.parametrize(
    "name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL"]
)
async def test_what_asks_for_another_path_or_method_is_not_stored(edge: Edge, origin: Origin, name: str) -> None:
    async def obeys(seen: Seen) -> None:
        body = seen.headers.get(name.lower(), "the page").encode()
        await seen.answer(200, body, Cache_Control="max-age=60")

    origin.handler = obeys
    assert (await fetch(edge.port, "/page", "GET", None, **{name: "/evil"})).body == b"/evil"
    assert (await fetch(edge.port, "/page")).body == b"the page"
    assert (await fetch(edge.port, "/page", "GET", None, **{name: "/evil"})).body == b"the page"


async def test_a_body_of_a_get_does_not_poison(edge: Edge, origin: Origin) -> None:
    async def obeys(seen: Seen) -> None:
        await seen.answer(200, seen.body or b"the page", Cache_Control="max-age=60")

    origin.handler = obeys
    assert (await fetch(edge.port, "/page", "GET", b"evil")).body == b"evil"
    assert (await fetch(edge.port, "/page")).body == b"the page"


async def test_parameters_cannot_be_hidden_from_the_key(make_edge: MakeEdge, origin: Origin) -> None:
    async def echo(seen: Seen) -> None:
        await seen.answer(200, seen.target.encode(), Cache_Control="max-age=60")

    origin.handler = echo
    edge = await make_edge()
    asked = route("hello", ["hello.test"], [origin.address])
    asked.cache.key.query_ignore.append("utm_*")
    await edge.serve(asked)
    assert (await fetch(edge.port, "/?q=good")).body == b"/?q=good"
    for target in ("/?q=good&utm_x=1;q=evil", "/?utm_x=1;q=evil&q=good", "/?q=good&utm%5fx=1;q=evil"):
        assert (await fetch(edge.port, target)).body.decode() == target


@pytest.mark.parametrize("status", [400, 403, 413, 414, 431, 500, 502])
async def test_an_error_that_a_request_provokes_is_not_stored(edge: Edge, origin: Origin, status: int) -> None:
    async def refuses(seen: Seen) -> None:
        large = len(seen.raw_head) > 8000
        await seen.answer(status if large else 200, b"x", **({} if large else {"Cache-Control": "max-age=60"}))

    origin.handler = refuses
    assert (await fetch(edge.port, "/page", X_Large="x" * 9000)).status == status
    assert (await fetch(edge.port, "/page")).status == 200


async def test_the_host_is_the_key_whatever_its_spelling(edge: Edge, origin: Origin) -> None:
    async def echo(seen: Seen) -> None:
        await seen.answer(200, seen.headers["host"].encode(), Cache_Control="max-age=60")

    origin.handler = echo
    for host in ("hello.test", "HELLO.test", "hello.test:80", "hello.test."):
        assert (await fetch(edge.port, "/", Host=host)).body == b"hello.test"
    assert len(origin.seen) == 1


# ---- decompression bombs


async def test_a_bomb_is_passed_on_and_stored_as_it_came(make_edge: MakeEdge, origin: Origin) -> None:
    bomb = gzip.compress(b"\0" * 30_000_000)

    async def bombs(seen: Seen) -> None:
        await seen.answer(200, bomb, Cache_Control="max-age=60", Content_Encoding="gzip", Content_Type="text/plain")

    origin.handler = bombs
    edge = await make_edge()
    asked = route("hello", ["hello.test"], [origin.address])
    asked.cache.compress = True
    await edge.serve(asked)
    for accepted in ("gzip", "identity"):
        for _ in range(2):
            assert (await fetch(edge.port, "/", Accept_Encoding=accepted)).body == bomb
    assert edge.worker.state.store.used_bytes < 4 * len(bomb) + 10_000
    assert (await fetch(edge.port, "/", "POST", bomb, Content_Encoding="gzip")).status == 200
    assert origin.seen[-1].body == bomb, "nor is a request's body opened"


# ---- requests to where they should not go

TARGETS = (b"http://169.254.169.254/latest/meta-data/", b"http://127.0.0.1:%d/", b"http://[::1]/", b"//127.0.0.1:%d/",
           b"http://user@127.0.0.1:%d/", b"http://hello.test@127.0.0.1:%d/", b"http://127.1/",
           b"http://0x7f000001/")  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
async def test_a_client_cannot_choose_where_a_request_goes(edge: Edge, origin: Origin, target: bytes) -> None:
    other = await Origin().start()
    status, _ = await raw(
        edge, b"GET " + target.replace(b"%d", b"%d" % other.port) + b" HTTP/1.1\r\nHost: hello.test\r\n\r\n"
    )
    assert status in ((200,) if target.startswith(b"//") else (400, 421))
    assert not other.connections
    assert all(seen.target == target.replace(b"%d", b"%d" % other.port).decode() for seen in origin.seen)
    await other.stop()


async def test_hosts_and_redirects_lead_nowhere_either(edge: Edge, origin: Origin) -> None:
    other = await Origin().start()

    async def redirects(seen: Seen) -> None:
        await seen.answer(302, b"", Location=f"http://{other.address}/", Content_Location=f"http://{other.address}/")

    origin.handler = redirects
    for host in (other.address, "localhost", "169.254.169.254", origin.address):
        assert (await fetch(edge.port, "/", Host=host)).status == 421
    assert (await fetch(edge.port, "/")).status == 302
    assert (await fetch(edge.port, "/", "POST", b"x")).status == 302
    assert not other.connections
    assert len(origin.seen) == 2
    await other.stop()


# ---- forged fields


async def test_fields_between_edges_mean_nothing_from_clients(edge: Edge, origin: Origin) -> None:
    async def echo(seen: Seen) -> None:
        await seen.answer(200, b"%d" % len(origin.seen), Cache_Control="max-age=60", Locci_Hop="no-local-replica")

    origin.handler = echo
    answer = await fetch(edge.port, "/", Locci_Hop="shield", X_Forwarded_For="6.6.6.6", CDN_Loop="other")
    assert "locci-hop" not in answer.headers
    assert not {"locci-hop", "locci-purge"} & origin.seen[0].headers.keys()
    assert origin.seen[0].headers["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("value", ["a", "x" * 200, "abc defgh", 'abcdefgh"', "abcdefgh;x", "<script>alert(1)</script>"])
async def test_ids_that_are_none_are_not_taken_over(edge: Edge, origin: Origin, value: str) -> None:
    answer = await fetch(edge.port, "/", X_Request_Id=value, traceparent=value)
    assert answer.headers["x-request-id"] != value
    assert origin.seen[0].headers["x-request-id"] == answer.headers["x-request-id"]
    assert origin.seen[0].headers["traceparent"] != value


@pytest.mark.parametrize(
    "target", ["/%0d%0aSet-Cookie:%20a=b", "/x%0aX:%20y", "/?next=%0d%0aX:%20y", "/%E5%98%8A%E5%98%8DX:y"]
)
async def test_encoded_line_ends_stay_encoded(make_edge: MakeEdge, origin: Origin, target: str) -> None:
    edge = await make_edge("tls", https_listen=["127.0.0.1:0"])
    secured = route("hello", ["hello.test"], [origin.address])
    await edge.serve(secured)
    await fetch(edge.port, target)
    assert origin.seen[0].target == target
    secured.tls.redirect = True
    await edge.serve(secured)
    answer = await fetch(edge.port, target)
    assert answer.status == 308
    assert answer.headers["location"].endswith(target)
    assert not {"set-cookie", "x"} & answer.headers.keys()
