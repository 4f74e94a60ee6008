"""A real ACME authority of which nobody trusts what it issues: Debian's pebble."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Final

from tests.fakes.authority import Authority
from tests.fakes.ports import free_port

_START_S: Final = 20.0


class Pebble:
    """The authority: asks the DNS server at `dns_port` of loopback, and web servers at `http_port`."""

    def __init__(self, path: Path, dns_port: int, http_port: int = 5002, bound_to: dict[str, str] | None = None):
        """With `bound_to` accounts must be bound to one of these: HMAC keys by their identifiers."""
        self._bound_to = bound_to or {}
        self.port = free_port()
        self.directory = f"https://127.0.0.1:{self.port}/dir"
        self.ca_file = path / "pebble-ca.pem"
        self._path = path
        self._dns_port = dns_port
        self._http_port = http_port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Listens; it knows nothing of what it issued before."""
        authority = Authority()
        key_pem, chain_pem = authority.server()
        (self._path / "pebble.pem").write_bytes(chain_pem)
        (self._path / "pebble.key").write_bytes(key_pem)
        self.ca_file.write_text(authority.pem)
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{free_port()}",
            "certificate": str(self._path / "pebble.pem"),
            "privateKey": str(self._path / "pebble.key"),
            "httpPort": self._http_port,
            "tlsPort": 5001,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": bool(self._bound_to),
            "externalAccountMACKeys": self._bound_to,
        }
        (self._path / "pebble.json").write_text(json.dumps({"pebble": config}))
        command = [shutil.which("pebble") or "pebble", "-config", str(self._path / "pebble.json")]
        with (self._path / "pebble.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *("-dnsserver", f"127.0.0.1:{self._dns_port}"),
                env=os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20"},
                stdout=log,
                stderr=log,
            )

        async with asyncio.timeout(_START_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()


class EveryNameHere:
    """A DNS server that says of every name that it is at loopback: pebble's own companion."""

    def __init__(self, path: Path):
        self.port = free_port()
        self._path = path
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Listens soon; pebble asks again until it does."""
        command = [shutil.which("pebble-challtestsrv") or "pebble-challtestsrv", "-dns01", f"127.0.0.1:{self.port}"]
        off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""]
        manage = ["-management", f"127.0.0.1:{free_port()}"]
        with (self._path / "challtestsrv.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*command, *off, *manage, stdout=log, stderr=log)

    async def stop(self) -> None:
        """Gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
