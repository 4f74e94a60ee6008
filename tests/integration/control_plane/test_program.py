"""`locci-server` as a process: start, join over HTTPS, signals, bad configuration."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fleet.enrol import join
from fleet.errors import LocciError
from fleet.identity import IdentityDirectory
from locci.v1 import node_pb2
from tests.fakes.ports import free_port
from tests.integration.control_plane.rig import until


class Program:
    """A `locci-server` process with its own directory and ports."""

    def __init__(self, path: Path):
        self.data = path / "server"
        self.http = free_port()
        self.config = path / "server.toml"
        self.config.write_text(
            f'data_dir = "{self.data}"\nhttp_listen = "127.0.0.1:{self.http}"\n'
            f'grpc_listen = "127.0.0.1:{free_port()}"\nnode_listen = "127.0.0.1:{free_port()}"\n'
            'advertise = ["127.0.0.1"]\n'
        )
        self.server = f"https://127.0.0.1:{self.http}"

    async def start(self) -> None:
        null = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "control_plane.main", "run", "--config", str(self.config)), stdout=null, stderr=null
        )
        await until(self._answers, "the server answers", 30)

    async def _answers(self) -> bool:
        assert self.process.returncode is None, "the server ended"
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{self.server}/readyz", ssl=False) as response,
            ):
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 30)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        token = json.loads((self.data / "context.json").read_text())["token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.server}{path}", json=body, headers=headers, ssl=False) as response,
        ):
            assert response.status == 200, await response.text()
            return await response.json()


async def test_a_host_joins_over_https_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    program = Program(tmp_path)
    await program.start()
    try:
        await program.call("POST", "/v1/regions?region_id=eu", {"latitude": 50})
        token = (await program.call("POST", "/v1/joinTokens", {"region": "regions/eu"}))["token"]

        async def joined(node: str) -> Any:
            directory = IdentityDirectory(tmp_path / node)
            facts = node_pb2.NodeFacts(hostname=node)
            return await join(
                server=program.server,
                token=token,
                node_id=node,
                addresses=["192.0.2.1"],
                directory=directory,
                facts=facts,
            )

        assert (await joined("eu-1")).region == "eu"
        await program.end(signal.SIGKILL)
        await program.start()
        nodes = (await program.call("GET", "/v1/nodes"))["nodes"]
        assert [n["name"] for n in nodes] == ["nodes/eu-1"]
        with pytest.raises(LocciError) as error:
            await joined("eu-2")
        assert error.value.reason == "TOKEN_USED"
        assert not (tmp_path / "eu-2").exists()
        assert await program.end(signal.SIGTERM) == 0
    finally:
        if program.process.returncode is None:
            program.process.kill()
            await program.process.wait()


async def test_a_backup_by_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    config, fresh = tmp_path / "server.toml", tmp_path / "fresh.toml"
    config.write_text(f'data_dir = "{tmp_path}/data"\n')
    fresh.write_text(f'data_dir = "{tmp_path}/fresh"\n')
    secret = ["--passphrase-file", str(tmp_path / "passphrase")]
    file = str(tmp_path / "one.backup")
    for command, code, said in (
        (["init", "--config", str(config)], 0, "context.json"),
        (["backup", "create", file, *secret, "--config", str(config)], 0, "master.key"),
        (["backup", "create", file, *secret, "--config", str(config)], 1, "is there already"),
        (["backup", "verify", file, *secret], 0, "at revision"),
        (["backup", "restore", file, *secret, "--config", str(config)], 1, "is not empty"),
        (["backup", "restore", file, *secret, "--config", str(fresh)], 0, "its nodes come back by themselves"),
        (["backup", "verify", str(config), *secret], 2, "this is no backup"),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "control_plane.main", *command, stdout=-1, stderr=-2
        )
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert (process.returncode, said in out.decode()) == (code, True), out.decode()
    assert (tmp_path / "fresh" / "admin.token").read_text() == (tmp_path / "data" / "admin.token").read_text()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("nonsense = 1", "nonsense"),
        ("heartbeat_interval_s = -1", "heartbeat_interval_s"),
        ("this is no TOML", "TOML"),
        ('http_listen = "nowhere"', "address:port"),
    ],
)
async def test_a_bad_configuration_ends_with_2(tmp_path: Path, config: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f'data_dir = "{tmp_path}/data"\n{config}\n' if "TOML" not in said else config)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "control_plane.main", "run", "--config", str(path)), stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert said in stderr.decode()
    assert "Traceback" not in stderr.decode()
