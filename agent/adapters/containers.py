"""What a replica is for Docker Engine, and what the engine's containers are for the agent."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from docker.types import LogConfig
from docker.types import Ulimit as EngineUlimit

from agent.core.model import Container, ContainerState, Identity, Replica
from agent.core.options import Volume
from agent.core.sandboxes import Sandbox

LABEL_APP: Final = "dev.locci.app"
LABEL_ORDINAL: Final = "dev.locci.ordinal"
LABEL_RELEASE: Final = "dev.locci.release"
LABEL_SPEC_HASH: Final = "dev.locci.spec-hash"
LABEL_RESOURCE: Final = "dev.locci.resource"
LABEL_NODE: Final = "dev.locci.node"
LABEL_SANDBOX: Final = "dev.locci.sandbox"
LABEL_VOLUME: Final = "dev.locci.volume"

PIDS_DEFAULT: Final = 1024
JOINED: Final = "container:"

_RUNNING: Final = frozenset({"running", "paused", "restarting"})
_EXIT_CODE = re.compile(r"\((\d+)\)")


def labels_of(replica: Replica, node: str) -> dict[str, str]:
    """What makes a container recognisable."""
    return {
        LABEL_APP: replica.app,
        LABEL_ORDINAL: str(replica.ordinal),
        LABEL_RELEASE: str(replica.release),
        LABEL_SPEC_HASH: replica.spec_hash,
        LABEL_RESOURCE: replica.resource,
        LABEL_NODE: node,
    }


def facts_of(replica: Replica, node: str, region: str) -> dict[str, str]:
    """What a container is told of its place, as environment variables; a manifest cannot say otherwise."""
    return {
        "LOCCI_APP": replica.app,
        "LOCCI_RELEASE": str(replica.release),
        "LOCCI_REPLICA": str(replica.ordinal),
        "LOCCI_NODE": node,
        "LOCCI_REGION": region,
    }


def host_settings(
    replica: Replica, files: Path | None = None, sandbox: str = "", secret_files: Path | None = None
) -> dict[str, Any]:
    """Limits, privileges, volumes, network. The engine restarts nothing: the agent does, with its own back-off.

    `files` is the host directory with the replica's files, by their number, `secret_files` that with its secrets;
    `sandbox` is whose network it joins.
    """
    options = replica.options
    log = {"max-size": str(options.log_bytes_max), "max-file": str(options.log_files_max)}
    settings: dict[str, Any] = {
        "restart_policy": {"Name": "no"},
        "pids_limit": replica.pids or PIDS_DEFAULT,
        "log_config": LogConfig(type="json-file", config=log),
        "binds": [
            *_binds(replica.app, options.volumes),
            *_file_binds([file.path for file in options.files], files),
            *_file_binds([file.path for file in options.secret_files], secret_files),
        ],
        "tmpfs": {v.path: _tmpfs(v) for v in options.volumes if v.kind == "tmpfs"},
        "read_only": options.read_only_root,
    }
    if options.privileged:
        settings["privileged"] = True
    else:
        settings |= {"security_opt": ["no-new-privileges"], "cap_drop": ["ALL"], "cap_add": list(options.capabilities)}
    if options.ulimits:
        settings["ulimits"] = [EngineUlimit(name=u.name, soft=u.soft, hard=u.hard) for u in options.ulimits]
    if replica.cpu_millis:
        settings["nano_cpus"] = replica.cpu_millis * 1_000_000
    if replica.memory_bytes:
        settings["mem_limit"] = replica.memory_bytes
    if replica.host_ports:
        settings["port_bindings"] = {f"{port}/tcp": host_port for port, host_port in replica.host_ports}
    if sandbox:
        settings["network_mode"] = f"{JOINED}{sandbox}"
    return settings


def volume_name(app: str, name: str) -> str:
    """The engine's name of an app's volume."""
    return f"locci-{app}-{name}"


def _binds(app: str, volumes: tuple[Volume, ...]) -> Iterator[str]:
    for volume in volumes:
        access = "ro" if volume.read_only else "rw"
        if volume.kind == "named":
            yield f"{volume_name(app, volume.source)}:{volume.path}:{access}"
        elif volume.kind == "host":
            yield f"{volume.source}:{volume.path}:{access}"


def _file_binds(paths: Iterable[str], folder: Path | None) -> Iterator[str]:
    if folder is not None:
        yield from (f"{folder / str(number)}:{path}:ro" for number, path in enumerate(paths))


def _tmpfs(volume: Volume) -> str:
    access = "ro" if volume.read_only else "rw"
    return f"{access},nosuid,nodev,size={volume.size_bytes}"


def identity_of(labels: Mapping[str, str]) -> Identity | None:
    """Which replica a container is; None when its labels do not say so, which makes it a foreign one."""
    app, ordinal, spec_hash = (labels.get(key, "") for key in (LABEL_APP, LABEL_ORDINAL, LABEL_SPEC_HASH))
    return Identity(app, int(ordinal), spec_hash) if app and spec_hash and ordinal.isdecimal() else None


def sandboxes_of(listed: list[Mapping[str, Any]]) -> dict[str, Sandbox]:
    """The sandboxes in a listing."""
    return {
        summary["Id"]: Sandbox(
            summary["Id"], _state(summary["State"]) is ContainerState.RUNNING, next(_addresses(_networks(summary)), "")
        )
        for summary in listed
        if LABEL_SANDBOX in (summary["Labels"] or {})
    }


def joined_sandbox(found: Mapping[str, Any]) -> str:
    """The id of the container whose network a container joins; empty when it has its own."""
    mode = str((found.get("HostConfig") or {}).get("NetworkMode", ""))
    return mode.removeprefix(JOINED) if mode.startswith(JOINED) else ""


def container_of(summary: Mapping[str, Any], sandboxes: Mapping[str, Sandbox] | None = None) -> Container | None:
    """A container as a listing shows it; None for a foreign one."""
    identity = identity_of(summary["Labels"] or {})
    if identity is None:
        return None
    exit_code = _EXIT_CODE.search(summary.get("Status", ""))
    state = _state(summary["State"])
    sandbox_id = joined_sandbox(summary)
    sandbox = (sandboxes or {}).get(sandbox_id)
    ip = (sandbox.ip if sandbox else "") if sandbox_id else next(_addresses(_networks(summary)), "")
    running = state is ContainerState.RUNNING
    return Container(
        id=summary["Id"],
        identity=identity,
        resource=summary["Labels"].get(LABEL_RESOURCE, ""),
        state=state,
        ip=ip if running else "",
        exit_code=int(exit_code[1]) if exit_code and state is ContainerState.ENDED else 0,
        sandbox=sandbox_id,
        stranded=running and bool(sandbox_id) and (sandbox is None or not sandbox.running),
    )


def inspected(found: Mapping[str, Any], sandbox_ip: str = "") -> Container:
    """A container of this agent as an inspection shows it; `sandbox_ip` is its address when it joins a sandbox."""
    labels, state = found["Config"]["Labels"], found["State"]
    identity = identity_of(labels)
    assert identity is not None
    return Container(
        id=found["Id"],
        identity=identity,
        resource=labels.get(LABEL_RESOURCE, ""),
        state=_state(state["Status"]),
        ip=sandbox_ip or next(_addresses(found["NetworkSettings"]["Networks"]), ""),
        exit_code=state["ExitCode"],
        started_wall_s=_wall_s(state["StartedAt"]),
        sandbox=joined_sandbox(found),
    )


def address_of(found: Mapping[str, Any]) -> str:
    """The address of an inspected container's own network; empty when it has none."""
    return next(_addresses(found["NetworkSettings"]["Networks"]), "")


def _state(word: str) -> ContainerState:
    if word in _RUNNING:
        return ContainerState.RUNNING
    return ContainerState.CREATED if word == "created" else ContainerState.ENDED


def _networks(summary: Mapping[str, Any]) -> Mapping[str, Mapping[str, str]]:
    return (summary.get("NetworkSettings") or {}).get("Networks") or {}


def _addresses(networks: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    return (address for _, network in sorted(networks.items()) if (address := network.get("IPAddress", "")))


def _wall_s(text: str) -> float:
    """Seconds since 1970 of the engine's RFC 3339 time, which has nanoseconds."""
    return datetime.datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()
