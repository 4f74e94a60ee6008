"""Kills every container of this node at once, as a loss of power does."""

from __future__ import annotations

import contextlib

import docker

from agent.adapters.containers import LABEL_NODE
from agent.adapters.docker_client import CALL_TIMEOUT_S, Client
from fleet.errors import Code, LocciError


def kill_containers(docker_host: str, node: str) -> None:
    """SIGKILL to each; one that ends meanwhile is fine. Raises UNAVAILABLE when the engine does not answer.
    Blocking."""
    try:
        with contextlib.closing(Client(base_url=docker_host, version="auto", timeout=CALL_TIMEOUT_S)) as client:
            for found in client.containers(filters={"label": f"{LABEL_NODE}={node}"}):
                with contextlib.suppress(docker.errors.APIError):
                    client.kill(found["Id"])
    except (docker.errors.DockerException, OSError) as error:
        message = f"the containers of this node could not be killed: {error}"
        raise LocciError(Code.UNAVAILABLE, "CONTAINERS_NOT_KILLED", message) from error
