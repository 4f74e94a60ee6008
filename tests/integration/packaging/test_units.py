"""What the units may do: as much as the guide says, by systemd's own measure."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.packaging.clean_root import ROOT

UNITS = sorted((ROOT / "packaging/systemd").glob("*.service"))
ROW = re.compile(r"^\| `(locci-[a-z]+)` \| (\d+\.\d) \| (.+) \|$", re.MULTILINE)


def measures() -> bool:
    """Whether the systemd of Debian 12 is here: others may weigh differently."""
    if shutil.which("systemd-analyze") is None:
        return False
    done = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.startswith("systemd 252")


@pytest.mark.skipif(not measures(), reason="without systemd-analyze of systemd 252")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_exposure_is_what_the_guide_states_and_explains(unit: Path) -> None:
    stated = {name: (score, why) for name, score, why in ROW.findall((ROOT / "docs/install.md").read_text())}
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found = re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)
    assert found is not None, done.stdout
    assert stated[unit.stem][0] == found[1]
    assert len(stated[unit.stem][1]) > 10 or stated[unit.stem][1] == "the same"
