"""`locci-agent doctor` and `support-bundle`: what is wrong on this host, found without the control plane."""

from __future__ import annotations

import asyncio
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from agent.adapters import host_facts, policy_file, status_socket
from agent.adapters.docker_client import Client
from agent.adapters.engine_errors import explain
from agent.settings import AgentSettings
from fleet.errors import LocciError
from fleet.identity import IdentityDirectory
from fleet.snapshot import SnapshotFile
from locci.v1 import resource_pb2

Verdict = Literal["ok", "warning", "failed"]

_DISK_FULL: Final = 0.9
_ENGINE_PATIENCE_S: Final = 5
_REDACTED: Final = "REDACTED"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `message` says what to do when it is not in order."""

    check: str
    verdict: Verdict
    message: str


def examine(settings: AgentSettings) -> list[Finding]:
    """Looks at everything; no check keeps another from being made."""
    checks: dict[str, Callable[[AgentSettings], Iterator[Finding]]] = {
        "identity": _identity,
        "policy": _policy,
        "snapshot": _snapshot,
        "engine": _engine,
        "disk": _disk,
        "agent": _agent,
    }
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check(settings)
        except (LocciError, OSError) as error:
            findings.append(Finding(name, "failed", getattr(error, "message", None) or str(error)))
    return findings


def support_bundle(settings: AgentSettings, path: Path) -> list[str]:
    """Writes what helps others to understand this host into a .tar.gz at `path`, 0600; the names of its parts.

    Keys, tokens, the values of environment variables and the contents of files are not in it. Raises OSError.
    """
    parts: dict[str, object] = {
        "doctor.json": [{"check": f.check, "verdict": f.verdict, "message": f.message} for f in examine(settings)],
        "settings.json": settings.model_dump(mode="json"),
        "snapshot.json": _redacted_snapshot(settings),
        "status.json": _status_or_reason(settings),
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as output, tarfile.open(fileobj=output, mode="w:gz") as tar:
        for name, content in parts.items():
            data = json.dumps(content, indent=2, default=str).encode()
            entry = tarfile.TarInfo(f"locci-support/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            tar.addfile(entry, io.BytesIO(data))
    return sorted(parts)


def _identity(settings: AgentSettings) -> Iterator[Finding]:
    identity = IdentityDirectory(settings.identity_dir)
    facts = identity.facts()
    yield Finding("identity", "ok", f"node {facts.node} in region {facts.region}, control plane {facts.server}")
    left_h = (identity.certificate().not_valid_after_utc.timestamp() - time.time()) / 3600
    if left_h <= 0:
        yield Finding("certificate", "failed", f"it ended {-left_h:.1f} h ago: join again, or set the clock right")
    else:
        yield Finding("certificate", "ok" if left_h > 1 else "warning", f"good for {left_h:.1f} h")
    loose = [f for f in settings.identity_dir.iterdir() if f.suffix == ".pem" and f.stat().st_mode & 0o077]
    if loose:
        yield Finding("permissions", "failed", f"others can read {', '.join(map(str, loose))}: chmod 600")


def _policy(settings: AgentSettings) -> Iterator[Finding]:
    policy_file.load(settings.policy_file)
    there = "is understood" if settings.policy_file.exists() else "does not exist: the defaults hold"
    yield Finding("policy", "ok", f"{settings.policy_file} {there}")


def _snapshot(settings: AgentSettings) -> Iterator[Finding]:
    path = settings.state_dir / "snapshot.pb"
    if not path.exists():
        yield Finding("snapshot", "warning", "this node was never told what to run: was it ever connected?")
        return
    snapshot = SnapshotFile(path).load()
    yield Finding("snapshot", "ok", f"revision {snapshot.revision} with {len(snapshot.resources)} resources")


def _engine(settings: AgentSettings) -> Iterator[Finding]:
    try:
        with Client(base_url=settings.docker_host, version="auto", timeout=_ENGINE_PATIENCE_S) as client:
            version = client.version()["Version"]
    except Exception as error:
        yield Finding("engine", "failed", explain(error, settings.docker_host).reason)
        return
    yield Finding("engine", "ok", f"Docker Engine {version} at {settings.docker_host}")


def _disk(settings: AgentSettings) -> Iterator[Finding]:
    used = host_facts.heartbeat(settings.state_dir).disk_used
    verdict: Verdict = "ok" if used < _DISK_FULL else "failed"
    yield Finding("disk", verdict, f"{used:.0%} of the disk of {settings.state_dir} is used")


def _agent(settings: AgentSettings) -> Iterator[Finding]:
    answer = asyncio.run(status_socket.ask(settings.run_dir / "agent.sock"))
    verdict: Verdict = "ok" if answer["connected"] else "warning"
    words = "connected" if answer["connected"] else "NOT connected; what it runs goes on"
    yield Finding("agent", verdict, f"runs, and is {words}; revision {answer['applied_revision']} is in effect")
    wanted = answer.get("upgrade")
    if wanted and wanted["state"] in ("taken back", "not installed"):
        yield Finding("version", "warning", f"{wanted['version']} is wanted and {wanted['state']}: {wanted['reason']}")
    for replica in answer["replicas"]:
        if not replica["ready"]:
            yield Finding(replica["resource"], "warning", f"{replica['phase'].lower()}: {replica['reason']}")


def _status_or_reason(settings: AgentSettings) -> dict[str, Any]:
    try:
        return asyncio.run(status_socket.ask(settings.run_dir / "agent.sock"))
    except LocciError as error:
        return {"error": error.message}


def _redacted_snapshot(settings: AgentSettings) -> dict[str, Any]:
    path = settings.state_dir / "snapshot.pb"
    if not path.exists():
        return {}
    snapshot = SnapshotFile(path).load()
    return {
        "revision": snapshot.revision,
        "resources": {name: _redacted(resource) for name, resource in sorted(snapshot.resources.items())},
    }


def _redacted(resource: resource_pb2.Resource) -> dict[str, Any]:
    """Of a replica what it is made of, without values that may be secret; of anything else its version only."""
    if resource.WhichOneof("body") != "replica":
        return {"version": resource.version}
    spec = resource.replica
    return {
        "version": resource.version,
        "image": spec.image,
        "spec_hash": spec.spec_hash,
        "env": dict.fromkeys(sorted(spec.env), _REDACTED),
        "ports": [port.container_port for port in spec.ports],
        "volumes": [volume.path for volume in spec.volumes],
        "files": [file.path for file in spec.files],
    }
