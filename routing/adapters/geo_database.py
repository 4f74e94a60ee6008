"""Places from an MMDB file, of the flat schema or of GeoIP2's; read again when the file changes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import maxminddb
import structlog

from fleet.errors import LocciError, invalid
from routing.core.countries import MIDDLES
from routing.core.geo import GeoLookup, Place

log = structlog.get_logger()

_COPY_BYTES: Final = 1 << 20


class GeoDatabase:
    """The file at `path`. A file that is missing or broken is told in the log, and what was read last stays.

    It is read from a copy without a name in the folder `scratch`: a file that is overwritten where it lies would change
    under the reader, which has it mapped, and one that became shorter would end the process.
    """

    def __init__(self, path: Path, scratch: Path):
        self._path = path
        self._scratch = scratch
        self._stamp: tuple[int, int, int] | None = None
        self.lookup: GeoLookup | None = None
        """What the file says; None while none could be read."""

    def refresh(self) -> bool:
        """Reads the file when it has changed, and says whether it did. It may block: call it from a thread."""
        try:
            status = os.stat(self._path)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            self.lookup = open_lookup(self._path, self._scratch)
        except (OSError, LocciError) as error:
            if self._stamp is not None or self.lookup is None:
                log.error("geo_database_unreadable", reason=str(error), path=str(self._path))
            return False
        log.info("geo_database_read", path=str(self._path))
        return True


def open_lookup(path: Path, scratch: Path | None = None) -> GeoLookup:
    """The lookup of a file as it is now, from a copy in the folder `scratch`. Raises INVALID_ARGUMENT when it is no
    MMDB file, OSError when it cannot be read or copied."""
    with path.open("rb") as source, tempfile.TemporaryFile(dir=scratch) as copy:
        shutil.copyfileobj(source, copy, _COPY_BYTES)
        copy.flush()
        try:
            # It stays mapped when its descriptor is closed.
            reader = maxminddb.open_database(f"/proc/self/fd/{copy.fileno()}")
        except maxminddb.InvalidDatabaseError as error:
            raise invalid("geo_database", f"{path} is not an MMDB file") from error
    only_v4 = reader.metadata().ip_version == 4

    def lookup(address: str) -> tuple[Place | None, int]:
        if only_v4 and ":" in address:
            return None, 0
        try:
            record, bits = reader.get_with_prefix_len(address)
        except (maxminddb.InvalidDatabaseError, ValueError):
            return None, 24 if "." in address else 48
        return (place_of(record) if isinstance(record, Mapping) else None), bits

    return lookup


def place_of(record: Mapping[str, object]) -> Place | None:
    """The place in a record: its coordinates, else the middle of its country; None when it has neither."""
    country, continent, subdivision = _country(record), _continent(record), _subdivision(record)
    inner = record.get("location")
    coordinates = inner if isinstance(inner, Mapping) else record
    try:
        latitude, longitude = float(str(coordinates["latitude"])), float(str(coordinates["longitude"]))
        # A hundredth of a degree is a kilometre; finer would only make more buckets.
        if abs(latitude) <= 90 and abs(longitude) <= 180:
            return Place(round(latitude, 2), round(longitude, 2), country, "", "geo database", continent, subdivision)
    except (KeyError, ValueError):
        pass
    if country in MIDDLES:
        return Place(*MIDDLES[country], country, "", "geo database (country)", continent, subdivision)
    return None


def _country(record: Mapping[str, object]) -> str:
    """The country's code: `country_code` or `country` when flat, `country.iso_code` in GeoIP2."""
    for key in ("country_code", "country", "registered_country"):
        value = record.get(key)
        if isinstance(value, Mapping):
            value = value.get("iso_code")
        if isinstance(value, str) and len(value) == 2:
            return value.upper()
    return ""


def _continent(record: Mapping[str, object]) -> str:
    """The continent's code: `continent_code` or `continent` when flat, `continent.code` in GeoIP2."""
    for key in ("continent_code", "continent"):
        value = record.get(key)
        if isinstance(value, Mapping):
            value = value.get("code")
        if isinstance(value, str) and len(value) == 2:
            return value.upper()
    return ""


def _subdivision(record: Mapping[str, object]) -> str:
    """The subdivision by ISO 3166-2: `subdivision_code` or `region_code` when flat, `subdivisions[0].iso_code` in
    GeoIP2. Names without a code, as some flat files have them, say nothing."""
    country = _country(record)
    found: object = record.get("subdivision_code") or record.get("region_code")
    listed = record.get("subdivisions")
    if isinstance(listed, Sequence) and listed and isinstance(listed[0], Mapping):
        found = listed[0].get("iso_code")
    if not country or not isinstance(found, str):
        return ""
    code = found.upper().removeprefix(f"{country}-")
    return f"{country}-{code}" if re.fullmatch("[A-Z0-9]{1,3}", code) else ""
