"""The contract's comments, which Python's descriptors lack, from the descriptor set beside the generated code."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from google.protobuf import descriptor_pb2

_MESSAGES_OF_FILE: Final = 4
_ENUMS_OF_FILE: Final = 5
_SERVICES_OF_FILE: Final = 6
_FIELDS_OF_MESSAGE: Final = 2
_NESTED_OF_MESSAGE: Final = 3
_ENUMS_OF_MESSAGE: Final = 4
_PARTS_OF_OTHERS: Final = 2


@functools.cache
def load() -> Mapping[str, str]:
    """Full name of a message, field, enum, enum value, service or method to its comment, in one line of text.

    An enum value is named below its enum, as in `locci.v1.NodeRole.NODE_ROLE_EDGE`; a file by its path.
    """
    content = resources.files("locci.v1").joinpath("contract.desc").read_bytes()
    files = descriptor_pb2.FileDescriptorSet.FromString(content).file
    return {name: text for file in files if file.package == "locci.v1" for name, text in _of_file(file)}


def _of_file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        if list(location.path) == [12] and location.leading_detached_comments:
            yield file.name, _text(location.leading_detached_comments[0])
        elif location.leading_comments:
            name = _name(file, list(location.path))
            if name is not None:
                yield name, _text(location.leading_comments)


def _text(comment: str) -> str:
    return re.sub(r"\s+", " ", comment).strip()


def _name(file: descriptor_pb2.FileDescriptorProto, path: Sequence[int]) -> str | None:
    """The full name of what a path of the source info leads to (descriptor.proto, SourceCodeInfo.Location)."""
    if path == [12]:
        return file.name
    if len(path) < 2:
        return None
    kinds: dict[int, Sequence[Any]] = {
        _MESSAGES_OF_FILE: file.message_type,
        _ENUMS_OF_FILE: file.enum_type,
        _SERVICES_OF_FILE: file.service,
    }
    if path[0] not in kinds:
        return None
    return _below(kinds[path[0]][path[1]], path[2:], file.package)


def _below(part: Any, path: Sequence[int], parent: str) -> str | None:
    name = f"{parent}.{part.name}"
    if not path:
        return name
    if len(path) == 1:
        return None
    if isinstance(part, descriptor_pb2.DescriptorProto):
        kinds: dict[int, Sequence[Any]] = {
            _FIELDS_OF_MESSAGE: part.field,
            _NESTED_OF_MESSAGE: part.nested_type,
            _ENUMS_OF_MESSAGE: part.enum_type,
        }
    elif isinstance(part, descriptor_pb2.EnumDescriptorProto):
        kinds = {_PARTS_OF_OTHERS: part.value}
    elif isinstance(part, descriptor_pb2.ServiceDescriptorProto):
        kinds = {_PARTS_OF_OTHERS: part.method}
    else:
        return None
    return _below(kinds[path[0]][path[1]], path[2:], name) if path[0] in kinds else None
