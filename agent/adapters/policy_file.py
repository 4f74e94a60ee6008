"""The host's policy file: TOML, strict, so that a rule with a typing error is not taken for none."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from agent.core.faults import Kind
from agent.core.policy import LocalPolicy
from fleet.errors import invalid
from fleet.signatures import load_key


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    registries: list[str] = ["*"]
    host_paths: list[str] = []
    capabilities: list[str] = []
    privileged: bool = False
    drills: bool = True
    forbidden_faults: list[str] = []
    signed_by: list[str] = []
    commands: bool = True


def load(path: Path) -> LocalPolicy:
    """The policy at `path`; the defaults when there is no such file. Raises INVALID_ARGUMENT when it is wrong."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return LocalPolicy()
    except OSError as error:
        raise invalid("policy_file", f"{path}: cannot be read: {error.strerror}") from error
    try:
        found = _File(**tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise invalid("policy_file", f"{path}: is not TOML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise invalid("policy_file", f"{path}: {problems}") from error
    for host_path in found.host_paths:
        if not host_path.startswith("/"):
            raise invalid("policy_file", f"{path}: host_paths: {host_path!r} is not absolute")
    known = sorted(kind.value for kind in Kind if kind is not Kind.UNKNOWN)
    for fault in found.forbidden_faults:
        if fault not in known:
            problem = f"{fault!r} is no fault; use {', '.join(known)}"
            raise invalid("policy_file", f"{path}: forbidden_faults: {problem}")
    return LocalPolicy(
        registries=tuple(found.registries),
        host_paths=tuple(found.host_paths),
        capabilities=tuple(name.upper().removeprefix("CAP_") for name in found.capabilities),
        privileged=found.privileged,
        drills=found.drills,
        forbidden_faults=tuple(found.forbidden_faults),
        signed_by=tuple(_key(path, Path(file)) for file in found.signed_by),
        commands=found.commands,
    )


def _key(path: Path, file: Path) -> str:
    try:
        pem = file.read_text()
        load_key(pem)
    except OSError as error:
        raise invalid("policy_file", f"{path}: signed_by: {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise invalid("policy_file", f"{path}: signed_by: {file} {error}") from error
    return pem
