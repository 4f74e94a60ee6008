"""`locci exec` from the command line to a container of a real engine, and back."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import secrets
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.machine import clean_environment
from lab.preflight import own_program
from lab.story import APP
from tests.integration.system.conftest import Deployed, wait_for

pytestmark = pytest.mark.lab

BUSYBOX = "/bin/busybox"


def environment(deployed: Deployed) -> dict[str, str]:
    return clean_environment({"LOCCI_CONTEXT": str(deployed.fleet.layout.context), "NO_COLOR": "1"})


def execute(deployed: Deployed, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """`locci exec` with these words."""
    command = [own_program("locci"), "exec", *words]
    return subprocess.run(command, input=given, capture_output=True, timeout=60, env=environment(deployed), check=False)


def replica_on(deployed: Deployed, node: str) -> str:
    row = next(row for row in deployed.replicas() if row["node"] == f"nodes/{node}")
    return f"{APP}/{row['name'].rpartition('/')[2]}"


def processes_with(mark: str) -> list[int]:
    """Processes of this machine, containers included, that have a word in their command line."""
    found = []
    for path in os.listdir("/proc"):
        if path.isdigit():
            try:
                with open(f"/proc/{path}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if mark.encode() in words and b"sleep" in b" ".join(words) and b"exec" not in words:
                found.append(int(path))
    return found


def test_output_input_and_exit_codes(deployed: Deployed) -> None:
    done = execute(deployed, APP, "--", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n"), done.stderr
    data = secrets.token_bytes(3_000_000)
    done = execute(deployed, "-i", APP, "--", BUSYBOX, "sha256sum", given=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()
    done = execute(deployed, "-i", APP, "--", BUSYBOX, "cat", given=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    done = execute(deployed, APP, "--", BUSYBOX, "cat")
    assert (done.returncode, done.stdout) == (0, b""), "without -i there is nothing to read"


def test_each_region_by_its_replica(deployed: Deployed) -> None:
    for node in deployed.fleet.topology.nodes:
        done = execute(deployed, replica_on(deployed, node.name), "--", BUSYBOX, "sh", "-c", "echo $LOCCI_NODE")
        assert done.stdout.decode().strip() == node.name


def test_what_cannot_be_run_is_said(deployed: Deployed) -> None:
    done = execute(deployed, APP, "--", "/no/such/program")
    assert done.returncode in (126, 127), (done.stdout, done.stderr)
    assert b"no such file" in (done.stdout + done.stderr).lower()
    for name, code in (("nobody", 4), (f"{APP}/7-7", 4), ("a/b/c", 2)):
        done = execute(deployed, name, "--", "true")
        assert done.returncode == code, done.stderr
        assert done.stderr.startswith(b"error: ")
    done = execute(deployed, "-t", APP, "--", "true")
    assert (done.returncode, b"no terminal" in done.stderr) == (2, True)


def test_who_ran_what_is_in_the_audit_and_what_went_in_is_not(deployed: Deployed) -> None:
    mark = secrets.token_hex(8)
    execute(deployed, "-i", APP, "--", BUSYBOX, "sed", f"s/x/{mark}/", given=b"most secret\n")
    records: list[dict[str, Any]] = list(deployed.fleet.api.pages("/v1/auditRecords", "audit_records"))
    record = next(r for r in records if mark in r["request"])
    assert record["method"] == "ExecService.Exec"
    assert record["resource"] == f"apps/{APP}"
    assert json.loads(record["request"])["start"]["command"] == [BUSYBOX, "sed", f"s/x/{mark}/"]
    assert not any("most secret" in r["request"] for r in records)


def copy(deployed: Deployed, source: str, target: str) -> subprocess.CompletedProcess[bytes]:
    command = [own_program("locci"), "cp", source, target]
    return subprocess.run(command, capture_output=True, timeout=60, env=environment(deployed), check=False)


def test_files_go_in_and_come_out(deployed: Deployed, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "large").write_bytes(secrets.token_bytes(3_000_000))
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    (folder / "link").symlink_to("script")
    one = replica_on(deployed, deployed.fleet.topology.nodes[0].name)
    done = copy(deployed, str(folder), f"{one}:/copied")
    assert done.returncode == 0, done.stderr
    done = copy(deployed, f"{one}:/copied", str(tmp_path / "back"))
    assert done.returncode == 0, done.stderr
    back = tmp_path / "back"
    assert (back / "deep" / "large").read_bytes() == (folder / "deep" / "large").read_bytes()
    assert os.access(back / "script", os.X_OK)
    assert (back / "link").readlink() == Path("script")
    (tmp_path / "here").mkdir()
    assert copy(deployed, f"{one}:/copied/script", str(tmp_path / "here")).returncode == 0
    assert (tmp_path / "here" / "script").read_text() == "#!/bin/sh\n"
    assert copy(deployed, str(folder / "script"), f"{one}:/copied/deep/").returncode == 0
    assert copy(deployed, f"{one}:/copied/deep/script", str(tmp_path / "named")).returncode == 0
    assert (tmp_path / "named").read_text() == "#!/bin/sh\n"
    for source, target, said in (
        (f"{one}:/no/such", str(tmp_path / "x"), "there is no /no/such"),
        (str(folder), f"{one}:/no/such/folder", "there is no /no/such"),
        (f"{one}:relative", str(tmp_path / "x"), "absolute path"),
        (str(tmp_path / "nothing"), f"{one}:/x", "no such file"),
        (str(folder), str(tmp_path / "x"), "one of the two"),
    ):
        done = copy(deployed, source, target)
        assert done.returncode != 0
        assert said in done.stderr.decode().lower(), done.stderr
    assert not (tmp_path / "x").exists()


def test_a_command_ends_with_its_caller(deployed: Deployed) -> None:
    seconds = str(100_000 + secrets.randbelow(800_000))
    command = [own_program("locci"), "exec", APP, "--", BUSYBOX, "sleep", seconds]
    with subprocess.Popen(command, env=environment(deployed), stdout=subprocess.DEVNULL) as caller:
        wait_for(lambda: bool(processes_with(seconds)), "the command does not run")
        caller.send_signal(signal.SIGKILL)
    wait_for(lambda: not processes_with(seconds), "the command goes on without its caller")


@contextmanager
def terminal(deployed: Deployed, *words: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """`locci exec -it` in a terminal of 100 by 30."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    command = [own_program("locci"), "exec", "-it", *words]
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(deployed) | {"TERM": "xterm"},
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield master, process
    finally:
        process.kill()
        process.wait()
        os.close(master)


