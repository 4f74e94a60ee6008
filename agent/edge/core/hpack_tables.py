"""What both ends of HPACK know from the start (RFC 7541, appendices A and B)."""

from __future__ import annotations

from typing import Final

Pair = tuple[bytes, bytes]

_NAMES_ALONE: Final = (
    b"accept-charset|accept-encoding|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|"
    b"authorization|cache-control|content-disposition|content-encoding|content-language|content-length|"
    b"content-location|content-range|content-type|cookie|date|etag|expect|expires|from|host|if-match|"
    b"if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|link|location|max-forwards|"
    b"proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|server|set-cookie|"
    b"strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"
)
STATIC_TABLE: Final[tuple[Pair, ...]] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    *((b":status", status) for status in (b"200", b"204", b"206", b"304", b"400", b"404", b"500")),
    *((name, b"gzip, deflate" if name == b"accept-encoding" else b"") for name in _NAMES_ALONE.split(b"|")),
)
"""Index 1 is the first (appendix A)."""

EOS: Final = 256
_CODE_BITS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b0806060605050506060606"
    "06060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f05060506050606060507070606"
    "060506070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817171717151617161717181615141616"
    "1717151716161815161717151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a"
    "1c1b1b1b14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
"""Length of each symbol's code, end of string last (appendix B); the code is canonical, so the lengths say all."""
_PADDING_BITS_MAX: Final = 7
_State = tuple[int, bytes | None]
"""Where a walk through the tree has come to, and the octets on the way; None after the end of the string."""


def codes() -> list[tuple[int, int]]:
    """Code and its length in bits for each symbol (appendix B)."""
    found = [(0, 0)] * len(_CODE_BITS)
    code = bits_before = 0
    for symbol in sorted(range(len(_CODE_BITS)), key=lambda symbol: (_CODE_BITS[symbol], symbol)):
        bits = _CODE_BITS[symbol]
        code <<= bits - bits_before
        found[symbol] = (code, bits)
        code, bits_before = code + 1, bits
    return found


def _tree() -> list[list[int]]:
    """Inner nodes, the root first: for a bit the number of the next node, or -1 - symbol."""
    nodes = [[0, 0]]
    for symbol, (code, bits) in enumerate(codes()):
        node = 0
        for shift in range(bits - 1, 0, -1):
            bit = code >> shift & 1
            if not nodes[node][bit]:
                nodes[node][bit] = len(nodes)
                nodes.append([0, 0])
            node = nodes[node][bit]
        nodes[node][code & 1] = -1 - symbol
    return nodes


def _then(first: _State, second: _State) -> _State:
    if first[1] is None or second[1] is None:
        return 0, None
    return second[0], first[1] + second[1]


def huffman_steps() -> tuple[bytes, list[bytes | None], frozenset[int]]:
    """How to read coded octets one by one: at `node * 256 + octet` the next node, and the octets that this makes (None
    when it holds the end of the string); the nodes at which a string may end (section 5.2).
    """
    nodes = _tree()
    letters = [bytes((symbol,)) for symbol in range(EOS)]

    def bit(node: int, value: int) -> _State:
        to = nodes[node][value]
        if to >= 0:
            return to, b""
        return 0, None if to == -1 - EOS else letters[-1 - to]

    def twice(steps: list[list[_State]]) -> list[list[_State]]:
        return [[_then(one, two) for one in row for two in steps[one[0]]] for row in steps]

    steps = [[bit(node, value) for value in (0, 1)] for node in range(len(nodes))]
    halves = twice(twice(steps))
    ends, node = {0}, 0
    for _ in range(_PADDING_BITS_MAX):
        node = nodes[node][1]
        ends.add(node)
    known: dict[bytes | None, bytes | None] = {None: None}
    then, made = bytearray(), []
    for row in halves:  # one by one: all whole steps at once would take megabytes
        for first in row:
            for second in halves[first[0]]:
                to, octets = _then(first, second)
                then.append(to)
                made.append(known.setdefault(octets, octets))
    return bytes(then), made, frozenset(ends)
