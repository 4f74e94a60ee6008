"""Settings of `locci-server`."""

from __future__ import annotations

import socket
from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from fleet.settings import ProgramSettings


class ServerSettings(ProgramSettings):
    """Where it listens, where it keeps its state, how fast it judges. Environment: `LOCCI_SERVER_…`."""

    model_config = SettingsConfigDict(env_prefix="LOCCI_SERVER_", extra="forbid")

    data_dir: Path = Path("/var/lib/locci/server")
    """Store, CA and the first operator token."""
    database_url: str = ""
    """A PostgreSQL database, `postgresql://user:password@host:5432/name`, that several control planes share; empty for
    a SQLite file in `data_dir`."""
    peer_address: str = ""
    """Host name or address at which the other control planes of the same database reach this one; by default the name
    of the host."""
    lease_ttl_s: float = Field(5.0, ge=1, le=300)
    """A control plane that shares a database leads for so long after it was last heard there."""
    http_listen: str = "0.0.0.0:7443"
    """HTTPS: JSON API, metrics, health."""
    grpc_listen: str = "0.0.0.0:7444"
    """gRPC over TLS: operators, enrolment."""
    node_listen: str = "0.0.0.0:7445"
    """gRPC over mTLS: the nodes' streams."""
    advertise: list[str] = Field(default_factory=lambda: [socket.gethostname()])
    """Host names or addresses, optionally with the node port, at which nodes and operators reach it."""
    trust_domain: str = Field("locci.local", pattern=r"^[a-z0-9._-]{1,255}$")
    """Trust domain of SPIFFE ids."""
    heartbeat_interval_s: float = Field(1.0, gt=0, le=60)
    """Least time between a node's heartbeats."""
    heartbeats_per_s: float = Field(500.0, ge=1, le=1e6)
    """So many heartbeats all nodes together may send; a larger fleet beats slower, as far as its apps allow."""
    suspect_after_s: float = Field(2.5, gt=0)
    """Silence after which routing avoids a node."""
    lost_after_s: float = Field(30.0, gt=0)
    """Silence after which a node without apps of a shorter `lost_after` is called lost."""
    restart_grace_s: float = Field(20.0, ge=0)
    """Time after the own start in which nobody is judged by silence; agents may pause for 15 s between two tries."""
    cpu_overcommit: float = Field(2.0, gt=0, le=1000)
    """How many times a node's processors the replicas on it may ask for in all."""
    memory_overcommit: float = Field(1.0, gt=0, le=1000)
    """How many times a node's memory the replicas on it may ask for in all."""
    releases_kept: int = Field(50, ge=2, le=10_000)
    """So many releases of each app are kept, besides those that are stable, wanted or still run."""
    backups_kept: int = Field(7, ge=1, le=1000)
    """So many backups that operators asked for are kept in the data directory; the oldest go."""
    certificate_ttl_s: float = Field(86_400.0, ge=60)
    """Life of a node certificate."""
    insecure_registries: list[str] = Field(default_factory=list)
    """Registries, `host:port`, that are spoken to over plain HTTP."""
    rate_per_s: float = Field(100.0, ge=0, le=1e6)
    """Requests a second of one operator token, over HTTP and gRPC together; 0 sets no bound."""
    rate_burst: int = Field(400, ge=1, le=1_000_000)
    """So many requests of one operator token may come at once."""
    requests_per_token: int = Field(64, ge=1)
    """Requests of one operator token that may be in progress."""
    watches_per_token: int = Field(64, ge=1)
    """Streams that one operator token may hold open."""
    acme_directory: str = Field("", pattern=r"^(https?://.+)?$")
    """Directory of the ACME authority (RFC 8555) of which certificates for host names are ordered; empty for none."""
    acme_contact: list[str] = Field(default_factory=list)
    """Mail addresses that the authority may write to."""
    acme_terms_agreed: bool = False
    """Whether you agree to the authority's terms of service."""
    acme_ca_file: Path | None = None
    """CA in PEM that has signed the authority's own web server, when it is none that everybody trusts."""
    acme_eab_kid: str = ""
    """Key identifier of your account with an authority that wants ACME accounts bound to one (RFC 8555, 7.3.4)."""
    acme_eab_hmac_key_file: Path | None = None
    """File with that account's HMAC key in base64url; nobody but its owner may read it (mode 0600)."""
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    """Least level of log lines."""

    @model_validator(mode="after")
    def _agreed(self) -> ServerSettings:
        if self.acme_directory and not self.acme_terms_agreed:
            raise ValueError("acme_directory: read the authority's terms of service and set acme_terms_agreed = true")
        if bool(self.acme_eab_kid) != bool(self.acme_eab_hmac_key_file):
            raise ValueError("acme_eab_kid and acme_eab_hmac_key_file: give both, or neither")
        return self