def read_until(master: int, wanted: bytes) -> bytes:
    """What the terminal shows, up to a text."""
    seen, end = b"", time.monotonic() + 45
    while wanted not in seen:
        ready, _, _ = select.select([master], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{wanted!r} is not in {seen!r}"
        seen += os.read(master, 65536)
    return seen


LOOP = 'echo ready; while read line; do eval "$line"; done'
"""A shell without the editing of lines, which asks the terminal where its cursor is."""


def test_a_terminal_with_its_size(deployed: Deployed) -> None:
    with terminal(deployed, APP, "--", BUSYBOX, "sh", "-c", LOOP) as (master, process):
        read_until(master, b"ready")

        def shows(size: bytes) -> bool:
            os.write(master, b"/bin/busybox stty size; echo en''d\r")
            return size in read_until(master, b"end")

        wait_for(lambda: shows(b"30 100"), "the terminal has not the size of the caller's")
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 132, 0, 0))
        os.kill(process.pid, signal.SIGWINCH)
        wait_for(lambda: shows(b"40 132"), "the terminal keeps its size")
        os.write(master, b"exit 5\r")
        wait_for(lambda: process.poll() is not None, "it does not end")
        assert process.returncode == 5


def test_ctrl_c_goes_to_the_command(deployed: Deployed) -> None:
    with terminal(deployed, APP, "--", BUSYBOX, "sh", "-c", "echo ready; /bin/busybox sleep 1000") as (master, process):
        read_until(master, b"ready")
        os.write(master, b"\x03")
        wait_for(lambda: process.poll() is not None, "it does not end")
        assert process.returncode == 130
