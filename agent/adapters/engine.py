"""Docker Engine, asked by docker-py in threads. Identity is in the labels; nothing without them is ever touched."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import docker
import requests
from docker import auth
from docker.types import CancellableStream, LogConfig

from agent.adapters.engine_errors import EngineError, PullError, explain, pull_failure
from agent.adapters.threads import Threads
from agent.core.model import Container, ContainerState, Identity, PullFailure, Replica
from agent.core.plan import ENDS_MAX, PULLS_MAX, STARTS_MAX

LABEL_APP: Final = "dev.locci.app"
LABEL_ORDINAL: Final = "dev.locci.ordinal"
LABEL_RELEASE: Final = "dev.locci.release"
LABEL_SPEC_HASH: Final = "dev.locci.spec-hash"
LABEL_RESOURCE: Final = "dev.locci.resource"
LABEL_NODE: Final = "dev.locci.node"

CAPABILITIES: Final = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")
PIDS_DEFAULT: Final = 1024
LOG_TAIL_LINES: Final = 20
CALL_TIMEOUT_S: Final = 30
PULL_SILENCE_S: Final = 60
PULL_DEADLINE_S: Final = 600.0

_RUNNING: Final = frozenset({"running", "paused", "restarting"})
_EXIT_CODE = re.compile(r"\((\d+)\)")

T = TypeVar("T")


class Client(docker.APIClient):
    """docker-py's client, with a pull that another thread can break off."""

    def has_image(self, image: str) -> bool:
        """Whether the image is on this host."""
        try:
            self.inspect_image(image)  # type: ignore[no-untyped-call]
        except docker.errors.ImageNotFound:
            return False
        return True

    def pull_stream(self, repository: str, digest: str) -> CancellableStream[dict[str, Any]]:
        """Progress messages of a pull; closing the stream makes the engine give it up."""
        registry, _ = auth.resolve_repository_name(repository)
        header = auth.get_config_header(self, registry)
        wire: Any = self  # what docker-py's own methods are made of has no type annotations
        response = wire._post(
            wire._url("/images/create"),
            params={"fromImage": repository, "tag": digest},
            headers={"X-Registry-Auth": header} if header else {},
            stream=True,
            timeout=(5, PULL_SILENCE_S),
        )
        wire._raise_for_status(response)
        return CancellableStream(wire._stream_helper(response, decode=True), response)


class Pull:
    """A pull under way in a thread, which `cancel` ends from any other."""

    def __init__(self, image: str):
        self.image = image
        self.cancelled = threading.Event()
        self._stream: CancellableStream[dict[str, Any]] | None = None

    def run(self, client: Client) -> None:
        """Returns when the image is here. Raises what docker-py raises, or PullError."""
        if client.has_image(self.image):
            return
        repository, _, digest = self.image.partition("@")
        end = time.monotonic() + PULL_DEADLINE_S
        if not self.cancelled.is_set():
            self._stream = client.pull_stream(repository, digest)
        for message in self._stream or ():
            if self.cancelled.is_set():
                raise PullError(PullFailure.OTHER, "given up")
            if "error" in message:
                raise PullError(pull_failure(message["error"]), message["error"].strip())
            if time.monotonic() > end:
                self.cancel()
                raise PullError(PullFailure.TIMED_OUT, f"more than {PULL_DEADLINE_S:g} s")
        if not client.has_image(self.image):
            raise PullError(PullFailure.OTHER, "the engine ended the pull without an image and without a reason")

    def cancel(self) -> None:
        """Gives the pull up; safe from any thread, at any time."""
        self.cancelled.set()
        stream = self._stream
        # A stream that has just ended by itself has no socket left to close.
        with contextlib.suppress(AttributeError, OSError, docker.errors.DockerException):
            if stream is not None:
                stream.close()


