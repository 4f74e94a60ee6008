"""Manifests from files, checked as far as that goes without the control plane."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.failure import USAGE, ApiFailure, Failure
from cli.yaml_source import Document, read
from fleet import contract
from fleet.contract import Problem
from fleet.errors import LocciError
from fleet.ids import APP_ID_LENGTH_MAX, check_hostname, check_id
from locci.v1 import manifest_pb2

_PROBLEMS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Source:
    """One manifest, and the part of the file that it comes from."""

    file: str
    document: Document
    message: manifest_pb2.AppManifest

    @property
    def name(self) -> str:
        """The app's id."""
        return str(self.message.name)

    def body(self) -> dict[str, Any]:
        """The manifest as it is sent."""
        value: dict[str, Any] = self.document.value
        return value

    def blame(self, failure: ApiFailure) -> Failure:
        """The control plane's failure with the file and line of the field that it names."""
        field = failure.error.field
        if field != "manifest" and not field.startswith("manifest."):
            return failure
        path = field.removeprefix("manifest").removeprefix(".")
        where = f"{self.file}:{self.document.line(path)}"
        what = failure.what.replace("manifest.", "")
        return Failure(what, where=where, hint=failure.hint, exit_code=failure.exit_code)


def load(files: Sequence[str]) -> list[Source]:
    """All manifests in these files, `-` being standard input. Raises a Failure with all problems of one."""
    sources = [source for file in files for source in _load_file(file)]
    if not sources:
        raise Failure("there is no manifest in it", where=", ".join(files), exit_code=USAGE)
    seen: dict[str, Source] = {}
    for source in sources:
        if source.name in seen:
            where = f"{source.file}:{source.document.line('name')}"
            raise Failure(f"app {source.name!r} is there twice", where=where, exit_code=USAGE)
        seen[source.name] = source
    return sources


def _load_file(file: str) -> Iterator[Source]:
    try:
        text = sys.stdin.buffer.read().decode() if file == "-" else Path(file).read_bytes().decode()
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}", where=file, exit_code=USAGE) from None
    except UnicodeDecodeError as error:
        raise Failure(f"is not UTF-8 at byte {error.start}", where=file, exit_code=USAGE) from None
    name = "standard input" if file == "-" else file
    for document in read(text, name):
        yield _source(name, document)


def _source(file: str, document: Document) -> Source:
    message = manifest_pb2.AppManifest()
    problems = contract.json_problems(document.value, contract.descriptor_of(message))
    if not problems:
        try:
            contract.read_json(document.value, message)
        except LocciError as error:
            problems = [Problem(error.field, error.message)]
    problems = problems or contract.missing_required(message) or list(_local_problems(message))
    if problems:
        raise _failure(file, document, problems)
    return Source(file, document, message)


def _local_problems(message: manifest_pb2.AppManifest) -> Iterator[Problem]:
    """What can be told without knowing the fleet; the control plane knows more."""
    yield from _checked("name", lambda: check_id(message.name, "name", APP_ID_LENGTH_MAX))
    for index, hostname in enumerate(message.hostnames):
        yield from _checked(f"hostnames[{index}]", functools.partial(check_hostname, hostname, "hostname"))
    names: list[str] = []
    for index, port in enumerate(message.ports):
        if not 1 <= port.container_port <= 65535:
            yield Problem(f"ports[{index}].container_port", f"{port.container_port} is not a port; use 1 to 65535")
        name = port.name or "http"
        if name in names:
            yield Problem(f"ports[{index}].name", f"{name!r} is used twice; give each port its own name")
        names.append(name)
    yield from _probe_problems(message, names)


def _checked(path: str, check: Callable[[], object]) -> Iterator[Problem]:
    try:
        check()
    except LocciError as error:
        yield Problem(path, error.message.partition(": ")[2] or error.message)


def _probe_problems(message: manifest_pb2.AppManifest, ports: Sequence[str]) -> Iterator[Problem]:
    for kind in ("readiness", "liveness"):
        if not message.HasField(kind):
            continue
        probe: manifest_pb2.Probe = getattr(message, kind)
        method = probe.WhichOneof("method") or "tcp"
        wanted = probe.http.port if method == "http" else probe.tcp.port
        if not ports:
            yield Problem(kind, "there are no ports to probe; add one under ports, or drop the probe")
        elif wanted and wanted not in ports:
            yield Problem(f"{kind}.{method}.port", f"there is no port {wanted!r}; there are {', '.join(ports)}")


def _failure(file: str, document: Document, problems: Sequence[Problem]) -> Failure:
    first, *more = problems[:_PROBLEMS_SHOWN]
    lines = [first.text(), *(f"{problem.text()} ({file}:{document.line(problem.path)})" for problem in more)]
    where = f"{file}:{document.line(first.path)}"
    what = lines[0] if len(lines) == 1 else f"{lines[0]} ({where})\nerror: " + "\nerror: ".join(lines[1:])
    hint = "docs/reference/app.schema.json describes every field; editors can check against it"
    return Failure(what, where=where if len(lines) == 1 else "", hint=hint, exit_code=USAGE)
