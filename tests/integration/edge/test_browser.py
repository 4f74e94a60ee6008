"""A page that a browser loads over HTTP/2: Debian's chromium, without a screen."""

from __future__ import annotations

import asyncio
import html
import json
import re
import shutil
from pathlib import Path

from tests.fakes.edge_agent import route
from tests.fakes.origin import Origin, Seen
from tests.integration.edge.conftest import MakeEdge
from tests.integration.edge.test_client_tls import material

LARGE = bytes(range(256)) * 1024
PAGE = b"""<!doctype html><link rel="stylesheet" href="/style.css"><img src="/image.svg">
<script src="/script.js"></script><pre id="found"></pre><script>
(async () => {
  const parts = await Promise.all([...Array(30).keys()].map(n => fetch("/part/" + n).then(r => r.text())));
  const large = await fetch("/large").then(r => r.arrayBuffer());
  const posted = await fetch("/post", {method: "POST", body: "x".repeat(200000)}).then(r => r.text());
  const again = await fetch("/part/0").then(r => r.headers.get("cache-status"));
  const entries = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  const protocols = [...new Set(entries.map(entry => entry.nextHopProtocol))];
  const found = {parts: parts.join(), large: large.byteLength, posted, again, protocols, script: window.script};
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""


async def serve(seen: Seen) -> None:
    match seen.target:
        case "/":
            await seen.answer(200, PAGE, Content_Type="text/html", Cache_Control="no-cache")
        case "/style.css":
            await seen.answer(200, b"pre { color: red }", Content_Type="text/css", Cache_Control="max-age=60")
        case "/script.js":
            await seen.answer(200, b"window.script = 'ran'", Content_Type="text/javascript", Cache_Control="max-age=60")
        case "/image.svg":
            await seen.answer(200, b'<svg xmlns="http://www.w3.org/2000/svg"/>', Content_Type="image/svg+xml")
        case "/large":
            await seen.answer(200, LARGE, Cache_Control="max-age=60")
        case "/post":
            await seen.answer(200, b"%d" % len(seen.body))
        case target if target.startswith("/part/"):
            await seen.answer(200, target.removeprefix("/part/").encode(), Cache_Control="s-maxage=60, max-age=0")
        case _:
            await seen.answer(404, b"nothing here")


async def browse(url: str, port: int, profile: Path) -> str:
    """The document that a browser has made of the page."""
    command = [
        shutil.which("chromium") or "chromium",
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
        f"--user-data-dir={profile}",
        f"--host-resolver-rules=MAP hello.test 127.0.0.1:{port}, MAP * ~NOTFOUND",
        *("--ignore-certificate-errors", "--virtual-time-budget=20000", "--dump-dom", url),
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": str(profile), "PATH": "/usr/bin:/bin"},
    )
    try:
        async with asyncio.timeout(90):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()[-2000:]
    return out.decode()


async def test_a_page(make_edge: MakeEdge, origin: Origin, tmp_path: Path) -> None:
    edge = await make_edge(https_listen=["127.0.0.1:0"])
    edge.certificates = [material("hello", "hello.test")]
    await edge.serve(route("hello", ["hello.test"], [origin.address]))
    origin.handler = serve
    document = await browse("https://hello.test/", edge.worker.https_ports[0], tmp_path / "profile")
    text = re.search(r'<pre id="found">(.*?)</pre>', document, re.DOTALL)
    assert text is not None, document
    found = json.loads(html.unescape(text[1]))
    assert found.pop("again").startswith("locci; hit")
    assert found == {
        "parts": ",".join(map(str, range(30))),
        "large": len(LARGE),
        "posted": "200000",
        "protocols": ["h2"],
        "script": "ran",
    }
    assert {seen.headers["via"] for seen in origin.seen} == {"2.0 locci"}
