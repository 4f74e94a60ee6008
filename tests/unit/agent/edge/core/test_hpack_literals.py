from __future__ import annotations

import hpack
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import hpack_literals
from agent.edge.core.hpack_decoding import Decoder
from agent.edge.core.hpack_literals import integer

NAMES = st.one_of(
    st.sampled_from([b":status", b"content-type", b"set-cookie", b"X-Request-Id", b"ETag", b"via"]),
    st.binary(min_size=1, max_size=200).map(bytes.lower),
)


@given(st.lists(st.lists(st.tuples(NAMES, st.binary(max_size=400))), min_size=1, max_size=4))
def test_blocks_are_read_as_they_were_meant(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    theirs, ours, first = hpack.Decoder(), Decoder(2**30), hpack_literals.SIZE_UPDATE_TO_0
    theirs.max_header_list_size = 2**30
    for block in blocks:
        data, first = first + hpack_literals.block(block), b""
        meant = [(name.lower(), value) for name, value in block]
        assert [tuple(pair) for pair in theirs.decode(data, raw=True)] == meant
        assert ours.decode(data).fields == meant


def test_a_field_that_is_begun() -> None:
    data = hpack_literals.begun(b"x-mine") + b"\x03abc"
    assert [tuple(pair) for pair in hpack.Decoder().decode(data, raw=True)] == [(b"x-mine", b"abc")]


def test_what_is_secret_is_never_indexed() -> None:
    assert hpack_literals.field(b"Set-Cookie", b"a=b")[0] >> 4 == 1
    assert hpack_literals.field(b":status", b"200") == b"\x88"


def test_the_integers_of_the_rfc() -> None:  # RFC 7541 appendix C.1
    assert integer(10, 5, 0) == b"\x0a"
    assert integer(1337, 5, 0) == b"\x1f\x9a\x0a"
    assert integer(42, 8, 0) == b"\x2a"
