"""Plays scenarios against an edge with a counting origin: which answer of the origin a client gets in each step."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from agent.edge.core import http_date
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, Response, until
from tests.integration.edge.conftest import Edge, MakeEdge

Headers = dict[str, str]
DAY = 86_400


def date(ahead_s: float = 0) -> str:
    return http_date.render(time.time() + ahead_s).decode()


FRESH = {"Cache-Control": "max-age=3600"}
TAG = {"ETag": '"v1"'}
OLD = {"Last-Modified": date(-10 * DAY)}


@dataclass
class Step:
    """A request, and the number of the origin's answer that its body must come from (or only a status)."""

    expect: int
    request: Headers = field(default_factory=dict)
    method: str = "GET"
    status: int = 200
    target: str = ""
    """Another path, below the scenario's own."""
    member: str = ""
    """What Cache-Status must contain."""


@dataclass
class Answer:
    """An answer of the origin."""

    headers: Headers
    status: int = 200


def hit(request: Headers | None = None) -> list[Step]:
    """Two requests, of which the second must be answered from the first's response."""
    return [Step(1), Step(1, request or {}, member="hit")]


def miss(request: Headers | None = None) -> list[Step]:
    """Two requests that both must get to the origin."""
    return [Step(1), Step(2, request or {}, member="fwd=")]


def control(value: str, **more: str) -> list[Answer]:
    return [Answer({"Cache-Control": value, **{name.replace("_", "-"): text for name, text in more.items()}})]


