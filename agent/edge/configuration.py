"""The configuration as the agent sends it, as it lies on disk, and as the edge uses it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from agent.edge.configuration_http import http_rules
from agent.edge.core import purges, routing
from agent.edge.core.affinity import Balancing, HashBy
from agent.edge.core.cache_rules import CacheRules
from fleet.errors import LocciError, invalid
from fleet.files import write_atomic
from locci.v1 import edge_pb2, manifest_pb2, purge_pb2, resource_pb2

FILE = "config.pb"


_HASH_BY: Final = {
    manifest_pb2.HASH_BY_CLIENT: HashBy.CLIENT,
    manifest_pb2.HASH_BY_PATH: HashBy.PATH,
    manifest_pb2.HASH_BY_HEADER: HashBy.HEADER,
    manifest_pb2.HASH_BY_COOKIE: HashBy.COOKIE,
}


def table_of(config: edge_pb2.EdgeConfig, workers: int = 1) -> routing.Table:
    """What one of so many workers serves by this configuration. Raises INVALID_ARGUMENT with all that is wrong."""
    found = routing.table(
        config.generation,
        config.node,
        config.region,
        config.trust_domain,
        config.identity_dir,
        tuple(_route(route, workers) for route in config.routes),
        [_certificate(certificate) for certificate in config.certificates],
        frozenset(config.revoked_nodes),
    )
    problems = routing.problems(found)
    if not config.generation:
        problems.insert(0, "the generation is 0")
    if problems:
        raise invalid("config", "; ".join(problems[:10]), "BAD_CONFIG")
    return found


def _route(route: edge_pb2.EdgeRoute, workers: int) -> routing.Route:
    rules = _rules(route.cache)
    return routing.Route(
        route.app,
        tuple(route.hostnames),
        not route.cache.disabled,
        route.cache.max_object_bytes or routing.OBJECT_BYTES_DEFAULT,
        tuple(routing.Local(local.replica, local.address, local.draining) for local in route.local),
        _peers(route.peers),
        route.tls.redirect,
        route.tls.hsts.seconds,
        rules,
        purges.compiled(route.purges.floor, map(_mark, route.purges.marks), rules),
        _balancing(route.balancing),
        http_rules(route.http, maintenance=route.maintenance, workers=workers),
        {one.token.encode(): one.key_authorization.encode() for one in route.proofs.challenges},
        _peers(route.shield),
    )


def _peers(found: Iterable[resource_pb2.PeerEndpoint]) -> tuple[routing.Peer, ...]:
    return tuple(routing.Peer(peer.region, peer.node, peer.address) for peer in found)


def _balancing(policy: manifest_pb2.BalancingPolicy) -> Balancing:
    return Balancing(
        _HASH_BY.get(policy.hash_by, HashBy.NOTHING),
        policy.hash_name.lower().encode()
        if policy.hash_by == manifest_pb2.HASH_BY_HEADER
        else policy.hash_name.encode(),
        policy.sticky_cookie.encode(),
        policy.hedge_after.ToNanoseconds() / 1e9,
    )


def _certificate(certificate: resource_pb2.CertificateMaterial) -> routing.Certificate:
    return routing.Certificate(
        certificate.certificate,
        tuple(name.lower() for name in certificate.hostnames),
        certificate.chain_pem,
        certificate.private_key_pem,
        certificate.expire_time.seconds,
    )


def _mark(mark: purge_pb2.PurgeMark) -> purges.Mark:
    return purges.Mark(mark.sequence, mark.url.encode(), mark.prefix.encode(), mark.tag.encode(), mark.soft)


def _rules(policy: manifest_pb2.CachePolicy) -> CacheRules:
    key = policy.key
    return CacheRules(
        key.ignore_query,
        tuple(name.encode() for name in key.query_allow),
        tuple(name.encode() for name in key.query_ignore),
        key.query_sort,
        tuple(name.lower().encode() for name in key.headers),
        tuple(name.encode() for name in key.cookies),
        policy.negative_ttl.seconds,
        policy.heuristic_max.seconds,
        policy.compress,
    )


def save(state_dir: Path, config: edge_pb2.EdgeConfig) -> None:
    """Puts it on disk, durably. Raises OSError."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomic(state_dir / FILE, config.SerializeToString(deterministic=True))


def load(state_dir: Path) -> edge_pb2.EdgeConfig | None:
    """The last accepted configuration; None when there is none. Raises LocciError when it cannot be read."""
    path = state_dir / FILE
    try:
        return edge_pb2.EdgeConfig.FromString(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, DecodeError) as error:
        raise LocciError(
            invalid("", "").code,
            "BAD_CONFIG",
            f"{path} cannot be read ({error}); it is replaced when the agent connects",
        ) from error
