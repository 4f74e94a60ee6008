"""`curl … | sh` and what cloud-init does with it, from a web server, into a root of its own."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.packaging.test_install import APPLETS, SERVER, Machine

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[3]
FETCH = {"wget": "wget -q -O -", "curl": "curl -fsSL"}
JOIN = {"LOCCI_SERVER": SERVER[1], "LOCCI_TOKEN": SERVER[3]}


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder; `cut` is the name of a file that breaks off half way."""

    cut = ""

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        path = Path(self.directory) / self.path.lstrip("/")
        if not self.cut or not path.match(self.cut):
            super().do_GET()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


class Web:
    """A web server with a release on it."""

    def __init__(self, folder: Path):
        self.handler: Any = type("Handler", (Quiet,), {})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(self.handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(params=sorted(FETCH))
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Machine:
    """With one of the programs that fetch."""
    made = Machine(tmp_path / "root")
    assert "wget" not in APPLETS
    if request.param == "wget":
        (made.root / "bin/wget").symlink_to("busybox")
    else:
        bring_curl(made.root)
    return made


@pytest.fixture
def web(machine: Machine) -> Iterator[Web]:
    made = Web(machine.root / "release")
    yield made
    made.server.shutdown()
    made.server.server_close()


def bring_curl(root: Path) -> None:
    """The machine's own curl, with the libraries that it needs."""
    program = shutil.which("curl")
    assert program is not None
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+)", listed):
        (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library.lstrip("/"))
    shutil.copy(program, root / "usr/bin/curl")


def run(machine: Machine, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = ["/usr/sbin/chroot", str(machine.root), "/bin/sh", "-c", command]
    env = {"PATH": "/bin:/usr/bin", **environment}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=env)


def fetched(machine: Machine) -> str:
    return FETCH["wget" if (machine.root / "bin/wget").is_symlink() else "curl"]


def piped(machine: Machine, web: Web) -> subprocess.CompletedProcess[str]:
    """As the README says it."""
    return run(machine, f"{fetched(machine)} {web.url}/install.sh | sh", LOCCI_FROM=f"{web.url}/", **JOIN)


def test_one_line_installs_joins_and_remembers_where_versions_are(machine: Machine, web: Web) -> None:
    done = piped(machine, web)
    assert done.returncode == 0, done.stderr
    assert machine.current == "1.0.0"
    assert any(call.startswith("locci-agent join --server https://192.0.2.1:7443") for call in machine.calls)
    assert "systemctl start locci-agent.service" in machine.calls
    assert (machine.root / "etc/locci/release-source").read_text().strip() == web.url
    assert JOIN["LOCCI_TOKEN"] not in done.stdout + done.stderr


@pytest.mark.parametrize("cut", ["install.sh", "*.tar.gz", "SHA256SUMS"])
def test_what_breaks_off_on_the_way_installs_nothing(machine: Machine, web: Web, cut: str) -> None:
    web.handler.cut = cut
    done = piped(machine, web)
    assert not (machine.root / "opt/locci").exists(), done.stderr
    assert not any(" join " in call for call in machine.calls)
    if cut != "install.sh":
        assert done.returncode == 1
        assert "could not be fetched" in done.stderr or "the release has no" in done.stderr


def test_what_was_tampered_with_is_not_installed(machine: Machine, web: Web) -> None:
    (archive,) = (machine.root / "release").glob("*.tar.gz")
    archive.write_bytes(archive.read_bytes() + b"x")
    done = piped(machine, web)
    assert (done.returncode, "is not what SHA256SUMS says: nothing was installed" in done.stderr) == (1, True)
    assert not (machine.root / "opt/locci").exists()


def test_a_server_without_a_release_is_named(machine: Machine, web: Web) -> None:
    (machine.root / "release/SHA256SUMS").unlink()
    done = piped(machine, web)
    assert (done.returncode, f"{web.url}/SHA256SUMS could not be fetched" in done.stderr) == (1, True), done.stderr


def test_cloud_init_brings_a_host_in(tmp_path: Path) -> None:
    """The file's own parts, with the addresses of this test: what it writes, and what it runs."""
    machine = Machine(tmp_path / "root")
    bring_curl(machine.root)
    web = Web(machine.root / "release")
    try:
        config = yaml.safe_load((ROOT / "packaging/cloud-init/edge.yaml").read_text())
        (file,) = config["write_files"]
        content = file["content"].replace("https://control.example.net:7443", SERVER[1]).replace("locci1.…", SERVER[3])
        (machine.root / file["path"].lstrip("/")).write_text(content)
        ((shell, flag, command),) = config["runcmd"]
        assert (shell, flag) == ("sh", "-c")
        done = run(machine, command.replace("https://releases.example.net/locci", web.url))
        assert done.returncode == 0, done.stderr
        assert machine.current == "1.0.0"
        assert any(" join " in call and SERVER[1] in call for call in machine.calls)
        assert not (machine.root / file["path"].lstrip("/")).exists(), "the token does not stay"
    finally:
        web.server.shutdown()
        web.server.server_close()
