"""The example playbook, run by Ansible for real against a clean Debian: a node that serves, and nothing to do again."""

from __future__ import annotations

import functools
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.machine import clean_environment
from lab.preflight import own_program
from tests.integration.engine_fixture import EngineHost, wait_for
from tests.integration.packaging.clean_root import DEADLINE_S, ROOT, CleanHost, ControlPlane, served
from tests.integration.packaging.test_install_over_http import Quiet
from tests.integration.packaging.test_packages import hello

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.packaging]

RECAP = re.compile(r"eu-1 +: ok=(\d+) +changed=(\d+) +unreachable=0 +failed=0")


@pytest.fixture
def release(packages: Path, engine_host: EngineHost) -> Iterator[str]:
    """A web server with the release, as the host reaches it."""
    handler = functools.partial(Quiet, directory=str(packages))
    server = ThreadingHTTPServer((engine_host.outside, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{engine_host.outside}:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def reachable(host: CleanHost, tmp_path: Path) -> Path:
    """The host runs an SSH server; the key that lets in."""
    host.bring("python3-apt", "openssh-server", "sudo", "curl")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=60)
    (host.root / "root/.ssh").mkdir(mode=0o700)
    (host.root / "root/.ssh/authorized_keys").write_text(key.with_suffix(".pub").read_text())
    (host.root / "run/sshd").mkdir(exist_ok=True)
    host.start("/usr/sbin/sshd", "-D", "-e")
    return key


def play(host: CleanHost, fleet: ControlPlane, release: str, key: Path) -> tuple[int, int]:
    """Runs the playbook from this machine; how many tasks were ok, and how many changed something."""
    inventory = key.with_name("hosts")
    there = f"ansible_host={host.engine.inside} ansible_user=root ansible_ssh_private_key_file={key}"
    inventory.write_text(f"[edge]\neu-1 {there} region=eu\n")
    variables = {"server": fleet.url, "release": release, "address": host.engine.inside}
    words = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    # No mirror of the distribution is in reach of the host: what the playbook would install comes with the test.
    words += ["-e", '{"system_packages": ["python3", "ca-certificates", "curl"]}']
    own = {
        "PATH": f"{Path(own_program('locci')).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "LOCCI_CONTEXT": str(key.with_name("server") / "context.json"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "HOME": str(key.parent),
    }
    command = ["ansible-playbook", "-i", str(inventory), str(ROOT / "packaging/ansible/edge.yml"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=clean_environment(own))
    found = RECAP.search(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found is not None, done.stdout
    return int(found[1]), int(found[2])


def test_the_playbook_brings_a_host_in_and_leaves_it_alone_afterwards(
    host: CleanHost, fleet: ControlPlane, release: str, reachable: Path
) -> None:
    fleet.apply(hello(host.engine))
    ok, changed = play(host, fleet, release, reachable)
    assert (ok, changed) == (6, 2)
    host.start_unit("locci-agent")
    host.start_unit("locci-edge")
    wait_for(served(f"http://{host.engine.inside}/", "hello.example.net"), "it serves", DEADLINE_S)
    wait_for(lambda: fleet.ready("eu-1"), "the node is READY", DEADLINE_S)
    assert play(host, fleet, release, reachable)[1] == 0
    assert fleet.ready("eu-1")
