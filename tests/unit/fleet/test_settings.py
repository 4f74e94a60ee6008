from __future__ import annotations

from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from fleet.errors import LocciError
from fleet.settings import ProgramSettings, load


class Settings(ProgramSettings):
    model_config = SettingsConfigDict(env_prefix="LOCCI_TEST_", extra="forbid")

    port: int = 1


def test_defaults_file_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Settings, None).port == 1
    file = tmp_path / "a.toml"
    file.write_text("port = 2")
    assert load(Settings, file).port == 2
    monkeypatch.setenv("LOCCI_TEST_PORT", "3")
    assert load(Settings, file).port == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [("prot = 2", "prot"), ("port = 'x'", "port"), ("port = ", "is not TOML"), (None, "cannot be read")],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "a.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(LocciError) as caught:
        load(Settings, file)
    assert said in caught.value.message
    assert str(file) in caught.value.message
