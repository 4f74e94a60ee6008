"""The public suite for HTTP caches (npm's package http-cache-tests) through an edge, as it is published."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.fakes.edge_agent import route
from tests.fakes.ports import free_port
from tests.integration.edge.client import until
from tests.integration.edge.conftest import MakeEdge

PACKAGE = "http-cache-tests@0.4.5"
ROOT = Path(__file__).parents[3]
# What this release demands and RFC 9111, which came after it, does not; its authors have corrected these cases since.
OUTDATED = {
    # Section 5.1: the first of several ages counts, and what is none is ignored.
    *("age-parse-nonnumeric", "age-parse-negative", "age-parse-float", "age-parse-prefix-twoline"),
    *("age-parse-dup-0", "age-parse-dup-0-twoline", "age-parse-dup-old"),
    *("age-parse-parameter", "age-parse-numeric-parameter"),
    # It takes an error of the edge's own for what was stored: neither carries the number of a request.
    *("stale-close-must-revalidate", "stale-close-proxy-revalidate", "stale-close-no-cache", "stale-close-s-maxage=2"),
    # It wants fields that a 304 brings to be ignored; section 3.2 wants them stored.
    "304-etag-update-response-Content-MD5",
    # It needs a surrogate that announces itself (Surrogate-Capability) to be told something by name; the edge does not.
    "surrogate-fresh-cc-nostore",
}
# What it calls optimal and the edge leaves alone, see docs/edge-conformance.md.
LEFT = {
    "vary-normalise-lang-select",
    "conditional-lm-fresh-no-lm",
    "other-set-cookie",
    "surrogate-max-age-me-target",
    *("partial-store-partial-reuse-partial", "partial-store-partial-reuse-partial-byterange"),
    *("partial-store-partial-reuse-partial-absent", "partial-store-partial-reuse-partial-suffix"),
    "partial-store-partial-complete",
}
LOOPBACK = """const net = require('net'), listen = net.Server.prototype.listen
net.Server.prototype.listen = function (port) { return listen.call(this, port, '127.0.0.1') }
"""
KINDS = """import tests from './tests/index.mjs'
import surrogate from './tests/surrogate-control.mjs'
const all = [...tests, surrogate].flatMap(suite => suite.tests).filter(test => !test.browser_only)
console.log(JSON.stringify(Object.fromEntries(all.map(test => [test.id, test.kind || 'required']))))
"""


async def run(*command: str, cwd: Path, **environment: str) -> str:
    """What a program has said; fails with all of it when it fails."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=os.environ | environment, stdout=-1, stderr=asyncio.subprocess.PIPE
    )
    said, complained = await process.communicate()
    assert process.returncode == 0, (command, said[-2000:], complained[-2000:])
    return said.decode()


async def installed() -> Path:
    """The folder of the suite; npm brings it once."""
    home = ROOT / "build" / "cache-tests"
    suite = home / "node_modules" / "http-cache-tests"
    if not (suite / "package.json").exists():
        home.mkdir(parents=True, exist_ok=True)
        await run("npm", "install", "--prefix", str(home), "--no-save", "--ignore-scripts", PACKAGE, cwd=home)
    return suite


async def results(make_edge: MakeEdge, path: Path, **rules: int) -> tuple[dict[str, str], dict[str, object]]:
    """The kind of each case, and its result: True, or what was wrong."""
    suite = await installed()
    (path / "loopback.cjs").write_text(LOOPBACK)
    port = free_port()
    given = {"npm_config_protocol": "http", "npm_config_port": str(port), "npm_config_pidfile": str(path / "pid")}
    server = await asyncio.create_subprocess_exec(
        "node",
        *("--require", str(path / "loopback.cjs"), "server/server.mjs"),
        cwd=suite,
        env=os.environ | given,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        edge = await make_edge(f"edge-{len(rules)}")
        served = route("suite", ["localhost"], [f"127.0.0.1:{port}"])
        served.cache.heuristic_max.seconds = rules.get("heuristic_max_s", 0)
        await edge.serve(served)
        await until((path / "pid").exists)
        base = {"npm_config_base": f"http://localhost:{edge.port}", "npm_package_config_id": "", "npm_config_id": ""}
        found = json.loads(await run("node", "--no-warnings", "cli.mjs", cwd=suite, **base))
        kinds = json.loads(await run("node", "--input-type=module", "--eval", KINDS, cwd=suite))
    finally:
        server.terminate()
        await server.wait()
    return kinds, found


def failed(kinds: dict[str, str], found: dict[str, object], kind: str) -> set[str]:
    """Cases of a kind that went wrong themselves, rather than what they build on."""
    return {
        case
        for case, result in found.items()
        if kinds.get(case) == kind and isinstance(result, list) and result[0] == "Assertion"
    }


@pytest.mark.drill
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not there to bring the suite")
async def test_the_public_suite(make_edge: MakeEdge, tmp_path: Path) -> None:
    kinds, found = await results(make_edge, tmp_path, heuristic_max_s=86_400)
    assert len(kinds) > 280
    assert failed(kinds, found, "required") == OUTDATED
    assert failed(kinds, found, "optimal") == LEFT
