"""`locci backup` against the real control plane, over HTTPS."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.http.conftest import CommandLine, RealServer


def test_a_backup_from_afar_and_back(locci: CommandLine, server: RealServer, tmp_path: Path) -> None:
    passphrase, file, other = tmp_path / "passphrase", tmp_path / "one.backup", tmp_path / "two.backup"
    passphrase.write_text("correct horse battery\n")
    with_it = ("--passphrase-file", str(passphrase))
    done = locci("backup", "create", str(file), *with_it, "-o", "json")
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)
    assert file.stat().st_mode & 0o777 == 0o600
    assert int(made["size_bytes"]) == file.stat().st_size
    assert json.loads(locci("backup", "ls", "-o", "json").stdout) == []
    verified = locci("backup", "verify", str(file), *with_it)
    assert (verified.returncode, "revision" in verified.stderr) == (0, True), verified.stderr
    again = locci("backup", "create", str(file), *with_it)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)

    assert locci("backup", "create", str(other), *with_it, "--keep").returncode == 0
    (kept,) = json.loads(locci("backup", "ls", "-o", "json").stdout)
    identifier = kept["name"].removeprefix("backups/")
    fetched = tmp_path / "fetched"
    assert locci("backup", "download", identifier, str(fetched)).returncode == 0
    assert fetched.read_bytes() == other.read_bytes()
    assert locci("operations", "wait", f"backups.{identifier}").returncode == 0
    assert locci("backup", "rm", identifier).returncode == 0
    assert locci("backup", "download", identifier, str(tmp_path / "none")).returncode == 4
    assert not (tmp_path / "none").exists()

    fetched.write_bytes(fetched.read_bytes()[:-1])
    damaged = locci("backup", "verify", str(fetched), *with_it)
    assert (damaged.returncode, "does not open" in damaged.stderr) == (1, True)
    config = tmp_path / "server.toml"
    config.write_text(f'data_dir = "{tmp_path}/restored"\n')
    restored = locci("backup", "restore", str(file), *with_it, "--config", str(config))
    assert (restored.returncode, (tmp_path / "restored" / "locci.db").exists()) == (0, True), restored.stderr
