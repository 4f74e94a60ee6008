"""The edge beside Debian's nginx: cached hits and pass-through of 1 KiB, one core each, in turns.

Each server runs on one core and the load comes from another. What counts is requests per second of the server's own
CPU time, so that other work on the machine matters little; each figure is the median of several turns.
Writes build/bench/edge.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench._harness import install, on_cpu, report
from locci.v1 import edge_pb2

TURNS = 5
SECONDS = 2
CONNECTIONS = 32
SERVER_CPU, LOAD_CPU = 1, 0
FIGURES = {"hit_1k": "/hit", "pass_1k": "/pass"}


def main() -> int:
    """Runs all figures; 0 when they could be measured."""
    if (missing := _install()) is not None:
        print(f"bench: {missing}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="locci-bench-", dir="/dev/shm") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        origin = stack.enter_context(_nginx(folder / "origin", _origin_config, LOAD_CPU))
        servers = {
            "nginx": stack.enter_context(_nginx(folder / "nginx", lambda port: _peer_config(port, folder, origin[1]))),
            "ours": stack.enter_context(_edge(folder / "edge", origin[1])),
        }
        figures = [_figure(figure, target, servers) for figure, target in FIGURES.items()]
    report("edge", figures)
    return 0


def _install() -> str | None:
    """Debian's nginx and wrk, without starting anything; what is missing when that fails."""
    os.environ["PATH"] += ":/usr/sbin"
    return install({"nginx-light": bool(shutil.which("nginx")), "wrk": bool(shutil.which("wrk"))})


def _port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"bench: nothing listens on port {port}")


@contextlib.contextmanager
def _process(command: list[str], cpu: int, port: int) -> Iterator[tuple[list[int], int]]:
    """The process ids whose CPU time counts, and the port."""
    with on_cpu(cpu, command, Path(os.devnull)) as process:
        _await_port(port)
        yield [process.pid], port


COMMON = """daemon off; worker_processes 1; master_process off; error_log /dev/null; pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
access_log off; keepalive_requests 100000000;
client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{inner}
}}
"""


def _origin_config(port: int) -> str:
    body = "x" * 1024
    return f"""server {{ listen 127.0.0.1:{port};
      location /hit {{ add_header Cache-Control "max-age=3600"; return 200 "{body}"; }}
      location /pass {{ add_header Cache-Control "no-store"; return 200 "{body}"; }} }}"""


def _peer_config(port: int, folder: Path, origin: int) -> str:
    return f"""proxy_cache_path {folder}/cache keys_zone=z:10m;
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 100000000; }}
    server {{ listen 127.0.0.1:{port};
      location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
        proxy_set_header Host $host; proxy_cache z; add_header X-Cache $upstream_cache_status; }} }}"""


@contextlib.contextmanager
def _nginx(folder: Path, config: object, cpu: int = SERVER_CPU) -> Iterator[tuple[list[int], int]]:
    folder.mkdir()
    port = _port()
    assert callable(config)
    (folder / "nginx.conf").write_text(COMMON.format(folder=folder, inner=config(port)))
    with _process(["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)], cpu, port) as running:
        yield running


@contextlib.contextmanager
def _edge(folder: Path, origin: int) -> Iterator[tuple[list[int], int]]:
    """The edge, with an agent that sends one configuration."""
    folder.mkdir()
    port = _port()
    config = edge_pb2.EdgeConfig(generation=1, node="bench", region="bench")
    route = config.routes.add(app="bench", hostnames=["bench.test"])
    route.local.add(replica="replicas/bench/0/1", address=f"127.0.0.1:{origin}")
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(folder / "edge.sock"))
    agent.listen()
    threading.Thread(target=_serve_config, args=(agent, config), daemon=True).start()
    lines = {
        "http_listen": [f"127.0.0.1:{port}"],
        "https_listen": [],
        "peer_listen": "",
        "admin_listen": "",
        "run_dir": str(folder),
        "state_dir": str(folder / "state"),
    }
    (folder / "edge.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    command = [sys.executable, "-m", "agent.edge.main", "run", "--config", str(folder / "edge.toml")]
    with _process(command, SERVER_CPU, port) as running:
        yield running
    agent.close()


def _serve_config(agent: socket.socket, config: edge_pb2.EdgeConfig) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = agent.accept()
            data = edge_pb2.EdgeControl(config=config).SerializeToString()
            connection.sendall(struct.pack(">I", len(data)) + data)
            threading.Thread(target=_drop_all, args=(connection,), daemon=True).start()


def _drop_all(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def _cpu_s(pids: list[int]) -> float:
    """User and system time of the processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _load(target: str, server: tuple[list[int], int], seconds: float) -> float:
    """Requests per second of the server's CPU time."""
    pids, port = server
    before = _cpu_s(pids)
    command = [
        "taskset",
        "-c",
        str(LOAD_CPU),
        "wrk",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}",
        "-H",
        "Host: bench.test",
    ]
    output = subprocess.run([*command, f"http://127.0.0.1:{port}{target}"], capture_output=True, text=True, check=True)
    used = _cpu_s(pids) - before
    if "Non-2xx" in output.stdout:
        raise SystemExit(f"bench: errors from port {port}: {output.stdout}")
    match = re.search(r"(\d+) requests in", output.stdout)
    assert match is not None, output.stdout
    return int(match[1]) / used


def _figure(figure: str, target: str, servers: dict[str, tuple[list[int], int]]) -> dict[str, object]:
    results: dict[str, list[float]] = {name: [] for name in servers}
    for server in servers.values():
        _load(target, server, 1)
    for _ in range(TURNS):
        for name, server in servers.items():
            results[name].append(_load(target, server, SECONDS))
    ours, theirs = statistics.median(results["ours"]), statistics.median(results["nginx"])
    return {
        "figure": figure,
        "peer": "nginx",
        "ours": round(ours),
        "theirs": round(theirs),
        "unit": "requests per CPU-second",
        "ratio": round(ours / theirs, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
