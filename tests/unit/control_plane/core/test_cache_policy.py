from __future__ import annotations

import pytest

from control_plane.core.cache_policy import CachePolicy, check
from fleet.errors import LocciError


def test_a_policy_in_order() -> None:
    check(CachePolicy())
    check(
        CachePolicy(
            query_allow=("page", "id*"),
            query_ignore=("utm_*",),
            query_sort=True,
            headers=("X-Tier",),
            cookies=("lang",),
            negative_s=10,
            heuristic_max_s=3600,
        )
    )


@pytest.mark.parametrize(
    ("policy", "where"),
    [
        (CachePolicy(query_ignored=True, query_sort=True), "ignore_query"),
        (CachePolicy(query_allow=("",)), "query_allow[0]"),
        (CachePolicy(query_ignore=("a", "a")), "query_ignore[1]"),
        (CachePolicy(query_ignore=tuple(map(str, range(33)))), "query_ignore"),
        (CachePolicy(headers=("a b",)), "headers[0]"),
        (CachePolicy(headers=("Cookie",)), "headers[0]"),
        (CachePolicy(headers=("X-Forwarded-For",)), "headers[0]"),
        (CachePolicy(cookies=("ä",)), "cookies[0]"),
        (CachePolicy(headers=tuple("abcde"), cookies=tuple("abcd")), "key"),
        (CachePolicy(negative_s=0.5), "negative_ttl"),
        (CachePolicy(heuristic_max_s=86_401), "heuristic_max"),
    ],
)
def test_what_is_refused(policy: CachePolicy, where: str) -> None:
    with pytest.raises(LocciError) as caught:
        check(policy)
    assert f"manifest.cache.{where}" in caught.value.message or f"manifest.cache.key.{where}" in caught.value.message
