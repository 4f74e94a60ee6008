"""The lab's ground with real namespaces and engines: links, cuts, supervision, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import docker
import pytest

from fleet.errors import Code, LocciError
from lab import bringup, links
from lab.control import SupervisorControl
from lab.example import push_example
from lab.inside import socket_inside
from lab.layout import Layout, default_layout
from lab.machine import boot_id
from lab.processes import read_pid_files
from lab.progress import Progress
from lab.record import load_faults, load_record
from lab.topology import Topology
from tests.integration.lab.traces import shim_sockets, traces

pytestmark = pytest.mark.lab

# Several checkouts may run these tests at once on one machine.
NAME = f"tg{os.getpid() % 100000}"
OTHER = f"to{os.getpid() % 100000}"


def _up(name: str = NAME, regions: int = 2) -> Layout:
    return bringup.up(bringup.UpOptions(name=name, regions=regions, bare=True), Progress())


@contextmanager
def _lab(name: str = NAME, regions: int = 2) -> Iterator[tuple[Layout, Topology]]:
    layout = _up(name, regions)
    try:
        yield layout, load_record(layout, name).topology
    finally:
        bringup.down(name, layout)


@pytest.fixture(scope="module")
def ground() -> Iterator[tuple[Layout, Topology]]:
    with _lab() as lab:
        yield lab


def _eventually(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.05)


def _reaches(topology: Topology, source: str, target: str, *, ipv6: bool = False, timeout_s: float = 0.5) -> bool:
    """Whether a datagram from one host gets to another, over a socket that listens there."""
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    to = topology.host(target).addresses[1 if ipv6 else 0]
    from_namespace, to_namespace = topology.namespace(topology.host(source)), topology.namespace(topology.host(target))
    with socket_inside(to_namespace, family, socket.SOCK_DGRAM) as listener:
        listener.bind((to, 0))
        listener.settimeout(timeout_s)
        with socket_inside(from_namespace, family, socket.SOCK_DGRAM) as speaker:
            try:
                speaker.sendto(b"there?", listener.getsockname())
                return listener.recv(16) == b"there?"
            except OSError:
                return False


def test_hosts_reach_each_other_and_nothing_else(ground: tuple[Layout, Topology]) -> None:
    _, topology = ground
    for ipv6 in (False, True):
        assert _reaches(topology, "client-eu", "us-1", ipv6=ipv6)
        assert _reaches(topology, "eu-1", "cp", ipv6=ipv6)
    control = topology.namespace(topology.control)
    with socket_inside(control, socket.AF_INET, socket.SOCK_DGRAM) as out, pytest.raises(OSError, match="unreachable"):
        out.connect(("192.0.2.1", 53))


@pytest.mark.parametrize("ipv6", [False, True])
def test_a_host_that_is_cut_off_is_reached_by_nobody_until_healed(ground: tuple[Layout, Topology], ipv6: bool) -> None:
    layout, topology = ground
    links.partition(NAME, layout, "eu")
    links.partition(NAME, layout, "eu")
    try:
        assert load_faults(layout).down == {"eu-1"}
        assert not _reaches(topology, "client-eu", "eu-1", ipv6=ipv6)
        assert not _reaches(topology, "eu-1", "us-1", ipv6=ipv6)
        assert _reaches(topology, "client-eu", "us-1", ipv6=ipv6)
    finally:
        links.heal(NAME, layout, "eu")
    _eventually(lambda: _reaches(topology, "client-eu", "eu-1", ipv6=ipv6))


@pytest.mark.parametrize("ipv6", [False, True])
def test_one_way_and_pairwise_cuts(ground: tuple[Layout, Topology], ipv6: bool) -> None:
    layout, topology = ground
    links.partition(NAME, layout, "eu-1", source="us-1", one_way=True)
    try:
        assert not _reaches(topology, "us-1", "eu-1", ipv6=ipv6)
        assert _reaches(topology, "eu-1", "us-1", ipv6=ipv6)
        assert _reaches(topology, "cp", "eu-1", ipv6=ipv6)
        links.partition(NAME, layout, "us-1", one_way=True)
        assert not _reaches(topology, "cp", "us-1", ipv6=ipv6)
    finally:
        links.heal(NAME, layout)
    assert _reaches(topology, "us-1", "eu-1", ipv6=ipv6)
    assert _reaches(topology, "cp", "us-1", ipv6=ipv6)


def test_healing_works_when_the_record_of_cuts_is_lost(ground: tuple[Layout, Topology]) -> None:
    layout, topology = ground
    links.partition(NAME, layout, "eu")
    links.partition(NAME, layout, "us-1", source="cp")
    layout.faults.unlink()
    links.heal(NAME, layout)
    _eventually(lambda: _reaches(topology, "client-eu", "eu-1"))
    assert _reaches(topology, "cp", "us-1")


def test_a_killed_program_comes_back_and_a_held_one_waits(ground: tuple[Layout, Topology]) -> None:
    layout, _ = ground
    control = SupervisorControl(layout)

    def redis() -> dict[str, object]:
        return dict(control.programs()["eu-1", "redis"])

    before = redis()["pid"]
    assert control.call("kill", host="eu-1", program="redis")["pid"] == before
    _eventually(lambda: redis()["pid"] not in (before, None))
    control.call("kill", host="eu-1", program="redis", hold=True)
    _eventually(lambda: redis()["phase"] == "held")
    assert control.call("release")["released"] == ["eu-1/redis"]
    _eventually(lambda: redis()["phase"] == "running")
    assert redis()["restarts"] == 2


def test_containers_outlive_their_engine(ground: tuple[Layout, Topology]) -> None:
    layout, topology = ground
    image = push_example(topology, layout, [1])[0]
    engine = docker.APIClient(base_url=f"unix://{layout.docker_socket('eu-1')}", timeout=10)
    container = engine.create_container(image)["Id"]
    engine.start(container)
    pid = engine.inspect_container(container)["State"]["Pid"]
    SupervisorControl(layout).call("kill", host="eu-1", program="dockerd")

    def back() -> bool:
        try:
            return bool(engine.inspect_container(container)["State"]["Pid"] == pid)
        except (docker.errors.DockerException, OSError):
            return False

    _eventually(back)
    engine.close()


def test_exec_runs_on_the_host_with_its_resolver_and_passes_the_exit_code_on(ground: tuple[Layout, Topology]) -> None:
    command = "cat /etc/resolv.conf; echo $0 $1; exit 7"
    done = _cli("exec", "--name", NAME, "client-eu", "--", "sh", "-c", command, "a b", "--name")
    assert done.returncode == 7
    assert done.stdout == "nameserver 127.0.0.1\na b --name\n"


def test_status_tells_what_runs_where(ground: tuple[Layout, Topology]) -> None:
    status = json.loads(_cli("status", "--name", NAME, "-o", "json").stdout)
    hosts = {host["host"]: {program["program"] for program in host["programs"]} for host in status["hosts"]}
    assert hosts["eu-1"] == {"containerd", "dockerd", "redis"}
    assert hosts["client-us"] == {"unbound"}
    assert status["supervised"]


def test_a_second_up_says_what_to_do(ground: tuple[Layout, Topology]) -> None:
    with pytest.raises(LocciError, match="locci-lab down") as caught:
        _up()
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert ground[0].record.exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["partition", "mars"], 2), (["kill", "eu-1", "nginx"], 1), (["logs", "eu-1", "nginx"], 2), (["frob"], 2)],
)
def test_bad_usage_is_explained(ground: tuple[Layout, Topology], arguments: list[str], code: int) -> None:
    done = _cli(*arguments[:1], *arguments[1:], *(["--name", NAME] if arguments != ["frob"] else []))
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_two_labs_at_once_do_not_meet(ground: tuple[Layout, Topology]) -> None:
    layout, topology = ground
    with _lab(OTHER, regions=1) as (other, _):
        links.partition(OTHER, other, "cp")
        assert _reaches(topology, "eu-1", "cp")
        answer = json.loads(_cli("status", "--name", OTHER, "-o", "json").stdout)
        assert answer["partitions"] == ["cp is cut off"]
    assert traces(OTHER, other) == []
    assert SupervisorControl(layout).running()


def test_nothing_is_left_after_the_supervisor_was_killed() -> None:
    name = f"tk{os.getpid() % 100000}"
    layout = _up(name, regions=1)
    topology = load_record(layout, name).topology
    image = push_example(topology, layout, [1])[0]
    engine = docker.APIClient(base_url=f"unix://{layout.docker_socket('eu-1')}", timeout=10)
    engine.start(engine.create_container(image)["Id"])
    engine.close()
    os.kill(read_pid_files(layout.pids)["supervisor"].pid, signal.SIGKILL)
    sockets = shim_sockets(layout)
    assert sockets
    assert traces(name, layout)
    assert bringup.down(name, layout)
    assert traces(name, layout) == []
    assert not any(path.exists() for path in sockets)
    assert not bringup.down(name, layout)


def test_a_lab_of_an_earlier_boot_is_replaced() -> None:
    name = f"tb{os.getpid() % 100000}"
    layout = default_layout(name)
    layout.pids.mkdir(parents=True)
    record = {"name": name, "regions": 1, "nodes_per_region": 1, "https_port": 1, "grpc_port": 2, "created": 0.0}
    layout.record.write_text(json.dumps(record | {"boot_id": f"not {boot_id()}", "ready": True}))
    # A pid file of then, whose pid is someone else's now.
    (layout.pids / "eu-1.redis.json").write_text(json.dumps({"pid": os.getpid(), "start": 1}))
    with _lab(name, regions=1):
        pass
    assert traces(name, layout) == []


def test_up_that_is_interrupted_leaves_nothing() -> None:
    name = f"ti{os.getpid() % 100000}"
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.main", "up", "--name", name, "--bare"], stderr=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    assert process.stderr is not None
    process.stderr.readline()  # the first line: the network is there
    process.send_signal(signal.SIGTERM)
    process.communicate()
    watchdog.cancel()
    assert process.returncode == 130
    assert traces(name, default_layout(name)) == []


def test_a_folder_that_is_not_the_labs_is_left_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    name = f"tx{os.getpid() % 100000}"
    folder = default_layout(name).root
    folder.mkdir(parents=True)
    (folder / "precious").write_text("mine")
    try:
        with pytest.raises(LocciError, match="not empty"):
            _up(name)
        assert not bringup.down(name, Layout(folder))
        assert (folder / "precious").read_text() == "mine"
    finally:
        (folder / "precious").unlink()
        folder.rmdir()


def test_without_root_it_says_so() -> None:
    # It may still read: the folder that this Python is in can be closed to others.
    capability = "+dac_read_search"
    user = ["setpriv", "--reuid", "65534", "--clear-groups", "--inh-caps", capability, "--ambient-caps", capability]
    done = subprocess.run(
        [*user, sys.executable, "-m", "lab.main", "up"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 3
    assert "needs root" in done.stderr


def _cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lab.main", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
