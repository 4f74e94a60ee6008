from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import http_date

NOW = 1_750_000_000.0


@pytest.mark.parametrize(
    "text",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
)
def test_three_formats(text: str) -> None:
    assert http_date.parse(text.encode(), NOW) == 784111777


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "Sun, 06 Nov 1994", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 32 Nov 1994 08:49:37 GMT",
     "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:49:37 GMT", "1994-11-06T08:49:37Z"],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    assert http_date.parse(text.encode(), NOW) is None


def test_years_of_two_digits() -> None:
    assert http_date.parse(b"Sunday, 06-Nov-94 08:49:37 GMT", NOW) == 784111777
    soon = http_date.parse(b"Friday, 06-Nov-26 08:49:37 GMT", NOW)
    assert soon is not None
    assert soon > NOW


@given(st.integers(0, 4_000_000_000))
def test_there_and_back(seconds: int) -> None:
    assert http_date.parse(http_date.render(seconds), NOW) == seconds


@given(st.binary(max_size=60))
def test_anything_is_read_without_an_error(value: bytes) -> None:
    http_date.parse(value, NOW)
