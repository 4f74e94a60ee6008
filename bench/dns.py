"""Our DNS server beside Debian's gdnsd and PowerDNS (geoip), answers chosen by client subnet, one core each, in turns.

All serve the same zone from the same map; each runs on one core and the load comes from another. Ours has cookies, its
rate limit and its metrics on, and runs twice: with the compiled loop, and in Python alone (figures `…_python`). What
counts is answers per second of the server's own CPU time, so that other work on the machine matters little; each
figure is the median of several turns. Writes build/bench/dns.json.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench._harness import ROOT, install, on_cpu, report
from fleet.snapshot import SnapshotFile
from locci.v1 import resource_pb2
from tests.fakes.authority import Authority
from tests.unit.routing.adapters.mmdb import write
from tests.unit.routing.adapters.resources import hostname, region, snapshot, zone

TURNS = 3
TRIES = 4
SECONDS = 1.2
WINDOW = 256
SERVER_CPU, LOAD_CPU = 1, 0
NAME = "hello.example.net"
FIGURES = {"geo_ecs": 1, "geo_ecs_cookie": 3, "plain": 0}
OURS = {"ours": "", "ours-python": "_python"}
"""Our servers, and what their figures are called after."""
COUNTRIES = (("DE", "EU"), ("US", "NA"), ("JP", "AS"))

Server = tuple[int, int]
"""Process id and port."""


def main() -> int:
    """Runs all figures; 0 when they could be measured."""
    if (missing := _install()) is not None:
        print(f"bench: {missing}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="locci-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        load = folder / "load"
        subprocess.run(["cc", "-O2", "-o", str(load), str(ROOT / "bench" / "dns_load.c")], check=True)
        geo = folder / "geo.mmdb"
        _write_map(geo)
        servers = {
            "ours": stack.enter_context(_ours(folder / "ours", geo, compiled=True)),
            "ours-python": stack.enter_context(_ours(folder / "ours-python", geo, compiled=False)),
            "gdnsd": stack.enter_context(_gdnsd(folder / "gdnsd", geo)),
            "pdns-geoip": stack.enter_context(_pdns(folder / "pdns", geo)),
        }
        figures = [found for figure, options in FIGURES.items() for found in _figures(figure, options, load, servers)]
    report("dns", figures)
    return 0


def _install() -> str | None:
    """Debian's gdnsd and PowerDNS, without starting anything; what is missing when that fails."""
    os.environ["PATH"] += ":/usr/sbin"
    backend = Path("/usr/lib/x86_64-linux-gnu/pdns/libgeoipbackend.so")
    have = {
        "gdnsd": bool(shutil.which("gdnsd")),
        "pdns-server": bool(shutil.which("pdns_server")),
        "pdns-backend-geoip": backend.exists() or bool(list(Path("/usr/lib").glob("*/pdns/libgeoipbackend.so"))),
        "gcc": bool(shutil.which("cc")),
    }
    return install(have)


def _write_map(path: Path) -> None:
    """Every /16 of 16.0.0.0/4 in one of three countries, in GeoIP2's schema."""
    records = {}
    for number in range(4096):
        country, continent = COUNTRIES[number % 3]
        records[f"{16 + (number >> 8)}.{number & 255}.0.0/16"] = {
            "continent": {"code": continent},
            "country": {"iso_code": country},
        }
    write(path, records, "GeoLite2-Country")


def _port() -> int:
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", tcp.getsockname()[1]))
        port: int = tcp.getsockname()[1]
        return port


@contextlib.contextmanager
def _process(command: list[str], folder: Path, port: int) -> Iterator[Server]:
    with on_cpu(SERVER_CPU, command, folder / "log") as process:
        deadline = time.monotonic() + 20
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bench: {command[0]} does not serve: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield process.pid, port


def _answers(port: int) -> bool:
    """Whether a plain question gets an address."""
    labels = b"".join(bytes((len(part),)) + part.encode() for part in NAME.split("."))
    query = b"\1\2\0\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        with contextlib.suppress(OSError):
            sock.connect(("127.0.0.1", port))
            sock.send(query)
            answer = sock.recv(2048)
            return answer[3] & 15 == 0 and answer[7] > 0
    return False


@contextlib.contextmanager
def _ours(folder: Path, geo: Path, *, compiled: bool) -> Iterator[Server]:
    folder.mkdir()
    port = _port()
    Authority().join(folder / "identity", node="eu-1", region="eu", endpoints=("127.0.0.1:1",))
    resources: list[resource_pb2.Resource] = [hostname(NAME), zone("example.net")]
    for place in ("eu", "us", "ap"):
        found = region(place)
        del found.region.networks[:]
        resources.append(found)
    (folder / "state").mkdir()
    SnapshotFile(folder / "state" / "snapshot").save(snapshot(resources))
    config = folder / "dns.toml"
    config.write_text(
        f'listen = ["127.0.0.1:{port}"]\nidentity_dir = "{folder}/identity"\nstate_dir = "{folder}/state"\n'
        f'geo_database = "{geo}"\nmetrics_listen = "127.0.0.1:{_port()}"\n'
        f"compiled = {str(compiled).lower()}\nresponses_per_second = 100000000\n"
    )
    with _process([sys.executable, "-m", "routing.main", "run", "--config", str(config)], folder, port) as server:
        yield server


