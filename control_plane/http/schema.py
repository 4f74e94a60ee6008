"""JSON Schema (draft 2020-12) of the contract's messages, as their JSON is read and written here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from fleet import contract

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_WELL_KNOWN: Final[Mapping[str, dict[str, Any]]] = {
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d{1,12}(\.\d{1,9})?s$", "examples": ["1.5s"]},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["labels,addresses"]},
    "google.protobuf.Empty": {"type": "object", "additionalProperties": False},
}
_INTEGERS: Final[Mapping[int, dict[str, Any]]] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.CPPTYPE_INT64: {"type": ["string", "integer"], "format": "int64", "pattern": r"^-?\d{1,19}$"},
    FieldDescriptor.CPPTYPE_UINT64: {
        "type": ["string", "integer"],
        "format": "uint64",
        "pattern": r"^\d{1,20}$",
        "minimum": 0,
    },
}


class Schemas:
    """Collects the schemas of messages and enums, each once, by name."""

    def __init__(self, comments: Mapping[str, str], prefix: str, *, closed: bool):
        """`prefix` precedes a name in references; `closed` schemas refuse fields that are not known."""
        self._comments = comments
        self._prefix = prefix
        self._closed = closed
        self.definitions: dict[str, dict[str, Any]] = {}

    def reference(self, kind: Descriptor | EnumDescriptor) -> dict[str, Any]:
        """A schema that refers to the message's or enum's own, which is collected."""
        if kind.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[kind.full_name])
        name = kind.full_name.removeprefix("locci.v1.")
        if name not in self.definitions:
            self.definitions[name] = {}
            built = self.message(kind) if isinstance(kind, Descriptor) else self._enum(kind)
            self.definitions[name] = built
        return {"$ref": f"{self._prefix}{name}"}

    def message(self, descriptor: Descriptor, without: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The schema of a message, but for the fields in `without`."""
        fields = [field for field in descriptor.fields if field.name not in without]
        result: dict[str, Any] = {
            "type": "object",
            "description": self._comments.get(descriptor.full_name, ""),
            "properties": {field.name: self.field(field) for field in fields},
        }
        required = [field.name for field in fields if contract.is_required(field)]
        if required:
            result["required"] = required
        if self._closed:
            result["additionalProperties"] = False
        return result

    def field(self, field: FieldDescriptor) -> dict[str, Any]:
        """The schema of a field, with its comment."""
        if contract.is_map(field):
            schema: dict[str, Any] = {
                "type": "object",
                "additionalProperties": self._single(contract.map_value(field)),
            }
        elif field.is_repeated:
            schema = {"type": "array", "items": self._single(field)}
        else:
            schema = self._single(field)
        schema["description"] = self._comments.get(field.full_name, "")
        if contract.is_required(field) and schema.get("type") == "string":
            schema["minLength"] = 1
        if contract.is_output_only(field):
            schema["readOnly"] = True
        if contract.behaves(field, field_behavior_pb2.INPUT_ONLY):
            schema["writeOnly"] = True
        return schema

    def _single(self, field: FieldDescriptor) -> dict[str, Any]:
        kind = field.message_type or field.enum_type
        if kind is not None:
            return self.reference(kind)
        if field.name == "page_size":
            return {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
        if field.cpp_type in _INTEGERS:
            return dict(_INTEGERS[field.cpp_type])
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return {"type": "boolean"}
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return {"type": "string"}
        return {"type": "number"}

    def _enum(self, kind: EnumDescriptor) -> dict[str, Any]:
        lines = [f"`{value.name}`: {self._comments.get(f'{kind.full_name}.{value.name}', '')}" for value in kind.values]
        about = self._comments.get(kind.full_name, "")
        return {
            "type": "string",
            "enum": [value.name for value in kind.values],
            "description": "\n\n".join([about, *lines]),
        }
