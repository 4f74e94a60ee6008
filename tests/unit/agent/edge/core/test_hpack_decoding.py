"""Our decoder beside `hpack`'s encoder and decoder, and the examples of RFC 7541."""

from __future__ import annotations

import contextlib

import hpack
import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core import hpack_tables
from agent.edge.core.hpack_decoding import REMEMBERED_MAX, Decoder, HpackError, huffman

FIELDS = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([pair[0] for pair in hpack_tables.STATIC_TABLE]), st.binary(max_size=30), st.just(b"x-mine")
        ),
        st.one_of(st.sampled_from([b"", b"GET", b"a", b"gzip, deflate"]), st.binary(max_size=300)),
    ),
    max_size=12,
)


def test_tables() -> None:
    assert tuple(HeaderTable.STATIC_TABLE) == hpack_tables.STATIC_TABLE
    assert hpack_tables.codes() == list(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))


@given(st.lists(st.tuples(FIELDS, st.booleans(), st.sampled_from([None, 0, 50, 200, 4096])), max_size=8))
def test_what_another_encoder_means(blocks: list[tuple[list[tuple[bytes, bytes]], bool, int | None]]) -> None:
    encoder, decoder, theirs = hpack.Encoder(), Decoder(2**30), hpack.Decoder()
    theirs.max_header_list_size = 2**30
    for fields, coded, table_size in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        data = encoder.encode(fields, huffman=coded)
        assert decoder.decode(data).fields == fields
        assert [tuple(pair) for pair in theirs.decode(data, raw=True)] == fields


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_any_bytes_are_read_alike_or_refused(blocks: list[bytes]) -> None:
    decoder, theirs = Decoder(2**30), hpack.Decoder()
    theirs.max_header_list_size = 2**30
    for data in blocks:
        try:
            found = decoder.decode(data).fields
        except HpackError:
            return  # `hpack` takes more: integers of any length, indices that it should not
        assert [tuple(pair) for pair in theirs.decode(data, raw=True)] == found


@given(FIELDS, st.data())
def test_a_damaged_block_raises_nothing_else(fields: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    block = bytearray(hpack.Encoder().encode(fields))
    for _ in range(data.draw(st.integers(0, 3))):
        if block:
            block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(HpackError):
        Decoder(2**16).decode(bytes(block))


def test_a_block_that_comes_again_is_the_same_until_the_table_changes() -> None:
    encoder, decoder = hpack.Encoder(), Decoder(2**16)
    fields = [(b":method", b"GET"), (b"x-mine", b"1")]
    decoder.decode(encoder.encode(fields))  # puts x-mine into the table
    again = encoder.encode(fields)
    first = decoder.decode(again)
    assert decoder.decode(again) is first
    decoder.decode(encoder.encode([(b"x-mine", b"2")]))
    assert not decoder.remembered
    assert decoder.decode(again).fields == [(b":method", b"GET"), (b"x-mine", b"2")], "the index names another field"


def test_few_blocks_are_remembered_and_no_large_ones() -> None:
    decoder = Decoder(2**20)
    for number in range(3 * REMEMBERED_MAX):
        decoder.decode(b"\0\x01a" + bytes((1, number)))
        assert len(decoder.remembered) <= REMEMBERED_MAX
    decoder.remembered.clear()
    decoder.decode(b"\0\x01a\x7f\xe1\x0f" + b"x" * 2144)
    assert not decoder.remembered
    decoder.decode(b"\x40\x01a\x7f\xe1\x06" + b"x" * 992)
    assert not decoder.decode(b"\xbe" * 5).oversized
    assert not decoder.remembered, "few octets, large fields"
    assert decoder.decode(b"\xbe").size == 1025


def test_too_many_fields_are_read_and_not_kept() -> None:
    decoder = Decoder(100)
    block = decoder.decode(b"\x40\x01a\x01b" + b"\x82" * 50)
    assert (block.oversized, block.fields) == (True, [])
    assert decoder.decode(b"\xbe").fields == [(b"a", b"b")], "the table is what the client thinks it is"


BROKEN = {
    "index 0": "80",
    "an index beyond the tables": "be",
    "a name beyond the tables": "7f0000",
    "an integer without an end": "ffffffffffffffffffff",
    "an integer that is cut": "ff",
    "a string that is cut": "000561",
    "a size of the table that is too large": "3fe21f",
    "a size of the table behind a field": "8220",
    "padding of more than seven bits": "00856525fa72ffff00",
    "padding of zeros": "00811800",
    "an end of the string": "0084ffffffff00",
    "a literal without a value": "000161",
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken(what: str) -> None:
    with pytest.raises(HpackError):
        Decoder(2**16).decode(bytes.fromhex(BROKEN[what]))


# RFC 7541, appendix C.3 to C.6: blocks one after the other, their fields, the size of the table at the end.
_START = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
_LAST = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com")]
_REQUESTS = [_START, [*_START, (b"cache-control", b"no-cache")], [*_LAST, (b"custom-key", b"custom-value")]]
_DATE = b"Mon, 21 Oct 2013 20:13:2%d GMT"
_LOCATION = (b"location", b"https://www.example.com")
_COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
_RESPONSES = [
    [(b":status", b"302"), (b"cache-control", b"private"), (b"date", _DATE % 1), _LOCATION],
    [(b":status", b"307"), (b"cache-control", b"private"), (b"date", _DATE % 1), _LOCATION],
    [
        *[(b":status", b"200"), (b"cache-control", b"private"), (b"date", _DATE % 2), _LOCATION],
        *[(b"content-encoding", b"gzip"), (b"set-cookie", _COOKIE)],
    ],
]
EXAMPLES = {
    "C.3": (
        (
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ),
        _REQUESTS,
        4096,
        164,
    ),
    "C.4": (
        (
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ),
        _REQUESTS,
        4096,
        164,
    ),
    "C.5": (
        (
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
            "6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738"
            "666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b"
            "2076657273696f6e3d31",
        ),
        _RESPONSES,
        256,
        215,
    ),
    "C.6": (
        (
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad1718"
            "63c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7"
            "b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ),
        _RESPONSES,
        256,
        215,
    ),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_rfc(example: str) -> None:
    blocks, meant, table_bytes, used = EXAMPLES[example]
    decoder = Decoder(2**16)
    decoder._resize(table_bytes)
    assert [decoder.decode(bytes.fromhex(block)).fields for block in blocks] == meant
    assert decoder._table_bytes == used


def test_the_single_fields_of_the_rfc() -> None:  # appendix C.2
    for block, field in (
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", (b"custom-key", b"custom-header")),
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path")),
        ("100870617373776f726406736563726574", (b"password", b"secret")),
        ("82", (b":method", b"GET")),
    ):
        assert Decoder(2**16).decode(bytes.fromhex(block)).fields == [field]


def test_all_octets_in_huffmans_code() -> None:
    for octet in range(256):
        code, bits = hpack_tables.codes()[octet]
        padding = -bits % 8
        data = (code << padding | (1 << padding) - 1).to_bytes((bits + padding) // 8, "big")
        assert huffman(data) == bytes((octet,))
