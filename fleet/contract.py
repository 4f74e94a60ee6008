"""JSON into the contract's messages, strictly, with errors that say where and what to do; and what fields promise.

The mapping is proto3's JSON (protobuf.dev/programming-guides/json): names in snake_case as in the contract, camelCase
taken too; 64-bit numbers as strings or numbers; durations as `"1.5s"`. Unlike the mapping's usual readers, this one
names the path of what is wrong and the nearest name that exists.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from google.api import annotations_pb2, field_behavior_pb2, http_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from fleet.errors import Code, LocciError, invalid

M = TypeVar("M", bound=Message)

PROBLEMS_MAX: Final = 20
"""So many problems are reported of one document."""
DEPTH_MAX: Final = 32
"""JSON that is nested deeper is refused."""

_DURATION = re.compile(r"-?\d{1,12}(\.\d{1,9})?s")
_FIELD_MASK = re.compile(r"[A-Za-z_][\w.]*(,[A-Za-z_][\w.]*)*")
_INTEGER = re.compile(r"-?\d{1,20}")
_INTEGERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field: `path` as in `manifest.ports[0].container_port`, empty for the whole."""

    path: str
    message: str
    reason: str = "INVALID_FIELD"

    def text(self) -> str:
        """One sentence that begins with the path."""
        return f"{self.path}: {self.message}" if self.path else self.message


def read_json(value: Any, message: M, path: str = "") -> M:
    """Fills `message` from a decoded JSON `value`; INVALID_ARGUMENT names every problem and the first one's field."""
    raise_first(json_problems(value, descriptor_of(message), path))
    try:
        json_format.ParseDict(_with_camel_masks(value, descriptor_of(message)), message)
    except (json_format.ParseError, ValueError, TypeError, RecursionError) as error:
        raise invalid(path, f"{path or 'the body'}: {error}") from error
    return message


def _with_camel_masks(value: Any, descriptor: Descriptor) -> Any:
    """A request with its field masks as proto3's JSON has them, in camelCase: ours are in snake_case, as all names."""
    masks = {field.name for field in descriptor.fields if field.message_type and field.message_type.name == "FieldMask"}
    if not isinstance(value, dict) or masks.isdisjoint(value):
        return value
    camel = {
        name: re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), value[name])
        for name in masks & set(value)
        if isinstance(value[name], str)
    }
    return {**value, **camel}


def write_json(message: Message) -> dict[str, Any]:
    """`message` as JSON as the API answers it: snake_case names, and fields at their zero value written out.

    What is absent was never set: only messages and oneofs can be. Fields come in the contract's order.
    """
    value = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    result: dict[str, Any] = _ordered(value, descriptor_of(message))
    return result


def _ordered(value: Any, descriptor: Descriptor) -> Any:
    """A message's JSON with its fields in the order in which the contract declares them."""
    if not isinstance(value, dict):
        return value
    result: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.name not in value:
            continue
        item = value[field.name]
        if field.message_type is None or field.message_type.full_name.startswith("google.protobuf.") or is_map(field):
            result[field.name] = item
        elif field.is_repeated:
            result[field.name] = [_ordered(each, field.message_type) for each in item]
        else:
            result[field.name] = _ordered(item, field.message_type)
    return result


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """What a message is made of."""
    return cast(Descriptor, message.DESCRIPTOR)


def raise_first(problems: Sequence[Problem]) -> None:
    """INVALID_ARGUMENT for `problems`, unless there are none."""
    if not problems:
        return
    first = problems[0]
    named = problems[:PROBLEMS_MAX]
    message = "; ".join(problem.text() for problem in named)
    violations = tuple((problem.path, problem.message) for problem in named if problem.path)
    raise LocciError(Code.INVALID_ARGUMENT, first.reason, message, field=first.path, violations=violations)


def json_problems(value: object, descriptor: Descriptor, path: str = "") -> list[Problem]:
    """What keeps `value` from being the JSON of a message; at most PROBLEMS_MAX."""
    result: list[Problem] = []
    for problem in _message(value, descriptor, path, 0):
        result.append(problem)
        if len(result) == PROBLEMS_MAX:
            break
    return result


def find_field(descriptor: Descriptor, name: str) -> FieldDescriptor | None:
    """The field of that snake_case or camelCase name."""
    found: FieldDescriptor | None = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
    return found


def unknown_field(name: str, descriptor: Descriptor, path: str, what: str = "field") -> Problem:
    """There is no such field; suggests the nearest."""
    near = nearest(name, list(descriptor.fields_by_name))
    if near:
        hint = f"; did you mean {near!r}?"
    elif descriptor.fields:
        hint = f"; known are {', '.join(sorted(descriptor.fields_by_name))}"
    else:
        hint = "; none is taken here"
    return Problem(join(path, name), f"unknown {what}{hint}", "UNKNOWN_FIELD")


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that `name` was probably meant to be."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    by_form = {option.lower().replace("-", "_"): option for option in known}
    suffixed = [option for form, option in by_form.items() if snake and form.endswith("_" + snake)]
    found = difflib.get_close_matches(snake, list(by_form), n=1, cutoff=0.6)
    return by_form[found[0]] if found else suffixed[0] if suffixed else None


