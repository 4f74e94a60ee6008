"""Container options travel from the manifest to the nodes unchanged, and to the core."""

from __future__ import annotations

from control_plane import decode
from control_plane.core.container_options import ConfigFile, ContainerOptions, Ulimit, Volume
from control_plane.core.manifest import Manifest, Probe
from control_plane.core.releases import spec_hash
from control_plane.decode_container import container_options, pass_on
from locci.v1 import manifest_pb2, resource_pb2


def manifest() -> manifest_pb2.AppManifest:
    message = manifest_pb2.AppManifest(name="web", image="r.test/web:1", user="1000", working_dir="/data")
    message.volumes.add(path="/data", name="db")
    message.volumes.add(path="/srv", host_path="/srv/www", read_only=True)
    message.volumes.add(path="/tmp").tmpfs.size_bytes = 4096
    message.files.add(path="/etc/app.conf", content="x", mode=0o400)
    message.security.read_only_root = True
    message.security.add_capabilities.append("NET_RAW")
    message.ulimits.add(name="nofile", soft=10)
    message.log_rotation.max_files = 3
    message.verification.public_keys.append("key")
    return message


def test_to_the_core() -> None:
    assert container_options(manifest()) == ContainerOptions(
        volumes=(
            Volume("/data", "named", "db"),
            Volume("/srv", "host", "/srv/www", read_only=True),
            Volume("/tmp", "tmpfs", "", 4096),
        ),
        files=(ConfigFile("/etc/app.conf", "x", 0o400),),
        add_capabilities=("NET_RAW",),
        read_only_root=True,
        ulimits=(Ulimit("nofile", 10),),
        user="1000",
        working_dir="/data",
        log_files_max=3,
        public_keys=("key",),
    )


def test_to_the_nodes() -> None:
    message, spec = manifest(), resource_pb2.ReplicaSpec()
    pass_on(message, spec)
    names = ("volumes", "files", "security", "ulimits", "user", "working_dir", "log_rotation", "verification")
    for name in names:
        assert getattr(spec, name) == getattr(message, name), name


def test_probes_survive_the_way_there_and_back() -> None:
    for probe in (Probe("grpc", "http", service="db"), Probe("exec", command=("/bin/check", "-q"))):
        message = manifest_pb2.AppManifest(name="web", readiness=decode.probe_message(probe, "web.test"))
        assert decode.manifest(message).readiness == probe


def test_options_make_another_container_and_none_leave_the_hash_as_it_was() -> None:
    plain = Manifest("web", "r.test/web:1", readiness=Probe("tcp", "http"))
    changed = Manifest("web", "r.test/web:1", readiness=Probe("tcp", "http"), container=ContainerOptions(user="1"))
    assert spec_hash(plain, "r.test/web@sha256:0") == "2e23107dd727f72f5dc4c10e865f7d00"
    assert spec_hash(changed, "r.test/web@sha256:0") != spec_hash(plain, "r.test/web@sha256:0")
