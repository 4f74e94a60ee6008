from __future__ import annotations

import random
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.memory_store import MemoryStore


def test_a_scan_does_not_wash_out_what_is_used() -> None:
    store: MemoryStore[int] = MemoryStore(100_000)
    hot = [b"hot%d" % n for n in range(20)]
    for key in hot:
        store.put(key, 1, 1000)
    for _ in range(3):
        for key in hot:
            store.get(key)
    for number in range(5000):
        store.put(b"scan%d" % number, 1, 1000)
    assert sum(store.get(key) is not None for key in hot) >= 18


def trace(seed: int, requests: int) -> list[bytes]:
    """What a site is asked for: a few pages again and again, and now and then a crawler that takes every page once."""
    rng = random.Random(seed)
    found: list[bytes] = []
    while len(found) < requests:
        found += [b"page%d" % int(rng.paretovariate(0.9)) for _ in range(400)]
        start = rng.randrange(10**9)
        found += [b"crawled%d" % (start + number) for number in range(400)]
    return found


def test_more_is_found_than_with_lru_when_crawlers_come_by() -> None:
    for seed in range(3):
        store: MemoryStore[bytes] = MemoryStore(100_000)
        lru: OrderedDict[bytes, None] = OrderedDict()
        hits = lru_hits = 0
        for key in trace(seed, 20_000):
            if store.get(key) is not None:
                hits += 1
            else:
                store.put(key, key, 1000 - len(key))
            if key in lru:
                lru_hits += 1
                lru.move_to_end(key)
            else:
                lru[key] = None
                if len(lru) > 100:
                    lru.popitem(last=False)
        assert hits > lru_hits * 1.05, (seed, hits, lru_hits)


def test_many_distinct_keys_leave_no_more_than_the_budget_behind() -> None:
    store: MemoryStore[int] = MemoryStore(200_000)
    for number in range(50_000):
        store.put(b"%d" % number, 1, 1200)
        assert store.used_bytes <= store.budget_bytes
    assert len(store) + len(store._ghosts) < 400
    assert len(store._small) + len(store._main) < 800


def test_what_comes_back_soon_after_eviction_goes_to_the_main_queue() -> None:
    store: MemoryStore[int] = MemoryStore(10_000)
    for number in range(30):
        store.put(b"%d" % number, 1, 1000)
    assert store.get(b"0") is None
    store.put(b"0", 1, 1000)
    for number in range(30, 40):
        store.put(b"%d" % number, 1, 1000)
    assert store.get(b"0") == 1


def test_too_large_is_not_taken_and_replaces_nothing_silently() -> None:
    store: MemoryStore[str] = MemoryStore(8000)
    assert store.put(b"a", "small", 10)
    assert not store.put(b"a", "large", 5000)
    assert store.get(b"a") is None
    assert store.used_bytes == 0


Operations = st.lists(st.tuples(st.sampled_from("pgr"), st.integers(0, 30), st.integers(1, 400)), max_size=300)


@given(Operations)
def test_the_budget_holds_and_the_books_are_right(operations: list[tuple[str, int, int]]) -> None:
    store: MemoryStore[int] = MemoryStore(4000)
    model: dict[bytes, int] = {}
    for kind, number, cost in operations:
        key = b"%d" % number
        held = set(store._nodes)
        if kind == "p":
            if store.put(key, number, cost):
                model[key] = number
            else:
                model.pop(key, None)
        elif kind == "r":
            assert store.remove(key) == (key in held)
            model.pop(key, None)
        else:
            found = store.get(key)
            assert found is None or found == model[key]
        assert store.used_bytes <= 4000
        assert store.used_bytes == sum(node.cost for node in store._nodes.values())
        assert store._small_bytes == sum(node.cost for node in store._nodes.values() if not node.in_main)
        assert len(store._small) + len(store._main) <= 4 * len(store) + 200
