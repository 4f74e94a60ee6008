"""Structured-field dictionaries (RFC 9651 section 4.2.2) as they stand in targeted fields (RFC 9213)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import targeted


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"max-age=60", {"max-age": "60"}),
        (b"  max-age=60 \t, \tno-store ", {"max-age": "60", "no-store": None}),
        (b"no-store=?1", {"no-store": None}),
        (b'private="a, \\"b"', {"private": 'a, "b'}),
        (b"a=tok/en, b=:aGk=:, c=@123, d=1.5, e=(1 2;x);y", None),
        (b'a;b;c=1;d="x", e', {"a": None, "e": None}),
        (b"", {}),
        (b"a,", {}),
        (b",a", {}),
        (b"a b", {}),
        (b"A=1", {}),
        (b"a=", {}),
        (b"a==1", {}),
        (b"a =1", {}),
        (b'a="x', {}),
        (b'a="\xe4"', {}),
        (b"a=1234567890123456", {}),
        (b"a=?2", {}),
        (b"a=(1", {}),
    ],
)
def test_dictionaries(value: bytes, expected: dict[str, str | None] | None) -> None:
    found = targeted.parse(value)
    assert found == expected if expected is not None else sorted(found) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"max-age=60", {"max-age": "60"}),
        (b'MaX-aGe=60, content="ESI/1.0"', {"max-age": "60", "content": "esi/1.0"}),
        (b"no-store", {"no-store": None}),
        (b"max-age=60;locci, no-store;other", {"max-age": "60"}),
        (b"max-age=60; other ; locci", {"max-age": "60"}),
        (b"no-store-remote, max-age=60", {"no-store-remote": None, "max-age": "60", "no-store": None}),
        (b"max-age=60;other", {}),
        (b'content="ESI/1.0"', {}),
        (b"max-age =60", {}),
        (b"max-age= 60", {}),
        (b"max-age=60+30", {}),
        (b",;,", {}),
    ],
)
def test_surrogate_control(value: bytes, expected: dict[str, str | None]) -> None:
    assert targeted.parse_surrogate(value) == expected


@given(st.text(alphabet='a=1?;, ()"\\:@.-', max_size=60))
def test_no_value_breaks_it(text: str) -> None:
    for name, argument in targeted.parse(text.encode()).items():
        assert name
        assert argument is None or isinstance(argument, str)


def test_a_hostile_value_takes_no_time() -> None:
    assert targeted.parse(b"a=(" + b"1 " * 20_000) == {}
    assert targeted.parse(b"a" + b";a" * 20_000 + b"!") == {}
