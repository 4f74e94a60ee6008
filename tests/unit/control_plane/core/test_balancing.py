"""What may be asked of the choice among replicas."""

from __future__ import annotations

import pytest

from control_plane.core.balancing import Balancing, check
from fleet.errors import LocciError


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Balancing(hash_by="header"), "hash_name"),
        (Balancing(hash_by="path", hash_name="x"), "hash_name"),
        (Balancing(hash_name="x"), "hash_name"),
        (Balancing(hash_by="cookie", hash_name="a b"), "hash_name"),
        (Balancing(sticky_cookie="a=b"), "sticky_cookie"),
        (Balancing(sticky_cookie="x" * 129), "sticky_cookie"),
        (Balancing(hedge_s=0.0001), "hedge_after"),
        (Balancing(hedge_s=61), "hedge_after"),
        (Balancing(hedge_s=-1), "hedge_after"),
    ],
)
def test_what_is_wrong_is_named(wrong: Balancing, field: str) -> None:
    with pytest.raises(LocciError) as caught:
        check(wrong)
    assert caught.value.message.startswith(f"manifest.balancing.{field}: ")


def test_what_is_fine() -> None:
    check(Balancing())
    check(Balancing("cookie", "session", "stay", 0.05))
