"""What this host is made of, how busy it is, and where clients reach it."""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
from importlib import metadata
from pathlib import Path
from typing import Final

import psutil

from fleet.errors import invalid
from locci.v1 import agent_pb2, node_pb2

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


def facts(docker_version: str, data_path: Path) -> node_pb2.NodeFacts:
    """The host's facts; `data_path` is on the disk whose size counts."""
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        system = platform.system()
    return node_pb2.NodeFacts(
        hostname=socket.gethostname(),
        os=system,
        kernel=platform.release(),
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        cpus=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        disk_bytes=psutil.disk_usage(str(_existing(data_path))).total,
        docker_version=docker_version,
        program_version=metadata.version("locci-cloud"),
    )


def heartbeat(*data_paths: Path) -> agent_pb2.Heartbeat:
    """How busy the host is now; of the disks that the paths are on, the fullest counts."""
    return agent_pb2.Heartbeat(
        load=os.getloadavg()[0] / (os.cpu_count() or 1),
        memory_used=psutil.virtual_memory().percent / 100,
        disk_used=max(psutil.disk_usage(str(_existing(path))).percent for path in data_paths) / 100,
    )


def addresses() -> list[str]:
    """The address of the default route; without one, the first global address of an interface.

    Raises INVALID_ARGUMENT when there is none: then it must be said.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("198.51.100.1", 9))  # RFC 5737; connecting a datagram socket sends nothing
            return [probe.getsockname()[0]]
    except OSError:
        found = [a.address for own in psutil.net_if_addrs().values() for a in own if a.family == socket.AF_INET]
    usable = [address for address in found if not ipaddress.ip_address(address).is_loopback]
    if not usable:
        raise invalid("address", "this host has no address that clients could reach: say it with --address")
    return usable[:1]


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
