"""Image references."""

from __future__ import annotations

import pytest

from control_plane.core.image import Reference, parse_reference
from fleet.errors import LocciError

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hello", ("docker.io", "library/hello", "latest", "")),
        ("team/hello:1.2", ("docker.io", "team/hello", "1.2", "")),
        ("localhost/hello", ("localhost", "hello", "latest", "")),
        ("r.test:5000/a/b:x", ("r.test:5000", "a/b", "x", "")),
        (f"r.test/a@{DIGEST}", ("r.test", "a", "", DIGEST)),
        (f"r.test/a:1@{DIGEST}", ("r.test", "a", "1", DIGEST)),
        ("[2001:db8::1]:5000/a:1", ("[2001:db8::1]:5000", "a", "1", "")),
    ],
)
def test_parts(text: str, parts: tuple[str, str, str, str]) -> None:
    assert parse_reference(text) == Reference(*parts)


def test_pinned_drops_the_tag() -> None:
    assert parse_reference("r.test/a:1").pinned(DIGEST) == f"r.test/a@{DIGEST}"


@pytest.mark.parametrize("text", ["", "A", "a:", "a:b:c", "a@b", "r.test/", "a b", "a@sha256:00", "x" * 600, "-r/a//b"])
def test_malformed(text: str) -> None:
    with pytest.raises(LocciError) as error:
        parse_reference(text)
    assert error.value.reason == "MALFORMED_IMAGE"
