"""The images on this host: pulled from registries and their mirrors, removed when nobody needs them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import requests

from agent.adapters.docker_client import Client, Clients, Pull
from agent.adapters.engine_errors import EngineError, PullError, explain, pull_failure
from agent.adapters.threads import Threads
from agent.core.mirrors import Mirrors, host_of
from agent.core.model import PullFailure
from agent.core.plan import PULLS_MAX

T = TypeVar("T")

_KNOWN_MAX: Final = 10_000


class Images:
    """Each call has a time limit and raises EngineError or PullError. Images are named by digest, as their own registry
    calls them; what came from a mirror is known to the engine by the mirror's name for it."""

    def __init__(self, clients: Clients, base_url: str):
        self._clients = clients
        self._base_url = base_url
        self.logins: Mapping[str, tuple[str, str]] = {}
        """By host of a registry, user name and password."""
        self.mirrors_of: Callable[[str], Sequence[str]] = lambda image: ()
        """What an image is called at mirrors."""
        self.passed_over: Callable[[str, str], None] = lambda mirror, reason: None
        """Called with a mirror that failed and is passed over for a while, and why."""
        self.progressed: Callable[[str, str], None] = lambda image, text: None
        """Called from any thread with an image that is being pulled, and how far that is."""
        self._mirrors = Mirrors()
        self._names: dict[str, str] = {}
        self._pulling = Threads("pull", PULLS_MAX)
        self._looking = Threads("images", 2)

    def name_of(self, image: str) -> str:
        """What the engine calls an image that is here."""
        return self._names.get(image, image)

    def login(self, host: str) -> tuple[str, str] | None:
        """User name and password for a host; None where the fleet has none."""
        return self.logins.get(host)

    def sources(self, image: str) -> list[str]:
        """The names by which to ask for an image, in order."""
        return self._mirrors.sources(image, self.mirrors_of(image), time.monotonic())

    async def pull(self, image: str) -> str:
        """Brings an image here unless it is; its name at the engine. Raises PullError; cancelling gives the pull up."""
        name = await self._here(image) or await self._fetch(image)
        if len(self._names) >= _KNOWN_MAX:
            self._names.clear()
        self._names[image] = name
        return name

    async def in_use(self) -> frozenset[str]:
        """The images that containers on this host were made of, as their makers named them."""
        listed = await self._call(lambda client: client.containers(all=True))
        return frozenset(summary["Image"] for summary in listed)

    async def remove(self, name: str) -> None:
        """Removes an image; one that is gone is fine. The engine refuses one that a container needs."""
        try:
            await self._call(lambda client: client.remove_image(name))
        except EngineError as error:
            if not error.missing:
                raise

    async def _here(self, image: str) -> str:
        """The name by which the engine has it, whatever mirror it came from; empty when it has not."""
        rest = image.partition("/")[2]

        def call(client: Client) -> str:
            if client.has_image(image):
                return image
            held = (name for found in client.images() for name in found["RepoDigests"] or ())
            return next((name for name in held if name.partition("/")[2] == rest), "")

        try:
            return await self._call(call)
        except EngineError as error:
            raise PullError(pull_failure(error.reason), error.reason, lost=error.lost) from error

    async def _fetch(self, image: str) -> str:
        """From the first source that gives it. What the registry itself says counts, and what mirrors say is added."""
        own: PullError | None = None
        said: list[str] = []
        sources = self.sources(image)
        for source in sources:
            host = host_of(source)
            try:
                await self._fetch_from(source, image, patient=source == sources[-1])
            except PullError as error:
                if error.lost or error.failure is PullFailure.NO_SPACE:
                    raise
                if source == image:
                    own = error
                    continue
                said.append(f"mirror {host}: {error.detail}")
                if self._mirrors.failed(host, error.failure, time.monotonic()):
                    self.passed_over(host, error.detail)
            else:
                self._mirrors.answered(host)
                return source
        assert own is not None
        raise PullError(own.failure, "; ".join([own.detail, *said])) from own

    async def _fetch_from(self, source: str, image: str, patient: bool) -> None:
        pull = Pull(
            source, self.login(host_of(source)), patient=patient, tell=lambda text: self.progressed(image, text)
        )
        try:
            await self._pulling.run(lambda: pull.run(self._clients.get()))
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

    async def _call(self, call: Callable[[Client], T]) -> T:
        try:
            return await self._looking.run(lambda: call(self._clients.get()))
        except Exception as error:
            raise explain(error, self._base_url) from error
