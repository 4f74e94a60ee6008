"""When a manifest makes a new release, and what identifies its containers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from control_plane.core.manifest import Manifest


def spec_hash(manifest: Manifest, pinned_image: str) -> str:
    """Hash of everything that shapes a container: 32 hexadecimal digits.

    Health checks are part of it, so that a changed check is proven by a rollout before it counts. Placement, hostnames,
    cache, routing and rollout policy are not: they change without touching a container.
    """
    shape = {
        "image": pinned_image,
        "command": manifest.command,
        "args": manifest.args,
        "env": dict(sorted(manifest.env.items())),
        "ports": [asdict(port) for port in manifest.ports],
        "readiness": None if manifest.readiness is None else asdict(manifest.readiness),
        "liveness": None if manifest.liveness is None else asdict(manifest.liveness),
        "limits": asdict(manifest.limits),
        "stop_timeout_s": manifest.stop_timeout_s,
        "labels": dict(sorted(manifest.labels.items())),
    }
    canonical = json.dumps(shape, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def is_unchanged(manifest: Manifest, pinned_image: str, latest: Manifest, latest_pinned_image: str) -> bool:
    """Whether applying `manifest` after `latest` would change nothing; both are complete."""
    return manifest == latest and pinned_image == latest_pinned_image
