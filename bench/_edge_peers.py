"""What `bench.edge` compares with: nginx, HAProxy and Varnish as Debian has them, and the edge itself; one core each.

All of them write an access log (Varnish to its shared memory) and count what they do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench._harness import on_cpu
from locci.v1 import edge_pb2

SERVER_CPU, LOAD_CPU = 1, 0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `tls_port` is 0 when it has none."""

    pid: int
    port: int
    tls_port: int = 0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"bench: nothing listens on port {port}")


@contextlib.contextmanager
def _running(command: list[str], cpu: int, port: int, tls_port: int = 0) -> Iterator[Server]:
    with on_cpu(cpu, command, Path(os.devnull)) as process:
        _await_port(port)
        yield Server(process.pid, port, tls_port)


def make_certificate(folder: Path) -> None:
    """`chain.pem`, `key.pem`, and both in `both.pem`."""
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=bench.test"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "chain.pem")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "chain.pem").read_text() + (folder / "key.pem").read_text())


NGINX = """daemon off; worker_processes 1; master_process off; error_log /dev/null; pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
access_log {log}; keepalive_requests 100000000; http2_max_concurrent_streams 256;
client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{inner}
}}
"""


def _nginx(folder: Path, inner: str, log: str, cpu: int, port: int, tls_port: int = 0) -> Iterator[Server]:
    folder.mkdir()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, log=log, inner=inner))
    with _running(["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)], cpu, port, tls_port) as server:
        yield server


@contextlib.contextmanager
def origin(folder: Path) -> Iterator[Server]:
    """Where all get their responses from: `/hit` and `/pass` of 1 KiB, below `/64k` of 64 KiB."""
    port = free_port()
    (folder / "64k").write_bytes(b"x" * 65536)
    kept, passed = 'add_header Cache-Control "max-age=3600";', 'add_header Cache-Control "no-store";'
    small, large = f'return 200 "{"x" * 1024}";', f"alias {folder / '64k'};"
    inner = f"""server {{ listen 127.0.0.1:{port}; etag off; if_modified_since off;
      location /hit {{ {kept} {small} }} location /pass {{ {passed} {small} }}
      location = /64k/hit {{ {kept} {large} }} location = /64k/pass {{ {passed} {large} }} }}"""
    yield from _nginx(folder / "origin", inner, "off", LOAD_CPU, port)


@contextlib.contextmanager
def nginx(folder: Path, backend: int) -> Iterator[Server]:
    """Cache on a tmpfs, buffered log."""
    port, tls_port = free_port(), free_port()
    inner = f"""proxy_cache_path {folder}/cache levels=1:2 keys_zone=z:20m;
    upstream origin {{ server 127.0.0.1:{backend}; keepalive 64; keepalive_requests 100000000; }}
    server {{ listen 127.0.0.1:{port}; listen 127.0.0.1:{tls_port} ssl http2;
      ssl_certificate {folder}/chain.pem; ssl_certificate_key {folder}/key.pem;
      location = /status {{ stub_status; }}
      location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
        proxy_set_header Host $host; proxy_cache z; add_header X-Cache $upstream_cache_status; }} }}"""
    yield from _nginx(folder / "nginx", inner, f"{folder}/nginx.log combined buffer=64k", SERVER_CPU, port, tls_port)


@contextlib.contextmanager
def haproxy(folder: Path, backend: int) -> Iterator[Server]:
    """Its own cache, one thread."""
    port, tls_port = free_port(), free_port()
    (folder / "haproxy.cfg").write_text(f"""global
  nbthread 1
  log stdout format raw local0
  tune.maxrewrite 1024
defaults
  mode http
  log global
  option httplog
  timeout client 60s
  timeout server 60s
  timeout connect 5s
cache c
  total-max-size 256
  max-object-size 200000
  max-age 3600
frontend f
  bind 127.0.0.1:{port}
  bind 127.0.0.1:{tls_port} ssl crt {folder}/both.pem alpn h2,http/1.1
  http-request cache-use c
  http-response cache-store c
  default_backend b
backend b
  http-reuse always
  server s 127.0.0.1:{backend}
""")
    command = ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]
    with _running(command, SERVER_CPU, port, tls_port) as server:
        yield server


@contextlib.contextmanager
def varnish(folder: Path, backend: int) -> Iterator[Server]:
    """Memory cache; it has no TLS."""
    port = free_port()
    (folder / "varnish.vcl").write_text(f"""vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{backend}"; }}
sub vcl_recv {{ if (req.url ~ "pass") {{ return (pass); }} }}
""")
    command = ["varnishd", "-F", "-j", "none", "-a", f"127.0.0.1:{port}", "-f", str(folder / "varnish.vcl")]
    command += ["-s", "malloc,256m", "-n", str(folder / "varnish"), "-T", "none"]
    command += ["-p", "thread_pools=1", "-p", "thread_pool_min=50"]
    with _running(command, SERVER_CPU, port) as server:
        yield server


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """The second tier; its URL."""
    path = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
    with on_cpu(LOAD_CPU, command, Path(os.devnull)):
        deadline = time.monotonic() + 20
        while not path.exists():
            if time.monotonic() > deadline:
                raise SystemExit("bench: redis-server does not start")
            time.sleep(0.05)
        yield f"unix://{path}"


@contextlib.contextmanager
def edge(folder: Path, backend: int, **settings: object) -> Iterator[Server]:
    """The edge, with an agent that sends one configuration."""
    folder.mkdir()
    port, tls_port = free_port(), free_port()
    config = edge_pb2.EdgeConfig(generation=1, node="bench", region="bench")
    route = config.routes.add(app="bench", hostnames=["bench.test"])
    route.local.add(replica="replicas/bench/0/1", address=f"127.0.0.1:{backend}")
    certificate = config.certificates.add(certificate="bench", hostnames=["bench.test"])
    certificate.chain_pem = (folder.parent / "chain.pem").read_text()
    certificate.private_key_pem = (folder.parent / "key.pem").read_text()
    agent = socket.socket(socket.AF_UNIX)
    agent.bind(str(folder / "edge.sock"))
    agent.listen()
    threading.Thread(target=_serve_config, args=(agent, config), daemon=True).start()
    lines: dict[str, object] = {
        "http_listen": [f"127.0.0.1:{port}"],
        "https_listen": [f"127.0.0.1:{tls_port}"],
        "peer_listen": "",
        "workers": 1,
        "admin_listen": f"127.0.0.1:{free_port()}",
        "access_log": str(folder / "access.log"),
        "run_dir": str(folder),
        "state_dir": str(folder / "state"),
    }
    written = "".join(f"{name} = {json.dumps(value)}\n" for name, value in (lines | settings).items())
    (folder / "edge.toml").write_text(written)
    command = [sys.executable, "-m", "agent.edge.main", "worker", "--config", str(folder / "edge.toml")]
    with _running(command, SERVER_CPU, port, tls_port) as server:
        yield server
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
