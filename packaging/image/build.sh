#!/bin/sh
# An image of the same tree, for hosts that prefer containers. No Dockerfile and no builder: a root file system is made
# with debootstrap, install.sh puts the release into it, and the engine imports it.
#
#   packaging/image/build.sh build/packages locci:0.1.0
#
# To run an agent that way it needs the host's network and Docker Engine's socket:
#
#   docker run -d --name locci-agent --restart always --network host \
#     -v /var/run/docker.sock:/var/run/docker.sock -v /var/lib/locci:/var/lib/locci -v /run/locci:/run/locci \
#     -v /sys/fs/cgroup:/sys/fs/cgroup:ro locci:0.1.0 locci-agent run
set -eu
release=${1:?usage: build.sh RELEASE-DIR IMAGE [MIRROR]}
image=${2:?usage: build.sh RELEASE-DIR IMAGE [MIRROR]}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,ca-certificates bookworm "$root/tree" ${3:+"$3"} >&2
sh "$release/install.sh" --root "$root/tree" --from "$release"
rm -rf "$root/tree"/var/cache/apt/* "$root/tree"/var/lib/apt/lists/*
tar -C "$root/tree" --exclude ./dev -c . | docker import --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' --change 'CMD ["locci-agent", "run"]' - "$image"