SCENARIOS: dict[str, tuple[list[Answer], list[Step]]] = {
    # RFC 9111 section 4.2.1: lifetimes
    "max-age": (control("max-age=3600"), hit()),
    "max-age-zero": (control("max-age=0"), miss()),
    "max-age-upper-case": (control("MaX-aGe=3600"), hit()),
    "max-age-quoted": (control('max-age="3600"'), hit()),
    "max-age-decimal": (control("max-age=3600.5"), miss()),
    "max-age-negative": (control("max-age=-3600"), miss()),
    "max-age-leading-zero": (control("max-age=003600"), hit()),
    "max-age-single-quoted": (control("max-age='3600'"), miss()),
    "max-age-with-a-letter": (control("max-age=3600a"), miss()),
    "max-age-space-before-equals": (control("max-age =3600"), miss()),
    "max-age-space-after-equals": (control("max-age= 3600"), miss()),
    "max-age-and-one-in-quotes": (control('max-age=0, ext="max-age=3600"'), miss()),
    "max-age-overflow": (control("max-age=99999999999999999999"), hit()),
    "max-age-in-a-quoted-extension": (control('ext="max-age=3600"'), miss()),
    "max-age-repeated": (control("max-age=3600, max-age=0"), hit()),
    "extension-ignored": (control("foo, max-age=3600, bar=baz"), hit()),
    "s-maxage-first": (control("max-age=3600, s-maxage=0"), miss()),
    "s-maxage-long": (control("max-age=0, s-maxage=3600"), hit()),
    "max-age-before-expires": (control("max-age=3600", Expires="0"), hit()),
    "expires": ([Answer({"Expires": date(3600), "Date": date()})], hit()),
    "expires-past": ([Answer({"Expires": date(-10), "Date": date()})], miss()),
    "expires-zero": ([Answer({"Expires": "0"})], miss()),
    "expires-repeated": ([Answer({"Expires": f"{date(3600)}, {date(3600)}"})], miss()),
    "expires-local-zone": ([Answer({"Expires": date(3600).replace("GMT", "EST")})], miss()),
    "expires-case": ([Answer({"Expires": date(3600).lower()})], hit()),
    "no-heuristics": ([Answer(OLD)], miss()),
    # Section 4.2.3: age
    "age-greater-than-lifetime": (control("max-age=3600", Age="7200"), miss()),
    "age-overflow": (control("max-age=3600", Age="99999999999999999999"), miss()),
    "age-invalid-ignored": (control("max-age=3600", Age="abc"), hit()),
    "age-first-member": (control("max-age=3600", Age="0, 7200"), hit()),
    "date-in-the-past-ages": (control("max-age=3600", Date=date(-7200)), miss()),
    "date-in-the-future": (control("max-age=3600", Date=date(7200)), hit()),
    "date-invalid": (control("max-age=3600", Date="yesterday"), hit()),
    # Section 5.2.2: response directives
    "no-store": (control("no-store, max-age=3600"), miss()),
    "private": (control("private, max-age=3600"), miss()),
    "no-cache": (control("no-cache, max-age=3600"), miss()),
    "must-understand": (control("must-understand, no-store, max-age=3600"), hit()),
    "must-understand-unknown-status": (
        [Answer({"Cache-Control": "must-understand, max-age=3600"}, 299)],
        [Step(1, status=299), Step(2, status=299)],
    ),
    "must-understand-and-no-store": (control("must-understand, no-store, max-age=3600"), hit()),
    "must-revalidate-fresh": (control("max-age=3600, must-revalidate"), hit()),
    "no-cache-upper-case": (control("max-age=3600, No-CaChE"), miss()),
    "no-store-upper-case": (control("max-age=3600, No-StOrE"), miss()),
    "no-store-leaves-what-is-fresh": (
        [Answer(FRESH), Answer({"Cache-Control": "no-store"})],
        [Step(1), Step(2, {"Cache-Control": "no-cache"}), Step(3)],
    ),
    "pragma-in-a-response": (control("max-age=3600", Pragma="no-cache"), hit()),
    "immutable-is-an-extension": (control("max-age=3600, immutable"), hit()),
    "set-cookie": (control("max-age=3600", Set_Cookie="a=b"), miss()),
    "set-cookie-public": (control("public, max-age=3600", Set_Cookie="a=b"), hit()),
    # Section 3.5
    "authorization": (control("max-age=3600"), [Step(1, {"Authorization": "x"}), Step(2)]),
    "authorization-public": (control("public, max-age=3600"), [Step(1, {"Authorization": "x"}), Step(1)]),
    "authorization-s-maxage": (control("s-maxage=3600"), [Step(1, {"Authorization": "x"}), Step(1)]),
    # Section 4.1
    "vary-star": (control("max-age=3600", Vary="*"), miss()),
    "vary-star-in-a-list": (control("max-age=3600", Vary="X-A, *"), miss()),
    "vary": (
        control("max-age=3600", Vary="X-A"),
        [Step(1, {"X-A": "1"}), Step(2, {"X-A": "2"}), Step(3), Step(1, {"x-a": "1"}), Step(2, {"X-A": "2"}), Step(3)],
    ),
    "vary-two": (
        control("max-age=3600", Vary="X-A, X-B"),
        [Step(1, {"X-A": "1", "X-B": "1"}), Step(2, {"X-A": "1", "X-B": "2"}), Step(1, {"X-B": "1", "X-A": "1"})],
    ),
    "vary-whitespace": (control("max-age=3600", Vary="X-A"), [Step(1, {"X-A": "1, 2"}), Step(1, {"X-A": "1,  2"})]),
    "vary-language": (
        control("max-age=3600", Vary="Accept-Language"),
        [Step(1, {"Accept-Language": "en, de"}), Step(1, {"Accept-Language": "De,  eN"})],
    ),
    "vary-empty-and-star": (control("max-age=3600", Vary=", *"), miss()),
    "vary-two-stars": (control("max-age=3600", Vary="*, *"), miss()),
    "vary-other-fields": (control("max-age=3600", Vary="X-A"), hit({"X-B": "1"})),
    "vary-per-client": (control("max-age=3600", Vary="X-Forwarded-For"), miss()),
    # Section 5.2.1: request directives
    "request-no-cache": (control("max-age=3600"), miss({"Cache-Control": "no-cache"})),
    "request-max-age": (control("max-age=3600", Age="100"), miss({"Cache-Control": "max-age=50"})),
    "request-max-age-met": (control("max-age=3600", Age="100"), hit({"Cache-Control": "max-age=500"})),
    "request-min-fresh": (control("max-age=3600", Age="100"), miss({"Cache-Control": "min-fresh=3590"})),
    "request-min-fresh-met": (control("max-age=3600", Age="100"), hit({"Cache-Control": "min-fresh=3000"})),
    "request-max-stale": (
        control("max-age=50", Age="100", ETag='"x"'),
        [Step(1), Step(1, {"Cache-Control": "max-stale=3600"}), Step(2, {"Cache-Control": "max-stale=10"})],
    ),
    "request-max-stale-against-must-revalidate": (
        control("max-age=50, must-revalidate", Age="100", ETag='"x"'),
        miss({"Cache-Control": "max-stale"}),
    ),
    "request-only-if-cached": (
        control("max-age=3600"),
        [
            Step(0, {"Cache-Control": "only-if-cached"}, status=504),
            Step(1),
            Step(1, {"Cache-Control": "only-if-cached"}),
        ],
    ),
    "request-no-store": (
        control("max-age=3600"),
        [Step(1, {"Cache-Control": "no-store"}), Step(2), Step(2)],
    ),
    "request-no-store-drops-nothing": (
        control("max-age=3600"),
        [Step(1), Step(2, {"Cache-Control": "no-store, no-cache"}), Step(1)],
    ),
    "request-pragma": (control("max-age=3600"), hit({"Pragma": "no-cache"})),
    # Status codes: section 3, RFC 9110 section 15
    **{
        f"status-{status}": ([Answer(FRESH, status)], [Step(1, status=status), Step(1, status=status)])
        for status in (
            203,
            204,
            299,
            301,
            302,
            303,
            307,
            308,
            400,
            404,
            405,
            410,
            414,
            451,
            499,
            500,
            501,
            502,
            503,
            504,
            599,
        )
    },
    "status-404-without-a-word": ([Answer({}, 404)], [Step(1, status=404), Step(2, status=404)]),
    "status-206-is-not-whole": (
        [Answer(FRESH | {"Content-Range": "bytes 0-4/99"}, 206)],
        [Step(1, {"Range": "bytes=0-4"}, status=206), Step(2, {"Range": "bytes=0-4"}, status=206)],
    ),
    # RFC 9213
    "targeted": (control("no-store", CDN_Cache_Control="max-age=3600"), hit()),
    "targeted-invalid": (control("max-age=3600", CDN_Cache_Control="max-age=0, &"), hit()),
    "targeted-own-first": (
        control("no-store", CDN_Cache_Control="no-store", Locci_CDN_Cache_Control="max-age=9"),
        hit(),
    ),
    "targeted-no-cache": (control("max-age=3600", CDN_Cache_Control="no-cache"), miss()),
    "targeted-private": (control("max-age=3600", CDN_Cache_Control="private"), miss()),
    "targeted-wrong-type": (control("no-store", CDN_Cache_Control='max-age="3600"'), miss()),
    "targeted-space-before-equals": (control("max-age=3600", CDN_Cache_Control="max-age =0"), hit()),
    "targeted-upper-case-is-no-key": (control("max-age=3600", CDN_Cache_Control="MaX-aGe=0"), hit()),
    "targeted-age": (control("max-age=3600", CDN_Cache_Control="max-age=50", Age="100"), miss()),
    "targeted-before-expires": (control("no-store", CDN_Cache_Control="max-age=3600", Expires="0"), hit()),
    "targeted-no-store": (control("max-age=3600", CDN_Cache_Control="no-store"), miss()),
    "surrogate-control": (control("no-store", Surrogate_Control="max-age=3600"), hit()),
    "surrogate-control-no-store": (control("max-age=3600", Surrogate_Control="no-store"), miss()),
    "surrogate-control-elsewhere": (control("max-age=3600", Surrogate_Control="max-age=0;other"), hit()),
    "surrogate-control-last": (
        control("max-age=0", Surrogate_Control="no-store", CDN_Cache_Control="max-age=3600"),
        hit(),
    ),
    # Section 4.4
    "unsafe-post": (control("max-age=3600"), [Step(1), Step(2, method="POST"), Step(3)]),
    "post-kept": (
        control("max-age=3600", Content_Location="/post-kept"),
        [Step(1, method="POST"), Step(1, member="hit"), Step(2, method="POST"), Step(2, member="hit")],
    ),
    "post-kept-for-its-target-only": (
        control("max-age=3600", Content_Location="/elsewhere"),
        [Step(1, method="POST"), Step(2)],
    ),
    "post-without-a-lifetime": (
        [Answer({"Content-Location": "/post-without-a-lifetime"} | OLD)],
        [Step(1, method="POST"), Step(2)],
    ),
    "post-private": (
        control("private, max-age=3600", Content_Location="/post-private"),
        [Step(1, method="POST"), Step(2)],
    ),
    "post-failed": (
        [Answer(FRESH | {"Content-Location": "/post-failed"}, 404)],
        [Step(1, method="POST", status=404), Step(2, status=404)],
    ),
    "put-is-not-kept": (
        control("max-age=3600", Content_Location="/put-is-not-kept"),
        [Step(1, method="PUT"), Step(2)],
    ),
    "unsafe-unknown-here": (control("max-age=3600"), [Step(1), Step(2, method="REPORT"), Step(3)]),
    "safe-options": (control("max-age=3600"), [Step(1), Step(2, method="OPTIONS"), Step(1)]),
    "unsafe-failed": (
        [Answer(FRESH), Answer({}, 403)],
        [Step(1), Step(2, method="POST", status=403), Step(1)],
    ),
    "unsafe-location": (
        [Answer(FRESH), Answer({"Location": "other", "Content-Location": "//elsewhere.test/"}, 201), Answer(FRESH)],
        [Step(1, target="/other"), Step(2, method="PUT", target="/a", status=201), Step(3, target="/other")],
    ),
    "unsafe-content-location": (
        [Answer(FRESH), Answer({"Content-Location": "other"}), Answer(FRESH)],
        [Step(1, target="/other"), Step(2, method="PUT", target="/a"), Step(3, target="/other")],
    ),
    "unsafe-location-elsewhere": (
        [Answer(FRESH), Answer({"Location": "http://elsewhere.test/unsafe-location-elsewhere/other"}, 201)],
        [Step(1, target="/other"), Step(2, method="PUT", target="/a", status=201), Step(1, target="/other")],
    ),
    # RFC 5861
    "stale-while-revalidate-over": (control("max-age=10, stale-while-revalidate=5", Age="100", ETag='"x"'), miss()),
    "stale-if-error": (
        [Answer({"Cache-Control": "max-age=10, stale-if-error=999", "Age": "100"}), Answer({}, 503)],
        [Step(1), Step(1, member="stale-if-error")],
    ),
    "stale-if-error-over": (
        [Answer({"Cache-Control": "max-age=10, stale-if-error=50", "Age": "100"}), Answer({}, 503)],
        [Step(1), Step(2, status=503)],
    ),
    "stale-if-error-of-a-request": (
        [Answer({"Cache-Control": "max-age=10", "Age": "100"} | TAG), Answer({}, 500)],
        [Step(1), Step(1, {"Cache-Control": "stale-if-error=999"})],
    ),
    "stale-if-error-against-must-revalidate": (
        [
            Answer({"Cache-Control": "max-age=10, stale-if-error=999, must-revalidate", "Age": "100"} | TAG),
            Answer({}, 500),
        ],
        [Step(1), Step(2, {"Cache-Control": "stale-if-error=999"}, status=500)],
    ),
    "stale-if-error-against-no-cache": (
        [Answer({"Cache-Control": "no-cache, stale-if-error=999"} | TAG), Answer({}, 500)],
        [Step(1), Step(2, status=500)],
    ),
    "stale-if-error-not-for-404": (
        [Answer({"Cache-Control": "max-age=10, stale-if-error=999", "Age": "100"}), Answer({}, 404)],
        [Step(1), Step(2, status=404)],
    ),
    # Section 4.3: conditions from clients, RFC 9110 section 13
    "if-none-match": (control("max-age=3600", **TAG), [Step(1), Step(0, {"If-None-Match": '"v1"'}, status=304)]),
    "if-none-match-list-weak": (
        control("max-age=3600", **TAG),
        [Step(1), Step(0, {"If-None-Match": '"v0", W/"v1"'}, status=304)],
    ),
    "if-none-match-star": (control("max-age=3600", **TAG), [Step(1), Step(0, {"If-None-Match": "*"}, status=304)]),
    "if-none-match-other": (control("max-age=3600", **TAG), hit({"If-None-Match": '"v2"'})),
    "if-none-match-unquoted": (control("max-age=3600", **TAG), hit({"If-None-Match": "v1"})),
    "if-modified-since": (
        control("max-age=3600", Last_Modified=date(-100)),
        [Step(1), Step(0, {"If-Modified-Since": date(-50)}, status=304), Step(1, {"If-Modified-Since": date(-500)})],
    ),
    "if-none-match-before-if-modified-since": (
        control("max-age=3600", Last_Modified=date(-100), **TAG),
        hit({"If-None-Match": '"v2"', "If-Modified-Since": date()}),
    ),
    "if-match-is-for-the-origin": (control("max-age=3600", **TAG), miss({"If-Match": '"v1"'})),
}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenario(edge: Edge, origin: Origin, name: str) -> None:
    answers, steps = SCENARIOS[name]

    async def play(seen: Seen) -> None:
        number = len(origin.seen)
        answer = answers[min(number, len(answers)) - 1]
        lines = "".join(f"{field}: {value}\r\n" for field, value in answer.headers.items())
        body = b"" if answer.status == 204 else b"answer %d" % number
        framing = "" if answer.status == 204 else f"Content-Length: {len(body)}\r\n"
        await seen.send(f"HTTP/1.1 {answer.status} X\r\n{lines}X-Number: {number}\r\n{framing}\r\n".encode() + body)

    origin.handler = play
    async with await Client.open(edge.port) as client:
        for step in steps:
            target = f"/{name}{step.target}"
            body = b"x" if step.method in ("POST", "PUT", "REPORT") else None
            answer = await client.get(target, step.method, body, **step.request)
            assert answer.status == step.status, step
            if step.expect:
                assert answer.headers["x-number"] == str(step.expect), step
                assert answer.body in (b"", b"answer %d" % step.expect)
            assert step.member in answer.cache, (step, answer.cache)


