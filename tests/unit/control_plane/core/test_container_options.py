"""What is wrong with container options is named."""

from __future__ import annotations

import pytest

from control_plane.core.container_options import ConfigFile, ContainerOptions, Ulimit, Volume, check
from fleet.errors import LocciError

GOOD = ContainerOptions(
    volumes=(Volume("/data", "named", "db"), Volume("/tmp"), Volume("/tls", "host", "/srv/tls", read_only=True)),
    files=(ConfigFile("/etc/app.conf", "x", 0o440),),
    add_capabilities=("NET_ADMIN",),
    ulimits=(Ulimit("nofile", 10, 20),),
    user="1000:1000",
    working_dir="/data",
)


def test_good_ones_pass() -> None:
    check(ContainerOptions())
    check(GOOD)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (ContainerOptions(volumes=(Volume("data"),)), "manifest.volumes[0].path"),
        (ContainerOptions(volumes=(Volume("/"),)), "manifest.volumes[0].path"),
        (ContainerOptions(volumes=(Volume("/a/../b"),)), "manifest.volumes[0].path"),
        (ContainerOptions(volumes=(Volume("/a:ro"),)), "manifest.volumes[0].path"),
        (ContainerOptions(volumes=(Volume("/a", "named", "Db"),)), "manifest.volumes[0].name"),
        (ContainerOptions(volumes=(Volume("/a", "host", "srv"),)), "manifest.volumes[0].host_path"),
        (ContainerOptions(volumes=(Volume("/a"),), files=(ConfigFile("/a", ""),)), "manifest.volumes"),
        (ContainerOptions(volumes=(Volume("/a"),) * 65), "manifest.volumes"),
        (ContainerOptions(files=(ConfigFile("/a", "x" * 300_000),)), "manifest.files[0].content"),
        (ContainerOptions(files=(ConfigFile("/a", "", 0o1777),)), "manifest.files[0].mode"),
        (ContainerOptions(add_capabilities=("CAP_NET_ADMIN",)), "manifest.security.add_capabilities[0]"),
        (ContainerOptions(ulimits=(Ulimit("files", 1),)), "manifest.ulimits[0].name"),
        (ContainerOptions(ulimits=(Ulimit("nofile", 5, 2),)), "manifest.ulimits[0]"),
        (ContainerOptions(user="a b"), "manifest.user"),
        (ContainerOptions(working_dir="here"), "manifest.working_dir"),
        (ContainerOptions(public_keys=("key",)), "manifest.verification.public_keys[0]"),
        (ContainerOptions(public_keys=("key",) * 17), "manifest.verification.public_keys"),
        (ContainerOptions(log_files_max=101), "manifest.log_rotation.max_files"),
    ],
)
def test_what_is_wrong_is_named(options: ContainerOptions, field: str) -> None:
    with pytest.raises(LocciError) as caught:
        check(options)
    assert caught.value.message.startswith(f"{field}: ")
