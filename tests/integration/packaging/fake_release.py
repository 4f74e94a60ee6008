"""A release as `tools/packages` makes it, of a few hundred bytes."""

from __future__ import annotations

import hashlib
import io
import platform
import shutil
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ("locci", "locci-agent", "locci-dns", "locci-edge", "locci-server")
JOIN = """#!/bin/sh
echo "${0##*/} $*" >>/calls
[ "$1" != join ] || { mkdir -p /var/lib/locci/identity; touch /var/lib/locci/identity/identity.json; }
"""
ENGINE = "#!/bin/sh\ncat >/dev/null\nexit 0\n"


def release(folder: Path, version: str, agent: str = JOIN) -> Path:
    """A release whose programs only write down how they were called, except for a given agent."""
    folder.mkdir(exist_ok=True)
    files = {f"bin/{name}": JOIN for name in PROGRAMS} | {
        "bin/locci-agent": agent,
        "bin/python3": ENGINE,
        "share/VERSION": version,
    }
    files["share/install.sh"] = (ROOT / "packaging" / "install.sh").read_text()
    units = {f"share/systemd/{unit.name}": unit.read_text() for unit in (ROOT / "packaging/systemd").glob("*.service")}
    archive = folder / f"locci-{version}-linux-{platform.machine()}-py3.11.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in (files | units).items():
            entry = tarfile.TarInfo(f"{version}/{name}")
            entry.size, entry.mode = len(text.encode()), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    (folder / "VERSION").write_text(f"{version}\n")
    shutil.copy(ROOT / "packaging" / "install.sh", folder)
    sums = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in folder.iterdir() if p.name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder
