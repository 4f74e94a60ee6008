"""Reports of drills in a real browser: nothing is fetched, and nothing sticks out, on a telephone as on a screen."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cli.drill_page import as_html
from lab.samples import Clients
from lab.suite_drills import SUITE
from lab.suite_page import as_html as suite_html
from lab.suite_report import Outcome
from tests.unit.cli.test_drill_report import GAME_DAY, RUN

OUTCOMES = [
    Outcome(
        *(drill.name, True, 9.0, {"withdrawn": 1.5}, 100, 4),
        title=drill.title,
        done="agents: region-cut of regions/us; dns on us-1 is killed after 5 s",
        clients=(Clients("us", 60, 4, 1, 2.5), Clients("eu", 40, 0, 0, 0.0)),
        bound_s=2.15,
    )
    for drill in SUITE
]
PAGES = {
    "run": as_html(RUN, 2.0),
    "game-day": as_html(GAME_DAY, 0.0, GAME_DAY | {"signed_report": "{}", "signature": "MEU=" * 24}),
    "suite": suite_html(OUTCOMES, 0.0, 900.0, "drill-suite"),
}
_FRAME = """<iframe name="{name}" width={width} height=900 srcdoc="{page}"></iframe>"""
_LOOK = """<pre id=found></pre><script>
onload = () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const inside = frame.contentWindow, page = inside.document;
    const tall = [...page.querySelectorAll("main, svg, table")].map(e => e.getBoundingClientRect().height);
    const fetched = inside.performance.getEntriesByType("resource").length;
    const colour = inside.getComputedStyle(page.body).backgroundColor;
    found[frame.name] = {wide: page.documentElement.scrollWidth, least: Math.min(...tall), fetched, colour};
  }
  document.getElementById("found").textContent = JSON.stringify(found);
};
</script>"""


@pytest.mark.parametrize("width", [390, 1200])
def test_pages_fit_and_fetch_nothing(width: int, tmp_path: Path) -> None:
    file = tmp_path / "look.html"
    frames = (_FRAME.format(name=name, width=width, page=html.escape(page)) for name, page in PAGES.items())
    file.write_text("".join(frames) + _LOOK)
    command = [
        shutil.which("chromium") or "chromium",
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *("--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", file.as_uri()),
    ]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(html.unescape(found.group(1)))
    assert set(seen) == set(PAGES)
    for name, page in seen.items():
        assert page["wide"] <= width, (name, page)
        assert page["least"] > 20, (name, page)
        assert page["fetched"] == 0, (name, page)
        assert page["colour"] == "rgb(251, 251, 253)", (name, "the style is in effect")
