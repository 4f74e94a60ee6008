"""The steps of the demo. Each does something to the fleet with the tools of its users, and looks at what came of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Final

from lab.api import ApiClient
from lab.demo_report import RollbackFigures, RolloutFigures, failures, rollout_figures
from lab.drill import DrillPlan, nearest_region, record_drill, run_drill
from lab.example import BROKEN_VERSION, example_folder, push_example
from lab.layout import Layout
from lab.machine import clean_environment
from lab.observers import ClientLoop
from lab.preflight import own_program
from lab.samples import Sample
from lab.shell import command_on
from lab.timeline import DrillReport
from lab.topology import Host, Topology

APP: Final = "hello"
HOSTNAME: Final = "hello.lab.test"
_ROLLOUT_TIMEOUT_S: Final = 60.0
_SETTLE_TIMEOUT_S: Final = 10.0
_COMMAND_TIMEOUT_S: Final = 20.0
_UPDATE_REQUESTS_PER_S: Final = 30.0

_FINAL_STATES: Final = frozenset(
    f"ROLLOUT_STATE_{state}" for state in ("SUCCEEDED", "FAILED", "ROLLED_BACK", "SUPERSEDED", "ABORTED")
)


class StepFailedError(Exception):
    """A step did not do what it should; the text says what was seen instead."""


class Story:
    """The demo's fleet, and the steps; each step returns what was seen, or raises StepFailedError or LocciError."""

    def __init__(self, topology: Topology, layout: Layout) -> None:
        self.topology = topology
        self.layout = layout
        self.api = ApiClient.from_context(layout.context)
        self.rollout: RolloutFigures | None = None
        self.rollback: RollbackFigures | None = None
        self.drill: DrillReport | None = None

    def push_images(self) -> str:
        """Builds three versions of the example and pushes them."""
        images = push_example(self.topology, self.layout)
        return ", ".join(image.rpartition("/")[2] for image in images) + " pushed to the lab's registry"

    def agents_joined(self) -> str:
        """Every node is ready."""
        nodes = list(self.api.pages("/v1/nodes", "nodes"))
        ready = [node for node in nodes if node.get("condition") == "NODE_CONDITION_READY"]
        expect(len(ready) == len(self.topology.nodes), f"{len(ready)} of {len(self.topology.nodes)} nodes are ready")
        return ", ".join(f"{_last(node['name'])} in {_last(node['region'])}" for node in ready)

    def deploy(self) -> str:
        """Applies release 1; every replica gets healthy."""
        rollout = self._wait_rollout(self._apply(1))
        state = rollout.get("state", "")
        expect(state == "ROLLOUT_STATE_SUCCEEDED", f"the rollout ended {_word(state)}: {rollout.get('reason', '')}")
        replicas = list(self.api.pages(f"/v1/apps/{APP}/replicas", "replicas"))
        healthy = sorted(_last(replica["node"]) for replica in replicas if replica.get("healthy"))
        expect(len(healthy) == len(self.topology.regions), f"healthy replicas on {', '.join(healthy) or 'no node'}")
        return f"healthy on {', '.join(healthy)}"

    def dns_by_place(self) -> str:
        """Clients of each region get an address of their own region from their resolver."""

        def wrong() -> dict[str, str]:
            found = {client.region: self._dig(client) for client in self.topology.clients}
            return {
                region: address
                for region, address in found.items()
                if address not in [host.ipv4 for host in self.topology.nodes if host.region == region]
            }

        self._settle(lambda: not wrong(), lambda: f"clients get addresses of other regions: {wrong()}")
        places = {region.id: region.display_name for region in self.topology.regions}
        answers = [f"{client.region} ({places[client.region]}) {self._dig(client)}" for client in self.topology.clients]
        return ", ".join(answers)

    def cache(self) -> str:
        """The first request is a miss, the second a hit, and the nearest region answers."""
        client = self.topology.clients[0]
        first, second = (self._get(client, "/cached/") for _ in range(2))
        for answer in (first, second):
            region = answer["body"].get("region")
            expect(region == client.region, f"{client.name} was served from {region!r}")
        expect("hit" not in _parameters(first["cache"]), f"first request: Cache-Status: {first['cache']}")
        expect("hit" in _parameters(second["cache"]), f"second request: Cache-Status: {second['cache']}")
        return f"from {client.region}: first `{first['cache']}`, second `{second['cache']}`"

    def rolling_update(self) -> str:
        """Applies release 2 while clients of every region ask; not one request fails."""
        began = time.monotonic()
        with ExitStack() as stack:
            loops = self._clients(stack)
            rollout = self._wait_rollout(self._apply(2))
            seconds = time.monotonic() - began
            self._settle(
                lambda: all(_versions(loop.samples()[-3:]) == {"2"} for loop in loops),
                lambda: "clients still get version 1 after the rollout",
            )
            for loop in loops:
                loop.stop()
            took = time.monotonic() - began
            samples = [sample for loop in loops for sample in loop.samples()]
        self.rollout = rollout_figures(samples, seconds)
        state = rollout.get("state", "")
        expect(state == "ROLLOUT_STATE_SUCCEEDED", f"the rollout ended {_word(state)}: {rollout.get('reason', '')}")
        expect(_versions(samples) == {"1", "2"}, f"clients saw versions {sorted(_versions(samples))}")
        figures = f"{len(samples)} requests in {took:.1f} s ({len(samples) / took:.0f} a second)"
        expect(not self.rollout.failed, f"{figures}, {self.rollout.failed} failed: {failures(samples)}")
        return f"{figures}, none failed"

    def bad_release(self) -> str:
        """Applies release 3, which never gets healthy; it is taken back by itself and clients see nothing of it."""
        began = time.monotonic()
        with ExitStack() as stack:
            loops = self._clients(stack)
            rollout = self._wait_rollout(self._apply(BROKEN_VERSION))
            seconds = time.monotonic() - began
            for loop in loops:
                loop.stop()
            samples = [sample for loop in loops for sample in loop.samples()]
        state, reason = rollout.get("state", ""), str(rollout.get("reason", "")).splitlines()[:1]
        automatic = state == "ROLLOUT_STATE_ROLLED_BACK" and bool(rollout.get("automatic_rollback"))
        self.rollback = RollbackFigures(automatic, round(seconds, 2))
        expect(automatic, f"the rollout ended {_word(state)}: {' '.join(reason)}")
        failed = sum(not sample.ok for sample in samples)
        expect(not failed, f"{failed} of {len(samples)} requests failed: {failures(samples)}")
        expect(_versions(samples) == {"2"}, f"clients saw versions {sorted(_versions(samples))}")
        return f"rolled back by itself: {' '.join(reason)}; {len(samples)} requests, none failed"

    def region_lost(self) -> str:
        """Cuts off the region nearest to a client; the fleet serves it from elsewhere, and comes back."""
        client = self.topology.clients[0]
        with ClientLoop(self.topology, client, HOSTNAME) as loop:
            loop.wait(lambda samples: any(sample.ok for sample in samples), timeout_s=5.0)
            nearest = nearest_region(loop.samples())
        expect(nearest == client.region, f"{client.name} is served from {nearest or 'nowhere'}")
        plan = DrillPlan(nearest, HOSTNAME, client)
        self.drill = run_drill(plan, self.topology, self.layout, self.api)
        record_drill(plan, self.drill, self.api)
        expect(self.drill.passed, "; ".join(self.drill.failures))
        stages = ", ".join(f"{mark.stage} {mark.after_s:.2f} s" for mark in self.drill.marks[1:])
        return f"{nearest} cut off: {stages}; {self.drill.failed} of {self.drill.requests} requests failed"

    def _clients(self, stack: ExitStack) -> list[ClientLoop]:
        """A client loop in every region, each served already."""
        clients = self.topology.clients
        rate = _UPDATE_REQUESTS_PER_S / len(clients)
        loops = [stack.enter_context(ClientLoop(self.topology, client, HOSTNAME, rate=rate)) for client in clients]
        for loop in loops:
            served = loop.wait(lambda samples: any(sample.ok for sample in samples), timeout_s=_SETTLE_TIMEOUT_S)
            expect(served, f"{loop.host.name} is not served: {failures(loop.samples())}")
        return loops

    def _apply(self, version: int) -> str:
        """Applies the example's manifest with the image of a version, with the command line; the rollout's name."""
        manifest = (example_folder() / "app.yaml").read_text()
        path = self.layout.root / f"hello-{version}.yaml"
        path.write_text(re.sub(r"^(image: \S+):\d+$", rf"\g<1>:{version}", manifest, flags=re.MULTILINE))
        self.locci("apply", "-f", str(path))
        rollout = str(self.api.call("GET", f"/v1/apps/{APP}").get("rollout", ""))
        expect(bool(rollout), f"applying version {version} began no rollout")
        return rollout

    def locci(self, *arguments: str) -> str:
        """What the command line prints; StepFailedError with its words when it fails."""
        environment = clean_environment({"LOCCI_CONTEXT": str(self.layout.context), "NO_COLOR": "1"})
        command = [own_program("locci"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, env=environment, check=False
        )
        expect(
            done.returncode == 0, f"`locci {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()}"
        )
        return done.stdout

    def _wait_rollout(self, name: str) -> Mapping[str, Any]:
        """The rollout in its final state; StepFailedError when it does not get there."""
        deadline = time.monotonic() + _ROLLOUT_TIMEOUT_S
        while True:
            rollout = self.api.call("GET", f"/v1/{name}")
            if rollout.get("state") in _FINAL_STATES:
                return rollout
            if time.monotonic() > deadline:
                where = f"{_word(rollout.get('state', ''))} after {_ROLLOUT_TIMEOUT_S:g} s"
                raise StepFailedError(f"{name} is {where}: {rollout.get('reason', '')}")
            time.sleep(0.1)

    def _settle(self, holds: Callable[[], bool], otherwise: Callable[[], str]) -> None:
        deadline = time.monotonic() + _SETTLE_TIMEOUT_S
        while not holds():
            expect(time.monotonic() < deadline, otherwise())
            time.sleep(0.1)

    def on(self, host: Host, *argv: str) -> str:
        """What a command on a host prints; StepFailedError with its words when it fails."""
        command = command_on(self.topology, self.layout, host, argv)
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, env=clean_environment(), check=False
        )
        said = (done.stderr or done.stdout).strip()
        expect(done.returncode == 0, f"`{' '.join(argv)}` on {host.name} ended with {done.returncode}: {said}")
        return done.stdout

    def _dig(self, client: Host) -> str:
        return self.on(client, "dig", "+short", "+time=2", "+tries=1", HOSTNAME, "A").strip()

    def _get(self, client: Host, path: str) -> dict[str, Any]:
        """Cache-Status and JSON body of a response, as curl on the client's host gets it."""
        url = f"http://{HOSTNAME}{path}"
        text = self.on(client, "curl", "--silent", "--show-error", "--fail", "--include", "--max-time", "5", url)
        head, _, body = text.replace("\r\n", "\n").partition("\n\n")
        lines = [line.partition(":") for line in head.splitlines()[1:]]
        headers = {name.strip().lower(): value.strip() for name, _, value in lines}
        try:
            return {"cache": headers.get("cache-status", ""), "body": json.loads(body)}
        except ValueError as error:
            raise StepFailedError(f"{url} is not JSON: {body[:200]!r}") from error


