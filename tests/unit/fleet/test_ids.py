from __future__ import annotations

import pytest

from fleet import ids
from fleet.errors import LocciError


@pytest.mark.parametrize("value", ["a", "eu", "eu-1", "x" * 32])
def test_ids_that_are_taken(value: str) -> None:
    assert ids.check_id(value, "region_id", 32) == value


@pytest.mark.parametrize("value", ["", "1a", "-a", "a-", "A", "a_b", "a.b", "x" * 33, "é", "a\n"])
def test_ids_that_are_refused(value: str) -> None:
    with pytest.raises(LocciError) as caught:
        ids.check_id(value, "region_id", 32)
    assert caught.value.field == "region_id"
    assert "1-32 of a-z" in caught.value.message


@pytest.mark.parametrize(("value", "name"), [("Www.Example.NET.", "www.example.net"), ("_acme.a.b", "_acme.a.b")])
def test_host_names_are_put_into_one_form(value: str, name: str) -> None:
    assert ids.check_hostname(value, "hostnames[0]") == name


@pytest.mark.parametrize(
    "value", ["", "localhost", "a..b", "-a.b", "a-.b", "a b.c", "a" * 64 + ".b", "a." * 130 + "b", "*.a.b"]
)
def test_host_names_that_are_refused(value: str) -> None:
    with pytest.raises(LocciError):
        ids.check_hostname(value, "hostnames[0]")


def test_resource_names() -> None:
    assert ids.parse("apps/hello/releases/3", "apps/*/releases/*") == ("hello", "3")
    assert ids.last_part("apps/hello/releases/3") == "3"
    for name in ("apps/hello", "apps//releases/3", "app/hello/releases/3", "apps/hello/releases/3/x", ""):
        with pytest.raises(LocciError, match=r"apps/\{id\}/releases/\{id\}"):
            ids.parse(name, "apps/*/releases/*")
