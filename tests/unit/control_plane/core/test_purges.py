from __future__ import annotations

import pytest

from control_plane.core.purges import REMEMBERED_MAX, REMEMBERED_S, Order, check_tag, check_url, place, superfluous
from fleet.errors import LocciError

EVERYTHING = ("", "")
NEWS, SPORT = ("tag", "news"), ("tag", "sport")


def test_an_order_covers_older_ones_about_the_same() -> None:
    orders = [Order(1, NEWS, False, 0), Order(2, SPORT, False, 0), Order(3, NEWS, True, 0)]
    assert superfluous(orders, Order(4, NEWS, False, 1)) == ([1, 3], 0)
    assert superfluous(orders, Order(4, NEWS, True, 1)) == ([3], 0), "a soft order does not stand for a hard one"
    assert superfluous(orders, Order(4, EVERYTHING, False, 1)) == ([1, 2, 3], 0)
    assert superfluous(orders, Order(4, EVERYTHING, True, 1)) == ([3], 0)


def test_old_ones_and_too_many_are_replaced_by_a_floor() -> None:
    orders = [Order(1, NEWS, False, 0), Order(2, SPORT, False, 50)]
    assert superfluous(orders, Order(3, ("url", "x"), False, REMEMBERED_S + 10)) == ([1], 1)
    many = [Order(n, ("tag", str(n)), False, 0) for n in range(1, REMEMBERED_MAX + 1)]
    assert superfluous(many, Order(1000, NEWS, False, 1)) == ([1], 1)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.x.test/a?b=c", "www.x.test/a?b=c"),
        ("http://WWW.x.test:80/a", "www.x.test/a"),
        ("https://www.x.test", "www.x.test/"),
        ("https://www.x.test:8443/a", "www.x.test:8443/a"),
    ],
)
def test_places(url: str, expected: str) -> None:
    check_url(url, "purge.url", ["www.x.test"])
    assert place(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/a",
        "www.x.test/a",
        "ftp://www.x.test/a",
        "https://other.test/a",
        "https://u@www.x.test/",
        "https://www.x.test/ä",
        "https://www.x.test/a#b",
        "https://www.x.test?q",
        "https://[",
        "https://www.x.test/" + "a" * 2048,
    ],
)
def test_what_is_no_url_of_the_app(url: str) -> None:
    with pytest.raises(LocciError):
        check_url(url, "purge.url", ["www.x.test"])


@pytest.mark.parametrize("tag", ["", "a b", "a,b", "ä", "a" * 2049])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(LocciError):
        check_tag(tag, "purge.tag")
