"""What makes a control plane this fleet's and no other's: its authorities, and the master key that opens them.

The authorities are in the store, the master key is a file beside it. A store that is opened with another master key, or
with none, is refused before anything is made anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf.wrappers_pb2 import BytesValue

from control_plane import decode, master_key
from control_plane.adapters.ca import FleetAuthority, Signer
from control_plane.adapters.vault import FileVault
from control_plane.ports import Vault
from control_plane.settings import ServerSettings
from control_plane.state import Batch, State
from fleet.errors import Code, LocciError, failed_precondition, invalid
from locci.v1 import authority_pb2

PREPARED: Final = authority_pb2.AUTHORITY_STATE_PREPARED
ACTIVE: Final = authority_pb2.AUTHORITY_STATE_ACTIVE
RETIRING: Final = authority_pb2.AUTHORITY_STATE_RETIRING


@dataclass(frozen=True, slots=True)
class Origin:
    """The fleet's authority and vault; `first` is the authority of a store that knows of none."""

    authority: FleetAuthority
    vault: FileVault
    first: Signer | None = None

    def note(self, state: State, batch: Batch, now: float) -> None:
        """Notes in the store what is not there yet."""
        master_key.note_proof(state, self.vault, batch)
        if self.first is not None:
            put_authority(batch, state, self.vault, self.first, ACTIVE, now)


def open_origin(settings: ServerSettings, state: State, wall: Callable[[], float]) -> Origin:
    """Opens both, and makes them for a store that knows of none.

    Raises FAILED_PRECONDITION (NOT_THIS_FLEET) when the master key is not the store's.
    """
    directory = settings.data_dir
    if master_key.is_noted(state) and not (directory / master_key.FILE).exists():
        message = (
            f"{directory}/master.key is not there, and the store was made with one: copy master.key and admin.token "
            "from another control plane of the fleet, or from a backup, or name another store"
        )
        raise failed_precondition("NOT_THIS_FLEET", message)
    try:
        vault = master_key.open_vault(directory, state)
    except PermissionError as error:
        message = f"{error.filename}: {error.strerror}; run as the owner of {directory}, or change data_dir"
        raise LocciError(Code.PERMISSION_DENIED, "NOT_PERMITTED", message) from error
    except OSError as error:
        message = f"{error.filename or directory}: {error.strerror}"
        raise failed_precondition("DATA_DIR_UNUSABLE", message) from error
    authority = FleetAuthority(directory / "ca", settings.trust_domain, settings.certificate_ttl_s, wall)
    if len(state.authorities):
        use_stored(authority, state, vault)
        return Origin(authority, vault)
    first = _first(directory / "ca", settings, state, wall())
    authority.use(first, first, [first])
    return Origin(authority, vault, first)


def _first(directory: Path, settings: ServerSettings, state: State, now: float) -> Signer:
    """The authority in the files of version 0.1.0, or a new one."""
    try:
        return Signer.parse((directory / "ca.key").read_bytes(), (directory / "ca.pem").read_text())
    except FileNotFoundError:
        if len(state.nodes):
            message = (
                f"{directory}: the authority that the fleet's nodes trust is not there: put ca.key and ca.pem back"
            )
            raise failed_precondition("NOT_THIS_FLEET", message) from None
        return Signer.create(settings.trust_domain, now)
    except (OSError, ValueError) as error:
        raise invalid("data_dir", f"{directory}: the CA cannot be read: {error}", "CA_UNREADABLE") from error


def put_authority(
    batch: Batch,
    state: State,
    vault: Vault,
    signer: Signer,
    standing: authority_pb2.AuthorityState.ValueType,
    now: float,
) -> str:
    """Puts a new authority into a transaction; its name."""
    name = f"authorities/{signer.fingerprint[:12]}"
    row = authority_pb2.Authority(
        name=name,
        certificate_pem=signer.certificate_pem(),
        fingerprint=signer.fingerprint,
        state=standing,
        create_time=decode.timestamp(now),
        expire_time=decode.timestamp(signer.certificate.not_valid_after_utc.timestamp()),
    )
    batch.put(state.authorities, name, row, 0)
    sealed = vault.seal(signer.key_pem(), f"{name}/key")
    batch.put(state.authority_keys, name, BytesValue(value=sealed), 0)
    return name


def use_stored(authority: FleetAuthority, state: State, vault: Vault) -> None:
    """Has `authority` sign with what the store says, and trust it."""
    signers = {}
    for name, row in state.authorities.items():
        sealed = state.authority_keys.need(name).value
        signers[row.state] = Signer.parse(vault.open(sealed, f"{name}/key"), row.certificate_pem)
    active = signers[ACTIVE]
    authority.use(active, signers.get(RETIRING, active), list(signers.values()))
