"""What the control plane needs from outside: a store, an image registry, a certificate authority."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.x509 import Certificate

from fleet.signatures import Signature
from locci.v1 import event_pb2

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A stored object: its kind, its name within the kind, the revision of its last change, its bytes."""

    kind: str
    name: str
    revision: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Put:
    """Writes an object. `expected` is the revision that it must have now: 0 that it must not exist, None anything."""

    kind: str
    name: str
    body: bytes
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes an object; `expected` as in `Put`. Removing what is not there is no error unless it is expected."""

    kind: str
    name: str
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    """Changes that happen together or not at all, with the events that tell of them."""

    changes: Sequence[Put | Delete] = ()
    events: Sequence[event_pb2.Event] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction became: its revision, and its events with name and time."""

    revision: int
    events: Sequence[event_pb2.Event]


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events: `after` and `before` bound the sequence, both exclusive; 0 leaves a bound out."""

    limit: int
    after: int = 0
    before: int = 0
    subject: str = ""
    type: str = ""
    ascending: bool = False


class Store(Protocol):
    """Desired state and events. One transaction is one revision; revisions only rise, also over restarts."""

    async def open(self) -> None:
        """Makes the store ready. Raises FAILED_PRECONDITION when its schema is newer than this program's."""
        ...

    async def close(self) -> None:
        """Lets go of it."""
        ...

    async def revision(self) -> int:
        """The revision of the last transaction; 0 before the first."""
        ...

    async def load(self) -> list[StoredObject]:
        """Every object."""
        ...

    async def commit(self, transaction: Transaction) -> Committed:
        """Does all of it or nothing. Raises ABORTED with reason CONFLICT when an expectation does not hold."""
        ...

    async def events(self, query: EventQuery) -> list[event_pb2.Event]:
        """Events, newest first unless `ascending`."""
        ...


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """Who leads among several control planes: `epoch` rises with each new leader; `remaining_s` at the database."""

    holder: str
    endpoints: str
    epoch: int
    remaining_s: float


class Lease(Protocol):
    """Of several control planes that share a store the one that holds it leads; the others send their callers there."""

    async def acquire(self, ttl_s: float) -> LeaseSeen:
        """Takes the lease when nobody holds it, renews it when it is ours; whose it is then. Raises UNAVAILABLE."""
        ...

    async def release(self) -> None:
        """Gives the lease back, when it is ours. Raises UNAVAILABLE."""
        ...

    async def listen(self, changed: Callable[[], None]) -> None:
        """Calls `changed` now and when the lease changes hands, until the connection breaks. Raises UNAVAILABLE."""
        ...


class ImageRegistry(Protocol):
    """Where images come from."""

    async def pin(self, reference: str) -> str:
        """`host/repository@sha256:…` of a reference.

        Raises NOT_FOUND (IMAGE_NOT_FOUND), PERMISSION_DENIED (REGISTRY_REFUSED), UNAVAILABLE (REGISTRY_UNREACHABLE).
        """
        ...

    async def signatures(self, image: str) -> Sequence[Signature]:
        """Those beside an image by digest. Raises PERMISSION_DENIED and UNAVAILABLE as `pin` does."""
        ...


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate for a node."""

    certificate_pem: str
    expire_at: float
    """Seconds since 1970."""


class Vault(Protocol):
    """Seals what must not lie in the store in clear."""

    def seal(self, content: bytes, context: str) -> bytes:
        """`content` for the store; it opens under the same `context` only, which says what it is and whose."""
        ...

    def open(self, sealed: bytes, context: str) -> bytes:
        """What was sealed. Raises FAILED_PRECONDITION (SEALED_UNREADABLE) when it does not open."""
        ...


class CertificateAuthority(Protocol):
    """Signs node certificates."""

    trust_domain: str
    ca_pem: str
    """The certificates of all that are trusted."""
    fingerprints: Sequence[str]
    """SHA-256 of each; first that of the one which the control plane shows a certificate of."""
    issuer: str
    """SHA-256 of the certificate of the one that signs certificates of nodes."""

    def sign_report(self, report: str) -> bytes:
        """The signature under the report of a drill's run (fleet/signed_report.py)."""
        ...

    def has_issued(self, certificate: Certificate) -> bool:
        """Whether an authority that is trusted now signed a certificate, however long ago."""
        ...

    def issue(self, csr_pem: str, *, region: str, node: str) -> Issued:
        """A certificate for the public key in `csr_pem`. Raises INVALID_ARGUMENT when that is no valid request."""
        ...


@dataclass(frozen=True, slots=True)
class CertificateOrder:
    """An order in progress. `dns` is what DNS has to answer: by owner of the TXT record, its strings; `http` what edges
    have to: by host name, token and answer."""

    dns: Mapping[str, tuple[str, ...]]
    http: Mapping[str, tuple[str, str]]
    key_pem: str
    handle: object
    """What the authority's client needs to go on with it."""


class OrderingAuthority(Protocol):
    """A certificate authority of which certificates for host names are ordered (RFC 8555). Everything raises
    UNAVAILABLE (ACME_FAILED) with what the authority said."""

    async def order(self, hostnames: tuple[str, ...], by_http: Collection[str]) -> CertificateOrder:
        """Begins an order for a certificate with a key of its own. `by_http` are proven over HTTP, others by DNS."""
        ...

    async def finish(self, order: CertificateOrder) -> str:
        """Has the authority look, and waits for the chain in PEM; DNS must answer what it asked for by now."""
        ...

    async def suggested_renewal(self, chain_pem: str) -> float | None:
        """When the authority wants it to be renewed, seconds since 1970 (RFC 9773); None when it does not say."""
        ...
