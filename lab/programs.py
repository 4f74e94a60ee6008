"""Each program of each host: its command line and its configuration. Pure, given the paths of the tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lab.forwarder import Forward
from lab.layout import Layout
from lab.machine import enter
from lab.settings_text import toml
from lab.topology import GRPC_PORT, HTTPS_PORT, REGISTRY_PORT, ZONE, Host, Topology
from lab.unbound import unbound_config

RESOLVER: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Program:
    """A program to be kept running."""

    host: str
    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tools:
    """Paths of the executables that a lab runs."""

    dockerd: str
    containerd: str
    registry: str
    redis: str
    unbound: str
    python: str
    server: str
    agent: str
    edge: str
    dns: str
    storage_driver: str = "overlay2"


def registry_address(topology: Topology) -> str:
    """Where the lab's image registry is, `host:port`; the same in every lab."""
    return f"{topology.control.ipv4}:{REGISTRY_PORT}"


def cgroup_parent(topology: Topology, host: Host) -> str:
    """The cgroup of all containers of a host; no other lab has it."""
    return f"/{topology.namespace(host)}"


class Programs:
    """The programs of a lab, and the files that they read."""

    def __init__(self, topology: Topology, layout: Layout, tools: Tools, *, live_restore: bool = True) -> None:
        """Without `live_restore` containers end with their engine, and the engine can be part of a swarm."""
        self._live_restore = live_restore
        self._topology = topology
        self._layout = layout
        self._tools = tools

    def _inside(self, host: Host, name: str, *argv: str) -> Program:
        return Program(host.name, name, tuple(enter(self._topology.namespace(host), argv)))

    def folder(self, host: Host) -> Path:
        """The folder of a host."""
        return self._layout.host(host.name)

    def identity(self, host: Host) -> Path:
        """Where a node keeps its key and certificate."""
        return self.folder(host) / "identity"

    def control_programs(self) -> list[Program]:
        """The control plane and the registry."""
        host = self._topology.control
        config = self._layout.config
        return [
            self._inside(host, "registry", self._tools.registry, "serve", str(config(host.name, "registry", "yml"))),
            self._inside(host, "server", self._tools.server, "run", "--config", str(config(host.name, "server"))),
        ]

    def engine_programs(self, host: Host) -> list[Program]:
        """The Docker Engine with a containerd of its own, and Redis.

        The engine is told where its containerd is: left alone it would take the machine's when one runs.
        """
        folder, engine = self.folder(host), self.folder(host) / "docker"
        containerd = self._inside(
            host, "containerd", self._tools.containerd, "--config", str(folder / "containerd.toml")
        )
        dns = [part for server in self._topology.name_servers for part in ("--dns", server.ipv4)]
        dockerd = self._inside(
            host,
            "dockerd",
            self._tools.dockerd,
            *("--data-root", str(engine / "data")),
            *("--exec-root", str(engine / "exec")),
            *("--pidfile", str(engine / "dockerd.pid")),
            *("--host", f"unix://{self._layout.docker_socket(host.name)}"),
            *("--containerd", str(folder / "containerd.sock")),
            *("--config-file", str(folder / "dockerd.json")),
            *("--bip", "172.30.0.1/24"),
            *("--default-address-pool", "base=172.31.0.0/16,size=24"),
            *("--cgroup-parent", cgroup_parent(self._topology, host)),
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
            *("--storage-driver", self._tools.storage_driver),
            *("--insecure-registry", registry_address(self._topology)),
            *dns,
            *(("--live-restore",) if self._live_restore else ()),
            "--userland-proxy=false",
            *("--log-level", "warn"),
        )
        redis = self._inside(host, "redis", self._tools.redis, str(folder / "redis.conf"))
        return [containerd, dockerd, redis]

    def node_programs(self, host: Host) -> list[Program]:
        """What a host runs once it has joined."""
        config = self._layout.config
        programs = [
            self._inside(host, "agent", self._tools.agent, "run", "--config", str(config(host.name, "agent"))),
            self._inside(host, "edge", self._tools.edge, "run", "--config", str(config(host.name, "edge"))),
        ]
        if host.serves_dns:
            dns = self._inside(host, "dns", self._tools.dns, "run", "--config", str(config(host.name, "dns")))
            programs.append(dns)
        return programs

    def resolver_programs(self, host: Host) -> list[Program]:
        """The resolver of a client host, or of a node, whose agent is a vantage of drills."""
        return [self._inside(host, "unbound", self._tools.unbound, "-d", "-c", str(self.folder(host) / "unbound.conf"))]

    def forwarder(self, https_port: int, grpc_port: int) -> Program:
        """The door from the machine's loopback to the control plane."""
        control = self._topology.control
        forwards = [Forward(https_port, control.ipv4, HTTPS_PORT), Forward(grpc_port, control.ipv4, GRPC_PORT)]
        argv = [self._tools.python, "-m", "lab.forwarder", "--namespace", self._topology.namespace(control)]
        for forward in forwards:
            argv += ["--forward", str(forward)]
        return Program(control.name, "forwarder", tuple(argv))

    def join_command(self, host: Host, token: str) -> list[str]:
        """Makes a host a node of the fleet."""
        server = f"https://{self._topology.control.ipv4}:{HTTPS_PORT}"
        addresses = [part for address in host.addresses for part in ("--address", address)]
        config = str(self._layout.config(host.name, "agent"))
        argv = [self._tools.agent, "join", "--server", server, "--token", token, "--name", host.name]
        return enter(self._topology.namespace(host), [*argv, *addresses, "--config", config])

    def files(self) -> dict[Path, str]:
        """Every configuration file of the lab, by path."""
        files = self._control_files()
        for host in self._topology.nodes:
            files |= self._engine_files(host) | self._node_files(host)
        servers = [server.ipv4 for server in self._topology.name_servers]
        for host in (*self._topology.clients, *self._topology.nodes):
            files[self.folder(host) / "unbound.conf"] = unbound_config(ZONE, servers, self.folder(host))
        for host in self._topology.hosts:
            resolvers = [RESOLVER] if host in self._topology.clients else servers
            files[self.folder(host) / "resolv.conf"] = "".join(f"nameserver {address}\n" for address in resolvers)
        return files

    def _control_files(self) -> dict[Path, str]:
        host = self._topology.control
        server = toml(
            {
                "data_dir": str(self.folder(host) / "server"),
                "advertise": [host.ipv4],
                "insecure_registries": [registry_address(self._topology)],
            }
        )
        registry = (
            "version: 0.1\n"
            "log: {level: warn}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.folder(host) / 'registry'}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{registry_address(self._topology)}'}}\n"
        )
        return {
            self._layout.config(host.name, "server"): server,
            self._layout.config(host.name, "registry", "yml"): registry,
        }

    def _engine_files(self, host: Host) -> dict[Path, str]:
        folder = self.folder(host)
        containerd = (
            "version = 2\n"
            f'root = "{folder / "containerd" / "root"}"\n'
            f'state = "{folder / "containerd" / "state"}"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{folder / "containerd.sock"}"\n'
            f'[ttrpc]\naddress = "{folder / "containerd.sock.ttrpc"}"\n'
            '[debug]\nlevel = "warn"\n'
        )
        redis = (
            "bind 127.0.0.1\nport 6379\nprotected-mode no\ndaemonize no\n"
            f'save ""\nappendonly no\ndir {folder}\nmaxmemory 64mb\nmaxmemory-policy allkeys-lru\nloglevel warning\n'
        )
        # An engine with no configuration file of its own would read the machine's /etc/docker/daemon.json.
        return {
            folder / "containerd.toml": containerd,
            folder / "redis.conf": redis,
            folder / "dockerd.json": "{}\n",
        }

    def _node_files(self, host: Host) -> dict[Path, str]:
        folder, config = self.folder(host), self._layout.config
        agent = {
            "state_dir": str(folder / "agent"),
            "identity_dir": str(self.identity(host)),
            "run_dir": str(folder / "run"),
            "docker_host": f"unix://{self._layout.docker_socket(host.name)}",
            "resolver": RESOLVER,
            # The lab's supervisor starts again what ends.
            **{f"restart_commands.{program}": [] for program in ("agent", "edge", "dns", "redis", "dockerd")},
        }
        edge: dict[str, str | int | list[str]] = {
            "http_listen": [f"{host.ipv4}:80", f"[{host.ipv6}]:80", "127.0.0.1:80"],
            "https_listen": [f"{host.ipv4}:443", f"[{host.ipv6}]:443"],
            "run_dir": str(folder / "run"),
            "state_dir": str(folder / "edge"),
            "redis_url": "redis://127.0.0.1:6379/0",
            "workers": 1,
        }
        files = {config(host.name, "agent"): toml(agent), config(host.name, "edge"): toml(edge)}
        if host.serves_dns:
            dns = {
                "listen": [f"{host.ipv4}:53", f"[{host.ipv6}]:53"],
                "identity_dir": str(self.identity(host)),
                "state_dir": str(folder / "dns"),
            }
            files[config(host.name, "dns")] = toml(dns)
        return files
