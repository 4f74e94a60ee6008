"""Images that must be signed: what is not known to be is never made a container of."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fleet.signatures import Signature
from lab.machine import clean_environment
from locci.v1 import replica_pb2, resource_pb2
from tests.fakes.signing import lines_of, payload_of, pem_of, sign
from tests.integration.agent.rig import Rig, containers, eventually, named, replica
from tests.integration.engine_fixture import REGISTRY

pytestmark = pytest.mark.lab

WEB = "replicas/web/0/1"
KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def fresh(rig: Rig, request: pytest.FixtureRequest) -> str:
    """An image of this test's own, by digest."""
    return rig.host.push("signed", {"www/name": request.node.name})


def verified(image: str, *keys: ec.EllipticCurvePrivateKey, ordinal: int = 0) -> resource_pb2.Resource:
    """A replica whose image must be signed by one of the keys."""
    result = replica(image, ordinal=ordinal)
    result.replica.verification.public_keys.extend(pem_of(key) for key in keys)
    return named(result)


async def put(rig: Rig, image: str, *signatures: Signature) -> None:
    """Puts signatures beside an image in the host's registry."""
    name, _, digest = image.partition("@")
    argv = [sys.executable, "-m", "tests.fakes.signing", REGISTRY, name.partition("/")[2], digest]
    await asyncio.to_thread(
        subprocess.run,
        rig.host.command(*argv),
        input=lines_of(signatures).encode(),
        cwd=Path(__file__).parents[3],
        env=clean_environment(),
        check=True,
        timeout=60,
    )


def reason(rig: Rig) -> str:
    return rig.control_plane.replicas.get(WEB, replica_pb2.ReplicaStatus()).reason


def digest_of(image: str) -> str:
    return image.partition("@")[2]


async def test_an_image_runs_once_it_is_signed_by_whom_the_app_names(rig: Rig, fresh: str) -> None:
    rig.start()
    rig.control_plane.want(verified(fresh, KEY))
    await eventually(lambda: "no signature" in reason(rig), "it is not signed")
    good = sign(KEY, payload_of(digest_of(fresh)))
    another = sign(KEY, payload_of("sha256:" + "0" * 64))
    tampered = Signature(good.payload.replace(b"hello", b"hullo"), good.signature)
    await put(rig, fresh, sign(OTHER, payload_of(digest_of(fresh))), another, tampered)
    await eventually(lambda: "3 signature(s), none by them" in reason(rig), "none of these counts")
    assert "keys of app web" in reason(rig)
    assert await containers(rig.host) == {}
    await put(rig, fresh, another, good)
    await eventually(rig.control_plane.ready, "it is signed now")


async def test_what_was_found_once_needs_no_registry(rig: Rig, fresh: str) -> None:
    await put(rig, fresh, sign(KEY, payload_of(digest_of(fresh))))
    rig.start()
    rig.control_plane.want(verified(fresh, OTHER, KEY))
    await eventually(rig.control_plane.ready, "it is signed by one of them")
    await rig.kill()
    await asyncio.to_thread(rig.host.kill_registry)
    try:
        rig.start()
        rig.control_plane.want(verified(fresh, OTHER, KEY), verified(fresh, KEY, ordinal=1))
        await eventually(lambda: rig.control_plane.ready("replicas/web/1/1"), "another is made of it")
        rig.control_plane.want(verified(fresh, OTHER, ordinal=2))
        third = "replicas/web/2/1"
        await eventually(lambda: third in rig.control_plane.replicas, "it is known")
        await eventually(lambda: "not known" in rig.control_plane.replicas[third].reason, "not by that key")
    finally:
        await asyncio.to_thread(rig.host.start_registry)


async def test_a_host_demands_signatures_whatever_the_control_plane_says(rig: Rig, fresh: str) -> None:
    (rig.folder / "host.pub").write_text(pem_of(OTHER))
    (rig.folder / "policy.toml").write_text(f'signed_by = ["{rig.folder}/host.pub"]\n')
    await put(rig, fresh, sign(KEY, payload_of(digest_of(fresh))))
    rig.start()
    rig.control_plane.want(verified(fresh, KEY))
    await eventually(lambda: "this host's policy (signed_by)" in reason(rig), "the host wants another's as well")
    await put(rig, fresh, sign(KEY, payload_of(digest_of(fresh))), sign(OTHER, payload_of(digest_of(fresh))))
    await eventually(rig.control_plane.ready, "both have signed it")


async def test_a_key_that_is_none_is_refused_with_its_place(rig: Rig, fresh: str) -> None:
    wanted = replica(fresh)
    wanted.replica.verification.public_keys.append("key")
    rig.start()
    rig.control_plane.want(named(wanted))
    await eventually(lambda: rig.control_plane.nacks, "it is refused")
    assert "verification.public_keys[0]: is no public key" in rig.control_plane.nacks[0].problems[0].message
