"""Two edges that speak to each other over mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest

from fleet.identity import IdentityDirectory
from tests.fakes.authority import TRUST_DOMAIN, Authority
from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge, MakeEdge

AUTHORITY = Authority()


async def joined(make_edge: MakeEdge, path: Path, node: str, region: str, authority: Authority = AUTHORITY) -> Edge:
    edge = await make_edge(node, peer_listen="127.0.0.1:0", connect_timeout_s=0.5)
    identity = authority.join(path / f"identity-{node}", node=node, region=region)
    edge.fields = {
        "node": node,
        "region": region,
        "identity_dir": str(identity.path),
        "trust_domain": TRUST_DOMAIN,
    }
    await edge.serve()
    await until(lambda: edge.worker.peer_port > 0)
    return edge


def peer(edge: Edge) -> tuple[str, str, str]:
    return edge.fields["region"], edge.fields["node"], f"127.0.0.1:{edge.worker.peer_port}"


@pytest.fixture
async def pair(make_edge: MakeEdge, tmp_path: Path) -> tuple[Edge, Edge]:
    return await joined(make_edge, tmp_path, "eu-1", "eu"), await joined(make_edge, tmp_path, "us-1", "us")


async def test_the_other_edge_answers(pair: tuple[Edge, Edge], origin: Origin) -> None:
    near, far = pair
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    await near.serve(route("hello", ["hello.test"], [], peers=[peer(far)]))
    async with await Client.open(near.port) as client:
        for _ in range(5):
            response = await client.get()
            assert (response.status, response.body) == (200, b"hello\n")
        posted = await client.get("/", "POST", b"x" * 100_000)
        assert posted.status == 200
    assert origin.seen[-1].body == b"x" * 100_000
    headers = origin.seen[0].headers
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["via"] == "1.1 locci, 1.1 locci"
    assert headers["cdn-loop"] == "locci, locci"
    assert "locci-hop" not in headers
    assert response.headers["cache-status"].count("locci;") == 2
    assert response.headers["x-request-id"]


async def test_a_local_replica_comes_first_and_a_dead_one_costs_nothing(
    pair: tuple[Edge, Edge], origin: Origin
) -> None:
    near, far = pair

    async def local(seen: Seen) -> None:
        await seen.answer(200, b"local")

    own = await Origin(local).start()
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    await near.serve(route("hello", ["hello.test"], [own.address], peers=[peer(far)]))
    assert (await fetch(near.port)).body == b"local"
    await own.stop()
    for _ in range(10):
        assert (await fetch(near.port)).body == b"hello\n"


async def test_the_nearest_peer_that_has_a_replica_answers(
    make_edge: MakeEdge, tmp_path: Path, pair: tuple[Edge, Edge], origin: Origin
) -> None:
    near, empty = pair
    third = await joined(make_edge, tmp_path, "ap-1", "ap")
    await empty.serve(route("hello", ["hello.test"], [], peers=[peer(third)]))
    await third.serve(route("hello", ["hello.test"], [origin.address]))
    await near.serve(route("hello", ["hello.test"], [], peers=[peer(empty), peer(third)]))
    assert (await fetch(near.port)).status == 200
    assert empty.counters.peer_requests_total == 0, "what comes from a peer is never passed on"
    await near.serve(route("hello", ["hello.test"], [], peers=[peer(empty)]))
    response = await fetch(near.port)
    assert response.status == 503
    assert "locci-hop" not in response.headers


async def test_a_peer_that_is_gone_costs_one_request(pair: tuple[Edge, Edge], origin: Origin) -> None:
    near, far = pair
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    silent = await asyncio.start_server(lambda *_: asyncio.sleep(30), "127.0.0.1", 0)
    address = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    await near.serve(route("hello", ["hello.test"], [], peers=[("eu", "eu-9", address), peer(far)]))
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(10):
        began = loop.time()
        assert (await fetch(near.port)).status == 200
        times.append(loop.time() - began)
    assert sum(time > 0.3 for time in times) == 1
    silent.close()


async def test_strangers_are_not_let_in(pair: tuple[Edge, Edge], tmp_path: Path, origin: Origin) -> None:
    near, far = pair
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname, anonymous.verify_mode = False, ssl.CERT_NONE
    stranger = Authority().join(tmp_path / "stranger", node="us-1", region="us").peer_client_context()
    stranger.verify_mode = ssl.CERT_NONE

    async def ask(context: ssl.SSLContext) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", far.worker.peer_port, ssl=context)
        writer.write(b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")

    for context in (anonymous, stranger):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ssl.SSLError)):
            await ask(context)
    assert not origin.seen
    assert near.counters.peer_requests_total == 0


async def test_a_peer_with_another_name_or_domain_is_not_believed(
    make_edge: MakeEdge, tmp_path: Path, pair: tuple[Edge, Edge], origin: Origin
) -> None:
    near, far = pair
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    _, _, address = peer(far)
    await near.serve(route("hello", ["hello.test"], [], peers=[("us", "us-2", address)]))
    assert (await fetch(near.port)).status == 503
    near.fields["trust_domain"] = "other.test"
    await near.serve(route("hello", ["hello.test"], [], peers=[peer(far)]))
    assert (await fetch(near.port)).status == 503
    assert not origin.seen


async def test_a_revoked_node_is_let_in_no_more_and_its_connections_end(
    pair: tuple[Edge, Edge], origin: Origin
) -> None:
    near, far = pair
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    await near.serve(route("hello", ["hello.test"], [], peers=[peer(far)]))
    context = IdentityDirectory(Path(near.fields["identity_dir"])).peer_client_context()
    reader, writer = await asyncio.open_connection("127.0.0.1", far.worker.peer_port, ssl=context)
    question = b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n"
    writer.write(question)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    far.fields["revoked_nodes"] = ["eu-9"]
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    assert (await fetch(near.port)).status == 200
    far.fields["revoked_nodes"] = ["eu-1"]
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()
    seen = len(origin.seen)
    assert (await fetch(near.port)).status in (502, 503)
    assert len(origin.seen) == seen


async def test_a_renewed_certificate_is_taken_up(pair: tuple[Edge, Edge], tmp_path: Path, origin: Origin) -> None:
    near, far = pair
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    await near.serve(route("hello", ["hello.test"], [], peers=[peer(far)]))
    assert (await fetch(near.port)).status == 200
    other = Authority()
    for edge in pair:
        other.join(Path(edge.fields["identity_dir"]), node=edge.fields["node"], region=edge.fields["region"])
        before = edge.worker.peer_port
        edge.worker._refresh_identity()
        await until(lambda edge=edge, before=before: edge.worker.peer_port != before)  # type: ignore[misc]
    await near.serve(route("hello", ["hello.test"], [], peers=[peer(far)]))
    assert (await fetch(near.port)).status == 200


async def test_an_apps_rules_are_applied_once_on_the_way_through_two_edges(
    pair: tuple[Edge, Edge], origin: Origin
) -> None:
    async def cacheable(seen: Seen) -> None:
        await seen.answer(200, b"x", Cache_Control="max-age=60", Server="secret")

    origin.handler = cacheable
    near, far = pair
    routes = [route("hello", ["hello.test"], [origin.address]), route("hello", ["hello.test"], [], peers=[peer(far)])]
    for one in routes:
        one.http.rewrites.add(prefix="/", target="/sub{path}")
        one.http.request_headers.add.add(name="X-Once", value="1")
        one.http.response_headers.add.add(name="X-Once", value="1")
        one.http.response_headers.remove.append("Server")
        one.http.error_pages.add(statuses=[404], html="<p>page</p>", replace_app=True)
    await far.serve(routes[0])
    await near.serve(routes[1])
    for edge in (near, far):  # the second time from what either has stored
        edge.worker.state.store.clear()
        for _ in range(3):
            response = await fetch(near.port, "/a")  # the client fails on a field that comes twice
            assert (response.headers["x-once"], "server" in response.headers) == ("1", False)
    assert {seen.target for seen in origin.seen} == {"/sub/a"}
    assert origin.seen[0].raw_head.count(b"X-Once: 1") == 1

    async def missing(seen: Seen) -> None:
        await seen.answer(404, b"text")

    origin.handler = missing
    assert (await fetch(near.port, "/b")).body == b"<p>page</p>"
    assert (await fetch(near.port, "/b", Accept="application/json")).body == b"text"


async def asked_all_the_time(edge: Edge, results: list[int], over: asyncio.Event) -> None:
    """One client that asks again and again, with a new connection for every tenth request."""
    while not over.is_set():
        async with await Client.open(edge.port) as client:
            for number in range(10):
                response = await client.get(f"/{number}")
                results.append(response.status if response.whole else -1)


async def test_a_local_app_that_dies_under_load_costs_no_user_anything(pair: tuple[Edge, Edge], origin: Origin) -> None:
    async def busy(seen: Seen) -> None:
        await asyncio.sleep(0.002)
        await seen.answer(200, b"hello\n", Cache_Control="no-store")

    origin.handler = busy
    near, far = pair
    replicas = [await Origin(busy).start() for _ in range(2)]
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    addresses = [replica.address for replica in replicas]
    await near.serve(route("hello", ["hello.test"], addresses, peers=[peer(far)]))
    results: list[int] = []
    over = asyncio.Event()
    clients = [asyncio.create_task(asked_all_the_time(near, results, over)) for _ in range(24)]
    for _ in range(2):
        count = len(results)
        await until(lambda count=count: len(results) > count + 200)  # type: ignore[misc]
        for replica in replicas:  # with requests in the middle of everything
            await replica.stop()
        count, asked = len(results), len(origin.seen)
        await until(lambda count=count: len(results) > count + 300)  # type: ignore[misc]
        assert len(origin.seen) > asked + 200, "the other region answers"
        for replica in replicas:
            port = replica.port
            await replica.start(port)
        seen = sum(len(replica.seen) for replica in replicas)
        await until(lambda seen=seen: sum(len(replica.seen) for replica in replicas) > seen + 50)  # type: ignore[misc]
    over.set()
    await asyncio.gather(*clients)
    assert set(results) == {200}
    for replica in replicas:
        await replica.stop()


async def test_a_dead_region_is_known_before_it_is_needed(
    make_edge: MakeEdge, pair: tuple[Edge, Edge], tmp_path: Path, origin: Origin
) -> None:
    near, far = pair
    third = await joined(make_edge, tmp_path, "ap-1", "ap")
    for edge in (far, third):
        await edge.serve(route("hello", ["hello.test"], [origin.address]))
    await near.serve(route("hello", ["hello.test"], [], peers=[peer(far), peer(third)]))
    place, retries = f"127.0.0.1:{far.worker.peer_port}", near.counters.retries_total
    await until(lambda: near.counters.checks_total >= 2)
    await far.stop()
    await until(lambda: near.worker.state.endpoints[place].unreachable, 30)
    assert (await fetch(near.port, "/a")).status == 200
    assert near.counters.retries_total == retries, "nobody had to find out"
    await far.start()
    far.agent.config = None
    await far.serve(route("hello", ["hello.test"], [origin.address]))
    assert near.counters.checks_failed_total >= 1
