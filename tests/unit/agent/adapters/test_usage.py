"""What containers use, from control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.usage import Usage, UsageReader

ID = "ab" * 32


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def v2(root: Path, cpu_us: int, name: str = f"docker/{ID}") -> None:
    write(root, cgroup__controllers="cpu memory\n")
    cpu = f"usage_usec {cpu_us}\nuser_usec 1\n"
    write(root / name, cpu__stat=cpu, memory__current="5000\n", memory__stat="anon 1\ninactive_file 2000\n")


def v1(root: Path, cpu_us: int) -> None:
    write(root / "cpuacct" / "docker" / ID, cpuacct__usage=f"{cpu_us * 1000}\n")
    stat = "inactive_file 1\ntotal_inactive_file 2000\n"
    write(root / "memory" / "docker" / ID, memory__usage_in_bytes="5000\n", memory__stat=stat)


@pytest.mark.parametrize("version", [v1, v2])
def test_both_versions(tmp_path: Path, version: type[None]) -> None:
    version(tmp_path, 1_000_000)  # type: ignore[call-arg]
    reader = UsageReader(tmp_path)
    assert reader.read([ID], 10.0) == {ID: Usage(0.0, 3000)}
    version(tmp_path, 1_500_000)  # type: ignore[call-arg]
    assert reader.read([ID], 12.0) == {ID: Usage(0.25, 3000)}


def test_under_systemd(tmp_path: Path) -> None:
    v2(tmp_path, 0, f"system.slice/docker-{ID}.scope")
    assert UsageReader(tmp_path).read([ID], 1.0) == {ID: Usage(0.0, 3000)}


def test_a_container_that_is_gone_or_unknown_is_left_out(tmp_path: Path) -> None:
    v2(tmp_path, 0)
    reader = UsageReader(tmp_path)
    assert set(reader.read([ID, "cd" * 32], 1.0)) == {ID}
    (tmp_path / "docker" / ID / "cpu.stat").unlink()
    assert reader.read([ID], 2.0) == {}
    assert reader.read([], 3.0) == {}


def test_a_count_that_began_anew_is_no_negative_use(tmp_path: Path) -> None:
    v2(tmp_path, 9_000_000)
    reader = UsageReader(tmp_path)
    reader.read([ID], 1.0)
    v2(tmp_path, 1_000)
    assert reader.read([ID], 2.0)[ID].cpus == 0.0