async def ask(edge: Edge, target: str = "/", method: str = "GET", **headers: str) -> Response:
    async with await Client.open(edge.port) as client:
        return await client.get(target, method, None, **headers)


async def test_validation_updates_the_stored_fields(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        if len(origin.seen) == 1:
            await seen.answer(
                200, b"body", Cache_Control="max-age=0", ETag='"v1"', X_A="1", X_B="1", Content_Type="text/a", X_Hop="1"
            )
        else:
            assert seen.headers["if-none-match"] == '"v1"'
            await seen.send(
                b'HTTP/1.1 304 X\r\nETag: "v1"\r\nX-A: 2\r\nContent-Type: text/b\r\nContent-Encoding: gzip\r\n'
                b"Connection: X-Hop\r\nX-Hop: 2\r\nCache-Control: max-age=60\r\nAge: 7\r\n\r\n"
            )

    origin.handler = handler
    await ask(edge)
    for _ in range(2):
        answer = await ask(edge)
        got = [answer.headers.get(name) for name in ("x-a", "x-b", "content-type", "content-encoding", "x-hop")]
        assert got == ["2", "1", "text/b", None, "1"]
        assert (answer.body, answer.headers["content-length"]) == (b"body", "4")
        assert 7 <= int(answer.headers["age"]) < 60
    assert len(origin.seen) == 2


async def test_a_304_that_speaks_of_another_response(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        if "if-none-match" in seen.headers:
            await seen.send(b'HTTP/1.1 304 X\r\nETag: "v2"\r\nCache-Control: max-age=60\r\n\r\n')
        else:
            await seen.answer(200, b"body %d" % len(origin.seen), Cache_Control="max-age=0", ETag='"v1"')

    origin.handler = handler
    assert (await ask(edge)).body == b"body 1"
    assert (await ask(edge)).body == b"body 3", "asked without a condition then"


async def test_a_304_with_a_cookie_is_for_one_client(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        if "if-none-match" in seen.headers:
            cookie = b"Set-Cookie: user=%d\r\n" % len(origin.seen)
            await seen.send(b'HTTP/1.1 304 X\r\nETag: "v1"\r\nCache-Control: max-age=60\r\n' + cookie + b"\r\n")
        else:
            await seen.answer(200, b"body", Cache_Control="max-age=0", ETag='"v1"')

    origin.handler = handler
    await ask(edge)
    assert (await ask(edge)).headers["set-cookie"] == "user=2"
    assert "set-cookie" not in (await ask(edge)).headers


async def test_fields_named_in_private_and_no_cache(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        await seen.answer(
            200,
            b"body",
            Cache_Control='max-age=60, private="X-User", no-cache=set-cookie',
            X_User="1",
            Set_Cookie="a=b",
        )

    origin.handler = handler
    first, second = await ask(edge), await ask(edge)
    assert (first.headers["x-user"], first.headers["set-cookie"]) == ("1", "a=b")
    assert not {"x-user", "set-cookie"} & second.headers.keys()
    assert "hit" in second.cache


async def test_what_is_left_out_of_the_store(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        await seen.send(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Early: 1\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nConnection: X-Hop, Cache-Control\r\nX-Hop: 1\r\n"
            b"Proxy-Authenticate: Basic\r\nProxy-Authentication-Info: x\r\nTransfer-Encoding: chunked\r\n"
            b"Trailer: X-Late\r\n\r\n4\r\nbody\r\n0\r\nX-Late: 1\r\nCache-Control: no-store\r\n\r\n"
        )

    origin.handler = handler
    await ask(edge)
    answer = await ask(edge)
    left_out = {"x-early", "link", "x-hop", "proxy-authenticate", "proxy-authentication-info", "x-late", "trailer"}
    assert not left_out & answer.headers.keys()
    assert (answer.body, answer.headers["cache-control"]) == (b"body", "max-age=60")
    assert "hit" in answer.cache


async def test_negative_and_heuristic_lifetimes_on_request(make_edge: MakeEdge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        await seen.answer(404 if seen.target == "/gone" else 200, b"x", **OLD)

    origin.handler = handler
    edge = await make_edge()
    asked = route("hello", ["hello.test"], [origin.address])
    asked.cache.negative_ttl.seconds = 60
    asked.cache.heuristic_max.seconds = 3600
    await edge.serve(asked)
    for target in ("/gone", "/page"):
        first, second = await ask(edge, target), await ask(edge, target)
        assert ["fwd=uri-miss; stored" in first.cache, "hit" in second.cache] == [True, True]


async def test_keys_by_the_rules_of_an_app(make_edge: MakeEdge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        await seen.answer(200, b"%d" % len(origin.seen), Cache_Control="max-age=60")

    origin.handler = handler
    edge = await make_edge()
    asked = route("hello", ["hello.test"], [origin.address])
    asked.cache.key.query_ignore.extend(["utm_*"])
    asked.cache.key.query_sort = True
    asked.cache.key.headers.append("X-Tier")
    asked.cache.key.cookies.append("lang")
    await edge.serve(asked)
    assert (await ask(edge, "/?b=1&a=2&utm_source=x")).body == b"1"
    assert (await ask(edge, "/?a=2&b=1")).body == b"1"
    assert (await ask(edge, "/?a=2&b=2")).body == b"2"
    assert (await ask(edge, "/?a=2&b=1", X_Tier="gold")).body == b"3"
    assert (await ask(edge, "/?a=2&b=1", Cookie="id=1; lang=de")).body == b"4"
    assert (await ask(edge, "/?a=2&b=1", Cookie="lang=de; id=2")).body == b"4"
    assert "utm_source=x" in origin.seen[0].target, "the origin gets the whole query"
    await ask(edge, "/?b=1&a=2&utm_source=y", "POST")
    assert (await ask(edge, "/?a=2&b=1")).body == b"6"
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    assert (await ask(edge, "/?b=1&a=2&utm_source=x")).body == b"7", "other rules, other keys"


async def test_stale_while_revalidate_serves_and_refreshes(edge: Edge, origin: Origin) -> None:
    async def handler(seen: Seen) -> None:
        age = {"Age": "100"} if len(origin.seen) == 1 else {}
        await seen.answer(200, b"%d" % len(origin.seen), Cache_Control="max-age=50, stale-while-revalidate=600", **age)

    origin.handler = handler
    await ask(edge)
    assert (await ask(edge)).body == b"1"
    await until(lambda: len(origin.seen) == 2 and not edge.worker.state.fills, 30)
    assert (await ask(edge)).body == b"2"
