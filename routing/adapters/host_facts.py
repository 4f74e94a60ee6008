"""What this host is made of, and how busy it is."""

from __future__ import annotations

import os
import platform
import socket
from importlib import metadata
from pathlib import Path

import psutil

from locci.v1 import agent_pb2, node_pb2

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def node_facts(state_dir: Path) -> node_pb2.NodeFacts:
    """Facts that hardly change while the program runs."""
    machine = platform.machine()
    return node_pb2.NodeFacts(
        hostname=socket.gethostname(),
        os=_operating_system(),
        kernel=platform.release(),
        architecture=_ARCHITECTURES.get(machine, machine),
        cpus=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        disk_bytes=psutil.disk_usage(str(_existing(state_dir))).total,
        program_version=metadata.version("locci-cloud"),
    )


def heartbeat(state_dir: Path) -> agent_pb2.Heartbeat:
    """Load, memory and disk now."""
    return agent_pb2.Heartbeat(
        load=os.getloadavg()[0] / (os.cpu_count() or 1),
        memory_used=psutil.virtual_memory().percent / 100,
        disk_used=psutil.disk_usage(str(_existing(state_dir))).percent / 100,
    )


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return platform.system()
