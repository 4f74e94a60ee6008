"""The secrets of DNS cookies on disk: 32 hexadecimal digits a line, readable by this user alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fleet.errors import Code, LocciError
from fleet.files import write_atomic
from routing.core.cookies import SECRET_BYTES


def load(path: Path, fresh: Callable[[int], bytes]) -> list[bytes]:
    """The secrets at `path`; when there is no file it is made, with `fresh(bytes)`. Raises FAILED_PRECONDITION when it
    cannot be read or holds something else."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        secret = fresh(SECRET_BYTES)
        write_atomic(path, (secret.hex() + "\n").encode())
        return [secret]
    except (OSError, UnicodeDecodeError) as error:
        raise LocciError(Code.FAILED_PRECONDITION, "NO_COOKIE_SECRET", f"{path} cannot be read: {error}") from error
    try:
        secrets = [bytes.fromhex(line) for line in text.split()]
    except ValueError:
        secrets = []
    if not secrets or any(len(secret) != SECRET_BYTES for secret in secrets):
        message = f"{path}: each line must be {2 * SECRET_BYTES} hexadecimal digits; correct it, or remove the file"
        raise LocciError(Code.FAILED_PRECONDITION, "NO_COOKIE_SECRET", message)
    return secrets