def join(path: str, name: str) -> str:
    """The path of field `name` of what is at `path`."""
    return f"{path}.{name}" if path else name


def _message(value: object, descriptor: Descriptor, path: str, depth: int) -> Iterator[Problem]:
    check = _WELL_KNOWN.get(descriptor.full_name)
    if check is not None:
        yield from check(value, path)
        return
    if not isinstance(value, Mapping):
        yield Problem(path, f"must be an object, not {_kind(value)}")
        return
    if depth > DEPTH_MAX:
        yield Problem(path, "is nested too deeply")
        return
    seen: dict[str, str] = {}
    for key, item in value.items():
        field = find_field(descriptor, key) if isinstance(key, str) else None
        if field is None:
            yield unknown_field(str(key), descriptor, path)
            continue
        for group in _same(field, seen):
            yield Problem(join(path, str(key)), f"is given together with {group!r}; give only one of them")
        if item is not None:
            yield from _field(item, field, join(path, field.name), depth + 1)


def _same(field: FieldDescriptor, seen: dict[str, str]) -> Iterator[str]:
    """The name by which this field, or another of its oneof, was given before."""
    group = field.containing_oneof.name if field.containing_oneof is not None else ""
    key = f"oneof {group}" if group else field.name
    if key in seen:
        yield seen[key]
    seen[key] = field.name


def _field(value: object, field: FieldDescriptor, path: str, depth: int) -> Iterator[Problem]:
    if is_map(field):
        yield from _map(value, field, path, depth)
    elif field.is_repeated:
        if not isinstance(value, list | tuple):
            yield Problem(path, f"must be a list, not {_kind(value)}")
            return
        for index, item in enumerate(value):
            yield from _single(item, field, f"{path}[{index}]", depth)
    else:
        yield from _single(value, field, path, depth)


def _map(value: object, field: FieldDescriptor, path: str, depth: int) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield Problem(path, f"must be an object, not {_kind(value)}")
        return
    value_field = map_value(field)
    for key, item in value.items():
        if not isinstance(key, str):
            yield Problem(f"{path}[{key}]", "a key must be a string; put it in quotes")
        else:
            yield from _string(key, f"{path}[{key}]")
            yield from _single(item, value_field, f"{path}[{key}]", depth)


def _single(value: object, field: FieldDescriptor, path: str, depth: int) -> Iterator[Problem]:
    if field.message_type is not None:
        yield from _message(value, field.message_type, path, depth)
    elif field.cpp_type in _INTEGERS:
        yield from _integer(value, path, *_INTEGERS[field.cpp_type])
    elif field.enum_type is not None:
        yield from _enum(value, field.enum_type, path)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            yield Problem(path, f"must be true or false, not {_kind(value)}")
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        yield from _bytes(value, path) if field.type == FieldDescriptor.TYPE_BYTES else _string(value, path)
    else:
        yield from _number(value, path)


def _string(value: object, path: str) -> Iterator[Problem]:
    if isinstance(value, str):
        if not _is_text(value):
            yield Problem(path, "is no valid text: it holds half of a surrogate pair")
    elif isinstance(value, Mapping | list | tuple) or value is None:
        yield Problem(path, f"must be a string, not {_kind(value)}")
    else:
        yield Problem(path, f"must be a string, not {_kind(value)}; put it in quotes")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bytes(value: object, path: str) -> Iterator[Problem]:
    try:
        if not isinstance(value, str):
            raise ValueError
        base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        yield Problem(path, "must be a string of base64")


