"""What makes a control plane this fleet's and no other's: its CA and its master key, files beside the store.

The store notes which they are. One that is opened with others, or with none, is refused before anything is made anew.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.wrappers_pb2 import StringValue

from control_plane.adapters.ca import FileAuthority
from control_plane.adapters.vault import FileVault
from control_plane.settings import ServerSettings
from control_plane.state import Batch, State
from fleet.errors import Code, LocciError, failed_precondition

_CA: Final = "ca"
_MASTER_KEY: Final = "master-key"
_PROOF: Final = b"locci"


@dataclass(frozen=True, slots=True)
class Origin:
    """The fleet's CA and vault."""

    authority: FileAuthority
    vault: FileVault


def open_origin(settings: ServerSettings, state: State, wall: Callable[[], float]) -> Origin:
    """Opens both, and makes them for a store that knows of none.

    Raises FAILED_PRECONDITION (NOT_THIS_FLEET) when the store belongs to others.
    """
    directory = settings.data_dir
    if _CA in state.origins and not (directory / "ca" / "ca.pem").exists():
        raise _not_this_fleet(settings, "there is none in")
    try:
        authority = FileAuthority(directory / "ca", settings.trust_domain, settings.certificate_ttl_s, wall)
        vault = FileVault(directory / "master.key")
    except PermissionError as error:
        message = f"{error.filename}: {error.strerror}; run as the owner of {directory}, or change data_dir"
        raise LocciError(Code.PERMISSION_DENIED, "NOT_PERMITTED", message) from error
    except OSError as error:
        message = f"{error.filename or directory}: {error.strerror}"
        raise failed_precondition("DATA_DIR_UNUSABLE", message) from error
    known = state.origins.get(_CA)
    if known is not None and known.value not in authority.fingerprints:
        raise _not_this_fleet(settings, "there is another in")
    proof = state.origins.get(_MASTER_KEY)
    if proof is not None:
        vault.open(base64.b64decode(proof.value), _MASTER_KEY)
    return Origin(authority, vault)


def note(origin: Origin, state: State, batch: Batch) -> None:
    """Notes in the store whose it is, when that is not there yet."""
    if _CA not in state.origins:
        batch.put(state.origins, _CA, StringValue(value=origin.authority.fingerprints[0]), 0)
    if _MASTER_KEY not in state.origins:
        proof = base64.b64encode(origin.vault.seal(_PROOF, _MASTER_KEY)).decode()
        batch.put(state.origins, _MASTER_KEY, StringValue(value=proof), 0)


def _not_this_fleet(settings: ServerSettings, what: str) -> LocciError:
    message = (
        f"the store belongs to a fleet whose CA is elsewhere: {what} {settings.data_dir}/ca; copy ca/, master.key and "
        "admin.token from another control plane of the fleet, or name another store"
    )
    return failed_precondition("NOT_THIS_FLEET", message)
