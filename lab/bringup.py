"""Bringing a lab up: from nothing to a fleet whose nodes are all ready."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fleet.errors import Code, LocciError, failed_precondition
from fleet.files import write_atomic
from lab import network
from lab.api import ApiClient
from lab.control import SupervisorControl, start_supervisor
from lab.layout import Layout, default_layout
from lab.lock import LockedLab, locked
from lab.machine import boot_id, clean_environment
from lab.preflight import check_permitted, find_tools
from lab.programs import Program, Programs
from lab.progress import Progress
from lab.readiness import Readiness, Subject
from lab.record import LabRecord, find_record, save_record
from lab.teardown import take_down
from lab.topology import ZONE, Host, Topology, plan

_ENGINE_TIMEOUT_S: Final = 30.0
_SERVER_TIMEOUT_S: Final = 30.0
_JOIN_TIMEOUT_S: Final = 30.0
_READY_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What is asked for. `bare` leaves the fleet's own programs out: hosts, engines, registry, Redis and resolvers.

    Without `live_restore` the engines can be made a Docker Swarm.
    """

    name: str = "lab"
    regions: int = 3
    nodes_per_region: int = 1
    state_dir: Path | None = None
    bare: bool = False
    keep_failed: bool = False
    live_restore: bool = True


def up(options: UpOptions, progress: Progress) -> Layout:
    """Brings a lab up; the folder of the lab.

    Raises PERMISSION_DENIED when the machine or the user cannot, FAILED_PRECONDITION when the lab runs already, and
    UNAVAILABLE with the log of what did not come up; nothing is left of it then, unless `keep_failed`.
    """
    topology = plan(options.name, options.regions, options.nodes_per_region)
    layout = (Layout(options.state_dir.absolute()) if options.state_dir else default_layout(options.name)).check()
    check_permitted()
    tools = find_tools(layout.root.parent)
    with locked(options.name) as lock:
        _refuse_running(options.name, layout)
        if take_down(options.name, layout):
            progress.say(f"removed what was left of an earlier lab {options.name}")
        _check_folder(layout)
        try:
            _Bringup(
                topology, layout, Programs(topology, layout, tools, live_restore=options.live_restore), progress
            ).run(lock, bare=options.bare)
        except BaseException:
            if not options.keep_failed:
                progress.say("did not come up; removing what was made")
                take_down(options.name, layout)
                lock.forget()
            raise
    return layout


def _refuse_running(lab: str, layout: Layout) -> None:
    record = find_record(layout)
    if record is not None and record.boot_id == boot_id() and SupervisorControl(layout).running():
        message = (
            f"lab {lab} is up already, in {layout.root}: see `locci-lab status --name {lab}`; "
            f"to make it anew, first `locci-lab down --name {lab}`"
        )
        raise failed_precondition("LAB_RUNNING", message)


def _check_folder(layout: Layout) -> None:
    """A folder that holds something else is not ours to fill, and at the end to remove."""
    if layout.root.exists() and any(layout.root.iterdir()):
        message = f"state-dir: {layout.root} is not empty and is no lab's: choose another, or empty it"
        raise failed_precondition("FOLDER_IN_USE", message)


