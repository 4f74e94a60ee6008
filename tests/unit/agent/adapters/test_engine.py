"""How the engine's words are understood."""

from __future__ import annotations

from typing import Any

import docker
import pytest
import requests

from agent.adapters.containers import container_of, host_settings, identity_of, labels_of
from agent.adapters.engine_errors import explain, pull_failure
from agent.adapters.engine_events import event_of
from agent.core.messages import ContainerDied, ContainerRemoved, EngineChanged
from agent.core.model import ContainerState, PullFailure
from tests.unit.agent.play import replica


def summary(**more: Any) -> dict[str, Any]:
    """A container as a listing shows it."""
    return {
        "Id": "c1",
        "Labels": labels_of(replica(), "eu-1"),
        "State": "running",
        "Status": "Up 3 seconds",
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}},
        **more,
    }


def test_a_running_container_is_recognised_by_its_labels() -> None:
    container = container_of(summary())
    assert container is not None
    assert container.identity == replica().identity
    assert container.resource == replica().resource
    assert (container.state, container.ip) == (ContainerState.RUNNING, "172.17.0.2")


def test_one_that_ended_has_its_exit_code() -> None:
    container = container_of(summary(State="exited", Status="Exited (137) 5 minutes ago"))
    assert container is not None
    assert (container.state, container.exit_code, container.ip) == (ContainerState.ENDED, 137, "")


@pytest.mark.parametrize("labels", [None, {}, {"dev.locci.app": "web"}])
def test_one_without_our_labels_is_foreign(labels: dict[str, str] | None) -> None:
    assert container_of(summary(Labels=labels)) is None


def test_one_with_a_nonsensical_ordinal_is_foreign() -> None:
    assert identity_of(labels_of(replica(), "eu-1") | {"dev.locci.ordinal": "-1"}) is None


def test_limits_are_set_only_where_they_are_wanted() -> None:
    settings = host_settings(replica())
    assert settings["pids_limit"] == 1024
    assert "mem_limit" not in settings
    assert settings["restart_policy"] == {"Name": "no"}


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("manifest for r/web@sha256:0 not found: manifest unknown: manifest unknown", PullFailure.NOT_FOUND),
        ("pull access denied for web, repository does not exist or may require 'docker login'", PullFailure.DENIED),
        ("Get https://r/v2/: unauthorized: authentication required", PullFailure.DENIED),
        ("Get http://r:5000/v2/: dial tcp 10.0.0.1:5000: connect: connection refused", PullFailure.UNREACHABLE),
        ("Get https://r/v2/: dial tcp: lookup r: no such host", PullFailure.UNREACHABLE),
        ("Get https://r/v2/: http: server gave HTTP response to HTTPS client", PullFailure.UNREACHABLE),
        ("Get https://r/v2/: context deadline exceeded", PullFailure.TIMED_OUT),
        ("write /var/lib/docker/tmp/GetImageBlob1: no space left on device", PullFailure.NO_SPACE),
        ("something new", PullFailure.OTHER),
    ],
)
def test_why_a_pull_failed(said: str, failure: PullFailure) -> None:
    assert pull_failure(said) is failure


def test_an_engine_that_cannot_be_reached_is_lost() -> None:
    cause = requests.exceptions.ConnectionError(
        "Connection aborted.", ConnectionRefusedError(111, "Connection refused")
    )
    error = explain(cause, "unix:///d.sock")
    assert error.lost
    assert error.reason == "Docker Engine at unix:///d.sock cannot be reached: connection refused"


def test_an_answer_of_the_engine_is_no_loss() -> None:
    error = explain(docker.errors.NotFound("404", explanation="No such container: c1"), "unix:///d.sock")
    assert (error.lost, error.missing, error.reason) == (False, True, "No such container: c1")


def test_events_are_translated() -> None:
    actor = {"ID": "c1", "Attributes": labels_of(replica(), "eu-1") | {"exitCode": "3"}}
    message = {"Actor": actor, "timeNano": 1_500_000_000, "Action": "die"}
    assert event_of(message) == ContainerDied("c1", 3, 1.5)
    assert event_of(message | {"Action": "destroy"}) == ContainerRemoved("c1")
    assert event_of(message | {"Action": "start"}) == EngineChanged(replica().identity)
    assert event_of(message | {"Action": "rename"}) is None
