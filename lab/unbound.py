"""The resolver of a client host, or of a node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def unbound_config(zone: str, name_servers: Sequence[str], folder: Path) -> str:
    """Configuration of a resolver that knows `zone` only, from its name servers, and caches as any resolver does.

    What is set beside that: `test` is a special-use name that unbound answers itself unless told otherwise (RFC 6761);
    there is no DNSSEC in a lab's zone; and a name server that does not answer is left quickly for another and asked
    again soon, as a resolver does that has other traffic to learn from.
    """
    servers = "".join(f"  stub-addr: {address}\n" for address in name_servers)
    return f"""server:
  directory: "{folder}"
  pidfile: "{folder / "unbound.pid"}"
  chroot: ""
  username: ""
  use-syslog: no
  verbosity: 1
  num-threads: 1
  interface: 127.0.0.1
  interface: ::1
  access-control: 127.0.0.0/8 allow
  access-control: ::1 allow
  do-not-query-localhost: no
  module-config: "iterator"
  local-zone: "." refuse
  local-zone: "test." nodefault
  local-zone: "{zone}." transparent
  target-fetch-policy: "0 0 0 0 0"
  infra-keep-probing: yes
  infra-cache-max-rtt: 1000
  infra-host-ttl: 5
  unknown-server-time-limit: 100
  fast-server-num: 1
  fast-server-permil: 900
remote-control:
  control-enable: no
stub-zone:
  name: "{zone}."
  stub-prime: no
{servers}"""
