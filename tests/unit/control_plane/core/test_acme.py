"""Which certificates are ordered, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core import acme
from control_plane.core.acme import Kept

DAY = 86_400.0


def kept(name: str, *hostnames: str, automatic: bool = True, **fields: float | bool) -> Kept:
    values: dict[str, float | bool] = {"wanted": False, "expire_at": 0.0, "order_at": 0.0} | fields
    return Kept(name, hostnames, automatic, **values)  # type: ignore[arg-type]


def test_a_host_name_without_a_good_certificate_is_missing_one() -> None:
    own = kept("own", "a.test", automatic=False, expire_at=10.0)
    assert acme.missing(["a.test", "b.test"], [own], now=9.0) == ["b.test"]
    assert acme.missing(["a.test", "b.test"], [own], now=10.0) == ["a.test", "b.test"], "an uploaded one that ended"
    assert acme.missing(["a.test"], [own, kept("auto", "a.test")], now=11.0) == [], "it is on order"
    assert acme.missing(["x.a.test", "y.x.a.test"], [kept("w", "*.a.test", wanted=True)], 0.0) == ["y.x.a.test"]
    failing = kept("w", "*.a.test", wanted=True, failures=1)
    assert acme.missing(["x.a.test"], [failing], 0.0) == ["x.a.test"], "it waits for no wildcard that cannot be had"
    assert acme.missing(["a.test"], [kept("auto", "a.test", failures=3)], 0.0) == [], "its own is tried again"


def test_the_one_that_ends_first_is_ordered_first_and_none_that_nobody_needs() -> None:
    rows = [
        kept("later", "a.test", expire_at=9 * DAY, order_at=1.0),
        kept("soon", "b.test", expire_at=3 * DAY, order_at=1.0),
        kept("not-yet", "c.test", order_at=50.0),
        kept("unserved", "d.test"),
        kept("uploaded", "a.test", automatic=False),
    ]
    served = {"a.test", "b.test", "c.test"}
    first = acme.due(served, rows, now=2.0)
    assert first is not None
    assert first.name == "soon"
    assert acme.due(served, rows, now=0.5) is None
    asked = acme.due(set(), [kept("asked", "*.e.test", wanted=True)], 0.0)
    assert asked is not None, "one that an operator asked for needs no app"


def test_what_is_not_needed_goes_but_not_before_it_ends() -> None:
    rows = [
        kept("gone", "a.test", expire_at=0.0),
        kept("good", "b.test", expire_at=9.0),
        kept("w", "c.test", wanted=True),
    ]
    assert acme.unused(set(), rows, now=5.0) == ["gone"]
    mine = kept("mine", "b.test", automatic=False, expire_at=20.0)
    assert acme.unused({"b.test"}, [*rows, mine], now=5.0) == ["gone", "good"], "an uploaded one took its place"
    assert acme.unused({"b.test"}, [*rows, mine], now=21.0) == ["gone"], "until it ends itself"


NAMES = st.sampled_from(["a.test", "b.test", "x.a.test", "*.a.test", "*.test", "c.test"])
ROWS = st.lists(
    st.builds(
        Kept,
        st.uuids().map(str),
        st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple),
        st.booleans(),
        st.booleans(),
        st.floats(0, 100),
        st.floats(0, 100),
    ),
    max_size=6,
)


@given(st.sets(NAMES.filter(lambda n: not n.startswith("*"))), ROWS, st.floats(0, 100))
def test_tidying_settles_and_leaves_no_host_name_alone(served: set[str], rows: list[Kept], now: float) -> None:
    gone = set(acme.unused(served, rows, now))
    left = [row for row in rows if row.name not in gone]
    left += [kept(acme.certificate_id(host), host, order_at=now) for host in acme.missing(served, left, now)]
    assert acme.missing(served, left, now) == []
    assert acme.unused(served, left, now) == []
    for row in rows:
        if row.name in gone:
            assert row.automatic
            assert not row.wanted


@given(st.integers(1, 200), st.floats(0, 1))
def test_attempts_grow_rarer_within_bounds(failures: int, jitter: float) -> None:
    wait_s = acme.retry_after_s(failures, jitter)
    assert 30.0 <= wait_s <= 6 * 3600.0
    assert wait_s <= acme.retry_after_s(failures + 1, jitter)


def test_renewal_is_when_the_authority_says_or_at_two_thirds() -> None:
    assert acme.renew_at(0.0, 90 * DAY, None) == 60 * DAY
    assert acme.renew_at(0.0, 90 * DAY, 5 * DAY) == 5 * DAY
    assert acme.renew_at(0.0, 90 * DAY, 99 * DAY) == 90 * DAY
    assert not acme.is_expiring(0.0, 90 * DAY, 74 * DAY)
    assert acme.is_expiring(0.0, 90 * DAY, 76 * DAY)


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]([a-z0-9-]{0,20}[a-z0-9])?){1,6}", fullmatch=True))
def test_ids_fit_and_differ(hostname: str) -> None:
    found = acme.certificate_id(hostname)
    assert len(found) <= 63
    assert found != acme.certificate_id(hostname.replace(".", "-", 1))


def test_a_wildcard_is_proven_at_its_parent_in_the_closest_zone() -> None:
    assert acme.challenge_owner("*.a.test") == acme.challenge_owner("a.test") == "_acme-challenge.a.test"
    assert acme.zone_of("*.x.a.test", ["a.test", "x.a.test", "test"]) == "x.a.test"
    assert acme.zone_of("xa.test", ["a.test"]) is None
