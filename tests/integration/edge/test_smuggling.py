"""Request smuggling: every way to write a framing that two readers could see differently, in both directions.

Sources: PortSwigger's "HTTP desync attacks" (2019) and "HTTP/1.1 must die" (2025); RFC 9112 sections 2.2, 5, 6.3, 7.1
and 11.2.
"""

from __future__ import annotations

import re

import pytest

from tests.fakes.origin import Origin, Seen
from tests.integration.edge.client import Client, fetch, until
from tests.integration.edge.conftest import Edge

H = b"Host: hello.test\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: hello.test\r\n\r\n"

CODINGS = {
    "plain": b"Transfer-Encoding: chunked",
    "space first": b" Transfer-Encoding: chunked",
    "tab first": b"\tTransfer-Encoding: chunked",
    "no space": b"Transfer-Encoding:chunked",
    "tab": b"Transfer-Encoding:\tchunked",
    "tab behind": b"Transfer-Encoding: chunked\t",
    "two spaces": b"Transfer-Encoding:  chunked",
    "space before colon": b"Transfer-Encoding : chunked",
    "tab before colon": b"Transfer-Encoding\t: chunked",
    "line feed before colon": b"Transfer-Encoding\n: chunked",
    "carriage return before colon": b"Transfer-Encoding\r: chunked",
    "folded": b"Transfer-Encoding:\r\n chunked",
    "folded with a tab": b"Transfer-Encoding:\r\n\tchunked",
    "folded behind another": b"X: y\r\n Transfer-Encoding: chunked",
    "line feed in front": b"X: y\nTransfer-Encoding: chunked",
    "carriage return in front": b"X: y\rTransfer-Encoding: chunked",
    "vertical tab": b"Transfer-Encoding:\x0bchunked",
    "form feed": b"Transfer-Encoding:\x0cchunked",
    "no-break space": b"Transfer-Encoding:\xa0chunked",
    "zero byte": b"Transfer-Encoding:\x00chunked",
    "zero byte behind": b"Transfer-Encoding: chunked\x00",
    "delete": b"Transfer-Encoding: \x7fchunked",
    "byte behind": b"Transfer-Encoding: chunked\xff",
    "upper case": b"TRANSFER-ENCODING: CHUNKED",
    "mixed case": b"tRANSFER-eNCODING: cHUNKED",
    "long s": b"Tran\xc5\xbffer-Encoding: chunked",
    "underscore": b"Transfer_Encoding: chunked",
    "in quotes": b'Transfer-Encoding: "chunked"',
    "in single quotes": b"Transfer-Encoding: 'chunked'",
    "x in front": b"Transfer-Encoding: xchunked",
    "letters behind": b"Transfer-Encoding: chunkedx",
    "semicolon": b"Transfer-Encoding: chunked;x=y",
    "comma behind": b"Transfer-Encoding: chunked,",
    "comma in front": b"Transfer-Encoding: ,chunked",
    "twice in a list": b"Transfer-Encoding: chunked, chunked",
    "identity first": b"Transfer-Encoding: identity, chunked",
    "identity last": b"Transfer-Encoding: chunked, identity",
    "gzip": b"Transfer-Encoding: gzip",
    "cow": b"Transfer-Encoding: cow",
    "empty": b"Transfer-Encoding:",
    "two fields": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "two fields, the other order": b"Transfer-Encoding: identity\r\nTransfer-encoding: chunked",
    "empty and chunked": b"Transfer-Encoding:\r\nTransfer-Encoding: chunked",
    "named in Connection": b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    "colon in the name": b"X:Transfer-Encoding: chunked",
    "bracket in the name": b"Transfer-Encoding]: chunked",
}
LENGTHS = {
    "plain": b"Content-Length: %d",
    "space first": b" Content-Length: %d",
    "space before colon": b"Content-Length : %d",
    "no space": b"Content-Length:%d",
    "plus": b"Content-Length: +%d",
    "zeros": b"Content-Length: 000%d",
    "underscore": b"Content_Length: %d",
    "in a list": b"Content-Length: %d, %d",
    "zero first": b"Content-Length: 0\r\nContent-Length: %d",
    "zero last": b"Content-Length: %d\r\nContent-Length: 0",
    "decimal": b"Content-Length: %d.0",
    "exponent": b"Content-Length: %de0",
    "letter": b"Content-Length: %da",
    "hexadecimal": b"Content-Length: 0x%d",
    "comma": b"Content-Length: %d,",
    "tab": b"Content-Length:\t%d",
    "vertical tab": b"Content-Length: \x0b%d",
    "folded": b"Content-Length:\r\n %d",
    "named in Connection": b"Connection: Content-Length\r\nContent-Length: %d",
    "digits of another script": b"Content-Length: \xd9\xa3",
}


async def sent(edge: Edge, data: bytes) -> list[int]:
    """The statuses that come back until the edge closes or is silent for a while."""
    statuses = []
    async with await Client.open(edge.port) as client:
        await client.send(data)
        try:
            while True:
                statuses.append((await client.read(timeout_s=0.3)).status)
        except (TimeoutError, EOFError, ConnectionError):
            pass
    return statuses


