from __future__ import annotations

import hpack
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.hpack_literals import LiteralEncoder, integer

NAMES = st.one_of(
    st.sampled_from([b":status", b"content-type", b"set-cookie", b"X-Request-Id", b"ETag", b"via"]),
    st.binary(min_size=1, max_size=200).map(bytes.lower),
)


@given(st.lists(st.lists(st.tuples(NAMES, st.binary(max_size=400))), min_size=1, max_size=4))
def test_blocks_are_read_as_they_were_meant(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder = LiteralEncoder(), hpack.Decoder()
    decoder.max_header_list_size = 2**30
    for block in blocks:
        found = decoder.decode(encoder.encode(block), raw=True)
        assert [tuple(pair) for pair in found] == [(name.lower(), value) for name, value in block]


def test_a_table_of_another_size_is_answered_by_none() -> None:
    encoder = LiteralEncoder()
    assert encoder.encode([(b":status", b"200")]) == b"\x20\x88"
    assert encoder.encode([(b":status", b"200")]) == b"\x88"
    encoder.header_table_size = 0
    assert encoder.header_table_size == 0
    assert encoder.encode([(b":status", b"304")]) == b"\x20\x8b"


def test_the_integers_of_the_rfc() -> None:  # RFC 7541 appendix C.1
    assert integer(10, 5, 0) == b"\x0a"
    assert integer(1337, 5, 0) == b"\x1f\x9a\x0a"
    assert integer(42, 8, 0) == b"\x2a"
