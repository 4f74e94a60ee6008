"""Builds what is shipped: a relocatable environment of Python, and packages of it.

The same sources give the same bytes: times come from SOURCE_DATE_EPOCH (the last commit when it is not set), owners
are root, orders are sorted, bytecode names no path of the machine that built it.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = "locci-cloud"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
PREFIX = Path("/opt/locci")

LAUNCHER = """\
#!/bin/sh
'''exec' "$(dirname -- "$(readlink -f -- "$0")")/python3" "$0" "$@"
' '''
import sys

from {module} import {function}

sys.exit({function}())
"""

POSTINST = """\
#!/bin/sh
# `current` names the version that runs; what the agent upgraded itself to is not taken back by an older package.
set -e
ln -sfn {version} /opt/locci/.current.new
mv -T /opt/locci/.current.new /opt/locci/current
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
  # Only what runs is started anew: a host that did not join yet has nothing to start.
  for unit in locci-agent locci-dns; do systemctl try-restart "$unit.service" || true; done
  systemctl try-reload-or-restart locci-edge.service || true
fi
"""

PRERM = """\
#!/bin/sh
# On removal, not on upgrade. Containers go on running.
set -e
case "$1" in
  remove | 0)
    if [ -d /run/systemd/system ]; then
      systemctl disable --now locci-agent.service locci-edge.service locci-dns.service locci-server.service || true
    fi
    rm -f /opt/locci/current ;;
esac
"""

POSTRM = """\
#!/bin/sh
set -e
case "$1" in
  purge) rm -rf /var/lib/locci /etc/locci ;;
