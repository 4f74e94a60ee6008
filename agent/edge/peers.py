"""Who the other edges are: TLS contexts from this node's identity, and whether the other end is who it should be."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from agent.edge.core.routing import Peer
from fleet.errors import LocciError
from fleet.identity import IdentityDirectory, SpiffeId, peer_id


class PeerTls:
    """Contexts for calls to and from other edges, made anew when the identity on disk changes."""

    def __init__(self) -> None:
        self._directory: IdentityDirectory | None = None
        self._trust_domain = ""
        self._revoked: frozenset[str] = frozenset()
        self._stamp: tuple[int, ...] = ()
        self._client: ssl.SSLContext | None = None
        self._server: ssl.SSLContext | None = None

    def configure(self, identity_dir: str, trust_domain: str, revoked: frozenset[str] = frozenset()) -> bool:
        """Where the identity is; an empty path means that there is none. Whether other nodes than before are
        `revoked`, so that connections may be theirs."""
        directory = IdentityDirectory(Path(identity_dir)) if identity_dir else None
        if (directory and directory.path) != (self._directory and self._directory.path):
            self._stamp = ()
        self._directory, self._trust_domain = directory, trust_domain
        changed, self._revoked = revoked != self._revoked, revoked
        return changed

    def refresh(self) -> bool:
        """Looks at the disk; True when there are new contexts, or none any more.

        An identity that cannot be read leaves the old contexts in place.
        """
        if self._directory is None or not self._directory.exists():
            changed = self._server is not None
            self._client = self._server = None
            self._stamp = ()
            return changed
        try:
            files = (self._directory.node_pem.stat(), self._directory.ca_pem.stat())
            stamp = tuple(n for file in files for n in (file.st_mtime_ns, file.st_ino))
            if stamp == self._stamp:
                return False
            client, server = self._directory.peer_client_context(), self._directory.peer_server_context()
        except (OSError, ssl.SSLError, ValueError):
            return False
        self._stamp, self._client, self._server = stamp, client, server
        return True

    def client_context(self) -> ssl.SSLContext | None:
        """For a call to another edge; None without an identity."""
        return self._client

    def server_context(self) -> ssl.SSLContext | None:
        """For the listener that other edges call; None without an identity."""
        return self._server

    def stranger(self, transport: asyncio.BaseTransport, expected: Peer | None) -> str:
        """Why the other end is not a node of ours, or not the expected one; empty when it is."""
        tls = transport.get_extra_info("ssl_object")
        if tls is None:
            return "no TLS"
        try:
            found: SpiffeId = peer_id(tls)
        except LocciError as error:
            return error.message
        if found.trust_domain != self._trust_domain:
            return f"its trust domain is {found.trust_domain}, ours is {self._trust_domain}"
        if found.node in self._revoked:
            return f"the node {found.node} was revoked"
        if expected is not None and found.node != expected.node:
            return f"it is the node {found.node}, expected was {expected.node}"
        return ""
