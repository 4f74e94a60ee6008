"""The meaning of `filter` and `order_by`: trees into predicates and sort keys over messages. Pure.

Paths and values are checked against the message's descriptor when they are compiled, so that an unknown field or a
value of the wrong kind is refused even where nothing is listed.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from control_plane.core.filter_syntax import All, AnyOf, Comparison, Node, Not, Word, refuse
from fleet.errors import invalid

Predicate = Callable[[Any], bool]

_TIMESTAMP: Final = "google.protobuf.Timestamp"
_DURATION: Final = "google.protobuf.Duration"
_INTEGERS: Final = (
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
)
_NUMBERS: Final = (*_INTEGERS, FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION_TEXT = re.compile(r"(-?\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)")
_FRACTION = re.compile(r"(\.\d{6})\d+")
ORDER_FIELDS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class _Place:
    """What a path leads to. `key` is set when the last step is a key of the map `field`."""

    steps: tuple[FieldDescriptor, ...]
    field: FieldDescriptor
    key: str | None
    many: bool

    @property
    def value_field(self) -> FieldDescriptor:
        """The field that describes one value: that of a map's values for a key."""
        field = self.field
        if self.key is not None and field.message_type is not None:
            field = field.message_type.fields_by_name["value"]
        return field


def compile_filter(tree: Node, descriptor: Descriptor) -> Predicate:
    """Whether a message of this kind passes. Raises INVALID_ARGUMENT with the position of what does not fit."""
    match tree:
        case Word():
            return _word(tree.text.lower())
        case Not():
            part = compile_filter(tree.part, descriptor)
            return lambda message: not part(message)
        case All():
            every = [compile_filter(part, descriptor) for part in tree.parts]
            return lambda message: all(part(message) for part in every)
        case AnyOf():
            some = [compile_filter(part, descriptor) for part in tree.parts]
            return lambda message: any(part(message) for part in some)
        case Comparison():
            return _comparison(tree, descriptor)
        case _:
            assert_never(tree)


def compile_order(text: str, descriptor: Descriptor) -> list[tuple[Callable[[Any], Any], bool]]:
    """The sort keys of an `order_by` (AIP-132), each with whether it descends. Raises INVALID_ARGUMENT."""
    keys = []
    position = 0
    for part in text.split(","):
        words = part.split()
        at = position + len(part) - len(part.lstrip())
        position += len(part) + 1
        if not words or len(words) > 2 or (len(words) == 2 and words[1].lower() not in ("asc", "desc")):
            raise refuse("order_by", at, f"{part.strip()!r} is not of the form `field`, `field asc` or `field desc`")
        place = _resolve(tuple(words[0].split(".")), descriptor, "order_by", at)
        keys.append((_sort_key(place, words[0], at), len(words) == 2 and words[1].lower() == "desc"))
    if len(keys) > ORDER_FIELDS_MAX:
        raise invalid("order_by", f"order_by: more than {ORDER_FIELDS_MAX} fields")
    return keys


def _sort_key(place: _Place, name: str, at: int) -> Callable[[Any], Any]:
    field = place.value_field
    kind = field.message_type.full_name if field.message_type is not None else ""
    if place.many or (place.key is None and field.is_repeated) or kind not in ("", _TIMESTAMP, _DURATION):
        raise refuse("order_by", at, f"{name} has no order: it is a list, a map or a message")
    zero: Any = 0 if kind else field.default_value
    return lambda message: next((_plain(value, kind) for value in _values(message, place)), zero)


def _word(text: str) -> Predicate:
    """Text anywhere in the strings of a message, whatever the case."""

    def holds(message: Any) -> bool:
        return any(text in found.lower() for found in _texts(message, 4))

    return holds


def _texts(message: Any, depth: int) -> Iterator[str]:
    for field, value in message.ListFields():
        if _is_map(field):
            yield from (part for pair in value.items() for part in pair if isinstance(part, str))
            continue
        for each in value if field.is_repeated else (value,):
            if field.enum_type is not None:
                yield _enum_name(field.enum_type, each)
            elif isinstance(each, str):
                yield each
            elif field.message_type is not None and depth:
                yield from _texts(each, depth - 1)


