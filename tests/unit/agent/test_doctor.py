"""What the doctor finds on a host where nothing runs, and what a bundle must not hold."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from agent.doctor import examine, support_bundle
from agent.settings import AgentSettings
from fleet.snapshot import Snapshot, SnapshotFile
from locci.v1 import resource_pb2
from tests.fakes.authority import Authority


@pytest.fixture
def settings(tmp_path: Path) -> AgentSettings:
    Authority().join(tmp_path / "identity", node="eu-1", region="eu", endpoints=("127.0.0.1:1",))
    (tmp_path / "agent").mkdir()
    return AgentSettings(
        state_dir=tmp_path / "agent",
        identity_dir=tmp_path / "identity",
        run_dir=tmp_path / "run",
        docker_host=f"unix://{tmp_path}/docker.sock",
        policy_file=tmp_path / "policy.toml",
    )


def test_each_check_is_made_though_others_fail(settings: AgentSettings) -> None:
    settings.policy_file.write_text("nonsense = 1\n")
    found = {finding.check: finding for finding in examine(settings)}
    assert found["identity"].verdict == "ok"
    assert "eu-1" in found["identity"].message
    assert found["certificate"].verdict == "ok"
    assert "nonsense" in found["policy"].message
    assert found["snapshot"].verdict == "warning"
    assert "cannot be reached" in found["engine"].message
    assert "is `locci-agent run` running" in found["agent"].message
    assert "permissions" not in found


def test_a_bundle_holds_no_secrets(settings: AgentSettings, tmp_path: Path) -> None:
    spec = resource_pb2.ReplicaSpec(app="web", env={"PASSWORD": "hunter2"})
    spec.files.add(path="/etc/key", content="hunter3")
    resource = resource_pb2.Resource(name="replicas/web/0/1", version="1", replica=spec)
    SnapshotFile(settings.state_dir / "snapshot.pb").save(Snapshot(7, {resource.name: resource}))
    path = tmp_path / "bundle.tar.gz"
    names = support_bundle(settings, path)
    assert path.stat().st_mode & 0o777 == 0o600
    contents: dict[str, str] = {}
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            part = tar.extractfile(member)
            assert part is not None
            contents[Path(member.name).name] = part.read().decode()
    assert sorted(contents) == names
    whole = "".join(contents.values())
    assert "PRIVATE KEY" not in whole
    assert "hunter" not in whole
    assert json.loads(contents["snapshot.json"])["resources"]["replicas/web/0/1"]["env"] == {"PASSWORD": "REDACTED"}
