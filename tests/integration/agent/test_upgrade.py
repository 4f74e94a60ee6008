"""A supervised agent on a real engine: versions change, and containers do not notice."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from locci.v1 import resource_pb2
from tests.integration.agent.rig import Rig, containers, eventually, named, replica, route
from tests.integration.agent.test_engine_faults import fill
from tests.integration.agent.test_with_edge import Client, edge
from tests.integration.agent.versions import Versions

pytestmark = pytest.mark.lab


def wanted(version: str) -> resource_pb2.Resource:
    """The control plane names a version."""
    body = resource_pb2.AgentVersion(version=version)
    return named(resource_pb2.Resource(name="agentversions/eu", agent_version=body))


async def test_a_good_version_stays_a_broken_one_goes_and_no_container_notices(rig: Rig, image: str) -> None:
    versions = Versions(rig.folder, rig.host, (rig.folder / "agent.toml").read_text())
    async with versions.supervised(), rig.edge.connected():
        rig.control_plane.want(route(), replica(image))
        await eventually(lambda: rig.control_plane.ready() and rig.edge.addresses(), "it is served")
        before = await containers(rig.host)
        sessions = rig.control_plane.sessions

        rig.control_plane.want(route(), replica(image), wanted("1.1.0"))
        await eventually(lambda: "1.1.0 does well and stays" in rig.log, "the newer version stays")
        assert (versions.current, versions.runs) == ("1.1.0", ["1.0.0", "1.1.0"])
        await eventually(lambda: rig.control_plane.sessions > sessions, "it is connected")

        rig.control_plane.want(route(), replica(image), wanted("1.2.0"))
        await eventually(lambda: "1.2.0 is taken back" in rig.log, "the broken version is taken back")
        await eventually(lambda: versions.runs[-1] == "1.1.0", "the version before runs again")
        assert (versions.current, versions.runs.count("1.2.0")) == ("1.1.0", 3)
        await eventually(lambda: rig.control_plane.ready() and rig.edge.addresses(), "it is served as before")
        assert await containers(rig.host) == before

        again = await versions.call("upgrade", "1.0.0")
        assert again.returncode == 0
        await eventually(lambda: "1.0.0 does well and stays" in rig.log, "an older version, as a person wants it")
        assert (versions.current, versions.runs.count("1.2.0")) == ("1.0.0", 3)
        refused = await versions.call("upgrade", "9.9")
        assert refused.returncode == 2
        assert "there: 1.0.0, 1.1.0, 1.2.0" in refused.stderr


async def test_the_supervisor_becomes_that_of_the_version_that_stays(rig: Rig, image: str) -> None:
    """In the same process, with the same agent; a version whose supervisor could not begin at the next boot goes."""
    versions = Versions(rig.folder, rig.host, "dns_reload_command = []\n" + (rig.folder / "agent.toml").read_text())
    async with versions.supervised() as supervisor, rig.edge.connected():
        rig.control_plane.want(route(), replica(image))
        await eventually(lambda: rig.control_plane.ready() and rig.edge.addresses(), "it is served")
        before = await containers(rig.host)

        rig.control_plane.want(route(), replica(image), wanted("1.1.0"))
        await eventually(lambda: "supervisor is of version 1.1.0" in rig.log, "the supervisor is the newer one")
        assert versions.supervisors == ["1.1.0", "1.1.0"]  # it showed that it could, and began
        assert (len(children(supervisor)), versions.runs) == (1, ["1.0.0", "1.1.0"])
        sessions = rig.control_plane.sessions

        rig.control_plane.want(route(), replica(image), wanted("1.3.0"))
        await eventually(lambda: "1.3.0 is taken back" in rig.log, "the version without a supervisor goes")
        assert "its supervisor cannot begin: no module named supervise" in rig.log
        await eventually(lambda: versions.runs == ["1.0.0", "1.1.0", "1.3.0", "1.1.0"], "the version before runs again")
        await eventually(lambda: rig.control_plane.sessions == sessions + 2, "it is connected")
        assert versions.current == "1.1.0"

        # The one that was adopted is started again like one of its own.
        (agent,) = children(supervisor)
        os.kill(agent, signal.SIGKILL)
        await eventually(lambda: versions.runs[-2:] == ["1.1.0", "1.1.0"], "the agent is started again")
        await eventually(lambda: rig.control_plane.sessions == sessions + 3, "it is connected")
        await eventually(lambda: rig.control_plane.ready() and rig.edge.addresses(), "it is served as before")
        assert await containers(rig.host) == before


async def test_a_full_disk_puts_a_version_off_and_the_agent_goes_on(rig: Rig, image: str, small_disk: Path) -> None:
    versions = Versions(rig.folder, rig.host, (rig.folder / "agent.toml").read_text())
    wish = small_disk / "wanted-version"
    wish.write_text("1.0.0")
    async with versions.supervised() as supervisor, rig.edge.connected():
        rig.control_plane.want(route(), replica(image))
        await eventually(lambda: rig.control_plane.ready() and rig.edge.addresses(), "it is served")
        versions.fetched("1.1.0")
        agents = children(supervisor)
        with pytest.raises(OSError, match="No space"):
            fill(small_disk / "filler")
        overwrite(wish, b"1.1.0")
        await eventually(lambda: "1.1.0 cannot be tried" in rig.log, "the version is put off")
        # And a disk that returns something else than what was written.
        overwrite(wish, b"\xff\xfe\xfd\xfc\xfb")
        await eventually(lambda: rig.control_plane.ready() and rig.edge.addresses(), "it is served on")
        assert (children(supervisor), versions.current, versions.runs) == (agents, "1.0.0", ["1.0.0"])
        assert "Traceback" not in rig.log


def overwrite(path: Path, content: bytes) -> None:
    """Other bytes in the place of as many, which needs no space."""
    with path.open("r+b") as file:
        file.write(content)


def children(pid: int) -> set[int]:
    """The child processes of a process."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def workers_of(pid_file: Path) -> set[int]:
    """The processes that serve, of an edge whose own process stays the same."""
    return children(int(pid_file.read_text()))


async def test_the_edge_takes_the_version_that_stays_and_no_request_fails(rig: Rig, image: str) -> None:
    async with edge(rig) as address:
        pid = rig.folder / "edge.pid"
        settings = (rig.folder / "agent.toml").read_text()
        reload = f'edge_reload_command = ["/bin/sh", "-c", "kill -HUP $(cat {pid})"]\n'
        versions = Versions(rig.folder, rig.host, reload + settings)
        async with versions.supervised():
            rig.control_plane.want(route(), replica(image))
            client = Client(address)
            await eventually(rig.control_plane.ready, "it is ready")
            await client.until("hello")
            before = workers_of(pid)
            async with client.asking():
                rig.control_plane.want(route(), replica(image), wanted("1.1.0"))
                await eventually(lambda: "1.1.0 does well and stays" in rig.log, "the newer version stays")
                await eventually(lambda: "edge_reloads" in rig.log, "the edge is reloaded")
                await eventually(lambda: workers_of(pid) and not workers_of(pid) & before, "all workers are new")
            assert set(client.answers) == {"hello"}, client.answers
