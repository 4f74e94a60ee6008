"""What is recalled is what was given, whatever else the queries are like; and common queries are recalled."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.core.answer import Manners, Responder
from routing.core.cookies import CookieJar
from routing.core.geo import Place
from routing.core.model import Policy
from tests.unit.routing.batch import recalled
from tests.unit.routing.tables import HOSTNAMES, responder, table

SOURCE = bytes((10, 1, 0, 1))
NAMES = ("hello", "first", "law", "www.deep", "deep", "closed", "nothing", "Hello", "drawn", "eu-1.ns", "")
NETWORKS = st.tuples(st.sampled_from([10, 11, 12]), st.integers(0, 5), st.sampled_from([0, 9]))
JAR = CookieJar((bytes(range(16)),))


def place(address: str) -> tuple[Place | None, int]:
    """By the second number; every /24 of 12.x is in two halves."""
    parts = [int(part) for part in address.split(".")] if "." in address else [0, 0, 0, 0]
    found = (Place(50.1, 8.7), Place(40.7, -74.0), Place(35.7, 139.7))[parts[1] % 3]
    return (found, 25) if parts[0] == 12 else (found, 16)


def made() -> Responder:
    drawn = replace(HOSTNAMES[0], name="drawn.example.net", policy=Policy.WEIGHTED)
    hostnames = {hostname.name: hostname for hostname in (*HOSTNAMES, drawn)}
    return responder(table(hostnames=hostnames), lookup=place, manners=Manners("eu-1", "x", JAR))


def query(
    name: str,
    network: tuple[int, int, int] | None,
    cookie: int | None,
    *,
    number: int = 1,
    kind: int = 1,
    edns: bool = True,
    flags: int = 0x0100,
    ends: int = 0,
    size: int = 1232,
    first: bool = True,
) -> bytes:
    """A query in wire form; `cookie` is the number of bytes of the whole cookie, `first` puts the network before it."""
    labels = [label for label in f"{name}.example.net".split(".") if label]
    question = b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"
    parts = []
    if network is not None:
        parts.append(b"\0\x08\0\x07\0\x01\x18\0" + bytes(network))
    if cookie is not None:
        parts.append(struct.pack(">HH", 10, cookie) + bytes((number & 255,)) * cookie)
    option = b"".join(parts if first else reversed(parts))
    opt = struct.pack(">BHHIH", 0, 41, size, ends, len(option)) + option if edns else b""
    return struct.pack(">HHHHHH", number, flags, 1, 0, 0, int(edns)) + question + struct.pack(">HH", kind, 1) + opt


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    edns = draw(st.booleans())
    return query(
        draw(st.sampled_from(NAMES)),
        draw(st.none() | NETWORKS) if edns else None,
        draw(st.none() | st.sampled_from([8, 24])) if edns else None,
        number=draw(st.integers(0, 0xFFFF)),
        kind=draw(st.sampled_from([1, 28, 16, 65])),
        edns=edns,
        flags=draw(st.sampled_from([0, 0x0100, 0x0010, 0x0120, 0x0040, 0x2000])),
        ends=draw(st.sampled_from([0, 0x8000, 0x4000, 0x10000])),
        size=draw(st.sampled_from([0, 512, 1232, 4096])),
        first=draw(st.booleans()),
    )


@given(
    st.lists(queries(), max_size=30), st.lists(st.sampled_from([SOURCE, bytes((11, 4, 0, 1)), bytes(16)]), min_size=30)
)
def test_what_is_recalled_is_what_was_given(asked: list[bytes], sources: list[bytes]) -> None:
    of = made()
    for data, source in zip(asked, sources, strict=False):
        answer = of.respond(data, source)
        assert recalled(of, data, source) in (None, answer), data
        of.remember(data, source)
        assert recalled(of, data, source) in (None, answer), data


@pytest.mark.parametrize(
    ("network", "cookie", "edns"),
    [
        (None, None, False),
        (None, None, True),
        ((10, 1, 7), None, True),
        ((11, 1, 7), 8, True),
        ((10, 2, 9), 24, True),
        (None, 8, True),
    ],
)
def test_common_queries_are_recalled(network: tuple[int, int, int] | None, cookie: int | None, edns: bool) -> None:
    of = made()
    data = query("hello", network, cookie, edns=edns)
    assert recalled(of, data, SOURCE) is None
    of.remember(data, SOURCE)
    assert recalled(of, data, SOURCE) == of.respond(data, SOURCE)
    like = query("hello", network and (network[0], network[1], 200), cookie, edns=edns, number=777)
    assert recalled(of, like, SOURCE) == of.respond(like, SOURCE)
    assert recalled(of, like, SOURCE) is not None
    of.forget()
    assert recalled(of, like, SOURCE) is None


def test_names_in_mixed_case_fill_nothing() -> None:
    of = made()
    data = query("heLLo", (10, 1, 7), None)
    of.remember(data, SOURCE)
    assert recalled(of, data, SOURCE) is None


@pytest.mark.parametrize("turned", [False, True])
def test_forms_of_the_same_length_are_recalled_beside_each_other(turned: bool) -> None:
    long = replace(HOSTNAMES[0], name=f"{'x' * 27}.example.net")
    of = responder(table(hostnames={h.name: h for h in (*HOSTNAMES, long)}), lookup=place, manners=Manners(jar=JAR))
    forms = [query("x" * 27, None, None, edns=False), query("hello", (10, 1, 7), None)]
    assert len(forms[0]) == len(forms[1])
    for form in reversed(forms) if turned else forms:
        of.remember(form, bytes((10, 1, 7, 1)))
    for form in forms:
        assert recalled(of, form, bytes((10, 1, 7, 9))) == of.respond(form, bytes((10, 1, 7, 9)))
