"""Building `examples/hello` with an engine of the lab and pushing it to the lab's registry."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors

from fleet.errors import Code, LocciError, failed_precondition, not_found
from lab.layout import Layout
from lab.programs import registry_address
from lab.topology import Topology

REPOSITORY: Final = "hello"
BROKEN_VERSION: Final = 3
VERSIONS: Final = (1, 2, BROKEN_VERSION)
_TIMEOUT_S: Final = 60


def example_folder() -> Path:
    """The folder of the example, in the source tree that this is installed from; NOT_FOUND without one."""
    folder = Path(__file__).resolve().parents[1] / "examples" / "hello"
    if not (folder / "Dockerfile").exists():
        raise not_found(str(folder), f"{folder} is not there: the example comes with the source tree")
    return folder


def push_example(topology: Topology, layout: Layout, versions: Iterable[int] = VERSIONS) -> list[str]:
    """Builds and pushes versions of the example; their image names.

    It uses the engine of the first node. Raises UNAVAILABLE with the engine's words when it cannot build or push.
    """
    context = _context(example_folder())
    engine = docker.APIClient(
        base_url=f"unix://{layout.docker_socket(topology.nodes[0].name)}", timeout=_TIMEOUT_S, version="auto"
    )
    try:
        return [_build_and_push(engine, context, registry_address(topology), version) for version in versions]
    except (docker.errors.DockerException, OSError) as error:
        raise _failed(str(error)) from error
    finally:
        engine.close()


def _build_and_push(engine: docker.APIClient, context: bytes, registry: str, version: int) -> str:
    repository = f"{registry}/{REPOSITORY}"
    image = f"{repository}:{version}"
    arguments = {"VERSION": str(version), "HEALTH": "bad" if version == BROKEN_VERSION else "good"}
    _follow(
        engine.build(
            fileobj=io.BytesIO(context), custom_context=True, tag=image, buildargs=arguments, rm=True, decode=True
        )
    )
    _follow(engine.push(repository, tag=str(version), stream=True, decode=True))
    return image


def _follow(lines: Iterable[Mapping[str, Any]]) -> None:
    for line in lines:
        if "error" in line:
            raise _failed(str(line["error"]).strip())


def _failed(reason: str) -> LocciError:
    return LocciError(Code.UNAVAILABLE, "EXAMPLE_FAILED", f"the example could not be built and pushed: {reason}")


def _context(folder: Path) -> bytes:
    """The build context, with a static busybox added; FAILED_PRECONDITION without one on this machine."""
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    if busybox is None or b"/lib64/ld-linux" in Path(busybox).read_bytes()[:4096]:
        message = "the example needs a statically linked busybox: apt-get install busybox-static"
        raise failed_precondition("NO_STATIC_BUSYBOX", message)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder, arcname=".")
        tar.add(Path(busybox).resolve(), arcname="busybox")
    return archive.getvalue()
