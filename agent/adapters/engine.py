"""Docker Engine, asked by docker-py in threads. Identity is in the labels; nothing without them is ever touched."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import docker

from agent.adapters import containers as shapes
from agent.adapters.containers import LABEL_NODE, LABEL_VOLUME, joined_sandbox
from agent.adapters.docker_client import Client, Clients
from agent.adapters.engine_errors import EngineError, explain
from agent.adapters.images import Images
from agent.adapters.networks import Networks, pid_of
from agent.adapters.orphans import Ledger, Orphans
from agent.adapters.sandboxes import Sandboxes
from agent.adapters.secret_files import SecretFiles
from agent.adapters.threads import Threads
from agent.core.model import Container, Identity, Replica
from agent.core.plan import ENDS_MAX, STARTS_MAX
from agent.core.sandboxes import Sandbox
from fleet.files import write_atomic

LOG_TAIL_LINES: Final = 20
EXEC_THREADS: Final = 4
EXEC_OUTPUT_BYTES_MAX: Final = 4096

T = TypeVar("T")


class Engine:
    """The containers and images that belong to this node. Each call has a time limit and raises EngineError."""

    def __init__(
        self,
        base_url: str,
        node: str,
        region: str,
        files: Path,
        secret_files: Path,
        ledger: Path,
        sandboxes: int = 0,
    ):
        """`files` is the directory below which containers' files are kept, `secret_files` the one for their secrets, in
        memory; in `ledger` is noted what was made, and `sandboxes` is how many networks are made ahead of time."""
        self._base_url = base_url
        self._node = node
        self._region = region
        self._files = files
        self._secrets = SecretFiles(secret_files)
        self._clients = Clients(base_url)
        self.orphans = Orphans(self._clients, node, Ledger(ledger))
        self.images = Images(self._clients, base_url)
        self.sandboxes = Sandboxes(self._clients, node, sandboxes, self.orphans)
        self._networks = Networks()
        self._starting = Threads("start", STARTS_MAX)
        self._ending = Threads("end", ENDS_MAX)
        self._looking = Threads("look", 2)
        self._asking = Threads("exec", EXEC_THREADS)

    async def observe(self) -> tuple[Container, ...]:
        """All containers that carry this node's label, whatever their state."""
        return await self._call(self._looking, self._observe)

    async def create_and_start(self, replica: Replica) -> Container:
        """A fresh container that runs, or did for a moment. What could not be started is removed again."""
        # Ports of the host are bound when a network is made; one that was made ahead of time has none.
        box = None if replica.host_ports else self.sandboxes.take()
        try:
            with self.sandboxes.waiting():
                return await self._call(self._starting, lambda client: self._create_and_start(client, replica, box))
        finally:
            if box is not None:
                self.sandboxes.done(box)

    async def start(self, container_id: str, replica: Replica) -> Container:
        """Starts a container that is there, with its network; one that runs already is fine. Its secrets are written
        again: after a reboot they are gone."""

        def call(client: Client) -> Container:
            self._secrets.write(_folder_of(replica.identity), replica.options.secret_files)
            sandbox_id = joined_sandbox(client.inspect_container(container_id))
            address = self._start_sandbox(client, sandbox_id) if sandbox_id else ""
            client.start(container_id)
            return self._seen(client, container_id, address)

        with self.sandboxes.waiting():
            return await self._call(self._starting, call)

    async def stop(self, container_id: str, timeout_s: float) -> None:
        """The container's stop signal, then a kill after `timeout_s`; one that does not run is fine."""
        await self._end(lambda client: client.stop(container_id, timeout=max(0, round(timeout_s))))

    async def remove(self, container_id: str, force: bool = False) -> None:
        """Removes a container that does not run, with its anonymous volumes; one that is gone is fine.

        By `force` whatever it does, and without its files: another container has taken its place and uses them.
        """

        def call(client: Client) -> None:
            identity = shapes.identity_of(client.inspect_container(container_id)["Config"]["Labels"] or {})
            client.remove_container(container_id, v=True, force=force)
            if identity is not None and not force:
                shutil.rmtree(self._folder(identity), ignore_errors=True)
                self._secrets.remove(_folder_of(identity))

        await self._end(call)
        self.sandboxes.changed()
        self.orphans.look()

    async def run_in(self, container_id: str, command: tuple[str, ...], timeout_s: float) -> str:
        """Why a command in the container did not end with exit code 0, in a sentence; empty when it did."""

        def call(client: Client) -> str:
            exec_id = client.exec_create(container_id, list(command))["Id"]
            stream: Any = client.exec_start(exec_id, socket=True)
            output = _read_out(stream, timeout_s)
            code = client.exec_inspect(exec_id)["ExitCode"]
            return "" if code == 0 else f"it ended with exit code {code}: {output.strip()[-200:]}".rstrip(": ")

        try:
            return await self._call(self._asking, call)
        except EngineError as error:
            return error.reason

    def listens(self, container_id: str, address: str, port: int) -> bool:
        """Whether a container does what it takes to be reached at this address and port; False if unknown."""
        return self._networks.listens(container_id, address, port)

    async def registry_settings(self) -> Mapping[str, Any]:
        """Which registries the engine takes for insecure (Docker Engine API, `RegistryConfig` of `GET /info`)."""
        info = await self._call(self._looking, lambda client: client.info())
        return info["RegistryConfig"] or {}

    async def log_tail(self, container_id: str) -> tuple[str, bool]:
        """The last lines of a container's log, and whether it was killed for using too much memory."""

        def call(client: Client) -> tuple[str, bool]:
            text = client.logs(container_id, tail=LOG_TAIL_LINES).decode("utf-8", "replace")
            return text, bool(client.inspect_container(container_id)["State"].get("OOMKilled"))

        return await self._call(self._looking, call)

    # ---- in threads

    async def _end(self, call: Callable[[Client], object]) -> None:
        try:
            await self._call(self._ending, call)
        except EngineError as error:
            if not error.missing:
                raise

    async def _call(self, threads: Threads, call: Callable[[Client], T]) -> T:
        try:
            return await threads.run(lambda: call(self._clients.get()))
        except Exception as error:
            raise explain(error, self._base_url) from error

    def _observe(self, client: Client) -> tuple[Container, ...]:
        listed = client.containers(all=True, filters={"label": f"{LABEL_NODE}={self._node}"})
        sandboxes = shapes.sandboxes_of(listed)
        found = [c for summary in listed if (c := shapes.container_of(summary, sandboxes)) is not None]
        joined = {c.id: (c.sandbox, c.ip) for c in found if c.running and not c.stranded}
        astray = self._networks.astray(lambda container_id: _pid_of(client, container_id), joined)
        return tuple(replace(c, stranded=True, ip="") if c.id in astray else c for c in found)

    def _start_sandbox(self, client: Client, sandbox_id: str) -> str:
        """The address of a sandbox that runs now. Raises EngineError when it is gone: what joins it is useless then."""
        try:
            client.start(sandbox_id)
            found = client.inspect_container(sandbox_id)
            if not self._networks.has_address(sandbox_id, pid_of(found), shapes.address_of(found)):
                client.restart(sandbox_id, timeout=0)
                found = client.inspect_container(sandbox_id)
        except docker.errors.NotFound as error:
            raise EngineError("the network namespace that it joined is gone") from error
        return shapes.address_of(found)

    def _create_and_start(self, client: Client, replica: Replica, box: Sandbox | None) -> Container:
        self._write_files(replica)
        for volume in replica.options.volumes:
            if volume.kind == "named":
                name = shapes.volume_name(replica.app, volume.source)
                client.create_volume(name, labels={LABEL_NODE: self._node, LABEL_VOLUME: replica.app})
        try:
            return self._attempt(client, replica, box)
        except docker.errors.APIError as error:
            if box is None or not _without_network(error, box):
                raise
        return self._attempt(client, replica, None)

    def _attempt(self, client: Client, replica: Replica, box: Sandbox | None) -> Container:
        secret_files = self._secrets.write(_folder_of(replica.identity), replica.options.secret_files)
        settings = shapes.host_settings(replica, self._folder(replica.identity), box.id if box else "", secret_files)
        container_id = client.create_container(
            image=self.images.name_of(replica.image),
            name=f"locci-{replica.app}-{replica.ordinal}-{replica.release}-{secrets.token_hex(3)}",
            entrypoint=list(replica.command) or None,
            command=list(replica.args) or None,
            environment=dict(replica.env)
            | dict(replica.options.secret_env)
            | shapes.facts_of(replica, self._node, self._region),
            labels=shapes.labels_of(replica, self._node),
            user=replica.options.user or None,
            working_dir=replica.options.working_dir or None,
            ports=[(port, "tcp") for port, _ in replica.host_ports] or None,
            host_config=client.create_host_config(**settings),
        )["Id"]
        self.orphans.note(container_id)
        try:
            client.start(container_id)
            return self._seen(client, container_id, box.ip if box else "")
        except docker.errors.APIError:
            with contextlib.suppress(docker.errors.APIError):
                client.remove_container(container_id, force=True, v=True)
            raise

    def _seen(self, client: Client, container_id: str, sandbox_ip: str) -> Container:
        found = client.inspect_container(container_id)
        self._networks.know(container_id, pid_of(found))
        return shapes.inspected(found, sandbox_ip)

    def _write_files(self, replica: Replica) -> None:
        """Raises EngineError when there is no space for them; what is there already needs none."""
        folder = self._folder(replica.identity)
        try:
            if replica.options.files:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for number, file in enumerate(replica.options.files):
                path, content = folder / str(number), file.content.encode()
                if not path.exists() or path.read_bytes() != content:
                    write_atomic(path, content)
                path.chmod(file.mode)
        except OSError as error:
            raise EngineError(f"{folder}: its files cannot be written: {error.strerror or error}") from error

    def _folder(self, identity: Identity) -> Path:
        """Where a replica's files are on the host."""
        return self._files / _folder_of(identity)


def _folder_of(identity: Identity) -> str:
    return f"{identity.app}-{identity.ordinal}-{identity.spec_hash.replace(':', '_')}"


def _pid_of(client: Client, container_id: str) -> int:
    try:
        return pid_of(client.inspect_container(container_id))
    except docker.errors.NotFound:
        return 0


def _without_network(error: docker.errors.APIError, box: Sandbox) -> bool:
    """Whether a container could not be started for want of its sandbox, which has died or was removed."""
    reason = str(error.explanation or error)
    return "cannot join network" in reason or box.id in reason


def _read_out(stream: Any, timeout_s: float) -> str:
    """What a command writes until it ends, cut short. Raises EngineError when that takes too long."""
    raw: socket.socket = getattr(stream, "_sock", stream)
    raw.settimeout(timeout_s)
    output = b""
    try:
        while chunk := raw.recv(4096):
            if len(output) < EXEC_OUTPUT_BYTES_MAX:
                output += chunk
    except TimeoutError as error:
        raise EngineError(f"it did not end within {timeout_s:g} s") from error
    finally:
        stream.close()
    return "".join(character for character in output.decode("utf-8", "replace") if character.isprintable())
