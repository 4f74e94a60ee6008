"""What clients say of priorities (RFC 9218), and what is sent first by it."""

from __future__ import annotations

import struct

import pytest

from agent.edge.core.http2_frames import ErrorCode
from agent.edge.core.http2_priority import UNSAID, Priority, merged, read, send_round
from tests.unit.agent.edge.core.http2_peer import GOAWAY, POST, Peer, frame, headers, settings

PRIORITY_UPDATE = 0x10


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"u=0", Priority(0, False)),
        (b"u=7, i", Priority(7, True)),
        (b"i, u=1", Priority(1, True)),
        (b"u=1, i=?0", Priority(1, False)),
        (b"i=?1", Priority(3, True)),
        (b"", Priority(3, False)),
        (b"u=8", Priority(3, False)),
        (b"u=-1, i", Priority(3, True)),
        (b"u=1.5", Priority(3, False)),
        (b'u="1"', Priority(3, False)),
        (b"u=1, u=5", Priority(5, False)),
        (b"u=2;x=1, foo=bar", Priority(2, False)),
        (b"u=2,", Priority(3, False)),
        (b"i=1", Priority(3, False)),
    ],
)
def test_values(value: bytes, expected: Priority) -> None:
    assert read(value) == expected


@pytest.mark.parametrize(
    ("said", "value", "expected"),
    [
        (Priority(5, False), b"u=1", Priority(1, False)),
        (Priority(5, False), b"i", Priority(5, True)),
        (Priority(5, True), b"u=0, i", Priority(0, True)),
        (Priority(5, True), b"u=9", Priority(5, True)),
        (Priority(5, False), b"nonsense,", Priority(5, False)),
        (UNSAID, b"u=1", Priority(1, True)),
    ],
)
def test_what_an_app_says_counts_instead(said: Priority, value: bytes, expected: Priority) -> None:
    assert merged(said, value) == expected


def sent(waiting: dict[int, Priority], frames: dict[int, int], blocked: tuple[int, ...] = ()) -> list[int]:
    """The order in which so many frames of each are sent."""
    order: list[int] = []

    def send(number: int) -> bool:
        if number in blocked:
            return False
        order.append(number)
        frames[number] -= 1
        return True

    while send_round([(n, p) for n, p in waiting.items() if frames[n]], send):
        pass
    return order


def test_the_more_urgent_first() -> None:
    waiting = {1: Priority(5, True), 3: Priority(0, True), 5: Priority(5, True), 7: UNSAID}
    assert sent(waiting, {1: 2, 3: 2, 5: 1, 7: 1}) == [3, 3, 7, 1, 5, 1]


def test_one_after_the_other_unless_they_go_in_turns() -> None:
    assert sent({5: Priority(1, False), 3: Priority(1, False)}, {3: 2, 5: 2}) == [3, 3, 5, 5]
    waiting = {1: Priority(1, True), 3: Priority(1, False), 5: Priority(1, True), 7: Priority(1, False)}
    assert sent(waiting, {1: 2, 3: 2, 5: 1, 7: 1}) == [1, 3, 5, 1, 3, 7]


def test_what_is_held_back_holds_back_nothing_else() -> None:
    waiting = {1: Priority(0, False), 3: Priority(0, False), 5: Priority(7, False)}
    assert sent(waiting, {1: 1, 3: 1, 5: 1}, blocked=(1,)) == [3, 5]
    assert sent(waiting, {1: 1, 3: 1, 5: 1}, blocked=(1, 3, 5)) == []


def update(of: int, value: bytes = b"u=1", number: int = 0) -> bytes:
    return frame(PRIORITY_UPDATE, 0, number, struct.pack(">I", of) + value)


def test_updates_of_streams_that_are_open_or_will_be() -> None:
    peer = Peer(answers=False).greet()
    assert peer.send(headers(1), update(1), update(9, b"u=5, i")) == []
    assert peer.priorities == {1: b"u=1", 9: b"u=5, i"}
    closed = Peer().greet()
    closed.send(headers(1))
    assert closed.send(update(1)) == []
    assert closed.priorities == {}


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (update(1, number=1), ErrorCode.PROTOCOL_ERROR),
        (update(0), ErrorCode.PROTOCOL_ERROR),
        (update(2), ErrorCode.PROTOCOL_ERROR),
        (frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0"), ErrorCode.FRAME_SIZE_ERROR),
        (settings((9, 2)), ErrorCode.PROTOCOL_ERROR),
        (b"".join(update(1) for _ in range(1000)), ErrorCode.ENHANCE_YOUR_CALM),
    ],
)
def test_faults(wrong: bytes, code: ErrorCode) -> None:
    peer = Peer(answers=False).greet()
    peer.send(headers(1, POST))
    (last,) = [payload for kind, _, _, payload in peer.send(wrong) if kind == GOAWAY]
    assert int.from_bytes(last[4:8], "big") == code
