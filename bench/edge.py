"""The edge beside nginx, HAProxy and Varnish from Debian, one core each, in turns, with logs and metrics on.

Each server runs on one core and the load comes from another. What counts is requests per second of the server's own
CPU time, so that other work on the machine matters little; each figure is the median of several turns.
Writes build/bench/edge.json.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import _edge_peers as peers
from bench._edge_peers import LOAD_CPU, Server
from bench._harness import install, report

TURNS = 5
CONNECTIONS = 32
URLS = 5000
WARM_UPS_MAX = 30


@dataclass(frozen=True, slots=True)
class Figure:
    """What is asked for, of whom."""

    name: str
    target: str
    peers: tuple[str, ...]
    ours: str = "ours"
    many: bool = False
    """The target is the beginning of many."""
    tls: bool = False
    h2: bool = False


ALL = ("nginx", "haproxy", "varnish")
FIGURES = (
    Figure("hit_1k", "/hit", ALL),
    Figure("hit_64k", "/64k/hit", ALL),
    Figure("hit_5000_urls", "/hit/", ALL, many=True),
    Figure("tls_1k", "/hit", ("nginx", "haproxy"), tls=True),
    Figure("pass_1k", "/pass", ALL),
    Figure("pass_64k", "/64k/pass", ALL),
    # The others have one tier; nginx reads it from files, which comes nearest.
    Figure("l2_hit", "/hit/", ("nginx",), ours="ours with Redis", many=True),
    Figure("h2_1k", "/hit", ("nginx", "haproxy"), h2=True),
)


def main() -> int:
    """Runs all figures, or those named; 0 when they could be measured."""
    if (missing := _install()) is not None:
        print(f"bench: {missing}", file=sys.stderr)
        return 1
    wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="locci-bench-", dir="/dev/shm") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        peers.make_certificate(folder)
        (folder / "many.lua").write_text(MANY.format(urls=URLS))
        port = stack.enter_context(peers.origin(folder)).port
        url = stack.enter_context(peers.redis(folder))
        servers = {
            "nginx": stack.enter_context(peers.nginx(folder, port)),
            "haproxy": stack.enter_context(peers.haproxy(folder, port)),
            "varnish": stack.enter_context(peers.varnish(folder, port)),
            "ours": stack.enter_context(peers.edge(folder / "edge", port)),
            # No room in RAM: what is not in Redis is not there.
            "ours with Redis": stack.enter_context(
                peers.edge(folder / "edge2", port, redis_url=url, ram_cache_bytes=2**16)
            ),
        }
        figures = [
            line
            for figure in FIGURES
            if not wanted or figure.name in wanted
            for line in _figure(figure, servers, folder)
        ]
    report("edge", figures)
    return 0


def _install() -> str | None:
    """Debian's peers and load generators, without starting anything; what is missing when that fails."""
    os.environ["PATH"] += ":/usr/sbin"
    wanted = {"nginx-light": "nginx", "haproxy": "haproxy", "varnish": "varnishd", "redis-server": "redis-server"}
    wanted |= {"wrk": "wrk", "nghttp2-client": "h2load", "openssl": "openssl"}
    return install({package: bool(shutil.which(command)) for package, command in wanted.items()})


MANY = """local n = 0
request = function()
  n = n + 1
  return wrk.format("GET", wrk.path .. (n * 7919 % {urls}))
end
"""


def _tree(pid: int) -> list[int]:
    """The process and all that it has started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, rest = [], [pid]
    while rest:
        found.append(rest.pop())
        rest += children.get(found[-1], [])
    return found


def _cpu_s(pid: int) -> float:
    """User and system time of the server so far."""
    total = 0
    for each in _tree(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _load(figure: Figure, server: Server, folder: Path) -> tuple[int, float]:
    """Requests that were answered in a second, and seconds of the server's CPU time for them."""
    scheme, port = ("https", server.tls_port) if figure.tls or figure.h2 else ("http", server.port)
    url = f"{scheme}://127.0.0.1:{port}{figure.target}"
    if figure.h2:
        command = ["h2load", "-D", "1", "-c", "8", "-m", "10", "-H", ":authority: bench.test", url]
        pattern = r"(\d+) succeeded"
    else:
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1", "-H", "Host: bench.test", url]
        command += ["-s", str(folder / "many.lua")] if figure.many else []
        pattern = r"(\d+) requests in"
    before = _cpu_s(server.pid)
    done = subprocess.run(["taskset", "-c", str(LOAD_CPU), *command], capture_output=True, text=True, check=True)
    used = _cpu_s(server.pid) - before
    match = re.search(pattern, done.stdout)
    if match is None or "Non-2xx" in done.stdout or int(match[1]) == 0:
        raise SystemExit(f"bench: {figure.name} fails at port {port}: {done.stdout}{done.stderr}")
    return int(match[1]), used


def _warm_up(figure: Figure, server: Server, folder: Path) -> None:
    """Until everything that is asked for was asked for."""
    asked = 0
    for _ in range(WARM_UPS_MAX):
        asked += _load(figure, server, folder)[0]
        if not figure.many or asked > 1.5 * URLS:
            return
    raise SystemExit(f"bench: {figure.name} answers {asked} requests in {WARM_UPS_MAX} s: too few to be compared")


def _figure(figure: Figure, servers: Mapping[str, Server], folder: Path) -> list[dict[str, object]]:
    names = (figure.ours, *figure.peers)
    results: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        _warm_up(figure, servers[name], folder)
    for _ in range(TURNS):
        for name in names:
            answered, used_s = _load(figure, servers[name], folder)
            results[name].append(answered / used_s)
    ours = statistics.median(results[figure.ours])
    lines: list[dict[str, object]] = []
    for peer in figure.peers:
        theirs = statistics.median(results[peer])
        lines.append(
            {
                "figure": figure.name,
                "peer": peer,
                "ours": round(ours),
                "theirs": round(theirs),
                "unit": "requests per CPU-second",
                "ratio": round(ours / theirs, 2),
            }
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