def _comparison(tree: Comparison, descriptor: Descriptor) -> Predicate:
    place = _resolve(tree.path, descriptor, "filter", tree.position)
    if tree.operator == ":" and tree.value == "*" and not tree.quoted:
        return lambda message: any(_is_set(value) for value in _values(message, place))
    if place.key is None and _is_map(place.field):
        return _map_has(place, tree)
    many = place.many or (place.key is None and place.field.is_repeated)
    if many and tree.operator != ":":
        raise refuse("filter", tree.position, f"{'.'.join(tree.path)} is a list: ask with `:` whether it has a value")
    test = _test(place.value_field, tree, many)
    missing = tree.operator == "!="

    def holds(message: Any) -> bool:
        found = False
        for value in _values(message, place):
            found = True
            if test(value):
                return True
        return missing and not found

    return holds


def _map_has(place: _Place, tree: Comparison) -> Predicate:
    if tree.operator != ":":
        name = ".".join(tree.path)
        raise refuse("filter", tree.position, f"{name} is a map: compare {name}.KEY, or ask `{name}:KEY`")
    return lambda message: any(tree.value in value for value in _values(message, place))


def _resolve(path: Sequence[str], descriptor: Descriptor, where: str, at: int) -> _Place:
    steps: list[FieldDescriptor] = []
    many = False
    for index, name in enumerate(path):
        field = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
        if field is None:
            raise refuse(where, at, _unknown(name, path[:index], descriptor))
        rest = path[index + 1 :]
        if not rest:
            return _Place(tuple(steps), field, None, many)
        if _is_map(field):
            return _Place(tuple(steps), field, ".".join(rest), many)
        if field.message_type is None or field.message_type.full_name in (_TIMESTAMP, _DURATION):
            raise refuse(where, at, f"{'.'.join(path[: index + 1])} has no fields of its own")
        many = many or field.is_repeated
        steps.append(field)
        descriptor = field.message_type
    raise refuse(where, at, "a field's name is expected")


def _unknown(name: str, parents: Sequence[str], descriptor: Descriptor) -> str:
    known = [field.name for field in descriptor.fields]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown field {'.'.join([*parents, name])[:80]!r}; {hint}"


def _values(message: Any, place: _Place) -> Iterator[Any]:
    """Every value that a path leads to; nothing where a message on the way, or at its end, is not set."""
    found = [message]
    for step in place.steps:
        below: list[Any] = []
        for each in found:
            value = getattr(each, step.name)
            if step.is_repeated:
                below.extend(value)
            elif each.HasField(step.name):
                below.append(value)
        found = below
    field = place.field
    for each in found:
        value = getattr(each, field.name)
        if place.key is not None:
            if place.key in value:
                yield value[place.key]
        elif _is_map(field):
            yield value
        elif field.is_repeated:
            yield from value
        elif not field.has_presence or each.HasField(field.name):
            yield value


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def _is_set(value: Any) -> bool:
    return True if hasattr(value, "ListFields") else bool(value)


def _plain(value: Any, kind: str) -> Any:
    return value.seconds + value.nanos / 1e9 if kind in (_TIMESTAMP, _DURATION) else value


def _test(field: FieldDescriptor, tree: Comparison, many: bool) -> Predicate:
    """Whether one value passes. `many`: it is one of a list, whose strings are compared whole."""
    kind = field.message_type.full_name if field.message_type is not None else ""
    if kind in (_TIMESTAMP, _DURATION):
        wanted = _timestamp(tree) if kind == _TIMESTAMP else _duration(tree)
        compare = _ordering(tree)
        return lambda value: compare(_plain(value, kind), wanted)
    if kind:
        name = ".".join(tree.path)
        raise refuse("filter", tree.position, f"{name} is a message: compare one of its fields, or ask `{name}:*`")
    if field.enum_type is not None:
        return _enum_test(field.enum_type, tree)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _bool_test(tree)
    if field.cpp_type in _NUMBERS:
        number, compare = _number(tree, field.cpp_type in _INTEGERS), _ordering(tree)
        return lambda value: compare(value, number)
    if field.type == FieldDescriptor.TYPE_BYTES:
        raise refuse("filter", tree.position, f"{'.'.join(tree.path)} holds bytes, which cannot be compared")
    return _string_test(tree, many)


