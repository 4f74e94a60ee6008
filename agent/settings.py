"""Settings of `locci-agent`: defaults, a TOML file, the environment (`LOCCI_AGENT_…`)."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from agent.core.faults import AGENT, PROGRAMS
from fleet.settings import ProgramSettings

_HOST = re.compile(r"[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?")


class AgentSettings(ProgramSettings):
    """What an operator can say about an agent."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix="LOCCI_AGENT_", env_nested_delimiter="__")

    state_dir: Path = Path("/var/lib/locci/agent")
    """Holds the last accepted snapshot."""
    identity_dir: Path = Path("/var/lib/locci/identity")
    """Holds the host's key and certificate; shared with the edge and the DNS server."""
    run_dir: Path = Path("/run/locci")
    """Where `edge.sock` and `agent.sock` are."""
    docker_host: str = "unix:///var/run/docker.sock"
    """Where Docker Engine listens."""
    policy_file: Path = Path("/etc/locci/policy.toml")
    """What this host allows, whatever the control plane says; without the file, the defaults (docs/agent.md)."""
    mirrors: dict[str, list[str]] = Field(default_factory=dict)
    """By host of a registry, hosts with the same content that are asked before it, and before the fleet's mirrors."""
    sandboxes: int = Field(default=4, ge=0, le=64)
    """Network namespaces made ahead of time, for fast starts."""
    install_dir: Path = Path("/opt/locci")
    """Where versions are installed side by side, for `locci-agent supervise`."""
    edge_reload_command: list[str] = Field(default=["systemctl", "reload", "--no-block", "locci-edge.service"])
    """Has the edge of this host take a new version after an upgrade; empty when something else sees to that."""
    dns_reload_command: list[str] = Field(
        default=["systemctl", "try-reload-or-restart", "--no-block", "locci-dns.service"]
    )
    """The same for a DNS server on this host; does nothing where none runs."""
    release_source: Path = Path("/etc/locci/release-source")
    """Holds the address or folder from which versions are fetched; without it, only installed ones are switched to."""
    restart_commands: dict[str, list[str]] = Field(default_factory=dict)
    """By program (agent, edge, dns, redis, dockerd), what starts it again after a drill has killed it; an empty list
    when a supervisor does by itself. Not needed for units of systemd; other programs without one are not killed."""
    resolver: str = "host"
    """Whom synthetic clients of drills ask for addresses: `host` for the resolver of /etc/resolv.conf, `servers` for
    the fleet's DNS servers directly, or the address of a resolver."""
    metrics_listen: str = "127.0.0.1:7446"
    """/metrics and /healthz, `address:port`; empty for none."""

    @field_validator("mirrors")
    @classmethod
    def _hosts(cls, mirrors: dict[str, list[str]]) -> dict[str, list[str]]:
        for host in (*mirrors, *(mirror for found in mirrors.values() for mirror in found)):
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no registry, as in registry.example.net:5000")
        return mirrors

    @field_validator("restart_commands")
    @classmethod
    def _programs(cls, commands: dict[str, list[str]]) -> dict[str, list[str]]:
        for program in commands:
            if program not in (AGENT, *PROGRAMS):
                raise ValueError(f"{program!r} is none of {', '.join((AGENT, *PROGRAMS))}")
        return commands

    @field_validator("resolver")
    @classmethod
    def _resolver(cls, resolver: str) -> str:
        if resolver not in ("host", "servers"):
            try:
                ipaddress.ip_address(resolver)
            except ValueError:
                raise ValueError(f"{resolver!r} is neither host, nor servers, nor the address of a resolver") from None
        return resolver
