"""`locci ca` and `locci context trust` against the real control plane: an authority is made, and let go again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.integration.http.conftest import CommandLine, RealServer


def test_the_commands_of_a_rotation(locci: CommandLine, server: RealServer, tmp_path: Path) -> None:
    locci.context = tmp_path / "context.json"
    shutil.copy(server.context, locci.context)
    rows = json.loads(locci("ca", "ls", "-o", "json").stdout)
    (old,) = [row["name"].removeprefix("authorities/") for row in rows]
    assert locci("ca", "ls").stdout.startswith("AUTHORITY")
    assert locci("ca", "prepare", "--dry-run").returncode == 0
    assert len(json.loads(locci("ca", "ls", "-o", "json").stdout)) == 1
    done = locci("ca", "prepare")
    assert (done.returncode, "locci context trust" in done.stderr) == (0, True), done.stderr
    (new,) = [
        row["name"].removeprefix("authorities/")
        for row in json.loads(locci("ca", "ls", "-o", "json").stdout)
        if row["state"] == "AUTHORITY_STATE_PREPARED"
    ]
    trusted = locci("context", "trust")
    assert (trusted.returncode, f"trusts 2 now: {old}, {new}" in trusted.stderr) == (0, True), trusted.stderr
    assert locci("ca", "activate", new, "--dry-run").returncode == 0
    refused = locci("ca", "retire", old)
    assert (refused.returncode, "prepare and activate another one first" in refused.stderr) == (1, True)
    assert locci("ca", "activate", "nobody").returncode == 4
    # It is not wanted after all: everything is as it was.
    done = locci("ca", "retire", new)
    assert done.returncode == 0, done.stderr
    assert locci("context", "trust").returncode == 0
    assert len(json.loads(locci("context", "show", "-o", "json").stdout)["ca_fingerprints"]) == 1
    assert json.loads(locci("ca", "ls", "-o", "json").stdout)[0]["name"] == f"authorities/{old}"
