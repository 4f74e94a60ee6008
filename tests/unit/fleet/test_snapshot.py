from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import LocciError
from fleet.snapshot import Snapshot, SnapshotFile, apply_delta, snapshot_hash
from locci.v1 import agent_pb2, resource_pb2

names = st.sampled_from(["replicas/a/0/1", "replicas/a/1/1", "routes/a", "zones/ü.test", "regions/eu"])
holdings = st.dictionaries(names, st.sampled_from(["v1", "v2", "v3"]))


def resource(name: str, version: str) -> resource_pb2.Resource:
    return resource_pb2.Resource(name=name, version=version)


def held(versions: dict[str, str], revision: int = 1) -> Snapshot:
    return Snapshot(revision, {name: resource(name, version) for name, version in versions.items()})


def delta_between(before: dict[str, str], after: dict[str, str]) -> agent_pb2.Delta:
    delta = agent_pb2.Delta(revision=2, snapshot_hash=snapshot_hash(after.items()))
    delta.resources.extend(resource(n, v) for n, v in after.items() if before.get(n) != v)
    delta.removed.extend(n for n in before if n not in after)
    return delta


def test_hash_is_what_the_contract_says() -> None:
    expected = hashlib.sha256(b"a\x001\n" + b"b\x002\n").hexdigest()
    assert snapshot_hash([("b", "2"), ("a", "1")]) == expected


@given(holdings, holdings)
def test_a_delta_leads_from_any_snapshot_to_any_other(before: dict[str, str], after: dict[str, str]) -> None:
    result = apply_delta(held(before), delta_between(before, after))
    assert {name: r.version for name, r in result.resources.items()} == after
    assert result.revision == 2


@given(holdings, holdings)
def test_a_complete_delta_forgets_what_was_held(before: dict[str, str], after: dict[str, str]) -> None:
    delta = delta_between({}, after)
    delta.complete = True
    result = apply_delta(held(before), delta)
    assert {name: r.version for name, r in result.resources.items()} == after


def test_a_delta_for_another_snapshot_is_refused() -> None:
    with pytest.raises(LocciError) as caught:
        apply_delta(held({"routes/b": "v1"}), delta_between({}, {"routes/a": "v1"}))
    assert caught.value.reason == "HASH_MISMATCH"


def test_a_resource_without_a_version_is_refused() -> None:
    delta = agent_pb2.Delta(resources=[resource_pb2.Resource(name="routes/a")])
    with pytest.raises(LocciError) as caught:
        apply_delta(Snapshot(), delta)
    assert caught.value.reason == "BROKEN_DELTA"


@given(versions=holdings, epoch=st.integers(0, 2**40))
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, versions: dict[str, str], epoch: int
) -> None:
    file = SnapshotFile(tmp_path_factory.mktemp("snapshot") / "snapshot.pb")
    file.save(held(versions, 7).with_epoch(epoch))
    loaded = file.load()
    assert (loaded.revision, loaded.epoch, dict(loaded.resources)) == (7, epoch, dict(held(versions).resources))


def test_there_is_nothing_before_the_first_save(tmp_path: Path) -> None:
    assert SnapshotFile(tmp_path / "snapshot.pb").load() == Snapshot()


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:10], lambda c: c[:-1] + b"\xff", lambda c: b""])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: object) -> None:
    file = SnapshotFile(tmp_path / "snapshot.pb")
    file.save(held({"routes/a": "v1"}))
    file.path.write_bytes(damage(file.path.read_bytes()))  # type: ignore[operator]
    assert file.load() == Snapshot()
    assert file.path.with_suffix(".damaged").exists()
