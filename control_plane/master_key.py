"""A new master key: what is sealed in the store is wrapped anew; the content itself is not touched.

The new key lies beside the old one before the store changes, and takes its place afterwards. Whoever starts after a
crash in between finds by the proof in the store which of the two holds.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from control_plane.adapters.vault import FileVault
from control_plane.state import Batch, State, Table
from fleet.errors import LocciError

FILE: Final = "master.key"
_NEXT: Final = "master.key.new"
_PROOF_NAME: Final = "master-key"
_PROOF: Final = b"locci"


def note_proof(state: State, vault: FileVault, batch: Batch) -> None:
    """Notes what only this master key opens, when there is no such note."""
    if _PROOF_NAME not in state.origins:
        batch.put(state.origins, _PROOF_NAME, _proof(vault.seal(_PROOF, _PROOF_NAME)), 0)


def is_noted(state: State) -> bool:
    """Whether the store was made with a master key."""
    return _PROOF_NAME in state.origins


def open_vault(directory: Path, state: State) -> FileVault:
    """The vault that opens what is in the store; made for a store that knows of none. Finishes a replacement.

    Raises FAILED_PRECONDITION (SEALED_UNREADABLE) when the key is not the store's, OSError.
    """
    vault = FileVault(directory / FILE)
    known = state.origins.get(_PROOF_NAME)
    if known is None:
        return vault
    sealed = base64.b64decode(known.value)
    try:
        vault.open(sealed, _PROOF_NAME)
    except LocciError:
        if not (directory / _NEXT).exists():
            raise
        FileVault(directory / _NEXT).open(sealed, _PROOF_NAME)
        os.replace(directory / _NEXT, directory / FILE)
        return FileVault(directory / FILE)
    return vault


async def replace(directory: Path, state: State) -> int:
    """Makes a new master key and wraps everything under it; how many values. No control plane may run meanwhile."""
    old = open_vault(directory, state)
    (directory / _NEXT).unlink(missing_ok=True)
    new = FileVault(directory / _NEXT)

    def build(batch: Batch) -> int:
        count = 0
        for table, context in sealed_tables(state):
            for name, row in table.items():
                wrapped = old.rewrap(row.value, context(name), new)
                batch.put(table, name, BytesValue(value=wrapped), table.revision(name))
                count += 1
        batch.put(state.origins, _PROOF_NAME, _proof(new.seal(_PROOF, _PROOF_NAME)))
        batch.event("MasterKeyReplaced", f"{count} sealed values are under a new master key")
        return count

    count = await state.transact(build)
    os.replace(directory / _NEXT, directory / FILE)
    return count


def sealed_tables(state: State) -> list[tuple[Table[Any], Callable[[str], str]]]:
    """Each table of sealed values, and the context under which the value of a name is sealed."""
    return [
        (state.secret_values, lambda name: name),
        (state.certificate_keys, lambda name: f"{name}/key"),
        (state.registry_passwords, lambda name: f"{name}/password"),
        (state.acme_keys, lambda name: name),
        (state.authority_keys, lambda name: f"{name}/key"),
        (state.zone_keys, lambda name: f"zoneKeys/{name.removeprefix('zones/')}"),
    ]


def _proof(sealed: bytes) -> StringValue:
    return StringValue(value=base64.b64encode(sealed).decode())
