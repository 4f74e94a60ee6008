"""What `locci-dns` can be told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, IPvAnyNetwork
from pydantic_settings import SettingsConfigDict

from fleet.settings import ProgramSettings


class DnsSettings(ProgramSettings):
    """Settings of `locci-dns`; each can be set in the TOML file or as `LOCCI_DNS_…` in the environment."""

    model_config = SettingsConfigDict(env_prefix="LOCCI_DNS_", extra="forbid")

    listen: list[str] = Field(default=["0.0.0.0:53"], min_length=1)
    """Addresses for UDP and TCP, `address:port` or `[address]:port`."""
    identity_dir: Path = Path("/var/lib/locci/identity")
    state_dir: Path = Path("/var/lib/locci/dns")
    geo_database: str = ""
    """Path of an MMDB file, flat or GeoIP2 schema; empty for none. It is read again when it changes."""
    probe_interval_s: float = Field(default=1.0, ge=0.1, le=60)
    probe_timeout_s: float = Field(default=0.5, ge=0.05, le=2)
    return_over_s: float = Field(default=10.0, ge=0, le=3600)
    """After its return an edge gets its clients bit by bit, over so long; 0 for all at once."""
    metrics_listen: str = "127.0.0.1:7449"
    """Where `/metrics` is served; empty for nowhere."""
    tcp_connections_max: int = Field(default=512, ge=1)
    tcp_connections_per_network: int = Field(default=64, ge=1)
    """Open at once from one network (/24, /56); one more ends the one that was idle longest."""
    tcp_idle_s: float = Field(default=10.0, gt=0)
    workers: int = Field(default=1, ge=0, le=256)
    """Processes that answer, sharing the addresses; 0 for one on each processor. The first probes and decides, the
    others follow it."""
    compiled: bool = True
    """Answer common queries by the compiled loop where it was built; the answers are the same without."""
    cookies: bool = True
    """Answer DNS cookies (RFC 7873); the secret is `cookie.secret` in the state directory, made at the first start. To
    answer for one address from several hosts, give them the same file. Several lines are secrets: the first makes
    cookies, all of them are known."""
    responses_per_second: int = Field(default=200, ge=0)
    """Like answers a second over UDP to one network (/24, /56) without a valid cookie; 0 for no limit."""
    rate_limit_slip: int = Field(default=2, ge=0)
    """Every so-manieth limited answer is sent truncated instead of dropped; 0 for none."""
    rate_limit_exempt: list[IPvAnyNetwork] = Field(default=[])
    """Networks that are never limited, such as those of one's own resolvers."""
    transfer_networks: list[IPvAnyNetwork] = Field(default=[])
    """Networks of secondaries that may have zones whole (AXFR) without a signature."""
    transfer_keys: str = ""
    """Path of a file with TSIG keys, a line each: name, algorithm (hmac-sha256, -sha384, -sha512), secret in base64.
    Whoever signs with one may have zones whole."""
    notify: list[str] = Field(default=[])
    """Secondaries that are told of changes, `address:port`."""
    identity: str | None = None
    """What `id.server` and NSID say; the node id when it is missing, nothing when it is empty."""
    version: str = "locci-dns"
    """What `version.bind` says; nothing when it is empty."""
    log_level: str = "info"

    @property
    def cookie_secret(self) -> Path:
        """Where the secrets of cookies are, a line of 32 hexadecimal digits each."""
        return self.state_dir / "cookie.secret"

    @property
    def socket(self) -> Path:
        """Where the running program answers `status` and `explain`."""
        return self.state_dir / "dns.sock"