def _ordering(tree: Comparison) -> Callable[[Any, Any], bool]:
    match tree.operator:
        case "=" | ":":
            return lambda value, wanted: bool(value == wanted)
        case "!=":
            return lambda value, wanted: bool(value != wanted)
        case "<":
            return lambda value, wanted: bool(value < wanted)
        case "<=":
            return lambda value, wanted: bool(value <= wanted)
        case ">":
            return lambda value, wanted: bool(value > wanted)
        case ">=":
            return lambda value, wanted: bool(value >= wanted)
        case _:
            assert_never(tree.operator)


def _string_test(tree: Comparison, many: bool) -> Predicate:
    """Equality with `*` as a wildcard outside of quotes' escapes; `:` finds a part of a single string."""
    compare = _ordering(tree)
    if tree.operator not in ("=", "!=", ":"):
        return lambda value: compare(value, tree.value)
    if "*" in tree.value:
        pattern = re.compile(".*".join(map(re.escape, tree.value.split("*"))), re.DOTALL)
        wanted = tree.operator != "!="
        return lambda value: (pattern.fullmatch(value) is not None) == wanted
    if tree.operator == ":" and not many:
        part = tree.value.lower()
        return lambda value: part in value.lower()
    return lambda value: compare(value, tree.value)


def _bool_test(tree: Comparison) -> Predicate:
    if tree.value not in ("true", "false") or tree.operator not in ("=", "!=", ":"):
        what = f"{'.'.join(tree.path)} is true or false: compare it with = or !="
        raise refuse("filter", tree.value_position, what)
    wanted = (tree.value == "true") == (tree.operator != "!=")
    return lambda value: bool(value) == wanted


def _enum_test(kind: EnumDescriptor, tree: Comparison) -> Predicate:
    """An enum's value by its name, with or without the enum's prefix, whatever the case."""
    given = tree.value.upper().replace("-", "_")
    names = {value.name: value.number for value in kind.values}
    short = {_enum_name(kind, number).upper(): number for number in names.values()}
    wanted = names.get(given, short.get(given))
    if wanted is None:
        what = f"{tree.value!r} is none of {', '.join(sorted(short))}"
        raise refuse("filter", tree.value_position, what)
    if tree.operator not in ("=", "!=", ":"):
        raise refuse("filter", tree.position, f"{'.'.join(tree.path)} has no order: compare it with = or !=")
    compare = _ordering(tree)
    return lambda value: compare(value, wanted)


def _enum_name(kind: EnumDescriptor, number: int) -> str:
    """The name of a value without what all of them begin with."""
    value = kind.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.name).upper() + "_"
    return value.name.removeprefix(prefix)


def _number(tree: Comparison, whole: bool) -> float:
    try:
        return int(tree.value) if whole else float(tree.value)
    except ValueError:
        what = f"{tree.value!r} is no {'whole ' if whole else ''}number, which {'.'.join(tree.path)} is"
        raise refuse("filter", tree.value_position, what) from None


def _timestamp(tree: Comparison) -> float:
    text = _FRACTION.sub(r"\1", tree.value)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        what = f"{tree.value!r} is no time such as 2026-11-23T10:00:00Z"
        raise refuse("filter", tree.value_position, what) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def _duration(tree: Comparison) -> float:
    found = _DURATION_TEXT.fullmatch(tree.value)
    if found is None:
        raise refuse("filter", tree.value_position, f"{tree.value!r} is no duration such as 1.5s, 5m or 2h")
    return float(found[1]) * _UNITS[found[2]]