class Engine:
    """The containers and images that belong to this node. Each call has a time limit and raises EngineError."""

    def __init__(self, base_url: str, node: str, region: str):
        self._base_url = base_url
        self._node = node
        self._region = region
        self._local = threading.local()
        self._starting = Threads("start", STARTS_MAX)
        self._ending = Threads("end", ENDS_MAX)
        self._pulling = Threads("pull", PULLS_MAX)
        self._looking = Threads("look", 2)

    async def observe(self) -> tuple[Container, ...]:
        """All containers that carry this node's label, whatever their state."""
        filters = {"label": f"{LABEL_NODE}={self._node}"}
        listed = await self._call(self._looking, lambda client: client.containers(all=True, filters=filters))
        found = (container_of(summary) for summary in listed)
        return tuple(container for container in found if container is not None)

    async def pull(self, image: str) -> None:
        """Brings an image here unless it is. Raises PullError; cancelling gives the pull up."""
        pull = Pull(image)
        try:
            await self._pulling.run(lambda: pull.run(self._client()))
        except asyncio.CancelledError:
            await self._looking.run(pull.cancel)
            raise
        except PullError:
            raise
        except Exception as error:
            explained = explain(error, self._base_url)
            timed_out = isinstance(error, requests.exceptions.ReadTimeout)
            failure = PullFailure.TIMED_OUT if timed_out else pull_failure(explained.reason)
            raise PullError(failure, explained.reason, lost=explained.lost and not timed_out) from error

    async def create_and_start(self, replica: Replica) -> Container:
        """A fresh container that runs, or did for a moment. What could not be started is removed again."""
        return await self._call(self._starting, lambda client: self._create_and_start(client, replica))

    async def start(self, container_id: str) -> Container:
        """Starts a container that is there; one that runs already is fine."""

        def call(client: Client) -> Container:
            client.start(container_id)
            return _inspected(client, container_id)

        return await self._call(self._starting, call)

    async def stop(self, container_id: str, timeout_s: float) -> None:
        """The container's stop signal, then a kill after `timeout_s`; one that does not run is fine."""
        await self._end(lambda client: client.stop(container_id, timeout=max(0, round(timeout_s))))

    async def remove(self, container_id: str) -> None:
        """Removes a container that does not run, with its anonymous volumes; one that is gone is fine."""
        await self._end(lambda client: client.remove_container(container_id, v=True))

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
            return await threads.run(lambda: call(self._client()))
        except Exception as error:
            raise explain(error, self._base_url) from error

    def _client(self) -> Client:
        """This thread's own client: docker-py's are not to be shared."""
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            client = Client(base_url=self._base_url, version="auto", timeout=CALL_TIMEOUT_S)
            self._local.client = client
        return client

    def _create_and_start(self, client: Client, replica: Replica) -> Container:
        container_id = client.create_container(
            image=replica.image,
            name=f"locci-{replica.app}-{replica.ordinal}-{replica.release}-{secrets.token_hex(3)}",
            entrypoint=list(replica.command) or None,
            command=list(replica.args) or None,
            environment=dict(replica.env) | facts_of(replica, self._node, self._region),
            labels=labels_of(replica, self._node),
            host_config=client.create_host_config(**host_settings(replica)),
        )["Id"]
        try:
            client.start(container_id)
            return _inspected(client, container_id)
        except docker.errors.APIError:
            with contextlib.suppress(docker.errors.APIError):
                client.remove_container(container_id, force=True, v=True)
            raise


def labels_of(replica: Replica, node: str) -> dict[str, str]:
    """What makes a container recognisable."""
    return {
        LABEL_APP: replica.app,
        LABEL_ORDINAL: str(replica.ordinal),
        LABEL_RELEASE: str(replica.release),
        LABEL_SPEC_HASH: replica.spec_hash,
        LABEL_RESOURCE: replica.resource,
        LABEL_NODE: node,
    }


def facts_of(replica: Replica, node: str, region: str) -> dict[str, str]:
    """What a container is told of its place, as environment variables; a manifest cannot say otherwise."""
    return {
        "LOCCI_APP": replica.app,
        "LOCCI_RELEASE": str(replica.release),
        "LOCCI_REPLICA": str(replica.ordinal),
        "LOCCI_NODE": node,
        "LOCCI_REGION": region,
    }


def host_settings(replica: Replica) -> dict[str, Any]:
    """Limits and privileges. The engine restarts nothing: the agent does, with its own back-off."""
    settings: dict[str, Any] = {
        "restart_policy": {"Name": "no"},
        "security_opt": ["no-new-privileges"],
        "cap_drop": ["ALL"],
        "cap_add": list(CAPABILITIES),
        "pids_limit": replica.pids or PIDS_DEFAULT,
        "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
    }
    if replica.cpu_millis:
        settings["nano_cpus"] = replica.cpu_millis * 1_000_000
    if replica.memory_bytes:
        settings["mem_limit"] = replica.memory_bytes
    return settings


def identity_of(labels: Mapping[str, str]) -> Identity | None:
    """Which replica a container is; None when its labels do not say so, which makes it a foreign one."""
    app, ordinal, spec_hash = (labels.get(key, "") for key in (LABEL_APP, LABEL_ORDINAL, LABEL_SPEC_HASH))
    return Identity(app, int(ordinal), spec_hash) if app and spec_hash and ordinal.isdecimal() else None


def container_of(summary: Mapping[str, Any]) -> Container | None:
    """A container as a listing shows it; None for a foreign one."""
    identity = identity_of(summary["Labels"] or {})
    if identity is None:
        return None
    networks = (summary.get("NetworkSettings") or {}).get("Networks") or {}
    exit_code = _EXIT_CODE.search(summary.get("Status", ""))
    state = _state(summary["State"])
    return Container(
        id=summary["Id"],
        identity=identity,
        resource=summary["Labels"].get(LABEL_RESOURCE, ""),
        state=state,
        ip=next(_addresses(networks), "") if state is ContainerState.RUNNING else "",
        exit_code=int(exit_code[1]) if exit_code and state is ContainerState.ENDED else 0,
    )


def _inspected(client: Client, container_id: str) -> Container:
    found = client.inspect_container(container_id)
    labels, state = found["Config"]["Labels"], found["State"]
    identity = identity_of(labels)
    assert identity is not None
    return Container(
        id=found["Id"],
        identity=identity,
        resource=labels.get(LABEL_RESOURCE, ""),
        state=_state(state["Status"]),
        ip=next(_addresses(found["NetworkSettings"]["Networks"]), ""),
        exit_code=state["ExitCode"],
        started_wall_s=_wall_s(state["StartedAt"]),
    )


def _state(word: str) -> ContainerState:
    if word in _RUNNING:
        return ContainerState.RUNNING
    return ContainerState.CREATED if word == "created" else ContainerState.ENDED


def _addresses(networks: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    return (address for _, network in sorted(networks.items()) if (address := network.get("IPAddress", "")))


def _wall_s(text: str) -> float:
    """Seconds since 1970 of the engine's RFC 3339 time, which has nanoseconds."""
    return datetime.datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()