def _integer(value: object, path: str, least: int, most: int) -> Iterator[Problem]:
    if (isinstance(value, str) and _INTEGER.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        yield Problem(path, f"must be a whole number, not {_kind(value)}")
    elif not least <= value <= most:
        shown = str(value) if abs(value) < 2**64 else "the number given"
        yield Problem(path, f"{shown} is out of range: use {least} to {most}")


def _number(value: object, path: str) -> Iterator[Problem]:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        yield Problem(path, f"must be a finite number, not {_kind(value)}")


def _enum(value: object, kind: EnumDescriptor, path: str) -> Iterator[Problem]:
    if isinstance(value, int) and not isinstance(value, bool):
        if value not in kind.values_by_number:
            yield Problem(path, f"{value} is not known; use one of {', '.join(kind.values_by_name)}")
    elif not isinstance(value, str):
        yield Problem(path, f"must be one of {', '.join(kind.values_by_name)}, not {_kind(value)}")
    elif value not in kind.values_by_name:
        near = nearest(value, list(kind.values_by_name))
        hint = f"did you mean {near}?" if near else f"use one of {', '.join(kind.values_by_name)}"
        yield Problem(path, f"{value[:80]!r} is not known; {hint}")


def _duration(value: object, path: str) -> Iterator[Problem]:
    if not isinstance(value, str) or not _DURATION.fullmatch(value) or abs(float(value[:-1])) > 315_576_000_000:
        shown = repr(value)[:40]
        yield Problem(path, f'{shown} is not a duration: write seconds with an "s", as in "1.5s" or "300s"')


def _timestamp(value: object, path: str) -> Iterator[Problem]:
    try:
        if not isinstance(value, str):
            raise ValueError
        Timestamp().FromJsonString(value)
    except ValueError:
        yield Problem(path, 'must be a time of RFC 3339, as in "2026-01-31T12:00:00Z"')


def _mask(value: object, path: str) -> Iterator[Problem]:
    if not isinstance(value, str) or not (value == "" or _FIELD_MASK.fullmatch(value)):
        yield Problem(path, 'must name fields, separated by commas, as in "labels,addresses"')


_WELL_KNOWN: Final[Mapping[str, Callable[[object, str], Iterator[Problem]]]] = {
    "google.protobuf.Duration": _duration,
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.FieldMask": _mask,
}


def _kind(value: object) -> str:
    """What a value is, in a person's words."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {str(value)[:40]}"
        case str():
            return f"the text {value[:40]!r}"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"{value} (a {type(value).__name__})"


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def map_value(field: FieldDescriptor) -> FieldDescriptor:
    """What a map's values are."""
    assert field.message_type is not None
    return field.message_type.fields_by_name["value"]


def behaves(field: FieldDescriptor, behavior: int) -> bool:
    """Whether the field is annotated with a `google.api.FieldBehavior`."""
    return behavior in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


def is_required(field: FieldDescriptor) -> bool:
    """Whether a request without the field is refused."""
    return behaves(field, field_behavior_pb2.REQUIRED)


def is_output_only(field: FieldDescriptor) -> bool:
    """Whether what a request says in the field is ignored."""
    return behaves(field, field_behavior_pb2.OUTPUT_ONLY)


def http_rule(method: MethodDescriptor) -> http_pb2.HttpRule | None:
    """Where the method is found over HTTP; None when it is not."""
    options = method.GetOptions()
    return options.Extensions[annotations_pb2.http] if options.HasExtension(annotations_pb2.http) else None


def missing_required(message: Message, path: str = "") -> list[Problem]:
    """The REQUIRED fields that `message`, or a message in it, lacks."""
    result: list[Problem] = []
    for field in descriptor_of(message).fields:
        if not is_required(field):
            continue
        at = join(path, field.name)
        if field.message_type is not None and not field.is_repeated:
            present = message.HasField(field.name)
        else:
            present = bool(getattr(message, field.name))
        if not present:
            zero = " and must not be 0" if field.cpp_type in _INTEGERS and not field.is_repeated else ""
            result.append(Problem(at, f"is required{zero}", "REQUIRED_FIELD"))
    for child, at in _children(message, path):
        result.extend(missing_required(child, at))
    return result


def clear_output_only(message: Message) -> None:
    """Drops what only answers may say."""
    for field in descriptor_of(message).fields:
        if is_output_only(field):
            message.ClearField(field.name)
    for child, _ in _children(message, ""):
        clear_output_only(child)


def _children(message: Message, path: str) -> Iterable[tuple[Message, str]]:
    """The messages that are set in `message`, but those of the well-known types, with their paths."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.full_name.startswith("google.protobuf."):
            continue
        at = join(path, field.name)
        if is_map(field):
            if map_value(field).message_type is not None:
                yield from ((item, f"{at}[{key}]") for key, item in value.items())
        elif field.is_repeated:
            yield from ((item, f"{at}[{index}]") for index, item in enumerate(value))
        else:
            yield value, at


def set_path(message: Message, path: str, value: str) -> None:
    """Sets the string field at a dotted `path`, as in `region.name`."""
    *parents, last = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
        message.SetInParent()
    setattr(message, last, value)


def error_of(status: int, answer: Mapping[str, Any]) -> LocciError:
    """The error that a problem document (RFC 9457) of this API describes."""
    code = next((c for c in Code if c.name == answer.get("code")), Code.INTERNAL)
    metadata = answer.get("metadata")
    return LocciError(
        code,
        str(answer.get("reason", "UNKNOWN")),
        str(answer.get("detail") or answer.get("title") or f"status {status}"),
        field=str(answer.get("field", "")),
        metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {},
    )
