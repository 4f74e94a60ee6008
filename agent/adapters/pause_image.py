"""The image of sandboxes: one program of some hundred bytes that sleeps until it is killed.

No registry has to have it: it is written here, instruction by instruction, and given to the engine as it is.
"""

from __future__ import annotations

import io
import platform
import struct
import tarfile
from typing import Final

NAME: Final = "locci.local/pause"
TAG: Final = "1"
COMMAND: Final = "/pause"

_LOAD_ADDRESS: Final = 0x400000
_HEADERS_BYTES: Final = 64 + 56

# pause(2) for ever on x86-64: mov eax, 34; syscall; jmp back.
# ppoll(2) of nothing for ever on AArch64, which has no pause.
_PROGRAMS: Final = {
    "x86_64": (62, bytes.fromhex("b8220000000f05ebf7")),
    "aarch64": (
        183,
        struct.pack("<7I", 0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800928, 0xD4000001, 0x17FFFFFA),
    ),
}


def archive(machine: str = "") -> bytes | None:
    """The image's root file system as a tar archive; None when no program is known for the machine."""
    known = _PROGRAMS.get(machine or platform.machine())
    if known is None:
        return None
    program = executable(*known)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(COMMAND.lstrip("/"))
        entry.size, entry.mode = len(program), 0o755
        tar.addfile(entry, io.BytesIO(program))
    return buffer.getvalue()


def executable(elf_machine: int, code: bytes) -> bytes:
    """A static ELF64 program of one segment (System V ABI, chapters 4 and 5)."""
    entry, size = _LOAD_ADDRESS + _HEADERS_BYTES, _HEADERS_BYTES + len(code)
    identification = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, elf_machine, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x10000)
    return identification + header + segment + code
