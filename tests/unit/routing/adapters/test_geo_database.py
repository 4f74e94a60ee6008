"""MMDB files of both schemas, of none, and ones that change while they are used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fleet.errors import LocciError
from routing.adapters.geo_database import GeoDatabase, open_lookup, place_of
from routing.core.geo import Place
from tests.unit.routing.adapters.mmdb import write


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({"country_code": "DE"}, Place(51, 10, "DE", "", "geo database (country)")),
        ({"latitude": "48.857", "longitude": "2.352", "country": "fr"}, Place(48.86, 2.35, "FR", "", "geo database")),
        (
            {"country": {"iso_code": "JP"}, "location": {"latitude": 35.69, "longitude": 139.69}},
            Place(35.69, 139.69, "JP", "", "geo database"),
        ),
        ({"registered_country": {"iso_code": "US"}}, Place(39, -90, "US", "", "geo database (country)")),
        ({"location": {"latitude": 91.0, "longitude": 0.0}}, None),
        ({"latitude": "north", "longitude": "", "country_code": "ZZ"}, None),
        ({"country_code": 7}, None),
        ({}, None),
    ],
)
def test_records(record: dict[str, object], place: Place | None) -> None:
    assert place_of(record) == place


@pytest.mark.parametrize(
    ("record", "subdivision"),
    [
        ({"country": {"iso_code": "US"}, "subdivisions": [{"iso_code": "CA"}]}, "US-CA"),
        ({"country": {"iso_code": "GB"}, "subdivisions": [{"iso_code": "ENG"}, {"iso_code": "LND"}]}, "GB-ENG"),
        ({"country_code": "US", "subdivision_code": "us-ny"}, "US-NY"),
        ({"country_code": "FR", "region_code": "75"}, "FR-75"),
        ({"country_code": "US", "state1": "California"}, ""),
        ({"country_code": "US", "subdivision_code": "California"}, ""),
        ({"country_code": "US", "subdivisions": []}, ""),
        ({"country_code": "US", "subdivisions": "CA"}, ""),
    ],
)
def test_subdivisions(record: dict[str, object], subdivision: str) -> None:
    place = place_of(record | {"latitude": 1.0, "longitude": 2.0})
    assert place is not None
    assert place.subdivision == subdivision


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "geo.mmdb"
    write(path, {"198.51.100.0/24": {"country_code": "AU"}, "2001:db8::/32": {"latitude": 1.0, "longitude": 2.0}})
    lookup = open_lookup(path)
    assert lookup("198.51.100.7") == (Place(-25, 134, "AU", "", "geo database (country)"), 24)
    assert lookup("2001:db8::1") == (Place(1.0, 2.0, "", "", "geo database"), 32)
    place, bits = lookup("203.0.113.1")
    assert place is None
    assert 0 < bits < 24


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "geo.mmdb"
    path.write_bytes(b"not a database")
    with pytest.raises(LocciError, match=r"geo\.mmdb is not an MMDB file"):
        open_lookup(path)


def test_it_is_read_again_when_it_changes_and_kept_when_it_breaks(tmp_path: Path) -> None:
    path = tmp_path / "geo.mmdb"
    database = GeoDatabase(path, tmp_path)
    assert not database.refresh()
    assert database.lookup is None
    write(path, {"198.51.100.0/24": {"country_code": "AU"}})
    assert database.refresh()
    assert not database.refresh()
    first = database.lookup
    assert first is not None
    replacement = tmp_path / "new"
    write(replacement, {"198.51.100.0/24": {"country_code": "DE"}})
    os.replace(replacement, path)
    assert database.refresh()
    assert database.lookup is not None
    assert database.lookup("198.51.100.1")[0] == Place(51, 10, "DE", "", "geo database (country)")
    assert first("198.51.100.1")[0] == Place(-25, 134, "AU", "", "geo database (country)")
    second = database.lookup
    broken = tmp_path / "broken"
    broken.write_bytes(b"broken")
    os.replace(broken, path)
    assert not database.refresh()
    assert database.lookup is second


def test_a_file_that_is_overwritten_where_it_lies_changes_nothing_under_the_reader(tmp_path: Path) -> None:
    """As `cp` and `curl -o` do it: the file is empty for a moment, then half there."""
    path, other = tmp_path / "geo.mmdb", tmp_path / "other"
    write(path, {f"198.51.{n}.0/24": {"country_code": "AU"} for n in range(256)})
    write(other, {f"198.51.{n}.0/24": {"country": {"iso_code": "DE"}} for n in range(256)}, "GeoLite2-Country")
    database = GeoDatabase(path, tmp_path)
    assert database.refresh()
    first, content = database.lookup, other.read_bytes()
    assert first is not None
    with path.open("wb") as file:
        for part in (b"", content[: len(content) // 2]):
            file.write(part)
            file.flush()
            os.utime(path, ns=(1, len(part)))
            assert not database.refresh()
            assert database.lookup is first
            assert first("198.51.200.1")[0] == Place(-25, 134, "AU", "", "geo database (country)")
        file.write(content[len(content) // 2 :])
    assert database.refresh()
    assert database.lookup is not None
    assert database.lookup("198.51.200.1")[0] == Place(51, 10, "DE", "", "geo database (country)")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["geo.mmdb", "other"]