@contextlib.contextmanager
def _gdnsd(folder: Path, geo: Path) -> Iterator[Server]:
    (folder / "zones").mkdir(parents=True)
    (folder / "geoip").mkdir()
    port = _port()
    order = {"EU": "eu, us, ap", "NA": "us, eu, ap", "AS": "ap, eu, us", "default": "eu, us, ap"}
    lists = "\n".join(f"{continent} => [{regions}]" for continent, regions in order.items())
    (folder / "config").write_text(
        f"""options => {{ listen => 127.0.0.1:{port}, run_dir => {folder}/run, state_dir => {folder}/state,
  udp_threads => 1, tcp_threads => 1, edns_client_subnet => true }}
plugins => {{ geoip => {{
  maps => {{ world => {{ geoip2_db => {geo}, datacenters => [eu, us, ap], map => {{ {lists} }} }} }}
  resources => {{ app => {{ map => world, dcmap => {{ eu => 127.0.1.1, us => 127.0.1.2, ap => 127.0.1.3 }} }} }}
}} }}
"""
    )
    (folder / "zones" / "example.net").write_text(
        "@ 3600 SOA eu-1.ns hostmaster 7 3600 600 604800 10\n@ 3600 NS eu-1.ns\neu-1.ns 3600 A 127.0.0.1\n"
        "hello 5 DYNA geoip!app\n"
    )
    with _process(["gdnsd", "-c", str(folder), "start"], folder, port) as server:
        yield server


@contextlib.contextmanager
def _pdns(folder: Path, geo: Path) -> Iterator[Server]:
    folder.mkdir()
    port = _port()
    zones = folder / "zones.yaml"
    zones.write_text(
        """domains:
- domain: example.net
  ttl: 5
  records:
    example.net:
    - soa: eu-1.ns.example.net hostmaster.example.net 7 3600 600 604800 10
    - ns: eu-1.ns.example.net
    eu.app.example.net:
    - a: 127.0.1.1
    na.app.example.net:
    - a: 127.0.1.2
    as.app.example.net:
    - a: 127.0.1.3
    unknown.app.example.net:
    - a: 127.0.1.1
  services:
    hello.example.net: '%cn.app.example.net'
"""
    )
    settings = {
        "launch": "geoip",
        "geoip-database-files": geo,
        "geoip-zones-file": zones,
        "edns-subnet-processing": "yes",
        "local-address": "127.0.0.1",
        "local-port": port,
        "socket-dir": folder,
        "config-dir": folder,
        "receiver-threads": 1,
        "distributor-threads": 1,
        "loglevel": 3,
        "daemon": "no",
        "guardian": "no",
        "disable-syslog": "yes",
        "setuid": "",
        "setgid": "",
    }
    command = ["pdns_server", *(f"--{key}={value}" for key, value in settings.items())]
    with _process(command, folder, port) as server:
        yield server


def _figures(figure: str, options: int, load: Path, servers: dict[str, Server]) -> Iterator[dict[str, object]]:
    found: dict[str, list[float]] = {name: [] for name in servers}
    for turn in range(TURNS + 1):
        for name, server in servers.items():
            rate = _turn(load, server, options, 0.5 if turn == 0 else SECONDS)
            if turn:
                found[name].append(rate)
    rates = {name: statistics.median(turns) for name, turns in found.items()}
    for ours, suffix in OURS.items():
        for peer in sorted(servers.keys() - OURS.keys()):
            yield {
                "figure": figure + suffix,
                "peer": peer,
                "ours": round(rates[ours]),
                "theirs": round(rates[peer]),
                "unit": "answers per CPU-second",
                "ratio": round(rates[ours] / rates[peer], 2),
            }


def _turn(load: Path, server: Server, options: int, seconds: float) -> float:
    """Good answers per second of the server's CPU time."""
    pid, port = server
    words = [str(load), str(port), str(seconds), str(WINDOW), str(options), NAME]
    for _ in range(TRIES):
        before = _cpu_s(pid)
        done = subprocess.run(["taskset", "-c", str(LOAD_CPU), *words], capture_output=True, text=True, check=True)
        good, bad, lost = map(int, done.stdout.split())
        if not bad and lost <= good / 100:
            return good / (_cpu_s(pid) - before)
        # On a busy machine a whole window may come too late.
    raise SystemExit(f"bench: {good} good, {bad} bad, {lost} lost answers from port {port}")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
