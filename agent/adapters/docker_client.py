"""docker-py's client with what it lacks, and one for each thread: they are not to be shared."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import docker
from docker import auth
from docker.types import CancellableStream

from agent.adapters.engine_errors import PullError, pull_failure
from agent.core.model import PullFailure
from agent.core.progress import Progress

CALL_TIMEOUT_S: Final = 30
PULL_SILENCE_S: Final = 60
PULL_DEADLINE_S: Final = 600.0
_TELL_S: Final = 5.0
_RETRYING: Final = "Retrying in"


class Client(docker.APIClient):
    """docker-py's client, with a pull that another thread can break off."""

    def has_image(self, image: str) -> bool:
        """Whether the image is on this host."""
        try:
            self.inspect_image(image)  # type: ignore[no-untyped-call]
        except docker.errors.ImageNotFound:
            return False
        return True

    def pull_stream(
        self, repository: str, digest: str, credentials: dict[str, str] | None = None
    ) -> CancellableStream[dict[str, Any]]:
        """Progress messages of a pull; closing the stream makes the engine give it up."""
        registry, _ = auth.resolve_repository_name(repository)
        header = auth.encode_header(credentials) if credentials else auth.get_config_header(self, registry)
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


class Clients:
    """A client for each thread that asks."""

    def __init__(self, base_url: str):
        self.base_url = base_url
        self._local = threading.local()

    def get(self) -> Client:
        """This thread's own client."""
        client: Client | None = getattr(self._local, "client", None)
        if client is None:
            client = Client(base_url=self.base_url, version="auto", timeout=CALL_TIMEOUT_S)
            self._local.client = client
        return client


class Pull:
    """A pull under way in a thread, which `cancel` ends from any other."""

    def __init__(
        self,
        image: str,
        login: tuple[str, str] | None = None,
        *,
        patient: bool = True,
        tell: Callable[[str], None] = lambda text: None,
    ):
        """`login` is user name and password at the image's registry; without it the host's own, if it has any.

        The engine tries a download that breaks off five times, for more than a minute; unless `patient`, the first time
        ends the pull. `tell` is called in the pull's thread with how far it is, every few seconds.
        """
        self.image = image
        self._login = login
        self._patient = patient
        self._tell = tell
        self.cancelled = threading.Event()
        self._stream: CancellableStream[dict[str, Any]] | None = None

    def run(self, client: Client) -> None:
        """Returns when the image is here. Raises what docker-py raises, or PullError."""
        if client.has_image(self.image):
            return
        repository, _, digest = self.image.partition("@")
        end = time.monotonic() + PULL_DEADLINE_S
        if not self.cancelled.is_set():
            credentials = {"username": self._login[0], "password": self._login[1]} if self._login else None
            self._stream = client.pull_stream(repository, digest, credentials)
        progress, told_at = Progress(), time.monotonic()
        for message in self._stream or ():
            if self.cancelled.is_set():
                raise PullError(PullFailure.OTHER, "given up")
            if "error" in message:
                raise PullError(pull_failure(message["error"]), message["error"].strip())
            progress.take(message)
            if time.monotonic() - told_at >= _TELL_S:
                told_at = time.monotonic()
                self._tell(str(progress))
            if not self._patient and message.get("status", "").startswith(_RETRYING):
                self.cancel()
                raise PullError(PullFailure.UNREACHABLE, "the download broke off")
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
