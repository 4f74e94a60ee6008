"""Container options on the wire: from a manifest to what the core checks, and on to the nodes."""

from __future__ import annotations

from control_plane.core.container_options import ConfigFile, ContainerOptions, SecretMount, Ulimit, Volume
from locci.v1 import container_pb2, manifest_pb2, resource_pb2


def container_options(message: manifest_pb2.AppManifest) -> ContainerOptions:
    """The options as they were sent."""
    security = message.security
    return ContainerOptions(
        volumes=tuple(_volume(volume) for volume in message.volumes),
        files=tuple(ConfigFile(file.path, file.content, file.mode) for file in message.files),
        add_capabilities=tuple(security.add_capabilities),
        drop_all_capabilities=security.drop_all_capabilities,
        read_only_root=security.read_only_root,
        privileged=security.privileged,
        ulimits=tuple(Ulimit(limit.name, limit.soft, limit.hard) for limit in message.ulimits),
        user=message.user,
        working_dir=message.working_dir,
        log_bytes_max=message.log_rotation.max_bytes,
        log_files_max=message.log_rotation.max_files,
        public_keys=tuple(message.verification.public_keys),
        secrets=tuple(SecretMount(m.secret, m.version, m.env, m.path, m.mode) for m in message.secrets),
    )


def pass_on(manifest: manifest_pb2.AppManifest, spec: resource_pb2.ReplicaSpec) -> None:
    """Gives a replica the options of its manifest; a node fills the defaults in."""
    spec.volumes.extend(manifest.volumes)
    spec.files.extend(manifest.files)
    spec.ulimits.extend(manifest.ulimits)
    spec.secrets.extend(manifest.secrets)
    spec.user = manifest.user
    spec.working_dir = manifest.working_dir
    if manifest.HasField("security"):
        spec.security.CopyFrom(manifest.security)
    if manifest.HasField("log_rotation"):
        spec.log_rotation.CopyFrom(manifest.log_rotation)
    if manifest.HasField("verification"):
        spec.verification.CopyFrom(manifest.verification)


def _volume(volume: container_pb2.Volume) -> Volume:
    match volume.WhichOneof("source"):
        case "name":
            return Volume(volume.path, "named", volume.name, 0, volume.read_only)
        case "host_path":
            return Volume(volume.path, "host", volume.host_path, 0, volume.read_only)
        case _:
            return Volume(volume.path, "tmpfs", "", volume.tmpfs.size_bytes, volume.read_only)
