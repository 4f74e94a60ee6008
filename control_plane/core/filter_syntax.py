"""The language of `filter` (a subset of AIP-160): text into a tree. Pure.

    expression = sequence {"AND" sequence}      sequence = factor {factor}      factor = term {"OR" term}
    term = ["NOT" | "-"] ("(" expression ")" | restriction)
    restriction = path [("=" | "!=" | "<" | "<=" | ">" | ">=" | ":") value]

As AIP-160 has it, OR binds more tightly than AND: `a AND b OR c` is `a AND (b OR c)`; parts that stand side by side
are joined by AND. A path is names joined by dots; a name with other characters than `a-z A-Z 0-9 _ -` is quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from fleet.errors import LocciError, invalid

LENGTH_MAX: Final = 2_000
"""Longer filters are refused, in characters."""
DEPTH_MAX: Final = 20
RESTRICTIONS_MAX: Final = 100

Operator = Literal["=", "!=", "<", "<=", ">", ">=", ":"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`path operator value`; `quoted` says that the value stood in quotes, `position` where the path begins."""

    path: tuple[str, ...]
    operator: Operator
    value: str
    quoted: bool
    position: int
    value_position: int


@dataclass(frozen=True, slots=True)
class Word:
    """A text that stands alone: something in the resource contains it."""

    text: str


@dataclass(frozen=True, slots=True)
class Not:
    """The contrary of a part."""

    part: Node


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Node, ...]


Node = Comparison | Word | Not | All | AnyOf

_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"[A-Za-z0-9_*-][A-Za-z0-9_*/@+-]*")
_VALUE = re.compile(r"[^\s()\"',=<>!][^\s()\"',=<>!]*")
_OPERATOR = re.compile(r"!=|<=|>=|=|<|>|:")
_QUOTED = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_KEYWORDS: Final = ("AND", "OR", "NOT")


def refuse(field: str, position: int, what: str) -> LocciError:
    """INVALID_ARGUMENT that names the place, counted from 1."""
    return invalid(field, f"{field}: at character {position + 1}: {what}")


def parse(text: str) -> Node | None:
    """The tree of a filter; None when it is empty. Raises INVALID_ARGUMENT with the position of what is wrong."""
    if len(text) > LENGTH_MAX:
        raise invalid("filter", f"filter: {len(text)} characters are more than the {LENGTH_MAX} that are taken")
    if not text.strip():
        return None
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str):
        self._text = text
        self._at = 0
        self._depth = 0
        self._restrictions = 0

    def whole(self) -> Node:
        result = self._expression()
        if self._at < len(self._text):
            self._fail(f"{self._text[self._at]!r} is not expected here")
        return result

    def _fail(self, what: str) -> NoReturn:
        raise refuse("filter", self._at, what)

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _peek(self, literal: str) -> bool:
        return self._text.startswith(literal, self._at)

    def _keyword(self, word: str) -> bool:
        """Takes a keyword, which ends where a name would."""
        found = _NAME.match(self._text, self._at)
        if found is None or found[0] != word:
            return False
        self._at = found.end()
        self._skip()
        return True

    def _ahead(self, *words: str) -> bool:
        found = _NAME.match(self._text, self._at)
        return found is not None and found[0] in words

    def _over(self) -> bool:
        return self._at >= len(self._text) or self._peek(")")

    def _expression(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._fail(f"the filter is nested more than {DEPTH_MAX} deep")
        self._skip()
        parts = [self._factor()]
        while not self._over():
            if not self._keyword("AND") and self._ahead("OR"):
                self._fail("OR has nothing on its left")
            parts.append(self._factor())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _factor(self) -> Node:
        parts = [self._term()]
        while self._keyword("OR"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _term(self) -> Node:
        if self._keyword("NOT"):
            return Not(self._simple())
        if self._peek("-"):
            self._at += 1
            return Not(self._simple())
        return self._simple()

    def _simple(self) -> Node:
        if not self._peek("("):
            return self._restriction()
        begin = self._at
        self._at += 1
        inner = self._expression()
        if not self._peek(")"):
            raise refuse("filter", begin, "this parenthesis is not closed")
        self._at += 1
        self._skip()
        return inner

    def _restriction(self) -> Node:
        self._restrictions += 1
        if self._restrictions > RESTRICTIONS_MAX:
            self._fail(f"more than {RESTRICTIONS_MAX} restrictions")
        position = self._at
        path = self._path()
        self._skip()
        found = _OPERATOR.match(self._text, self._at)
        if found is None:
            return Word(".".join(path))
        self._at = found.end()
        self._skip()
        value_position = self._at
        value, quoted = self._value(found[0])
        self._skip()
        return Comparison(path, found[0], value, quoted, position, value_position)  # type: ignore[arg-type]

    def _path(self) -> tuple[str, ...]:
        names = [self._name()]
        while self._peek("."):
            self._at += 1
            names.append(self._name())
        return tuple(names)

    def _name(self) -> str:
        if self._peek('"') or self._peek("'"):
            return self._quoted()
        found = _NAME.match(self._text, self._at)
        if found is None:
            self._fail("a field's name is expected" + ("" if self._over() else f", not {self._text[self._at]!r}"))
        if found[0] in _KEYWORDS:
            self._fail(f"{found[0]} stands where a field's name is expected; quote it to search for the word")
        self._at = found.end()
        return found[0]

    def _value(self, operator: str) -> tuple[str, bool]:
        if self._peek('"') or self._peek("'"):
            return self._quoted(), True
        found = _VALUE.match(self._text, self._at)
        if found is None:
            self._fail(f"a value is expected after {operator!r}")
        self._at = found.end()
        return found[0], False

    def _quoted(self) -> str:
        found = _QUOTED.match(self._text, self._at)
        if found is None:
            self._fail("this quotation mark is not closed")
        self._at = found.end()
        return re.sub(r"\\(.)", r"\1", found[1] if found[1] is not None else found[2], flags=re.DOTALL)