class _Bringup:
    """One run of `up`."""

    def __init__(self, topology: Topology, layout: Layout, programs: Programs, progress: Progress) -> None:
        self._topology = topology
        self._layout = layout
        self._programs = programs
        self._progress = progress
        self._control = SupervisorControl(layout)
        self._ready = Readiness(topology, layout, self._control)

    def run(self, lock: LockedLab, *, bare: bool) -> None:
        record = self._write_files()
        lock.remember(self._layout)
        network.create(self._topology)
        hosts = len(self._topology.hosts)
        self._progress.say(f"{hosts} hosts in network namespaces, linked in one closed network")
        start_supervisor(self._layout)
        self._start_ground(record, bare=bare)
        with ThreadPoolExecutor(max_workers=8) as pool:
            try:
                self._bring(pool, bare=bare)
            except BaseException:
                self._ready.cancel()
                raise
        save_record(self._layout, replace(record, ready=True))

    def _bring(self, pool: ThreadPoolExecutor, *, bare: bool) -> None:
        if bare:
            list(pool.map(self._wait_engine, self._topology.nodes))
            self._wait_ground()
            self._progress.say("engines, Redis, registry and resolvers are up")
        else:
            self._bring_fleet(pool)

    def _write_files(self) -> LabRecord:
        for folder in (self._layout.root, self._layout.pids, self._layout.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        https_port, grpc_port = _free_ports(2)
        record = LabRecord(
            name=self._topology.lab,
            regions=len(self._topology.regions),
            nodes_per_region=len(self._topology.nodes) // len(self._topology.regions),
            https_port=https_port,
            grpc_port=grpc_port,
            boot_id=boot_id(),
            created=time.time(),
        )
        save_record(self._layout, record)
        for path, text in self._programs.files().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for host in self._topology.nodes:
            for name in ("run", "agent", "edge", "dns", "docker"):
                (self._layout.host(host.name) / name).mkdir(exist_ok=True)
        return record

    def _start(self, programs: Sequence[Program]) -> None:
        for program in programs:
            self._control.start(program)

    def _start_ground(self, record: LabRecord, *, bare: bool) -> None:
        control = self._programs.control_programs()
        self._start([program for program in control if not (bare and program.name == "server")])
        for host in self._topology.nodes:
            self._start(self._programs.engine_programs(host))
        for host in self._topology.clients:
            self._start(self._programs.resolver_programs(host))
        if not bare:
            for host in self._topology.nodes:
                self._start(self._programs.resolver_programs(host))
            self._start([self._programs.forwarder(record.https_port, record.grpc_port)])

    def _wait_engine(self, host: Host) -> None:
        subject = Subject(host.name, "dockerd", "ready")
        self._ready.wait(subject, lambda: self._ready.engine(host), _ENGINE_TIMEOUT_S)

    def _wait_ground(self) -> None:
        control = self._topology.control.name
        self._ready.wait(Subject(control, "registry", "ready"), self._ready.registry, _SERVER_TIMEOUT_S)
        for host in self._topology.nodes:
            self._wait(host, "redis", self._ready.redis)

    def _wait(self, host: Host, program: str, ready: Callable[[Host], bool]) -> None:
        self._ready.wait(Subject(host.name, program, "ready"), lambda: ready(host), _READY_TIMEOUT_S)

    def _bring_fleet(self, pool: ThreadPoolExecutor) -> None:
        engines = [pool.submit(self._wait_engine, host) for host in self._topology.nodes]
        api = self._wait_server()
        self._progress.say("control plane answers")
        tokens = declare(api, self._topology)
        self._progress.say(f"{len(self._topology.regions)} regions, zone {ZONE} and {len(tokens)} join tokens made")
        for engine in engines:
            engine.result()
        self._wait_ground()
        self._progress.say(f"{len(engines)} Docker Engines, Redis, registry and resolvers are up")
        joins = [pool.submit(self._join, host, tokens[host.name]) for host in self._topology.nodes]
        for join in joins:
            join.result()
        self._progress.say(f"{len(joins)} hosts joined")
        for host in self._topology.nodes:
            self._wait(host, "agent", lambda h: node_ready(api, h.name))
            self._wait(host, "edge", self._ready.edge)
            if host.serves_dns:
                self._wait(host, "dns", self._ready.name_server)
        for host in (*self._topology.clients, *self._topology.nodes):
            self._wait(host, "unbound", self._ready.resolver)
        self._progress.say("all nodes ready, edges and DNS servers serve")

    def _wait_server(self) -> ApiClient:
        """Waits for the control plane, and writes the context file for use from outside."""
        host = self._topology.control
        inside = self._layout.host(host.name) / "server" / "context.json"
        subject = Subject(host.name, "server", "ready")
        self._ready.wait(subject, inside.exists, _SERVER_TIMEOUT_S)
        record = find_record(self._layout)
        assert record is not None
        context = json.loads(inside.read_text()) | {
            "server": f"https://127.0.0.1:{record.https_port}",
            "grpc": f"127.0.0.1:{record.grpc_port}",
        }
        write_atomic(self._layout.context, json.dumps(context, indent=1).encode())
        api = ApiClient.from_context(self._layout.context)
        self._ready.wait(subject, lambda: _answers(api), _SERVER_TIMEOUT_S)
        return api

    def _join(self, host: Host, token: str) -> None:
        command = self._programs.join_command(host, token)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_JOIN_TIMEOUT_S, env=clean_environment(), check=False
            )
        except subprocess.TimeoutExpired as error:
            message = f"locci-agent join on {host.name} did not end within {_JOIN_TIMEOUT_S:g} s"
            raise LocciError(Code.DEADLINE_EXCEEDED, "JOIN_TIMEOUT", message) from error
        if done.returncode != 0:
            message = f"locci-agent join on {host.name} ended with {done.returncode}: {done.stderr.strip()}"
            raise LocciError(Code.UNAVAILABLE, "JOIN_FAILED", message)
        self._start(self._programs.node_programs(host))


def declare(api: ApiClient, topology: Topology) -> dict[str, str]:
    """Makes the regions, the zone and a join token for each node; the tokens by host."""
    for region in topology.regions:
        body = {
            "display_name": region.display_name,
            "latitude": region.latitude,
            "longitude": region.longitude,
            "continent": region.continent,
            "country": region.country,
            "jurisdictions": list(region.jurisdictions),
            "networks": list(region.networks),
        }
        api.call("POST", "/v1/regions", body, query={"region_id": region.id})
    api.call("POST", "/v1/zones", {}, query={"zone_id": ZONE})
    tokens = {}
    for host in topology.nodes:
        roles = ["NODE_ROLE_EDGE"] + (["NODE_ROLE_DNS"] if host.serves_dns else [])
        token = api.call(
            "POST", "/v1/joinTokens", {"region": f"regions/{host.region}", "roles": roles, "node_id": host.name}
        )
        tokens[host.name] = str(token["token"])
    return tokens


def node_ready(api: ApiClient, node: str) -> bool:
    """Whether the control plane finds the node ready."""
    try:
        return api.call("GET", f"/v1/nodes/{node}").get("condition") == "NODE_CONDITION_READY"
    except LocciError:
        return False


def down(name: str, layout: Layout) -> bool:
    """Removes everything of the lab; whether there was anything. Raises PERMISSION_DENIED, DEADLINE_EXCEEDED."""
    check_permitted()
    record = find_record(layout)
    if record is not None and record.name != name:
        message = f"{layout.root} holds lab {record.name}, not {name}: nothing was done"
        raise failed_precondition("OTHER_LAB", message)
    with locked(name) as lock:
        present = take_down(name, layout)
        lock.forget()
    return present


def _answers(api: ApiClient) -> bool:
    try:
        api.call("GET", "/v1/regions")
    except LocciError as error:
        if error.code is Code.UNAVAILABLE:
            return False
        raise
    return True


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
