"""What an operator or a host can get wrong, from the outside: a clear error, and nothing lost."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lab.example import example_folder
from lab.machine import clean_environment, enter
from lab.preflight import own_program
from lab.story import APP
from lab.topology import HTTPS_PORT
from tests.integration.system.conftest import Deployed, wait_for

pytestmark = pytest.mark.lab


def locci(deployed: Deployed, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment({"LOCCI_CONTEXT": str(deployed.fleet.layout.context), "NO_COLOR": "1"})
    return subprocess.run(
        [own_program("locci"), *arguments], capture_output=True, text=True, timeout=90, env=environment, check=False
    )


def token(deployed: Deployed, *arguments: str) -> str:
    made = locci(deployed, "tokens", "create", "--region", "eu", *arguments)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def join(deployed: Deployed, folder: Path, secret: str, name: str) -> subprocess.CompletedProcess[str]:
    """`locci-agent join` on the control plane's host, with an identity directory of its own."""
    config = folder / f"{name}.toml"
    config.write_text(f'state_dir = "{folder}/state"\nidentity_dir = "{folder}/{name}"\nrun_dir = "{folder}/run"\n')
    control = deployed.fleet.topology.control
    server = f"https://{control.ipv4}:{HTTPS_PORT}"
    command = [own_program("locci-agent"), "join", "--server", server, "--token", secret, "--name", name]
    command += ["--address", "10.77.0.99", "--config", str(config)]
    return subprocess.run(
        enter(deployed.fleet.topology.namespace(control), command),
        capture_output=True,
        text=True,
        timeout=90,
        env=clean_environment(),
        check=False,
    )


def test_join_tokens(deployed: Deployed, tmp_path: Path) -> None:
    good = token(deployed)
    prefix, ident, secret, fingerprint = good.split(".")
    cases = {
        "garbage": ("not-a-token", "not a join token"),
        "wrong secret": (".".join([prefix, ident, "x" * len(secret), fingerprint]), "token"),
        "unknown id": (".".join([prefix, "zzzzzzzz", secret, fingerprint]), "token"),
        "of another fleet": (".".join([prefix, ident, secret, "0" * 64]), "another fleet"),
    }
    for name, (bad, said) in cases.items():
        refused = join(deployed, tmp_path, bad, "guest")
        assert refused.returncode == 1 or refused.returncode == 2, name
        assert said in refused.stderr, (name, refused.stderr)
        assert secret not in refused.stderr
        assert not (tmp_path / "guest" / "identity.json").exists()

    taken = join(deployed, tmp_path, good, "eu-1")
    assert taken.returncode == 1
    assert "eu-1" in taken.stderr
    joined = join(deployed, tmp_path, good, "guest")
    try:
        assert joined.returncode == 0, joined.stderr
        used = join(deployed, tmp_path, good, "second")
        assert used.returncode == 1
        assert "used" in used.stderr
        assert "guest" in used.stderr
    finally:
        removed = locci(deployed, "nodes", "rm", "guest")
        assert removed.returncode == 0, removed.stderr


def test_an_expired_token(deployed: Deployed, tmp_path: Path) -> None:
    short = token(deployed, "--ttl", "1s")
    made = next(deployed.fleet.api.pages("/v1/joinTokens", "join_tokens"))
    assert made["name"] == f"joinTokens/{short.split('.')[1]}"
    end = datetime.fromisoformat(made["expire_time"])
    wait_for(lambda: datetime.now(UTC) > end, "the token does not expire")
    refused = join(deployed, tmp_path, short, "late")
    assert refused.returncode == 1
    assert "expired" in refused.stderr
    assert not (tmp_path / "late" / "identity.json").exists()


BAD_MANIFESTS = [
    ("hostnames: [hello.lab.test]", "hostnmaes: [hello.lab.test]", "hostnmaes", 2),
    ("container_port: 8080", "container_port: 80800", "ports[0].container_port", None),
    ("hello:1", "no-such-image:1", "no-such-image", None),
    ("image: 10.77.0.10:5000", "image: 10.77.0.10:5999", "10.77.0.10:5999", None),
    ("name: hello", "name: Hello!", "name", None),
    ("ttl: 2s", "ttl: soon", "ttl", None),
]


@pytest.mark.parametrize(("good", "bad", "said", "code"), BAD_MANIFESTS, ids=lambda value: str(value)[:24])
def test_manifests(deployed: Deployed, tmp_path: Path, good: str, bad: str, said: str, code: int | None) -> None:
    manifest = (example_folder() / "app.yaml").read_text()
    file = tmp_path / "app.yaml"
    file.write_text(re.sub(re.escape(good), bad, manifest, count=1))
    assert file.read_text() != manifest
    releases = len(list(deployed.fleet.api.pages(f"/v1/apps/{APP}/releases", "releases")))
    refused = locci(deployed, "apply", "-f", str(file))
    assert refused.returncode == (code or refused.returncode)
    assert refused.returncode in (1, 2, 4, 6)
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
    assert len(list(deployed.fleet.api.pages(f"/v1/apps/{APP}/releases", "releases"))) == releases


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Covers the folder by a small file system that holds the same files and has no byte left."""
    saved = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    used_kb = sum(len(content) // 4096 * 4 + 4 for content in saved.values())
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={used_kb + 16}k", "tmpfs", str(folder)], check=True)
    try:
        for name, content in saved.items():
            (folder / name).write_bytes(content)
        with (folder / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"\0" * 4096)
            except OSError:
                pass
        yield
        (folder / "ballast").unlink()
        saved = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        for name, content in saved.items():
            (folder / name).write_bytes(content)


def test_a_full_disk_under_the_agent(deployed: Deployed) -> None:
    deployed.wait_healthy()
    before = deployed.container("ap-1")
    folder = deployed.fleet.layout.host("ap-1") / "agent"
    with full_disk(folder):
        # A label changes the snapshot of every node.
        applied = deployed.apply_with("labels: {disk: full}")
        assert applied.returncode == 0, applied.stderr
        wait_for(
            lambda: any("space" in event["message"] for event in deployed.events("SnapshotRefused")),
            "no event says that the snapshot was refused for lack of space",
        )
        assert deployed.container("ap-1") == before
        assert deployed.fleet.readiness.edge(deployed.host("ap-1"))
    wait_for(
        lambda: not deployed.troubles(), "the node did not take the snapshot after there was space again", timeout_s=60
    )