def expect(holds: bool, otherwise: str) -> None:
    """Raises StepFailedError with what was seen unless it holds."""
    if not holds:
        raise StepFailedError(otherwise)


def _parameters(cache_status: str) -> set[str]:
    """The parameters of the cache nearest to the client, the last member of the field (RFC 9211, section 2)."""
    member = cache_status.rpartition(",")[2]
    return {part.strip().partition("=")[0] for part in member.split(";")[1:]}


def _versions(samples: list[Sample]) -> set[str]:
    return {sample.version for sample in samples if sample.ok}


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _word(state: str) -> str:
    return state.removeprefix("ROLLOUT_STATE_").lower().replace("_", " ") or "nowhere"


def hints(layout: Layout, lab: str) -> str:
    """What to try with a fleet that is left running."""
    option = "" if lab == "lab" else f" --name {lab}"
    programs = os.path.relpath(own_program("locci")).removesuffix("/locci")
    return f"""
The fleet is running. To try:

  export PATH="$PWD/{programs}:$PATH" LOCCI_CONTEXT={layout.context}
  locci nodes
  locci ps {APP}
  locci lab status{option}
  locci lab exec{option} client-us -- curl -si http://{HOSTNAME}/cached/
  locci lab exec{option} client-us -- dig +short {HOSTNAME}
  locci lab partition{option} us        # cut a region off, for real
  locci lab heal{option}
  locci lab kill{option} eu-1 agent     # it comes back, and touches no container

`make down` ends it."""
