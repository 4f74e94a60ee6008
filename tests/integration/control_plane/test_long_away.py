"""Hosts that were without a control plane for longer than their certificate is good come back by themselves."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control_plane import decode
from control_plane.http.listener import start_http
from control_plane.state import Batch
from fleet import enrol, identity
from fleet.errors import Code, LocciError
from fleet.identity import IdentityDirectory, IdentityFacts
from locci.v1 import enrolment_pb2, event_pb2, node_pb2
from tests.fakes.authority import Authority
from tests.integration.control_plane.rig import Host, Rig, error_of, running, until

DAY_S = 86_400.0


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path, start_http=start_http) as rig:
        await rig.region("eu")
        yield rig


def issue(rig: Rig, node: str, ago_s: float) -> tuple[Any, str]:
    """Key and certificate as the control plane issued them some time ago."""
    key, authority = identity.new_key(), rig.plane.authority
    authority._wall = lambda: time.time() - ago_s
    try:
        issued = authority.issue(identity.signing_request(key, node), region="eu", node=node)
    finally:
        authority._wall = time.time
    return key, issued.certificate_pem


async def away(rig: Rig, node: str, ago_s: float = 3 * DAY_S) -> IdentityDirectory:
    """A host that renewed its certificate last that long ago, and was not seen since."""
    directory = await rig.enrol(await rig.token("eu"), node)
    key, certificate_pem = issue(rig, node, ago_s)

    def age(batch: Batch) -> None:
        row = rig.plane.state.nodes.copy(f"nodes/{node}")
        row.create_time.CopyFrom(decode.timestamp(time.time() - 100 * DAY_S))
        row.certificate_expire_time.CopyFrom(decode.timestamp(time.time() - ago_s + DAY_S))
        batch.put(rig.plane.state.nodes, row.name, row)

    await rig.plane.state.transact(age)
    listener: Any = rig.plane._http
    facts = directory.facts()
    there = IdentityFacts(node, "eu", facts.trust_domain, facts.node_endpoints, f"https://127.0.0.1:{listener.port}")
    directory.save(there, key, certificate_pem, rig.plane.authority.ca_pem)
    return directory


async def refusal(directory: IdentityDirectory) -> LocciError:
    with pytest.raises(LocciError) as caught:
        await enrol.recover(directory)
    return caught.value


async def test_it_gets_a_certificate_for_the_one_that_ended_and_connects(rig: Rig) -> None:
    directory = await away(rig, "eu-1")
    assert directory.has_ended(time.time())
    host = rig.hosts["eu-1"] = Host(directory, rig.path / "s", node_pb2.NODE_ROLE_EDGE, ["replicas"])
    host.connect()
    await rig.condition("eu-1", node_pb2.NODE_CONDITION_READY)
    assert not directory.has_ended(time.time())
    assert directory.node_pem.stat().st_mode & 0o777 == 0o600
    found = await rig.events.ListEvents(event_pb2.ListEventsRequest(subject="nodes/eu-1", type="CertificateRenewed"))
    assert "had ended" in found.events[0].message


async def test_whoever_did_not_get_the_answer_asks_again_and_an_older_key_is_of_no_use(rig: Rig) -> None:
    directory = await away(rig, "eu-1")
    before = directory.node_pem.read_bytes()
    await enrol.recover(directory)
    directory.node_pem.write_bytes(before)
    await enrol.recover(directory)
    facts = directory.facts()
    # Once it has renewed in the usual way, what had ended opens nothing any more.
    key, certificate_pem = issue(rig, "eu-1", 0.0)
    directory.renew(key, certificate_pem, rig.plane.authority.ca_pem)
    host = rig.hosts["eu-1"] = Host(directory, rig.path / "s", node_pb2.NODE_ROLE_EDGE, ["replicas"])
    host.connect()
    await until(lambda: host.link.connected, "it is connected")
    await host.link._renew()
    assert (await rig.node("eu-1")).recovered_from == ""
    stolen = IdentityDirectory(rig.path / "stolen")
    stolen.save(facts, identity.new_key(), certificate_pem, rig.plane.authority.ca_pem)
    stolen.node_pem.write_bytes(before)
    error = await refusal(stolen)
    assert (error.code, error.reason) == (Code.UNAUTHENTICATED, "CERTIFICATE_OLD")


async def test_a_revoked_or_removed_node_stays_out(rig: Rig) -> None:
    directory = await away(rig, "eu-1")
    await rig.nodes.RevokeNode(node_pb2.RevokeNodeRequest(name="nodes/eu-1", reason="stolen"))
    error = await refusal(directory)
    assert (error.code, "stolen" in error.message) == (Code.PERMISSION_DENIED, True)
    await rig.nodes.DeleteNode(node_pb2.DeleteNodeRequest(name="nodes/eu-1", force=True))
    assert (await refusal(directory)).reason == "NODE_UNKNOWN"


async def test_neither_another_authority_nor_another_key_convinces(rig: Rig, tmp_path: Path) -> None:
    directory = await away(rig, "eu-1")
    csr_pem = identity.signing_request(identity.new_key(), "eu-1")
    good = directory.key_and_chain()[1].decode()
    others = Authority()
    others.join(tmp_path / "other", node="eu-1", region="eu", endpoints=("127.0.0.1:1",))
    other = IdentityDirectory(tmp_path / "other")
    for certificate_pem, signature in (
        (good, other.recovery_signature(csr_pem)),
        (other.key_and_chain()[1].decode(), other.recovery_signature(csr_pem)),
        (good, directory.recovery_signature(csr_pem + "\n")),
        ("nonsense", b""),
    ):
        request = enrolment_pb2.RecoverRequest(certificate_pem=certificate_pem, csr_pem=csr_pem, signature=signature)
        error = await error_of(rig.enrolment.Recover(request))
        assert "no certificate of this fleet" in str(error.details())
