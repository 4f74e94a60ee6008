"""Pinning images against a real registry, and against one that refuses."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from control_plane import logins
from control_plane.adapters.registry import RegistryClient
from fleet.errors import LocciError
from locci.v1 import app_pb2, registry_pb2, registry_pb2_grpc
from tests.fakes import signing
from tests.fakes.passwords import htpasswd
from tests.fakes.ports import free_port
from tests.fakes.signing import payload_of, pem_of, sign
from tests.integration.control_plane.rig import error_of, manifest, running, until

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/images}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(program, "serve", str(config), stdout=null, stderr=null)
    host = f"127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:

        async def answers() -> bool:
            try:
                async with session.get(f"http://{host}/v2/") as response:
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        try:
            await until(answers, "the registry")
            yield host
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 10)


async def push(host: str, repository: str, tag: str, headers: dict[str, str] | None = None) -> str:
    """Pushes an image with an empty layer; its digest."""
    async with aiohttp.ClientSession(headers=headers) as session:
        layers = []
        for blob in (b"{}", b"\x1f\x8b"):
            digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
            async with session.post(f"http://{host}/v2/{repository}/blobs/uploads/") as begun:
                where = begun.headers["Location"]
            join = "&" if "?" in where else "?"
            async with session.put(f"{where}{join}digest={digest}", data=blob) as done:
                assert done.status == 201, await done.text()
            layers.append({"mediaType": "application/octet-stream", "size": len(blob), "digest": digest})
        body = json.dumps(
            {"schemaVersion": 2, "mediaType": _MANIFEST, "config": layers[0], "layers": layers[1:]}
        ).encode()
        url = f"http://{host}/v2/{repository}/manifests/{tag}"
        async with session.put(url, data=body, headers={"Content-Type": _MANIFEST}) as pushed:
            assert pushed.status == 201, await pushed.text()
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@pytest.fixture
async def client(real: str) -> AsyncIterator[RegistryClient]:
    client = RegistryClient([real])
    yield client
    await client.close()


async def test_a_tag_is_pinned_to_its_digest(real: str, client: RegistryClient) -> None:
    digest = await push(real, "team/hello", "1")
    assert await client.pin(f"{real}/team/hello:1") == f"{real}/team/hello@{digest}"
    assert await client.pin(f"{real}/team/hello@{digest}") == f"{real}/team/hello@{digest}"


async def test_what_is_not_there_is_not_found(real: str, client: RegistryClient) -> None:
    digest = await push(real, "team/hello", "1")
    for reference in ("team/hello:2", "team/none:1", f"team/hello@sha256:{'0' * 64}"):
        with pytest.raises(LocciError) as error:
            await client.pin(f"{real}/{reference}")
        assert error.value.reason == "IMAGE_NOT_FOUND"
        assert reference in error.value.message
    assert digest


async def test_a_registry_out_of_reach_says_so() -> None:
    host = f"127.0.0.1:{free_port()}"
    client = RegistryClient([host])
    with pytest.raises(LocciError) as error:
        await client.pin(f"{host}/hello:1")
    assert error.value.reason == "REGISTRY_UNREACHABLE"
    await client.close()


class Guarded:
    """A registry that wants an anonymous token for `open/…` and refuses `closed/…`."""

    def __init__(self) -> None:
        self.index = b'{"schemaVersion":2,"manifests":[]}'
        self.host = ""

    async def manifests(self, request: web.Request) -> web.Response:
        if request.path.startswith("/v2/forbidden/"):
            return web.Response(status=403)
        if request.path.startswith("/v2/basic/"):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        if request.headers.get("Authorization") != "Bearer let-me-in":
            challenge = f'Bearer realm="http://{self.host}/token",service="r",scope="repository:open:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if _INDEX not in request.headers["Accept"] or request.path.startswith("/v2/closed/"):
            return web.Response(status=401)
        # No digest header, and no HEAD: it must be computed from the content.
        if request.method == "HEAD":
            return web.Response(status=405)
        return web.Response(body=self.index, content_type=_INDEX)

    async def token(self, request: web.Request) -> web.Response:
        return web.json_response({"token": "let-me-in" if request.query["service"] == "r" else "no"})


@pytest.fixture
async def guarded() -> AsyncIterator[Guarded]:
    registry = Guarded()
    app = web.Application()
    app.router.add_route("*", "/v2/{name:.*}", registry.manifests)
    app.router.add_get("/token", registry.token)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    registry.host = f"127.0.0.1:{runner.addresses[0][1]}"
    yield registry
    await runner.cleanup()


async def test_an_anonymous_token_is_fetched_when_asked_for(guarded: Guarded) -> None:
    client = RegistryClient([guarded.host])
    pinned = await client.pin(f"{guarded.host}/open/app:1")
    assert pinned.endswith(f"@sha256:{hashlib.sha256(guarded.index).hexdigest()}")
    for repository in ("closed", "forbidden", "basic"):
        with pytest.raises(LocciError) as error:
            await client.pin(f"{guarded.host}/{repository}/app:1")
        assert error.value.reason == "REGISTRY_REFUSED"
    await client.close()


async def test_a_login_is_used_for_what_wants_one(tmp_path: Path) -> None:
    port = free_port()
    host = f"127.0.0.1:{port}"
    (tmp_path / "htpasswd").write_text(htpasswd("puller", "canary-password"))
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/images}}}}\n"
        f"auth: {{htpasswd: {{realm: private, path: {tmp_path}/htpasswd}}}}\nhttp: {{addr: '{host}'}}\n"
    )
    program, null = shutil.which("docker-registry") or "docker-registry", asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(program, "serve", str(config), stdout=null, stderr=null)
    try:
        async with running(tmp_path, insecure_registries=[host]) as rig:
            rig.real_registry = True
            await rig.stop()
            await rig.start()
            await rig.region("eu")
            node = await rig.host("eu-1", "eu")
            registries = registry_pb2_grpc.RegistryServiceStub(rig.channel)
            wanted = app_pb2.ApplyAppRequest(manifest=manifest(image=f"{host}/hello:1"))

            async def answer() -> str:
                return str((await error_of(rig.apps.ApplyApp(wanted))).details())

            async def listening() -> bool:
                return "cannot be reached" not in await answer()

            await until(listening, "the registry listens")
            assert "it wants a login; keep a login with `locci registries create`" in await answer()
            given = registry_pb2.Registry(host=host, username="puller", password="wrong")
            made = await registries.CreateRegistry(
                registry_pb2.CreateRegistryRequest(registry_id="main", registry=given)
            )
            assert (made.name, made.host, made.password) == ("registries/main", host, "")
            assert "it answered 401" in await answer()
            other = registry_pb2.CreateRegistryRequest(registry_id="other", registry=given)
            assert "registries/main is for" in str((await error_of(registries.CreateRegistry(other))).details())
            given = registry_pb2.Registry(name="registries/main", username="puller", password="canary-password")
            await registries.UpdateRegistry(registry_pb2.UpdateRegistryRequest(registry=given))
            assert "has no such image" in await answer()

            # A host gets it together with the first image from there, and loses it with the last.
            assert "registries/main" not in node.resources
            basic = base64.b64encode(b"puller:canary-password").decode()
            await push(host, "hello", "1", {"Authorization": f"Basic {basic}"})
            await rig.apps.ApplyApp(wanted)
            await until(lambda: "registries/main" in node.resources, "the host has the login")
            assert node.resources["registries/main"].registry_login.password == "canary-password"
            listed = await registries.ListRegistries(registry_pb2.ListRegistriesRequest())
            assert b"canary-password" not in listed.SerializeToString()
            for file in (file for file in rig.settings.data_dir.rglob("*") if file.is_file()):
                assert b"canary-password" not in file.read_bytes(), file
            await rig.apps.DeleteApp(app_pb2.DeleteAppRequest(name="apps/hello"))
            await until(lambda: "registries/main" not in node.resources, "the host has it no more")
            for bad in ({"host": "a b"}, {"host": "", "username": ""}, {"host": "x.test", "username": "a:b"}):
                fields = {"username": "u", "password": "p", **bad}
                request = registry_pb2.CreateRegistryRequest(registry_id="x", registry=registry_pb2.Registry(**fields))
                assert (await error_of(registries.CreateRegistry(request))).code().name == "INVALID_ARGUMENT"
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)


async def test_mirrors_reach_the_nodes_of_their_regions_with_their_logins(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        nodes = {}
        for region in ("eu", "us"):
            await rig.region(region)
            nodes[region] = await rig.host(f"{region}-1", region)
        registries = registry_pb2_grpc.RegistryServiceStub(rig.channel)

        async def create(registry_id: str, **fields: Any) -> registry_pb2.Registry:
            request = registry_pb2.CreateRegistryRequest(
                registry_id=registry_id, registry=registry_pb2.Registry(**fields)
            )
            return await registries.CreateRegistry(request)

        everywhere = registry_pb2.RegistryMirror(host="far.test")
        near = registry_pb2.RegistryMirror(host="near.test:5000", regions=["regions/eu"])
        await create("main", host="registry.test", mirrors=[near, everywhere])
        await create("near", host="near.test:5000", username="puller", password="canary-password")
        await rig.apps.ApplyApp(app_pb2.ApplyAppRequest(manifest=manifest(image="registry.test/hello:1")))
        await until(lambda: all("mirrors/main" in node.resources for node in nodes.values()), "both know mirrors")
        assert list(nodes["eu"].resources["mirrors/main"].registry_mirrors.mirrors) == ["near.test:5000", "far.test"]
        assert list(nodes["us"].resources["mirrors/main"].registry_mirrors.mirrors) == ["far.test"]
        assert nodes["eu"].resources["registries/near"].registry_login.username == "puller"
        assert "registries/main" not in nodes["eu"].resources, "there is no login at the registry itself"
        assert "registries/near" not in nodes["us"].resources

        # An update without a password keeps the one that is there; without a user name there is no login any more.
        change = registry_pb2.Registry(name="registries/near", username="puller", mirrors=[everywhere])
        await registries.UpdateRegistry(registry_pb2.UpdateRegistryRequest(registry=change))
        assert logins.login(rig.plane.state, rig.plane.vault, "near.test:5000") == ("puller", "canary-password")
        change = registry_pb2.Registry(name="registries/near", mirrors=[everywhere])
        await registries.UpdateRegistry(registry_pb2.UpdateRegistryRequest(registry=change))
        assert logins.login(rig.plane.state, rig.plane.vault, "near.test:5000") is None
        await until(lambda: "registries/near" not in nodes["eu"].resources, "the host has it no more")
        for bad, word in (
            ([registry_pb2.RegistryMirror(host="x.test")], "given twice"),
            ([registry_pb2.RegistryMirror(host="a b")], "is no host"),
            ([registry_pb2.RegistryMirror(host="b.test", regions=["regions/xx"])], "there is no regions/xx"),
            ([registry_pb2.RegistryMirror(host=f"m{n}.test") for n in range(9)], "at most 8"),
        ):
            error = await error_of(create("x", host="x.test", mirrors=bad))
            assert word in str(error.details())


async def test_a_login_is_never_sent_in_clear_to_elsewhere() -> None:
    asked: list[str] = []

    async def registry(request: web.Request) -> web.Response:
        asked.append(request.path)
        realm = f"http://127.0.0.1:{tokens}/token"
        return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'})

    async def token(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization", ""))
        return web.json_response({"token": "good"})

    tokens, host = free_port(), f"127.0.0.1:{free_port()}"
    runners = []
    for port, handler in ((tokens, token), (int(host.partition(":")[2]), registry)):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        runners.append(runner)
    try:
        for insecure, refused in (([host], True), ([host, f"127.0.0.1:{tokens}"], False)):
            asked.clear()
            client = RegistryClient(insecure, lambda _host: ("puller", "canary-password"))
            with pytest.raises(LocciError) as error:
                await client.pin(f"{host}/hello:1")
            await client.close()
            assert ("sent in clear" in error.value.message) == refused
            assert any(said.startswith("Basic") for said in asked) != refused
    finally:
        for runner in runners:
            await runner.cleanup()


async def test_an_app_whose_image_must_be_signed_is_refused_until_it_is(tmp_path: Path, real: str) -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    digest = await push(real, "hello", "1")
    async with running(tmp_path, insecure_registries=[real]) as rig:
        rig.real_registry = True
        await rig.stop()
        await rig.start()
        await rig.region("eu")
        node = await rig.host("eu-1", "eu")
        wanted = app_pb2.ApplyAppRequest(manifest=manifest(image=f"{real}/hello:1"))
        wanted.manifest.verification.public_keys.append("key")
        error = await error_of(rig.apps.ApplyApp(wanted))
        assert "manifest.verification.public_keys[0]: is no public key in PEM" in str(error.details())
        wanted.manifest.verification.public_keys[:] = [pem_of(key)]
        error = await error_of(rig.apps.ApplyApp(wanted))
        assert (error.code().name, "there is none" in str(error.details())) == ("FAILED_PRECONDITION", True)
        await asyncio.to_thread(signing.push, real, "hello", digest, [sign(other, payload_of(digest))])
        error = await error_of(rig.apps.ApplyApp(wanted))
        assert "1 signature(s) are there, none by those keys" in str(error.details())
        await asyncio.to_thread(signing.push, real, "hello", digest, [sign(key, payload_of(digest))])
        await rig.apps.ApplyApp(wanted)
        await until(lambda: "replicas/hello/0/1" in node.resources, "the host is to run it")
        spec = node.resources["replicas/hello/0/1"].replica
        assert list(spec.verification.public_keys) == [pem_of(key)], "and is to check it again"
