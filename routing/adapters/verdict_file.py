"""Which targets were in rotation when the program ran last: assumed after a restart until probes have spoken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import structlog

from fleet.files import write_atomic
from routing.core.model import Family, TargetKey

log = structlog.get_logger()


class VerdictFile:
    """A small JSON file, `{"node/4": true}`; one that is damaged is taken as none."""

    def __init__(self, path: Path):
        self._path = path

    def load(self) -> dict[TargetKey, bool]:
        """What was saved last."""
        try:
            content = json.loads(self._path.read_text())
            found: dict[TargetKey, bool] = {}
            for name, in_rotation in content.items():
                node, _, family = name.rpartition("/")
                found[node, Family(int(family))] = bool(in_rotation)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            log.warning("verdicts_unreadable", reason=str(error), path=str(self._path))
            return {}
        return found

    def save(self, verdicts: Mapping[TargetKey, bool]) -> None:
        """Keeps them. It may block; a disk that is full is told in the log and costs only the memory."""
        content = {f"{node}/{family.value}": in_rotation for (node, family), in_rotation in sorted(verdicts.items())}
        try:
            write_atomic(self._path, json.dumps(content).encode())
        except OSError as error:
            log.warning("verdicts_not_saved", reason=error.strerror, path=str(self._path))
