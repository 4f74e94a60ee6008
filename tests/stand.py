"""One edge in front of an origin of yours, for public suites, browsers and load generators.

    python -m tests.stand --origin 127.0.0.1:8000 --listen 127.0.0.1:8002

For instance the public suite for HTTP caches (github.com/http-tests/cache-tests): its server listens on 8000, and
`npm run cli -- --base=http://localhost:8002` asks through the edge. With `--https 127.0.0.1:8443` it speaks HTTP/2 too,
for instance with `h2spec -t -k -h localhost -p 8443` or `h2load https://localhost:8443/`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

import uvloop

from agent.edge.app import Worker
from agent.edge.settings import EdgeSettings
from tests.fakes.edge_agent import FakeAgent, config, route
from tests.integration.edge.client import until
from tests.integration.edge.test_client_tls import material


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--origin", default="127.0.0.1:8000", help="address:port of the origin")
    parser.add_argument("--listen", default="127.0.0.1:8002", help="address:port of the edge")
    parser.add_argument("--https", default="", help="address:port for TLS and HTTP/2, for instance 127.0.0.1:8443")
    parser.add_argument("--hostname", action="append", help="served besides localhost; may be repeated")
    parser.add_argument("--redis-url", default="", help="second tier")
    parser.add_argument("--heuristic-max", type=int, default=0, help="seconds; guess lifetimes from Last-Modified")
    parser.add_argument("--negative-ttl", type=int, default=0, help="seconds; keep errors that say nothing about it")
    parser.add_argument("--compress", action="store_true", help="store text compressed")
    return parser.parse_args()


async def _serve(wanted: argparse.Namespace, path: Path) -> None:
    served = route("stand", ["localhost", "127.0.0.1", *(wanted.hostname or [])], [wanted.origin])
    served.cache.heuristic_max.seconds = wanted.heuristic_max
    served.cache.negative_ttl.seconds = wanted.negative_ttl
    served.cache.compress = wanted.compress
    agent = FakeAgent(path)
    await agent.start()
    wanted_config = config(1, [served])
    if wanted.https:
        wanted_config.certificates.append(material("stand", *served.hostnames))
    await agent.send(wanted_config)
    settings = EdgeSettings(
        run_dir=path,
        state_dir=path / "state",
        http_listen=[wanted.listen],
        https_listen=[wanted.https] if wanted.https else [],
        peer_listen="",
        admin_listen="",
        redis_url=wanted.redis_url,
    )
    worker = Worker(settings)
    await worker.start()
    try:
        await until(lambda: worker.state.table.generation == 1)
        print(f"http://localhost:{worker.http_ports[0]} -> {wanted.origin}; end it with Ctrl-C", flush=True)
        await asyncio.Event().wait()
    finally:
        await worker.stop()
        await agent.stop()


def main() -> None:
    """Serves until it is interrupted."""
    with (
        tempfile.TemporaryDirectory(prefix="locci-stand-") as path,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(_arguments(), Path(path)))


if __name__ == "__main__":
    main()
