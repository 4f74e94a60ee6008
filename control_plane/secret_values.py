"""Values of secrets: sealed in the store, opened for the hosts that run a replica which needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.wrappers_pb2 import BytesValue

from control_plane.ports import Vault
from control_plane.state import State
from fleet.errors import failed_precondition, invalid
from locci.v1 import container_pb2


def seal(vault: Vault, secret: str, version: int, value: bytes) -> BytesValue:
    """What the store keeps of a version."""
    return BytesValue(value=vault.seal(value, f"secrets/{secret}/{version}"))


def unseal(vault: Vault, secret: str, version: int, sealed: BytesValue) -> bytes:
    """The value of a version. Raises FAILED_PRECONDITION when it does not open."""
    return vault.open(sealed.value, f"secrets/{secret}/{version}")


def pin(state: State, vault: Vault, mount: container_pb2.SecretMount, at: str) -> None:
    """Sets the version that a mount stands for now. Raises FAILED_PRECONDITION when there is none to be had."""
    row = state.confidential.get(f"secrets/{mount.secret}")
    if row is None:
        message = f"{at}.secret: there is no secret {mount.secret}: `locci secrets create {mount.secret}` makes it"
        raise failed_precondition("SECRET_MISSING", message)
    kept = [version.number for version in row.versions if not version.destroyed]
    version = mount.version or max(kept, default=0)
    sealed = state.secret_values.get(f"secrets/{mount.secret}/{version}")
    if version not in kept or sealed is None:
        had = ", ".join(map(str, kept)) or "none"
        message = f"{at}.version: secret {mount.secret} has no version {version or 'at all'}; there are: {had}"
        raise failed_precondition("SECRET_VERSION_MISSING", message)
    if mount.env and not _is_text(unseal(vault, mount.secret, version, sealed)):
        message = f"{at}.env: version {version} of {mount.secret} is not text, which an environment variable must be"
        raise invalid(f"{at}.env", f"{message}: give it as a file")
    mount.version = version


def require(state: State, mounts: Iterable[container_pb2.SecretMount]) -> None:
    """Raises FAILED_PRECONDITION when a version that a release was made with is gone."""
    for mount in mounts:
        if f"secrets/{mount.secret}/{mount.version}" not in state.secret_values:
            message = f"version {mount.version} of secret {mount.secret} is gone: the release cannot run without it"
            raise failed_precondition("SECRET_VERSION_MISSING", message)


def _is_text(value: bytes) -> bool:
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False


def users(state: State, secret: str, version: int = 0) -> Iterator[str]:
    """Releases that are wanted, or would be gone back to, and get the secret, or that version of it."""
    for app in state.apps.values():
        for name in sorted({app.target_release, app.latest_release, app.stable_release} - {""}):
            release = state.releases.get(name)
            mounts = release.manifest.secrets if release is not None else ()
            if any(mount.secret == secret and version in (0, mount.version) for mount in mounts):
                yield name
