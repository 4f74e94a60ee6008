"""Listings, watches, operations, contexts and completion of the real command line."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.http.conftest import CommandLine, RealServer


@pytest.fixture
def label(locci: CommandLine) -> str:
    """Three regions with a label of their own."""
    mark = uuid.uuid4().hex[:8]
    for index in range(3):
        name = f"r{index}-{mark}"
        done = locci("regions", "create", name, "--lat", str(10 * index), "--lon=8", "--label", f"mark={mark}")
        assert done.returncode == 0, done.stderr
    return mark


def test_lists_are_filtered_and_ordered(locci: CommandLine, label: str) -> None:
    ours = f"labels.mark = {label}"
    asked = ("--filter", f"{ours} AND latitude > 5", "--order-by", "latitude desc")
    found = json.loads(locci("regions", "ls", *asked, "-o", "json").stdout)
    assert [region["name"] for region in found] == [f"regions/r2-{label}", f"regions/r1-{label}"]
    bad = locci("regions", "ls", "--filter", "latitud > 5")
    assert bad.returncode == 2
    assert "at character 1: unknown field 'latitud'; did you mean 'latitude'?" in bad.stderr
    assert locci("regions", "ls", "--order-by", "labels").returncode == 2


def test_wide_shows_more(locci: CommandLine, label: str) -> None:
    ours = ("--filter", f"labels.mark = {label}")
    narrow = locci("regions", "ls", *ours).stdout.splitlines()
    wide = locci("regions", "ls", *ours, "-o", "wide").stdout.splitlines()
    assert len(narrow) == len(wide) == 4
    assert wide[0].startswith("REGION")
    assert f"mark={label}" in wide[1]
    assert f"mark={label}" not in narrow[1]


def test_a_region_is_updated(locci: CommandLine, label: str) -> None:
    done = locci("regions", "update", f"r0-{label}", "--display-name", "Null Island", "-o", "json")
    assert done.returncode == 0, done.stderr
    (region,) = json.loads(done.stdout)
    assert (region["display_name"], region["longitude"], region["labels"]) == ("Null Island", 8.0, {"mark": label})
    assert locci("regions", "update", f"r0-{label}").returncode == 2


@contextmanager
def lines_of(locci: CommandLine, *command: str) -> Iterator[list[str]]:
    """What a command that goes on writes, line by line."""
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *locci.command(*command)],
        env=locci.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    arrived = threading.Condition()

    def read() -> None:
        assert process.stdout is not None
        for text in process.stdout:
            with arrived:
                lines.append(text.rstrip("\n"))
                arrived.notify_all()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    class Lines(list[str]):
        def until(self, part: str) -> None:
            with arrived:
                enough = arrived.wait_for(lambda: any(part in text for text in lines), timeout=60)
            assert enough, (part, lines)

    try:
        yield Lines()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        reader.join(timeout=30)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()


def test_watches_tell_what_changes(locci: CommandLine, label: str) -> None:
    with lines_of(locci, "regions", "ls", "--watch", "--filter", f"labels.mark = {label}") as lines:
        lines.until(f"r2-{label}")  # type: ignore[attr-defined]
        locci("regions", "update", f"r1-{label}", "--display-name", "Changed")
        lines.until("Changed")  # type: ignore[attr-defined]
        locci("regions", "rm", f"r0-{label}")
        lines.until(f"regions/r0-{label}  removed")  # type: ignore[attr-defined]


def test_what_has_no_watch_is_asked_for_again(locci: CommandLine) -> None:
    zone = f"{uuid.uuid4().hex[:8]}.example.net"
    with lines_of(locci, "zones", "ls", "-w", "-o", "json") as lines:
        locci("zones", "create", zone)
        lines.until(f'"zones/{zone}"')  # type: ignore[attr-defined]


def test_operations(locci: CommandLine, server: RealServer) -> None:
    assert locci("operations", "ls", "--filter", "done = false").returncode == 0
    gone = locci("operations", "show", "apps.none.rollouts.1")
    assert gone.returncode == 4
    assert locci("operations", "cancel", "apps.none.rollouts.1").returncode == 4
    assert locci("operations", "wait", "apps.none.rollouts.1", "--timeout", "5s").returncode == 4


def test_contexts_are_kept_under_names(locci: CommandLine, server: RealServer) -> None:
    locci.environment["LOCCI_CONTEXT"] = ""
    assert locci("context", "use", str(server.context), "--name", "lab").returncode == 0
    assert locci("context", "use", str(server.context), "--name", "Not Good").returncode == 2
    (row,) = json.loads(locci("context", "ls", "-o", "json").stdout)
    assert (row["name"], row["server"], row["in_use"]) == ("lab", server.url, True)
    assert locci("context", "use", "lab").returncode == 0
    assert locci("regions", "ls").returncode == 0
    assert locci("context", "rm", "lab").returncode == 0
    assert locci("context", "rm", "lab").returncode == 4
    assert locci("context", "use", "lab").returncode == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_what_there_is(locci: CommandLine, label: str, shell: str) -> None:
    words = "locci regions show r1-"
    locci.environment.update(
        {
            "_LOCCI_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": words,
            "COMP_CWORD": "3",
            "_TYPER_COMPLETE_ARGS": words,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
    )
    assert f"r1-{label}" in locci().stdout
    locci.environment["LOCCI_CONTEXT"] = "/nowhere"
    assert "r1-" not in locci().stdout


def test_a_time_limit_for_requests(locci: CommandLine) -> None:
    assert locci("--timeout", "5", "regions", "ls").returncode == 0
    assert locci("--timeout", "0", "regions", "ls").returncode == 2
