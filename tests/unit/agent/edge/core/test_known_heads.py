from __future__ import annotations

import tracemalloc

from agent.edge.core.known_heads import KnownHeads, cost_bytes
from agent.edge.core.request_head import RequestHead, check

FIELDS = 12


def parsed(number: int, fields: int = FIELDS) -> tuple[bytes, RequestHead, bytes]:
    """Bytes of a request, its head of objects of its own, and its key."""
    target = b"/articles/%d" % number
    headers = [(b"Host", b"hello.test"), *((b"X-Field-%d" % n, b"value %d of %d" % (n, number)) for n in range(fields))]
    raw = b"GET %b HTTP/1.1\r\n%b\r\n" % (target, b"".join(b"%b: %b\r\n" % pair for pair in headers))
    head = check(b"GET", target, headers, {name.lower(): value for name, value in headers}, 1, True)
    head.quote()
    return raw, head, b"http://hello.test" + target


def test_what_came_before_is_found_by_its_bytes_and_kind() -> None:
    known = KnownHeads()
    raw, head, key = parsed(1)
    readers = known.of(b"plain")
    known.remember(b"plain", raw, len(raw), head, key)
    assert readers[raw] == (head, key)
    assert raw not in known.of(b"tls")


def test_it_keeps_to_its_bytes_over_all_kinds() -> None:
    known = KnownHeads(100_000)
    for number in range(1000):
        raw, head, key = parsed(number)
        kind = (b"plain", b"tls", b"h2")[number % 3]
        known.remember(kind, raw, len(raw), head, key)
        assert known.of(kind)[raw] == (head, key)
        kept = [known.of(each) for each in (b"plain", b"tls", b"h2")]
        costs = sum(cost_bytes(len(raw), FIELDS + 1) for heads in kept for raw in heads if isinstance(raw, bytes))
        assert known.used_bytes == costs <= 100_000


def test_one_that_is_known_costs_nothing_again() -> None:
    known = KnownHeads()
    raw, head, key = parsed(1)
    for _ in range(3):
        known.remember(b"plain", raw, len(raw), head, key)
    assert known.used_bytes == cost_bytes(len(raw), FIELDS + 1)
    known.clear()
    assert known.used_bytes == len(known.of(b"plain")) == 0


def test_the_cost_is_that_of_the_objects() -> None:
    for fields in (0, 3, FIELDS, 90):
        known = KnownHeads(2**30)
        tracemalloc.start()
        for number in range(200):
            raw, head, key = parsed(number, fields)
            known.remember(b"plain", raw, len(raw), head, key)
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.9 * taken < known.used_bytes < 1.6 * taken, fields
