"""`locci registries` against the real control plane."""

from __future__ import annotations

import json

from tests.integration.http.conftest import CommandLine

PASSWORD = "canary-registry-password"


def test_logins_are_kept_replaced_and_forgotten(locci: CommandLine) -> None:
    given = ("registries", "create", "main", "--host", "registry.example.net:5000", "--username", "puller")
    assert locci(*given, stdin="").returncode == 2
    done = locci(*given, stdin=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    assert locci(*given, stdin=f"{PASSWORD}\n").returncode == 1
    (row,) = json.loads(locci("registries", "ls", "-o", "json").stdout)
    assert (row["host"], row["username"]) == ("registry.example.net:5000", "puller")
    done = locci("registries", "replace", "main", "-u", "other", stdin=f"{PASSWORD}2\n")
    assert (done.returncode, "other" in done.stdout) == (0, True), done.stderr
    for listed in (("registries", "ls", "-o", "yaml"), ("audit", "ls", "-o", "json"), ("events", "-o", "json")):
        assert PASSWORD not in locci(*listed).stdout
    done = locci("registries", "replace", "main", "--mirror", "near.example.net:5000", "-o", "json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["username"], [mirror["host"] for mirror in row["mirrors"]]) == ("", ["near.example.net:5000"])
    assert "near.example.net:5000" in locci("registries", "ls").stdout
    assert locci("registries", "replace", "main").returncode == 2
    done = locci("registries", "replace", "main", "--mirror", "near.example.net=nowhere")
    assert (done.returncode, "there is no regions/nowhere" in done.stderr) == (2, True), done.stderr
    assert locci("registries", "rm", "main").returncode == 0
    assert locci("registries", "rm", "main").returncode == 4
