"""How the engine's words are understood."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
import requests

from agent.adapters.containers import LABEL_SANDBOX, container_of, host_settings, identity_of, labels_of, sandboxes_of
from agent.adapters.engine_errors import explain, pull_failure
from agent.adapters.engine_events import event_of
from agent.core.messages import ContainerDied, ContainerRemoved, EngineChanged, SandboxLost
from agent.core.model import ContainerState, PullFailure
from agent.core.options import ConfigFile, Options, Ulimit, Volume
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


def test_a_container_has_the_address_of_the_sandbox_that_it_joins() -> None:
    joined = summary(HostConfig={"NetworkMode": "container:s1"}, NetworkSettings={"Networks": {}})
    box = summary(Id="s1", Labels={LABEL_SANDBOX: "1"})
    alive = container_of(joined, sandboxes_of([joined, box]))
    assert alive is not None
    assert (alive.ip, alive.stranded) == ("172.17.0.2", False)
    for listed in ([joined], [joined, box | {"State": "exited"}]):
        stranded = container_of(joined, sandboxes_of(listed))
        assert stranded is not None
        assert (stranded.stranded, stranded.running) == (True, True)


def test_the_death_of_a_sandbox_is_a_reason_to_look() -> None:
    actor = {"ID": "s1", "Attributes": {LABEL_SANDBOX: "1"}}
    assert event_of({"Actor": actor, "timeNano": 1, "Action": "die"}) == SandboxLost("s1")
    assert event_of({"Actor": actor, "timeNano": 1, "Action": "destroy"}) is None


def test_options_become_settings_of_the_engine() -> None:
    options = Options(
        volumes=(
            Volume("/data", "named", "db"),
            Volume("/etc/tls", "host", "/srv/tls", read_only=True),
            Volume("/tmp", "tmpfs", size_bytes=4096),
        ),
        files=(ConfigFile("/etc/app.conf", "x"),),
        add_capabilities=("NET_ADMIN",),
        drop_all_capabilities=True,
        read_only_root=True,
        ulimits=(Ulimit("nofile", 10, 20),),
    )
    settings = host_settings(replace(replica(), options=options), Path("/files/web"), "s1")
    assert settings["binds"] == [
        "locci-web-db:/data:rw",
        "/srv/tls:/etc/tls:ro",
        "/files/web/0:/etc/app.conf:ro",
    ]
    assert settings["tmpfs"] == {"/tmp": "rw,nosuid,nodev,size=4096"}
    assert settings["cap_add"] == ["NET_ADMIN"]
    assert settings["read_only"] is True
    assert settings["network_mode"] == "container:s1"
    assert "cap_add" not in host_settings(replace(replica(), options=Options(privileged=True)))
