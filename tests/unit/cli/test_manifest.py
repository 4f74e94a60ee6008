from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from cli import manifest
from cli.failure import NOT_FOUND, USAGE, ApiFailure, Failure
from fleet.errors import invalid, not_found

GOOD = "name: hello\nimage: r/hello:1\nports:\n  - container_port: 80\nreadiness:\n  http: {path: /}\n"


def write(folder: Path, text: str) -> str:
    path = folder / "app.yaml"
    path.write_text(text)
    return str(path)


def test_manifests_are_read_from_files_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = GOOD.replace("hello", "other")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(other.encode())))
    sources = manifest.load([write(tmp_path, GOOD), "-"])
    assert [source.name for source in sources] == ["hello", "other"]
    assert sources[1].file == "standard input"
    assert sources[0].body()["ports"] == [{"container_port": 80}]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("image:", "imge:", "error: imge: unknown field; did you mean 'image'? (FILE:2)"),
        ("/hello:1", "/hello:1\nimage: x", "error: 'image' is given twice (FILE:3)\n  hint: it is in line 2 already"),
        (" 80", " 70000", "error: ports[0].container_port: 70000 is not a port; use 1 to 65535 (FILE:4)"),
        (" 80", " 0", "error: ports[0].container_port: is required and must not be 0 (FILE:4)"),
        (" 80", " eighty", "must be a whole number, not the text 'eighty' (FILE:4)"),
        ("name: hello", "name: Hello", "error: name: 'Hello' is not an id"),
        ("image: r/hello:1", "", "error: image: is required (FILE:1)"),
        (
            "image: r/hello:1",
            "image: 1.0",
            "error: image: must be a string, not the number 1.0; put it in quotes (FILE:2)",
        ),
        ("{path: /}", "{port: web}", "error: readiness.http.port: there is no port 'web'; there are http (FILE:6)"),
        ("ports:\n  - container_port: 80\n", "", "error: readiness: there are no ports to probe"),
        ("readiness:", "hostnames: [nodots]\nreadiness:", "error: hostnames[0]: 'nodots' is not a host name"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, old: str, new: str, text: str) -> None:
    file = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(Failure) as caught:
        manifest.load([file])
    assert text.replace("FILE", file) in caught.value.text()
    assert caught.value.exit_code == USAGE


def test_every_error_of_a_file_is_listed(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace("image:", "imge:").replace("path", "pth"))
    with pytest.raises(Failure) as caught:
        manifest.load([file])
    assert caught.value.text().count("error: ") == 2
    assert caught.value.text().count(file) == 2


@pytest.mark.parametrize("content", ["", "---\n", "# nothing\n"])
def test_nothing_in_it(tmp_path: Path, content: str) -> None:
    with pytest.raises(Failure, match="no manifest in it"):
        manifest.load([write(tmp_path, content)])


def test_an_app_twice(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="'hello' is there twice"):
        manifest.load([write(tmp_path, f"{GOOD}---\n{GOOD}")])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file"):
        manifest.load([str(tmp_path / "nothing.yaml")])
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(Failure, match="not UTF-8"):
        manifest.load([str(tmp_path / "binary")])


def test_the_control_planes_objection_is_shown_in_the_file(tmp_path: Path) -> None:
    (source,) = manifest.load([write(tmp_path, GOOD)])
    error = invalid("manifest.ports[0].container_port", "manifest.ports[0].container_port: no")
    blamed = source.blame(ApiFailure(error, "apps:apply"))
    assert blamed.text() == f"error: ports[0].container_port: no ({tmp_path}/app.yaml:4)"
    other = ApiFailure(not_found("apps/x"), "apps:apply")
    assert source.blame(other) is other
    assert other.exit_code == NOT_FOUND
