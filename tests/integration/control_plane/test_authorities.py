"""One certificate authority takes the place of another while hosts and operators go on; a new master key."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from cryptography import x509
from google.protobuf.wrappers_pb2 import BytesValue

from control_plane.http.listener import start_http
from control_plane.master_key import sealed_tables
from control_plane.shared import replace_master_key
from control_plane.state import Table
from fleet import identity
from fleet.errors import LocciError
from fleet.identity import IdentityDirectory
from fleet.rpc.channel import operator_channel
from locci.v1 import authority_pb2, authority_pb2_grpc, region_pb2, region_pb2_grpc, secret_pb2, secret_pb2_grpc
from tests.integration.control_plane.rig import Host, Rig, error_of, running, until


def trusted(host: Host) -> set[str]:
    return host.directory.trusted()


async def asked(rig: Rig, ca_pem: str) -> bool:
    """Whether an operator who trusts `ca_pem` is answered, over gRPC and over HTTPS."""
    token = (rig.settings.data_dir / "admin.token").read_text().strip()
    try:
        async with operator_channel(rig.settings.grpc_listen, ca_pem.encode(), token) as channel:
            await region_pb2_grpc.RegionServiceStub(channel).ListRegions(region_pb2.ListRegionsRequest(), timeout=10)
    except grpc.aio.AioRpcError:
        return False
    trust = ssl.create_default_context(cadata=ca_pem)
    listener: Any = rig.plane._http
    url = f"https://127.0.0.1:{listener.port}/healthz"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=trust, server_hostname="locci-server") as got:
        return got.status == 200


def pem(row: authority_pb2.Authority) -> str:
    return str(row.certificate_pem)


async def test_an_authority_takes_the_place_of_another(tmp_path: Path) -> None:
    async with running(tmp_path, start_http=start_http) as rig:
        await rig.region("eu")
        first, second = await rig.host("eu-1", "eu"), await rig.host("eu-2", "eu")
        authorities = authority_pb2_grpc.AuthorityServiceStub(rig.channel)

        async def listed() -> dict[int, authority_pb2.Authority]:
            answer = await authorities.ListAuthorities(authority_pb2.ListAuthoritiesRequest())
            return {row.state: row for row in answer.authorities}

        old = (await listed())[authority_pb2.AUTHORITY_STATE_ACTIVE]
        assert (old.nodes, old.nodes_trusting, old.nodes_signed) == (2, 2, 2)
        assert b"PRIVATE" not in old.SerializeToString()
        error = await error_of(authorities.RetireAuthority(authority_pb2.RetireAuthorityRequest(name=old.name)))
        assert "prepare and activate another one first" in str(error.details())

        # One host is away while the new authority is prepared: it is not left behind.
        await second.disconnect()
        new = await authorities.PrepareAuthority(authority_pb2.PrepareAuthorityRequest())
        assert new.state == authority_pb2.AUTHORITY_STATE_PREPARED
        error = await error_of(authorities.PrepareAuthority(authority_pb2.PrepareAuthorityRequest()))
        assert "already" in str(error.details())
        both = {old.fingerprint, new.fingerprint}
        await until(lambda: trusted(first) == both, "the first host trusts both")
        error = await error_of(authorities.ActivateAuthority(authority_pb2.ActivateAuthorityRequest(name=new.name)))
        assert "1 of the nodes (eu-2) do not trust" in str(error.details())
        second.connect()
        await until(lambda: trusted(second) == both, "the second host trusts both")

        async def trusted_by_all() -> bool:
            return (await listed())[authority_pb2.AUTHORITY_STATE_PREPARED].nodes_trusting == 2

        await until(trusted_by_all, "that is known")
        activated = await authorities.ActivateAuthority(authority_pb2.ActivateAuthorityRequest(name=new.name))
        assert activated.state == authority_pb2.AUTHORITY_STATE_ACTIVE
        assert await asked(rig, pem(old)), "operators who trust the old one alone are answered until it is retired"
        for host in (first, second):
            await until(lambda host=host: host.directory.issued_by(new.fingerprint), "its certificate is a new one")

        async def signed_for_all() -> bool:
            return (await listed())[authority_pb2.AUTHORITY_STATE_ACTIVE].nodes_signed == 2

        await until(signed_for_all, "that is known")
        sessions = [host.link.snapshot.epoch for host in (first, second)]
        await authorities.RetireAuthority(authority_pb2.RetireAuthorityRequest(name=old.name))
        assert [row.name for row in (await listed()).values()] == [new.name]
        for host in (first, second):
            await until(lambda host=host: trusted(host) == {new.fingerprint}, "it trusts the new one alone")
        assert not await asked(rig, pem(old))
        assert await asked(rig, pem(new))
        kept = json.loads((rig.settings.data_dir / "context.json").read_text())["ca_pem"]
        assert [identity.fingerprint(c) for c in x509.load_pem_x509_certificates(kept.encode())] == [new.fingerprint]
        assert [host.link.snapshot.epoch for host in (first, second)] == sessions, "no stream was broken for it"

        # What holds is in the store: a restart trusts, signs and is reached as before.
        await rig.stop()
        await rig.start()
        await until(lambda: first.link.connected and second.link.connected, "the hosts are back")
        await rig.host("eu-3", "eu")


async def test_a_certificate_of_a_retired_authority_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.region("eu")
        host = await rig.host("eu-1", "eu")
        stolen = IdentityDirectory(tmp_path / "stolen")
        stolen.path.mkdir()
        for file in host.directory.path.iterdir():
            (stolen.path / file.name).write_bytes(file.read_bytes())
        authorities = authority_pb2_grpc.AuthorityServiceStub(rig.channel)
        old = (await authorities.ListAuthorities(authority_pb2.ListAuthoritiesRequest())).authorities[0]
        new = await authorities.PrepareAuthority(authority_pb2.PrepareAuthorityRequest())
        forced = authority_pb2.ActivateAuthorityRequest(name=new.name, force=True)
        await authorities.ActivateAuthority(forced)
        await until(lambda: host.directory.issued_by(new.fingerprint), "its certificate is a new one")
        await authorities.RetireAuthority(authority_pb2.RetireAuthorityRequest(name=old.name, force=True))
        await host.disconnect()
        thief = Host(stolen, tmp_path / "thief.snapshot", 1, ["replicas"])
        rig.hosts["thief"] = thief
        thief.connect()
        await asyncio.sleep(1.0)
        assert not thief.link.connected


async def test_a_new_master_key(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        tables = [table for table in vars(rig.plane.state).values() if isinstance(table, Table)]
        sealed = {table.kind for table in tables if table.message is BytesValue} - {"requests"}
        assert {table.kind for table, _ in sealed_tables(rig.plane.state)} == sealed, "every one is sealed anew"
        secrets = secret_pb2_grpc.SecretServiceStub(rig.channel)
        request = secret_pb2.CreateSecretRequest(secret_id="db", value=b"canary")
        await secrets.CreateSecret(request)
        with pytest.raises(LocciError) as error:
            await replace_master_key(rig.settings)
        assert "stop the control plane first" in error.value.message
        before = (rig.settings.data_dir / "master.key").read_text()
        await rig.stop()
        assert await replace_master_key(rig.settings) >= 2
        after = (rig.settings.data_dir / "master.key").read_text()
        assert after != before
        await rig.start()
        assert (
            rig.plane.vault.open(rig.plane.state.secret_values.need("secrets/db/1").value, "secrets/db/1") == b"canary"
        )

        # Killed between the store and the file: the next start finds which key holds.
        await rig.stop()
        (rig.settings.data_dir / "master.key").write_text(before)
        (rig.settings.data_dir / "master.key.new").write_text(after)
        await rig.start()
        assert (rig.settings.data_dir / "master.key").read_text() == after
        assert not (rig.settings.data_dir / "master.key.new").exists()
