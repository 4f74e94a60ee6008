"""What supervisor and agent leave each other on disk about the version that is wanted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.adapters.upgrade_status import NAME, SUPERVISED, UpgradeStatus, is_supervised
from agent.adapters.wanted_version import WantedVersion
from agent.core.upgrade import Stage, Tell
from locci.v1 import node_pb2

SAYS = node_pb2.AgentUpgrade


def key_of(folder: Path) -> str:
    wanted = WantedVersion(folder).read()
    assert wanted is not None
    return wanted[1]


def test_nobody_wants_anything(tmp_path: Path) -> None:
    assert UpgradeStatus(tmp_path).read() == SAYS()


def test_what_was_said_of_a_request_is_told_with_who_asked(tmp_path: Path) -> None:
    wanted, status = WantedVersion(tmp_path), UpgradeStatus(tmp_path)
    wanted.follow("0.2.0", "upgrades/3")
    assert status.read() == SAYS(version="0.2.0", request="upgrades/3", state=SAYS.STATE_WANTED)
    status.tell(Tell("0.2.0", key_of(tmp_path), Stage.TAKEN_BACK, "it kept ending"))
    said = status.read()
    assert (said.state, said.reason) == (SAYS.STATE_TAKEN_BACK, "it kept ending")


def test_the_same_by_another_upgrade_is_a_new_request_of_which_nothing_is_known(tmp_path: Path) -> None:
    wanted, status = WantedVersion(tmp_path), UpgradeStatus(tmp_path)
    wanted.follow("0.2.0", "upgrades/3")
    before = key_of(tmp_path)
    status.tell(Tell("0.2.0", before, Stage.TAKEN_BACK))
    os.utime(tmp_path / "wanted-version", ns=(1, 1))
    wanted.follow("0.2.0", "upgrades/4")
    assert key_of(tmp_path) != before
    assert status.read() == SAYS(version="0.2.0", request="upgrades/4", state=SAYS.STATE_WANTED)


def test_the_same_again_and_the_same_without_its_upgrade_is_no_new_request(tmp_path: Path) -> None:
    wanted = WantedVersion(tmp_path)
    wanted.follow("0.2.0", "upgrades/3")
    before = key_of(tmp_path)
    os.utime(tmp_path / "wanted-version", ns=(5, 5))
    for request in ("upgrades/3", ""):
        wanted.follow("0.2.0", request)
    assert key_of(tmp_path) == "0.2.0@5"
    assert before != "0.2.0@5"


def test_what_a_person_on_the_host_asked_for_is_nobody_elses_request(tmp_path: Path) -> None:
    wanted = WantedVersion(tmp_path)
    wanted.follow("0.2.0", "upgrades/3")
    wanted.ask("0.1.0")
    assert UpgradeStatus(tmp_path).read() == SAYS(version="0.1.0", state=SAYS.STATE_WANTED)


def test_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    WantedVersion(tmp_path).follow("0.2.0")
    (tmp_path / NAME).write_text('{"key": ')
    assert UpgradeStatus(tmp_path).read() == SAYS(version="0.2.0", state=SAYS.STATE_WANTED)


def test_only_the_supervisors_own_child_is_supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUPERVISED, raising=False)
    assert not is_supervised()
    monkeypatch.setenv(SUPERVISED, "1")
    assert is_supervised() == (os.getppid() == 1)
    monkeypatch.setenv(SUPERVISED, str(os.getppid()))
    assert is_supervised()
