"""Whatever bytes come as a snapshot: they are refused with reasons, or they make a target. Nothing else happens."""

from __future__ import annotations

import contextlib

from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent import decode
from fleet.snapshot import Snapshot
from locci.v1 import container_pb2, resource_pb2

TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "web", "/", "/data", "/a/../b", "a:b", "\0", "registry.test/web@sha256:" + "1" * 64]),
)
NUMBERS = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 8080, 65535, 65536]))
SPANS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 3600, 3601]))


@st.composite
def replicas(draw: st.DrawFn) -> resource_pb2.Resource:
    """A replica whose fields are drawn, most of them senseless."""
    spec = resource_pb2.ReplicaSpec(app=draw(TEXT), ordinal=draw(NUMBERS), release=draw(NUMBERS), image=draw(TEXT))
    spec.spec_hash = draw(TEXT)
    spec.args.extend(draw(st.lists(TEXT, max_size=2)))
    spec.env.update(draw(st.dictionaries(TEXT, TEXT, max_size=2)))
    for _ in range(draw(st.integers(0, 2))):
        spec.ports.add(name=draw(TEXT), container_port=draw(NUMBERS))
    for probe in draw(st.lists(st.sampled_from([spec.readiness, spec.liveness]), max_size=2)):
        probe.interval.seconds, probe.timeout.nanos = draw(SPANS), draw(st.integers(-(2**31), 2**31 - 1))
        match draw(st.sampled_from(["http", "tcp", "grpc", "exec", ""])):
            case "http":
                probe.http.path, probe.http.port = draw(TEXT), draw(TEXT)
            case "grpc":
                probe.grpc.service = draw(TEXT)
            case "exec":
                probe.exec.command.extend(draw(st.lists(TEXT, max_size=2)))
            case "tcp":
                probe.tcp.port = draw(TEXT)
    spec.stop_timeout.seconds = draw(SPANS)
    spec.volumes.extend([container_pb2.Volume(path=draw(TEXT), host_path=draw(TEXT))] * draw(st.integers(0, 2)))
    spec.files.add(path=draw(TEXT), content=draw(TEXT), mode=draw(NUMBERS))
    spec.ulimits.add(name=draw(TEXT), soft=draw(SPANS), hard=draw(SPANS))
    spec.user = draw(TEXT)
    return resource_pb2.Resource(name=draw(TEXT), version="1", replica=spec)


def judge(*resources: resource_pb2.Resource) -> None:
    snapshot = Snapshot(1, {resource.name: resource for resource in resources})
    problems = decode.problems(snapshot)
    assert all(problem.message for problem in problems)
    if not problems:
        decode.target(snapshot)


@given(st.lists(replicas(), max_size=3))
@settings(deadline=None)
def test_senseless_replicas(resources: list[resource_pb2.Resource]) -> None:
    judge(*resources)


@given(st.binary(max_size=300))
@example(bytes.fromhex("52020801"))
@settings(deadline=None)
def test_any_bytes(content: bytes) -> None:
    with contextlib.suppress(DecodeError):
        judge(*resource_pb2.NodeSnapshot.FromString(content).resources)


@given(st.data())
@settings(deadline=None)
def test_a_good_one_with_bytes_changed(data: st.DataObject) -> None:
    good = resource_pb2.ReplicaSpec(app="web", release=1, spec_hash="x", image="r.test/web@sha256:" + "1" * 64)
    good.ports.add(container_port=8080)
    good.readiness.http.path = "/"
    content = bytearray(resource_pb2.Resource(name="replicas/web/0/1", version="1", replica=good).SerializeToString())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        judge(resource_pb2.Resource.FromString(bytes(content)))
