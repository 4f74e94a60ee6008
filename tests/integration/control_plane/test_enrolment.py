"""Join tokens and who may speak on the nodes' port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from google.protobuf.duration_pb2 import Duration

from fleet import identity
from fleet.enrol import parse_token
from fleet.identity import spiffe_id
from fleet.rpc.channel import node_channel, operator_channel
from fleet.rpc.errors import from_rpc_error
from locci.v1 import agent_pb2, agent_pb2_grpc, enrolment_pb2, enrolment_pb2_grpc, node_pb2, region_pb2, region_pb2_grpc
from tests.integration.control_plane.rig import Host, Rig, error_of, running, until


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        yield rig


async def refused(rig: Rig, token: str, node: str = "eu-2", **fields: Any) -> tuple[grpc.StatusCode, str, str]:
    request = enrolment_pb2.EnrolRequest(
        token=token, csr_pem=identity.signing_request(identity.new_key(), node), node_id=node
    )
    for field, value in fields.items():
        setattr(request, field, value)
    error = await error_of(rig.enrolment.Enrol(request))
    return error.code(), from_rpc_error(error).reason, error.details() or ""


async def test_the_certificate_names_the_node_and_nothing_else(rig: Rig) -> None:
    token = await rig.token("eu")
    assert parse_token(token).fingerprint == rig.plane.authority.fingerprints[0]
    directory = await rig.enrol(token, "eu-1")
    certificate = directory.certificate()
    assert spiffe_id(certificate).uri() == "spiffe://locci.test/region/eu/node/eu-1"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == []
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


async def test_a_token_is_good_for_one_host(rig: Rig) -> None:
    token = await rig.token("eu")
    await rig.enrol(token, "eu-1")
    code, reason, message = await refused(rig, token)
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_USED")
    assert "nodes/eu-1" in message


async def test_a_wrong_and_an_expired_token_are_told_apart(rig: Rig) -> None:
    token = await rig.token("eu")
    parsed = parse_token(token)
    wrong = f"locci1.{parsed.id}.{'x' * 43}.{parsed.fingerprint}"
    unknown = f"locci1.{'0' * 12}.{parsed.secret}.{parsed.fingerprint}"
    for bad in (wrong, unknown):
        code, reason, message = await refused(rig, bad)
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_UNKNOWN")
        assert parsed.secret not in message
    short = await rig.token("eu", ttl=Duration(nanos=1_000_000))
    assert (await refused(rig, short))[1] == "TOKEN_EXPIRED"
    assert (await refused(rig, "nonsense"))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_TOKEN")


async def test_a_refused_enrolment_leaves_the_token(rig: Rig) -> None:
    await rig.enrol(await rig.token("eu"), "eu-1")
    token = await rig.token("eu")
    code, reason, message = await refused(rig, token, "eu-1")
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert "--name" in message
    assert (await refused(rig, token, csr_pem="rubbish"))[0] == grpc.StatusCode.INVALID_ARGUMENT
    await rig.enrol(token, "eu-2")


async def test_a_bound_token_replaces_its_node_and_ends_the_old_identity(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    old = await rig.node("eu-1")
    bound = await rig.token("eu", node_id="eu-1")
    assert (await refused(rig, bound, "eu-9"))[1] == "TOKEN_BOUND"
    await rig.enrol(bound, "eu-1", path=rig.path / "second")
    now = await rig.node("eu-1")
    assert now.create_time.ToNanoseconds() > old.create_time.ToNanoseconds()
    await until(lambda: not host.link.connected, "the old identity is sent away")


async def first_answer(rig: Rig, host: Host, hello: agent_pb2.Hello) -> agent_pb2.ControlMessage:
    endpoint = host.directory.facts().node_endpoints[0]
    async with node_channel(endpoint, host.directory) as channel:
        call = agent_pb2_grpc.AgentServiceStub(channel).Sync()
        await call.write(agent_pb2.NodeMessage(hello=hello))
        message = await call.read()
        call.cancel()
        assert isinstance(message, agent_pb2.ControlMessage)
        return message


async def test_a_revoked_node_is_sent_away_for_good(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    await rig.nodes.RevokeNode(node_pb2.RevokeNodeRequest(name="nodes/eu-1", reason="stolen"))
    await until(lambda: not host.link.connected, "it is sent away")
    answer = await first_answer(rig, host, agent_pb2.Hello(role=node_pb2.NODE_ROLE_EDGE))
    assert answer.goodbye.reason == agent_pb2.GOODBYE_REASON_REVOKED
    assert "stolen" in answer.goodbye.message
    assert (await rig.node("eu-1")).condition == node_pb2.NODE_CONDITION_REVOKED


async def test_edges_hear_which_nodes_were_revoked(rig: Rig) -> None:
    edge = node_pb2.NODE_ROLE_EDGE
    await rig.host("eu-1", "eu")
    other = Host(await rig.enrol(await rig.token("eu"), "eu-2"), rig.path / "eu-2.snapshot", edge, ["revocations"])
    other.connect()
    try:
        await until(lambda: other.link.connected, "it is connected")
        assert not other.resources
        await rig.nodes.RevokeNode(node_pb2.RevokeNodeRequest(name="nodes/eu-1", reason="stolen"))
        await until(lambda: list(other.resources) == ["revocations/eu-1"], "it is told")
        assert other.resources["revocations/eu-1"].revoked_node.node == "eu-1"
    finally:
        await other.disconnect()


async def test_a_newer_session_takes_over_and_a_newer_epoch_is_refused(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    epoch = (await rig.node("eu-1")).sessions[0].epoch
    answer = await first_answer(rig, host, agent_pb2.Hello(role=node_pb2.NODE_ROLE_EDGE, epoch=epoch))
    assert answer.welcome.epoch == epoch + 1
    await until(lambda: not host.link.connected, "the older session is sent away")
    answer = await first_answer(rig, host, agent_pb2.Hello(role=node_pb2.NODE_ROLE_EDGE, epoch=99))
    assert answer.goodbye.reason == agent_pb2.GOODBYE_REASON_PROTOCOL
    answer = await first_answer(rig, host, agent_pb2.Hello(role=node_pb2.NODE_ROLE_DNS))
    assert "role" in answer.goodbye.message


async def test_certificates_are_renewed_on_the_nodes_port_only(rig: Rig) -> None:
    host = await rig.host("eu-1", "eu")
    request = enrolment_pb2.RenewRequest(csr_pem=identity.signing_request(identity.new_key(), "x"))
    async with node_channel(host.directory.facts().node_endpoints[0], host.directory) as channel:
        answer = await enrolment_pb2_grpc.EnrolmentServiceStub(channel).Renew(request)
    renewed = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
    assert spiffe_id(renewed).node == "eu-1"
    assert (await error_of(rig.enrolment.Renew(request))).code() == grpc.StatusCode.PERMISSION_DENIED


async def test_operators_need_a_token(rig: Rig) -> None:
    address = rig.settings.grpc_listen
    async with operator_channel(address, rig.plane.authority.ca_pem.encode(), "locciop1.000000000000." + "x" * 43) as c:
        error = await error_of(region_pb2_grpc.RegionServiceStub(c).ListRegions(region_pb2.ListRegionsRequest()))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
