"""The compiled DNS loop under sanitizers: queries made of good ones by chance, and threads that get in each other's
way. `LOCCI_FUZZ_S=60` lengthens both."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from routing.adapters.hot_answers import lesson_arguments
from routing.core.answer import Lesson
from tests.unit.routing.adapters.test_hot_answers import NAMES, Pair, options_of, query_of

SECONDS = int(os.environ.get("LOCCI_FUZZ_S", "2"))
SOURCE = Path(__file__).with_name("hot_answers.c")
SANITIZERS = {"answers": "address,undefined", "threads": "thread"}
SOURCES = (bytes((10, 1, 0, 1)), bytes.fromhex("20010db8000100000000000000000001"))
NETWORKS = (None, ("10.2.7.0", 24), ("2001:db8:1::", 48), ("2001:db8:2:ff00::", 56))


@functools.cache
def corpus() -> bytes:
    """Lessons and queries of every form, in the form that the program reads."""
    lessons: list[Lesson] = []
    queries: list[tuple[bytes, bytes]] = []
    pairs = [Pair(), Pair(signed=True)]
    for pair, name, kind, source in itertools.product(pairs, NAMES, ("A", "AAAA", "MX", "SOA", "TXT"), SOURCES):
        for number, (network, cookie) in enumerate(itertools.product(NETWORKS, range(3))):
            edns = network is not None or cookie > 0
            query = query_of(name, kind, edns, options_of(network, cookie, bool(number & 1)), 1232, number)
            queries.append((query, source))
            if pair.responder.respond(query, source) is not None:
                lesson = pair.responder.lesson(query, source)
                lessons += [] if lesson is None or len(lessons) > 600 else [lesson]
    content = struct.pack("=I", len(lessons))
    for lesson in lessons:
        key, key_bytes, by, bucket, slot, dnssec_ok, heads, bodies, sizes, body = lesson_arguments(lesson)
        content += (
            struct.pack("=6I", key_bytes, by, bucket, slot, dnssec_ok, bodies) + key + heads + bytes(sizes) + body
        )
    content += struct.pack("=I", len(queries))
    return content + b"".join(struct.pack("=2I", len(query), len(source)) + query + source for query, source in queries)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("mode", SANITIZERS)
def test_sanitizers_find_nothing(mode: str, tmp_path: Path) -> None:
    (tmp_path / "corpus").write_bytes(corpus())
    flags = [f"-fsanitize={SANITIZERS[mode]}", "-fno-sanitize-recover=all", "-O1", "-g"]
    subprocess.run(["gcc", *flags, "-o", str(tmp_path / "fuzz"), str(SOURCE)], check=True)
    done = subprocess.run(
        [str(tmp_path / "fuzz"), mode, str(tmp_path / "corpus"), "7", str(SECONDS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + 2 * SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    one, other = map(int, done.stdout.split())
    assert one > 1000
    assert other > 1000
