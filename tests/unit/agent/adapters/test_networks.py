"""Where a container's process is, by a /proc that the test wrote."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent.adapters.networks import Networks

ROUTES = "Local:\n  |-- 127.0.0.1\n     /32 host LOCAL\n  |-- {address}\n     /32 host LOCAL\n"
APP, BOX, PIDS = "a" * 64, "b" * 64, {"a" * 64: 10, "b" * 64: 20}


def process(proc: Path, pid: int, container: str, network: str, address: str = "172.17.0.2", started: int = 7) -> None:
    """A process of a container."""
    folder = proc / str(pid)
    for name in ("ns", "net"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "cgroup").write_text(f"0::/docker/{container}\n")
    (folder / "stat").write_text(f"{pid} (sh) (x) " + " ".join(["0"] * 19) + f" {started} 0\n")
    (folder / "ns" / "net").unlink(missing_ok=True)
    (folder / "ns" / "net").symlink_to(f"net:[{network}]")
    (folder / "net" / "fib_trie").write_text(ROUTES.format(address=address))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Both processes in one network."""
    process(tmp_path, 10, APP, "1")
    process(tmp_path, 20, BOX, "1")
    return tmp_path


def astray(networks: Networks, pids: dict[str, int] | None = None, address: str = "172.17.0.2") -> frozenset[str]:
    """Those astray of the one container that joins a sandbox."""
    return networks.astray(lambda i: (PIDS if pids is None else pids).get(i, 0), {APP: (BOX, address)})


def test_together_is_right(proc: Path) -> None:
    assert astray(Networks(proc)) == frozenset()


def test_a_sandbox_that_was_started_anew_is_in_another_network(proc: Path) -> None:
    networks = Networks(proc)
    assert astray(networks) == frozenset()
    process(proc, 21, BOX, "2")
    (proc / "20" / "stat").unlink()
    assert astray(networks, PIDS | {BOX: 21}) == {APP}


def test_a_number_that_another_process_got_is_asked_for_again(proc: Path) -> None:
    networks = Networks(proc)
    assert astray(networks) == frozenset()
    process(proc, 20, "c" * 64, "3", started=8)
    assert astray(networks) == frozenset()


def test_an_address_that_the_network_has_not(proc: Path) -> None:
    assert astray(Networks(proc), address="172.17.0.9") == {APP}
    assert astray(Networks(proc), address="") == frozenset()


def test_the_address_tells_also_where_namespaces_may_not_be_seen(proc: Path) -> None:
    (proc / "10" / "ns" / "net").unlink()
    assert astray(Networks(proc)) == frozenset()
    process(proc, 10, APP, "1", "172.17.0.9")
    (proc / "10" / "ns" / "net").unlink()
    assert astray(Networks(proc)) == {APP}


@pytest.mark.parametrize("pids", [{}, {APP: 999, BOX: 20}, {APP: 20, BOX: 10}])
def test_what_cannot_be_seen_counts_as_right(proc: Path, pids: dict[str, int]) -> None:
    assert astray(Networks(proc), pids, "172.17.0.9") == frozenset()


def test_a_network_of_its_own(proc: Path) -> None:
    networks = Networks(proc)
    assert networks.astray(PIDS.__getitem__, {APP: ("", "172.17.0.2")}) == frozenset()
    assert networks.astray(PIDS.__getitem__, {APP: ("", "172.17.0.3")}) == {APP}


def test_each_process_is_asked_for_once(proc: Path) -> None:
    networks, asked = Networks(proc), []

    def pid_of(container_id: str) -> int:
        asked.append(container_id)
        return PIDS[container_id]

    for _ in range(3):
        networks.astray(pid_of, {APP: (BOX, "172.17.0.2")})
    assert sorted(asked) == [APP, BOX]


def socket(address: str, port: int, state: str = "0A") -> str:
    """A line of /proc/PID/net/tcp."""
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 0 0 1\n"


@pytest.mark.parametrize(
    ("table", "line", "listens"),
    [
        ("tcp", socket("00000000", 8080), True),
        ("tcp", socket("020011AC", 8080), True),
        ("tcp6", socket("0" * 32, 8080), True),
        ("tcp", socket("0100007F", 8080), False),
        ("tcp", socket("00000000", 8081), False),
        ("tcp", socket("00000000", 8080, "01"), False),
    ],
    ids=["any address", "its address", "any address of IPv6", "loopback", "another port", "a connection"],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="the tables are written in this machine's order")
def test_whether_something_listens_for_others(proc: Path, table: str, line: str, listens: bool) -> None:
    (proc / "10" / "net" / table).write_text(f"  sl  local_address rem_address   st\n{line}")
    networks = Networks(proc)
    assert not networks.listens(APP, "172.17.0.2", 8080), "its process is not known so far"
    networks.know(APP, 10)
    assert networks.listens(APP, "172.17.0.2", 8080) == listens
    (proc / "10" / "stat").write_text("10 (sh) " + " ".join(["0"] * 19) + " 8 0\n")
    assert not networks.listens(APP, "172.17.0.2", 8080), "another has its number"
