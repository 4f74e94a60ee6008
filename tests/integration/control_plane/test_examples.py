"""Every example manifest passes the published JSON Schema, the command line's checks and the server's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from cli import manifest
from locci.v1 import app_pb2, manifest_pb2, secret_pb2, secret_pb2_grpc
from tests.fakes.signing import payload_of, pem_of, sign
from tests.integration.control_plane.rig import Rig, running

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))
SCHEMA = json.loads((ROOT / "docs" / "reference" / "app.schema.json").read_text())


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        for region in ("eu", "us", "ap"):
            await rig.region(region)
        secrets = secret_pb2_grpc.SecretServiceStub(rig.channel)
        for secret in ("database-url", "api-key"):
            await secrets.CreateSecret(secret_pb2.CreateSecretRequest(secret_id=secret, value=b"x"))
        yield rig


def test_there_is_an_example_for_each_way_of_rolling_out_and_they_are_listed() -> None:
    listed = (ROOT / "docs" / "examples" / "README.md").read_text()
    assert [path.name for path in EXAMPLES if f"({path.name})" not in listed] == []
    whole = "".join(path.read_text() for path in EXAMPLES)
    for word in ("CANARY", "BLUE_GREEN", "waves", "singleton", "DAEMON", "affinities", "secrets", "volumes", "geo"):
        assert word in whole


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_passes_the_schema(path: Path) -> None:
    validator = jsonschema_rs.validator_for(SCHEMA)
    for document in yaml.safe_load_all(path.read_text()):
        assert [error.message for error in validator.iter_errors(document)] == []


async def test_the_server_takes_all_of_them(rig: Rig) -> None:
    sources = manifest.load([str(path) for path in EXAMPLES])
    for source in sources:
        if source.message.verification.public_keys:
            await _signed(rig, source.message)
        request = app_pb2.ApplyAppRequest(manifest=source.message, validate_only=True)
        answer = await rig.apps.ApplyApp(request)
        assert answer.release.number == 1, source.file
    assert len({source.name for source in sources}) == len(sources)


async def _signed(rig: Rig, message: manifest_pb2.AppManifest) -> None:
    """The example's image, signed by a key whose other half is at hand, instead of the example's."""
    key = ec.generate_private_key(ec.SECP256R1())
    message.verification.public_keys[:] = [pem_of(key)]
    image = await rig.registry.pin(message.image)
    rig.registry.signed[image] = [sign(key, payload_of(image.partition("@")[2]))]
