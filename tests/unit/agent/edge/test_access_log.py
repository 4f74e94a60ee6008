from __future__ import annotations

import json
from pathlib import Path

from agent.edge.access_log import LINES_MAX, AccessLog
from agent.edge.core.headers import fields_of
from agent.edge.core.request_head import RequestHead, check
from fleet.clock import SystemClock


def head(target: bytes) -> RequestHead:
    headers = [(b"Host", b"hello.test")]
    return check(b"GET", target, headers, fields_of(headers), 1, keep_alive=True)


def lines_of(log: AccessLog, path: Path) -> list[dict[str, object]]:
    log.write(log.take())
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_hits_have_the_same_line_but_for_time_and_id(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), SystemClock())
    long = b'/"' + b"a" * 1000
    for number in range(3):
        log.hit(b"10.0.0.1", head(b'/a"b'), 5, b"id-%d" % number)
        log.hit(b"10.0.0.2", head(long), 6, b"id-%d" % number)
    lines = lines_of(log, tmp_path / "log")
    assert [line["request_id"] for line in lines] == ["id-0", "id-0", "id-1", "id-1", "id-2", "id-2"]
    assert {(line["client"], line["target"], line["bytes"]) for line in lines} == {
        ("10.0.0.1", '/a"b', 5),
        ("10.0.0.2", long.decode(), 6),
    }
    assert {(line["status"], line["cache"], line["host"], line["app"]) for line in lines} == {
        (200, "locci; hit", "hello.test", "")
    }


def test_what_is_too_much_is_dropped_and_counted(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), SystemClock())
    for number in range(LINES_MAX + 3):
        log.hit(b"10.0.0.1", head(b"/a") if number == 0 else HEAD, 5, b"id")
    log.record(b"10.0.0.1", HEAD, 404, 1, 0.5, b"locci; fwd=miss", b"id", "hello")
    assert log.dropped == 4
    assert log.take().count(b"\n") == LINES_MAX
    log.record(b"10.0.0.1", HEAD, 404, 1, 0.5, b"locci; fwd=miss", b"id", "hello")
    (line,) = lines_of(log, tmp_path / "log")
    assert (line["status"], line["duration_s"], line["app"]) == (404, 0.5, "hello")


HEAD = head(b"/a")
