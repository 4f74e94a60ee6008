from __future__ import annotations

import datetime
import json

import pytest
import yaml

from cli import output
from cli.durations import seconds_text
from cli.failure import USAGE, Failure
from cli.output import Format
from cli.session import name_of, pairs_of

COLUMNS: list[output.Column] = [("A", lambda item: item["a"]), ("LONG NAME", lambda item: item["b"])]
ITEMS = [{"a": "x", "b": "y" * 300}, {"a": "\x1b[31mred", "b": ""}]


def test_tables_outside_of_a_terminal_are_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.show(ITEMS, COLUMNS, Format.TABLE, "none")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A         LONG NAME"
    assert lines[1] == f"x         {'y' * 300}"
    assert lines[2] == "\N{REPLACEMENT CHARACTER}[31mred  -"


def test_json_and_yaml_are_the_items(capsys: pytest.CaptureFixture[str]) -> None:
    output.show(ITEMS, COLUMNS, Format.JSON, "none")
    assert json.loads(capsys.readouterr().out) == ITEMS
    output.show(ITEMS, COLUMNS, Format.YAML, "none")
    assert yaml.safe_load(capsys.readouterr().out) == ITEMS
    output.show([], COLUMNS, Format.JSON, "none")
    assert json.loads(capsys.readouterr().out) == []


def test_an_empty_table_says_so_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    output.show([], COLUMNS, Format.TABLE, "no things")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no things\n")


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (None, ""),
        ("2026-01-01T00:00:00Z", "0s"),
        ("2025-12-31T23:58:30.123456789Z", "89s"),
        ("2025-12-31T23:00:00Z", "60m"),
        ("2025-12-30T00:00:00Z", "2d"),
        ("2026-01-01T03:00:00Z", "in 3h"),
    ],
)
def test_ages(time: str | None, text: str) -> None:
    assert output.age(time, datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)) == text


def test_words() -> None:
    assert output.word("ROLLOUT_STATE_ROLLED_BACK", "ROLLOUT_STATE_") == "rolled-back"
    assert output.pairs({"b": "2", "a": "1"}) == "a=1,b=2"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", "5400s"), ("1.5s", "1.5s"), ("250ms", "0.25s"), ("7d", "604800s")]
)
def test_durations(text: str, seconds: str) -> None:
    assert seconds_text(text, "--ttl") == seconds


@pytest.mark.parametrize("text", ["", "5", "1w", "-1s", "1 h", "infs"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(Failure, match="--ttl"):
        seconds_text(text, "--ttl")


@pytest.mark.parametrize("given", ["hello", "apps/hello"])
def test_names(given: str) -> None:
    assert name_of("apps", given) == "apps/hello"


@pytest.mark.parametrize("given", ["", "apps/", "a/b", "a:rollback", "a?x", "a#", "a%2Fb", "a b", "a\n", "../ca"])
def test_names_that_would_lead_elsewhere(given: str) -> None:
    with pytest.raises(Failure) as caught:
        name_of("apps", given)
    assert caught.value.exit_code == USAGE


def test_pairs() -> None:
    assert pairs_of(["a=1", "b=x=y", "c="], "--label") == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(Failure, match="key=value"):
        pairs_of(["a"], "--label")
