"""The context file: which control plane, how to trust it, and the token to show it."""

from __future__ import annotations

import json
import os
import re
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from cli.failure import DENIED, USAGE, Failure
from fleet.enrol import trust_context
from fleet.files import write_atomic
from fleet.identity import fingerprint

_LOGIN = "`locci context use FILE` takes the context.json that the control plane wrote; `locci login` makes one"


_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class Context:
    """A control plane as this user sees it."""

    server: str
    ca_pem: str
    token: str
    grpc: str = ""

    def tls(self) -> ssl.SSLContext:
        """Trusts the context's CA and nothing else."""
        return trust_context(self.ca_pem)

    def token_id(self) -> str:
        """The public part of the token."""
        parts = self.token.split(".")
        return parts[1] if len(parts) == 3 else "?"

    def fingerprints(self) -> list[str]:
        """SHA-256 of each trusted CA."""
        return [fingerprint(certificate) for certificate in x509.load_pem_x509_certificates(self.ca_pem.encode())]


def own_path() -> Path:
    """Where `login` and `context use` keep the context of this user."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "locci" / "context.json"


def named_path(name: str) -> Path:
    """Where a context is kept under a name. Raises a Failure for what cannot be one."""
    if not _NAME.fullmatch(name):
        hint = "1-40 of `a-z0-9-`, starting with a letter or a digit"
        raise Failure(f"{name!r} cannot be the name of a context", hint=hint, exit_code=USAGE)
    return own_path().parent / "contexts" / f"{name}.json"


def names() -> list[str]:
    """The names that contexts are kept under."""
    return sorted(path.stem for path in (own_path().parent / "contexts").glob("*.json") if _NAME.fullmatch(path.stem))


def path_in_effect(given: Path | None = None) -> Path:
    """The context file that commands use: the one given, else $LOCCI_CONTEXT, else the user's own."""
    from_environment = os.environ.get("LOCCI_CONTEXT")
    return given or (Path(from_environment) if from_environment else own_path())


def load(path: Path) -> Context:
    """The context in a file. Raises a Failure that says what is wrong with it."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise Failure("there is no context file", where=str(path), hint=_LOGIN, exit_code=USAGE) from None
    except PermissionError:
        hint = "copy it to a place of your own, readable by you only, and `locci context use` it"
        raise Failure("the context file may not be read", where=str(path), hint=hint, exit_code=DENIED) from None
    except OSError as error:
        raise Failure(f"the context file cannot be read: {error.strerror}", where=str(path), exit_code=USAGE) from error
    except ValueError as error:
        raise Failure(
            f"the context file is not JSON: {error}", where=str(path), hint=_LOGIN, exit_code=USAGE
        ) from error
    return check(values, str(path))


def check(values: Any, where: str) -> Context:
    """The context that `values` describe. Raises a Failure."""
    if not isinstance(values, dict):
        raise Failure("a context is a JSON object", where=where, hint=_LOGIN, exit_code=USAGE)
    texts = {name: values.get(name, "") for name in ("server", "ca_pem", "token", "grpc")}
    wrong = next((name for name, text in texts.items() if not isinstance(text, str)), None)
    missing = next((name for name in ("server", "ca_pem", "token") if not texts[name]), None)
    if wrong or missing:
        what = f"{wrong} is not a string" if wrong else f"{missing} is missing"
        raise Failure(f"the context is not complete: {what}", where=where, hint=_LOGIN, exit_code=USAGE)
    if not texts["server"].startswith("https://"):
        hint = "as in https://control.example.net:7443"
        raise Failure("the server must be an https:// URL", where=texts["server"], hint=hint, exit_code=USAGE)
    context = Context(**{**texts, "server": texts["server"].rstrip("/")})
    try:
        context.tls()
        context.fingerprints()
    except (ssl.SSLError, ValueError) as error:
        hint = "it must hold the CA's certificates in PEM"
        raise Failure("the context's CA cannot be read", where=where, hint=hint, exit_code=USAGE) from error
    return context


def save(context: Context, path: Path) -> None:
    """Keeps a context, readable by its owner only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, json.dumps(asdict(context), indent=2).encode() + b"\n")
    except OSError as error:
        raise Failure(f"the context cannot be kept: {error.strerror}", where=str(path)) from error