def check(origin: Origin, statuses: list[int]) -> None:
    """Nothing was smuggled, nothing is passed on that the next reader could see differently."""
    assert not [seen for seen in origin.seen if "smuggled" in seen.target]
    assert len(statuses) <= 1 or statuses[1:] == [400], statuses
    for seen in origin.seen:
        head = seen.raw_head.lower()
        fields = re.findall(rb"\r\n([^\r\n:]*(?:transfer.?encoding|content.length)[^\r\n]*)", head)
        assert len(fields) <= 1, fields
        assert not fields or re.fullmatch(rb"transfer-encoding: chunked|content-length: [0-9]+", fields[0]), fields


@pytest.mark.parametrize("name", CODINGS)
@pytest.mark.parametrize("length_first", [True, False])
async def test_a_coding_and_a_length(edge: Edge, origin: Origin, name: str, length_first: bool) -> None:
    """CL.TE and TE.CL at once: by the coding the body ends early, by the length all of it is body."""
    body = b"0\r\n\r\n" + SMUGGLED
    fields = [b"Content-Length: %d" % len(body), CODINGS[name]]
    lines = b"\r\n".join(fields if length_first else fields[::-1])
    check(origin, await sent(edge, b"POST / HTTP/1.1\r\n" + H + lines + b"\r\n\r\n" + body))
    assert all(seen.body in (b"", body) for seen in origin.seen)
    assert (await fetch(edge.port, "/alive")).status == 200


@pytest.mark.parametrize("name", CODINGS)
async def test_a_coding_alone(edge: Edge, origin: Origin, name: str) -> None:
    """TE.TE and TE.0: who does not see the coding takes the chunks for a request."""
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    check(origin, await sent(edge, b"POST / HTTP/1.1\r\n" + H + CODINGS[name] + b"\r\n\r\n" + chunk))
    assert all(seen.body in (b"", SMUGGLED) for seen in origin.seen)


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_length_alone(edge: Edge, origin: Origin, name: str, method: bytes) -> None:
    """CL.CL and CL.0: the body is a request to who reads another length."""
    line = LENGTHS[name].replace(b"%d", b"%d" % len(SMUGGLED))
    statuses = await sent(edge, method + b" / HTTP/1.1\r\n" + H + line + b"\r\n\r\n" + SMUGGLED)
    if name == "underscore":  # not a length for anybody who reads it: what follows is a request, and said to be one
        assert statuses == [200, 200]
        assert all(b"content_length" not in seen.raw_head.lower() for seen in origin.seen)
        return
    check(origin, statuses)
    assert all(seen.body in (b"", SMUGGLED) for seen in origin.seen)


CHUNKS = {
    "extension with a line feed": b"5;x\nabcde\r\n0\r\n\r\n",
    "extension with a carriage return": b"5;x\rabcde\r\n0\r\n\r\n",
    "line feed behind the size": b"5\nabcde\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nabcde\r\n0\r\n\r\n",
    "underscore in the size": b"0_5\r\nabcde\r\n0\r\n\r\n",
    "negative size": b"-5\r\nabcde\r\n0\r\n\r\n",
    "no size": b"\r\nabcde\r\n0\r\n\r\n",
    "size with a letter behind": b"5x\r\nabcde\r\n0\r\n\r\n",
    "line feed behind the data": b"5\r\nabcde\n0\r\n\r\n",
    "size that wraps at 64 bits": b"10000000000000005\r\nabcde\r\n0\r\n\r\n",
    "last chunk with a line feed": b"5\r\nabcde\r\n0\n\n",
    "zero byte in the size": b"5\0\r\nabcde\r\n0\r\n\r\n",
    "trailer that sets the framing": b"5\r\nabcde\r\n0\r\nContent-Length: 100\r\nTransfer-Encoding: x\r\n\r\n",
    "trailer with a line feed": b"5\r\nabcde\r\n0\r\nX: y\nContent-Length: 9\r\n\r\n",
    "many zeros": b"0" * 300 + b"5\r\nabcde\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
async def test_chunks(edge: Edge, origin: Origin, name: str) -> None:
    data = b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS[name]
    statuses = await sent(edge, data)
    assert len(statuses) <= 1
    for seen in origin.seen:
        assert seen.body == b"abcde"
        assert b"content-length" not in seen.raw_head.lower()
    assert (await fetch(edge.port, "/alive")).status == 200


ANSWERS = {
    "length and coding": b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 3\r\n\r\nabcde",
    "two equal lengths": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
    "coding that nobody knows": b"Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\nabcde",
    "folded": b"X: y\r\n z\r\nContent-Length: 5\r\n\r\nabcde",
    "line feed in a value": b"X: y\nSet-Cookie: a=b\r\nContent-Length: 5\r\n\r\nabcde",
    "zero byte": b"X: y\0z\r\nContent-Length: 5\r\n\r\nabcde",
    "a second response behind it": b"Content-Length: 5\r\n\r\nabcde"
    b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
    "chunks and a second response": b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_responses_that_two_readers_see_differently(edge: Edge, origin: Origin, name: str) -> None:
    """Response smuggling: the next client on the connection must not get what hides behind this answer."""

    async def answer(seen: Seen) -> None:
        if seen.target == "/bad":
            await seen.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n" + ANSWERS[name])
        else:
            await seen.answer(200, b"own")

    origin.handler = answer
    first = await fetch(edge.port, "/bad")
    assert (first.status, first.body) in ((200, b"abcde"), (200, b"abc")) or first.status == 502
    assert "set-cookie" not in first.headers
    for _ in range(3):
        assert (await fetch(edge.port, "/next")).body == b"own"
        assert b"smuggled" not in (await fetch(edge.port, "/bad")).body
    await until(lambda: edge.worker.state.endpoints[origin.address].outstanding == 0)
