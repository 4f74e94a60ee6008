from __future__ import annotations

from agent.edge.core.cache_status import Forward, appended, forwarded, hit, hit_with, token


def test_members() -> None:  # RFC 9211 section 2
    assert hit(376) == b"locci; hit; ttl=376"
    assert hit_with(-3, "stale-if-error") == b"locci; hit; ttl=-3; detail=stale-if-error"
    assert forwarded(Forward.URI_MISS, stored=True) == b"locci; fwd=uri-miss; stored"
    assert (
        forwarded(Forward.STALE, status=304, stored=True, collapsed=True)
        == b"locci; fwd=stale; fwd-status=304; stored; collapsed"
    )
    assert forwarded(Forward.BYPASS, detail="too large") == b"locci; fwd=bypass; detail=too-large"


def test_the_nearest_cache_comes_last() -> None:
    assert appended(b"origin; hit", hit(1)) == b"origin; hit, locci; hit; ttl=1"
    assert appended(None, hit(1)) == hit(1)


def test_details_are_tokens() -> None:
    assert token("vary *") == b"vary-*"
    assert token("1x") == b"x1x"
    assert token("") == b"x"
