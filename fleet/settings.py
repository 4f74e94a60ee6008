"""How every program reads its settings: defaults, then a TOML file, then the environment."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fleet.errors import LocciError, invalid

S = TypeVar("S", bound="ProgramSettings")


class ProgramSettings(BaseSettings):
    """Base of a program's settings; a subclass sets `env_prefix`, as in `LOCCI_AGENT_`."""

    model_config = SettingsConfigDict(extra="forbid", env_nested_delimiter="__")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which comes in as initial values."""
        return env_settings, init_settings


def load(kind: type[S], path: Path | None) -> S:
    """Settings of `kind` from the TOML file at `path`, when given, and the environment.

    Raises INVALID_ARGUMENT that names the file, the key and what is wrong with it.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except OSError as error:
            raise invalid("config", f"{path}: cannot be read: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise invalid("config", f"{path}: is not TOML: {error}") from error
    try:
        return kind(**values)
    except ValidationError as error:
        raise _explain(error, path) from error


def _explain(error: ValidationError, path: Path | None) -> LocciError:
    problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return invalid("config", f"{path or 'environment'}: {problems}")
