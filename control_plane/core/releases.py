"""When a manifest makes a new release, and what identifies its containers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict

from control_plane.core.container_options import ContainerOptions
from control_plane.core.manifest import Manifest, Probe


def spec_hash(manifest: Manifest, pinned_image: str, restarts: int = 0) -> str:
    """Hash of everything that shapes a container: 32 hexadecimal digits.

    Health checks are part of it, so that a changed check is proven by a rollout before it counts. Placement, hostnames,
    cache, routing and rollout policy are not: they change without touching a container. A restart is, for nothing else
    tells the containers that are to come from those that are there.
    """
    shape: dict[str, object] = {
        "image": pinned_image,
        "command": manifest.command,
        "args": manifest.args,
        "env": dict(sorted(manifest.env.items())),
        "ports": [{k: v for k, v in asdict(port).items() if v or k != "host_port"} for port in manifest.ports],
        "readiness": _shape_of(manifest.readiness),
        "liveness": _shape_of(manifest.liveness),
        "limits": asdict(manifest.limits),
        "stop_timeout_s": manifest.stop_timeout_s,
        "labels": dict(sorted(manifest.labels.items())),
    }
    if manifest.container != ContainerOptions():
        # Only then, so that containers of manifests that know nothing of these options keep their hash.
        shape["container"] = {k: v for k, v in asdict(manifest.container).items() if v or k != "secrets"}
    if restarts:
        shape["restarts"] = restarts
    canonical = json.dumps(shape, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _shape_of(probe: Probe | None) -> dict[str, object] | None:
    """What a probe adds to the hash; fields that came later only when they are set."""
    if probe is None:
        return None
    return {key: value for key, value in asdict(probe).items() if value or key not in ("service", "command")}


def expendable(numbers: Iterable[int], needed: Collection[int], kept: int) -> list[int]:
    """Which releases of an app may go: those that nobody needs, beyond the newest `kept` of all."""
    oldest_first = sorted(numbers)
    return [number for number in oldest_first[: max(0, len(oldest_first) - kept)] if number not in needed]


def is_unchanged(manifest: Manifest, pinned_image: str, latest: Manifest, latest_pinned_image: str) -> bool:
    """Whether applying `manifest` after `latest` would change nothing; both are complete."""
    return manifest == latest and pinned_image == latest_pinned_image
