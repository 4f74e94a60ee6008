"""Changing resources: field masks and etags (AIP-134, AIP-154)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from fleet.errors import Code, LocciError, invalid


def check_etag(name: str, given: str, current: int) -> None:
    """Raises ABORTED with reason ETAG_MISMATCH when an etag is given and is not the current one."""
    if given and given != str(current):
        message = f"{name} was changed meanwhile (etag {current}, not {given}): read it again, then retry"
        raise LocciError(Code.ABORTED, "ETAG_MISMATCH", message, field="etag", metadata={"etag": str(current)})


def merge(target: Message, source: Message, mask: FieldMask, own: Collection[str], path: str) -> None:
    """Takes the fields of `mask` over from `source`; without a mask those of `own` that are set.

    Raises INVALID_ARGUMENT for a field that is not the operator's to change.
    """
    named = [field for field in mask.paths if field != "*"]
    for field in named:
        if field.partition(".")[0] not in own:
            at = f"update_mask: {field}"
            raise invalid("update_mask", f"{at}: only {', '.join(sorted(own))} of a {path} can be changed")
    if "*" in mask.paths:
        chosen = sorted(own)
    else:
        chosen = [field.partition(".")[0] for field in named] or _set_fields(source, own)
    for field in chosen:
        target.ClearField(field)
        if field in _set_fields(source, own):
            _copy(target, source, field)


def _set_fields(message: Message, own: Collection[str]) -> list[str]:
    return [descriptor.name for descriptor, _ in message.ListFields() if descriptor.name in own]


def _copy(target: Any, source: Any, field: str) -> None:
    part = type(source)()
    value = getattr(source, field)
    if hasattr(value, "MergeFrom"):
        getattr(part, field).MergeFrom(value)
    else:
        setattr(part, field, value)
    target.MergeFrom(part)
