"""What a host allows, whatever the control plane says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import normpath
from typing import Final

from agent.core.options import CAPABILITIES, Options


@dataclass(frozen=True, slots=True)
class LocalPolicy:
    """The host's own rules. As they are here they hold on a host without a policy file."""

    registries: tuple[str, ...] = ("*",)
    """Patterns of `host[:port]/repository`, as in `registry.example.net/*`."""
    host_paths: tuple[str, ...] = ()
    """Directories below which containers may be given paths of the host."""
    capabilities: tuple[str, ...] = ()
    """Capabilities besides the usual ones."""
    privileged: bool = False
    drills: bool = True
    """Whether drills may break something here for a while."""
    forbidden_faults: tuple[str, ...] = ()
    """Faults that drills may not inject, as in `disk-full`."""
    signed_by: tuple[str, ...] = ()
    """Public keys in PEM; every image must be signed by one of them. Empty demands nothing."""
    commands: bool = True
    """Whether operators may run commands in containers."""


DEFAULT_POLICY: Final = LocalPolicy()


def allows_image(policy: LocalPolicy, image: str) -> bool:
    """Whether images may be pulled by such a name."""
    repository = image.partition("@")[0]
    return any(fnmatchcase(repository, pattern) for pattern in policy.registries)


def violations(policy: LocalPolicy, image: str, options: Options) -> Iterator[str]:
    """What a replica asks for that the host does not allow, in sentences that name the rule."""
    if not allows_image(policy, image):
        yield f"image: this host's policy (registries) does not allow {image.partition('@')[0]}"
    for volume in options.volumes:
        if volume.kind == "host" and not any(_below(volume.source, allowed) for allowed in policy.host_paths):
            yield f"volumes: this host's policy (host_paths) does not allow {volume.source}"
    for name in options.capabilities:
        if name not in CAPABILITIES and name not in policy.capabilities:
            yield f"security.add_capabilities: this host's policy (capabilities) does not allow {name}"
    if options.privileged and not policy.privileged:
        yield "security.privileged: this host's policy (privileged) does not allow it"


def _below(path: str, allowed: str) -> bool:
    """By the words alone; links on the host are the business of who made them."""
    whole, root = normpath(path), normpath(allowed)
    return ".." not in path.split("/") and (whole == root or whole.startswith(root.rstrip("/") + "/"))
