"""From an HTTP request to a request message: path, query parameters and body (google/api/http.proto)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from control_plane.http.routes import Match, Route
from fleet import contract
from fleet.contract import Problem
from fleet.errors import invalid

PARAMETERS_MAX: Final = 200
"""More query parameters are refused."""

_BOOLEANS: Final = {"true": True, "1": True, "": True, "false": False, "0": False}
_TEXTUAL: Final = {"google.protobuf.Duration", "google.protobuf.Timestamp", "google.protobuf.FieldMask"}
_UNMASKABLE: Final = (field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IDENTIFIER)


def bind(match: Match, query: Sequence[tuple[str, str]], body: bytes) -> Message:
    """The request message.

    What only answers may say is dropped. Raises INVALID_ARGUMENT that names what is unknown, malformed or missing.
    """
    route = match.route
    value = _with_body(route, body)
    value.update(_from_query(route, match.variables, query))
    message = contract.read_json(value, route.request_class())
    for path, text in match.variables.items():
        contract.set_path(message, path, text)
    contract.clear_output_only(message)
    _fill_mask(route, value, message)
    contract.raise_first(contract.missing_required(message))
    return message


def decode(body: bytes) -> Any:
    """The JSON value of a body (RFC 8259), strictly: no duplicate names, no NaN. Raises INVALID_ARGUMENT."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise invalid("", f"the body is not UTF-8 at byte {error.start}", "MALFORMED_JSON") from None
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise invalid("", message, "MALFORMED_JSON") from None
    except (ValueError, RecursionError) as error:
        text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise invalid("", f"the body is not JSON that is taken here: {text}", "MALFORMED_JSON") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is given twice in one object")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _with_body(route: Route, body: bytes) -> dict[str, Any]:
    """The request as JSON, as far as the body makes it."""
    if not route.body:
        if body:
            raise invalid("", f"{route.http_method} takes no body here", "UNEXPECTED_BODY")
        return {}
    if not body:
        return {}
    value = decode(body)
    if route.body != "*":
        return {route.body: value}
    if not isinstance(value, dict):
        raise invalid("", "the body must be a JSON object", "MALFORMED_JSON")
    return value


def _from_query(route: Route, bound: Iterable[str], query: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The request as JSON, as far as the query parameters make it."""
    if len(query) > PARAMETERS_MAX:
        raise invalid("", f"more than {PARAMETERS_MAX} query parameters")
    taken = {path.split(".")[0] for path in bound if "." not in path} | {route.body}
    result: dict[str, Any] = {}
    for name, text in query:
        field = None if route.body == "*" else _parameter(name, route.input, taken)
        if field is None:
            contract.raise_first([_unknown_parameter(name, route.input, taken if route.body != "*" else None)])
        else:
            _add(result, name, field, text)
    return result


def _parameter(name: str, descriptor: Descriptor, taken: set[str]) -> FieldDescriptor | None:
    """The field that a query parameter such as `a.b` names; None when there is none that may be given so."""
    *parents, last = name.split(".")
    for depth, parent in enumerate(parents):
        field = contract.find_field(descriptor, parent)
        if field is None or field.is_repeated or field.message_type is None or (depth == 0 and field.name in taken):
            return None
        if field.message_type.full_name in _TEXTUAL:
            return None
        descriptor = field.message_type
    field = contract.find_field(descriptor, last)
    if field is None or (not parents and field.name in taken) or contract.is_map(field):
        return None
    if field.message_type is not None and field.message_type.full_name not in _TEXTUAL:
        return None
    return field


def _unknown_parameter(name: str, descriptor: Descriptor, taken: set[str] | None) -> Problem:
    if taken is None:
        return Problem(name[:80], "no query parameters are taken here; put it into the body", "UNKNOWN_PARAMETER")
    known = [field.name for field in descriptor.fields if field.name not in taken]
    near = contract.nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}" if known else "none is taken here"
    return Problem(name[:80], f"unknown query parameter; {hint}", "UNKNOWN_PARAMETER")


def _add(result: dict[str, Any], name: str, field: FieldDescriptor, text: str) -> None:
    """Adds one parameter to the JSON value that is being built."""
    *parents, last = (_snake(part) for part in name.split("."))
    for parent in parents:
        result = result.setdefault(parent, {})
    value: Any = text
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        value = _BOOLEANS.get(text.lower(), text)
    elif field.enum_type is not None and re.fullmatch(r"\d{1,9}", text):
        value = int(text)
    if field.is_repeated:
        result.setdefault(last, []).append(value)
    elif last in result:
        raise invalid(name, f"{name}: is given twice; it takes one value")
    else:
        result[last] = value


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[0].lower()}", name)


def _fill_mask(route: Route, value: Mapping[str, Any], message: Message) -> None:
    """A PATCH without `update_mask` changes what its body names, so that a field can be set to its zero value."""
    field = route.input.fields_by_name.get("update_mask")
    body = value.get(route.body)
    if route.http_method != "PATCH" or field is None or message.HasField("update_mask") or not isinstance(body, dict):
        return
    resource = route.input.fields_by_name[route.body].message_type
    if resource is None:
        return
    named = [contract.find_field(resource, name) for name in body]
    message.update_mask.paths.extend(field.name for field in named if field and _is_maskable(field))  # type: ignore[attr-defined]


def _is_maskable(field: FieldDescriptor) -> bool:
    return field.name != "etag" and not any(contract.behaves(field, behavior) for behavior in _UNMASKABLE)