esac
[ ! -d /run/systemd/system ] || systemctl daemon-reload || true
"""


class Build:
    """One version for the machine that this runs on."""

    def __init__(self, version: str, out: Path, release_url: str):
        self.version = version
        self.machine = platform.machine()
        self.out = out
        self.release_url = release_url
        self.work = ROOT / "build" / "packages-work" / version
        self.tree = self.work / "root" / PREFIX.relative_to("/") / version
        self.epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))
        self.stem = f"locci-{version}-linux-{self.machine}-py{PYTHON}"

    def run(self, kinds: set[str]) -> None:
        """Builds all `kinds`, and the checksums of everything in the folder."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.tree.mkdir(parents=True)
        self.out.mkdir(parents=True, exist_ok=True)
        self.make_tree()
        self.archive()
        self.installer()
        if "deb" in kinds:
            self.deb()
        if "rpm" in kinds:
            self.rpm()
        self.checksums()
        if "bundle" in kinds:
            self.bundle()
        shutil.rmtree(self.work)

    # ---- the environment

    def make_tree(self) -> None:
        """The environment: libraries, programs, units, documents."""
        say(f"collecting Python packages for {self.stem}")
        site = self.tree / "lib" / f"python{PYTHON}" / "site-packages"
        wanted = self.work / "requirements.txt"
        wanted.write_text(runtime_requirements())
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        install = [*pip, "install", "--target", str(site), "--no-compile", "--no-deps"]
        run(*install, "--require-hashes", "--only-binary", ":all:", "--requirement", str(wanted))
        run(*install, str(self.own_wheel(pip)))
        shutil.rmtree(site / "bin", ignore_errors=True)
        for name in ("direct_url.json", "RECORD", "INSTALLER", "REQUESTED"):
            for path in site.glob(f"*.dist-info/{name}"):
                path.unlink()
        self.programs()
        self.documents()
        run(
            *(sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(self.work / "root"), "-p", "/", str(site)),
        )
        for path in [self.tree, *self.tree.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent == self.tree / "bin" else 0o644)
            os.utime(path, (self.epoch, self.epoch), follow_symlinks=False)

    def own_wheel(self, pip: list[str]) -> Path:
        """This project as a wheel of the wanted version, from a copy of what is tracked."""
        source = self.work / "source"
        for name in _git("ls-files").splitlines():
            if (ROOT / name).is_file() and not name.startswith(("tests/", "bench/")):
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, source / name)
        project = source / "pyproject.toml"
        text = re.sub(r'^version = ".*"$', f'version = "{self.version}"', project.read_text(), count=1, flags=re.M)
        project.write_text(text)
        flags = f"-g0 -O2 -ffile-prefix-map={source}=."
        run(
            *(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(self.work), str(source)),
            env={"SOURCE_DATE_EPOCH": str(self.epoch), "CFLAGS": flags, "LDFLAGS": "-Wl,--build-id=none"},
        )
        return next(self.work.glob("locci_cloud-*.whl"))

    def programs(self) -> None:
        """`bin`: the distribution's Python with our libraries, and a launcher for each program."""
        folder = self.tree / "bin"
        folder.mkdir()
        for name in ("python3", "python"):
            (folder / name).symlink_to(f"/usr/bin/python{PYTHON}")
        # Python finds its libraries beside this file, wherever the folder is: nothing here names an absolute path.
        settings = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n"
        (self.tree / "pyvenv.cfg").write_text(settings)
        for script in metadata.distribution(PROJECT).entry_points.select(group="console_scripts"):
            text = LAUNCHER.format(module=script.module, function=script.attr)
            (folder / script.name).write_text(text)

    def documents(self) -> None:
        """`share`: units, documents, examples, and the version."""
        share = self.tree / "share"
        shutil.copytree(ROOT / "packaging" / "systemd", share / "systemd")
        shutil.copytree(ROOT / "docs", share / "doc")
        shutil.copy(ROOT / "CHANGELOG.md", share / "doc")
        shutil.copy(ROOT / "packaging" / "install.sh", share)
        (share / "VERSION").write_text(f"{self.version}\n")
        (share / "PYTHON").write_text(f"{PYTHON}\n")

    # ---- what is made of it

    def archive(self) -> None:
        """The environment as a .tar.gz, for install.sh and for hosts that upgrade themselves."""
        write_tar(self.out / f"{self.stem}.tar.gz", self.tree.parent, [self.version], self.epoch)

    def installer(self) -> None:
        """install.sh, which knows where its release is published when that was said."""
        text = (ROOT / "packaging" / "install.sh").read_text()
        text = text.replace('RELEASE_URL=""', f'RELEASE_URL="{self.release_url}"')
        path = self.out / "install.sh"
        path.write_text(text)
        path.chmod(0o755)
        (self.out / "VERSION").write_text(f"{self.version}\n")

    def staged(self) -> Path:
        """The file system of a package."""
        root = self.work / "root"
        units = root / "usr/lib/systemd/system"
        units.mkdir(parents=True, exist_ok=True)
        for unit in sorted((ROOT / "packaging" / "systemd").glob("*.service")):
            shutil.copy(unit, units)
        commands = root / "usr/bin"
        commands.mkdir(parents=True, exist_ok=True)
        for program in sorted(self.tree.glob("bin/locci*")):
            link = commands / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(f"{PREFIX}/current/bin/{program.name}")
        return root

    def deb(self) -> None:
        """A Debian package."""
        say("building the .deb")
        root = self.staged()
        control = root / "DEBIAN"
        control.mkdir()
        following = f"{sys.version_info.major}.{sys.version_info.minor + 1}"
        (control / "control").write_text(
            f"Package: locci\nVersion: {self.version}\nArchitecture: {DEBIAN[self.machine]}\n"
            f"Maintainer: Locci Cloud <packages@locci.example>\nSection: admin\nPriority: optional\n"
            f"Installed-Size: {_size(root) // 1024}\n"
            f"Depends: python3 (>= {PYTHON}), python3 (<< {following}), libc6\n"
            "Recommends: docker.io (>= 20.10) | docker-ce, ca-certificates\n"
            "Description: run your own edge\n"
            " Agent, edge, DNS server, control plane and command line of Locci Cloud.\n"
        )
        for name, text in (("postinst", POSTINST.format(version=self.version)), ("prerm", PRERM), ("postrm", POSTRM)):
            (control / name).write_text(text)
            (control / name).chmod(0o755)
        target = self.out / f"locci_{self.version}_{DEBIAN[self.machine]}.deb"
        run(
            *("dpkg-deb", "--root-owner-group", "-Zgzip", "-z6", "--build", str(root), str(target)),
            env={"SOURCE_DATE_EPOCH": str(self.epoch)},
        )
        shutil.rmtree(control)

    def rpm(self) -> None:
        """An RPM, when rpmbuild is there."""
        if shutil.which("rpmbuild") is None:
            say("no rpmbuild here, so no .rpm is built: install the package rpm (Debian) or rpm-build (Fedora)")
            return
        say("building the .rpm")
        root = self.staged()
        listed = [f"/{path.relative_to(root)}" for path in sorted(root.glob("usr/*/**/locci*"))]
        spec = self.work / "locci.spec"
        spec.write_text(
            f"Name: locci\nVersion: {self.version}\nRelease: 1\nSummary: Run your own edge\nLicense: proprietary\n"
            f"AutoReqProv: no\nRequires: python{PYTHON}\n"
            "%define __os_install_post %{nil}\n%define _build_id_links none\n%define _binary_payload w6.gzdio\n"
            "%define _buildhost reproducible\n%define use_source_date_epoch_as_buildtime 1\n"
            "%define clamp_mtime_to_source_date_epoch 1\n"
            "%description\nAgent, edge, DNS server, control plane and command line of Locci Cloud.\n"
            f"%install\ncp -a {root}/. %{{buildroot}}/\n"
            f"%post\n{POSTINST.format(version=self.version)}\n%preun\n{PRERM}\n%postun\n{POSTRM}\n"
            "%files\n%defattr(-,root,root,-)\n" + "\n".join([f"{PREFIX}/{self.version}", *listed]) + "\n"
        )
        top = self.work / "rpm"
        run(
            *("rpmbuild", "--quiet", "-bb", "--define", f"_topdir {top}", "--target", self.machine, str(spec)),
            env={"SOURCE_DATE_EPOCH": str(self.epoch)},
        )
        for built in top.glob("RPMS/*/*.rpm"):
            shutil.copy(built, self.out / built.name)

    def checksums(self) -> None:
        """SHA256SUMS of everything that is downloaded."""
        lines = []
        for path in sorted(self.out.iterdir()):
            if path.is_file() and path.name != "SHA256SUMS" and not path.name.endswith("-bundle.tar"):
                with path.open("rb") as content:
                    lines.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {path.name}\n")
        (self.out / "SHA256SUMS").write_text("".join(lines))

    def bundle(self) -> None:
        """All that a host without a network needs, in one file."""
        names = ["SHA256SUMS", "VERSION", "install.sh", f"{self.stem}.tar.gz"]
        write_tar(self.out / f"{self.stem}-bundle.tar", self.out, names, self.epoch)


def runtime_requirements() -> str:
    """What the programs need, pinned with hashes: the lock without what only development needs."""
    pinned: dict[str, str] = {}
    for block in re.split(r"\n(?=[a-zA-Z0-9])", (ROOT / "requirements.lock").read_text()):
        if found := re.match(r"([A-Za-z0-9._-]+)==", block):
            pinned[_normal(found[1])] = "".join(f"{line}\n" for line in block.splitlines() if "# " not in line)
    # A host may have an older patch release of Python than this machine, which needs more.
    oldest = {"extra": "", "python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    wanted: set[str] = set()
    names = [PROJECT]
    while names:
        for text in metadata.requires(names.pop()) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(oldest):
                name = _normal(requirement.name)
                if name in pinned and name not in wanted:
                    wanted.add(name)
                    names.append(name)
    # `pip` resolves nothing here, so an extra's own needs are named: sqlalchemy[asyncio] brings greenlet.
    wanted.add("greenlet")
    return "".join(pinned[name] for name in sorted(wanted))


def write_tar(target: Path, folder: Path, names: list[str], epoch: int) -> None:
    """`names` of `folder`, whole, sorted, as root's and of one time; compressed when the name says so."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = epoch
        return entry

    with target.open("wb") as raw:
        if target.suffix == ".gz":
            with gzip.GzipFile("", "wb", 6, raw, mtime=epoch) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
                _add(tar, folder, names, plain)
        else:
            with tarfile.open(fileobj=raw, mode="w") as tar:
                _add(tar, folder, names, plain)


def _add(tar: tarfile.TarFile, folder: Path, names: list[str], plain: object) -> None:
    for name in names:
        tar.add(folder / name, name, filter=plain)  # type: ignore[arg-type]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _size(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file())


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def run(*command: str, env: dict[str, str] | None = None) -> None:
    """Runs a command; ends the program with what it wrote when it fails."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"packages: {' '.join(command[:6])}… failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def say(text: str) -> None:
    """Progress."""
    print(f"packages: {text}", file=sys.stderr)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default=metadata.version(PROJECT), help="the version; the project's by default")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "packages")
    parser.add_argument("--release-url", default="", help="where install.sh finds the release when it is not told")
    parser.add_argument("--only", default="deb,rpm,bundle", help="what to build besides the archive")
    options = parser.parse_args()
    Build(options.version, options.out.resolve(), options.release_url).run(set(options.only.split(",")))
    for path in sorted(options.out.iterdir()):
        print(f"{path.stat().st_size / 2**20:8.1f} MiB  {path}")


if __name__ == "__main__":
    main()
