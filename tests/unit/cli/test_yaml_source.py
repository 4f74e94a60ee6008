from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.failure import USAGE, Failure
from cli.yaml_source import read


def test_values_know_their_lines() -> None:
    (document,) = read("name: a\nports:\n  - name: http\n    container_port: 80\nenv:\n  A.B: x\n", "app.yaml")
    assert document.value == {"name": "a", "ports": [{"name": "http", "container_port": 80}], "env": {"A.B": "x"}}
    assert document.line("ports[0].container_port") == 4
    assert document.line("ports[0].protocol") == 3
    assert document.line("env[A.B]") == 6
    assert document.line("nowhere") == 1


def test_several_documents_and_empty_ones() -> None:
    documents = read("---\n---\nname: a\n---\n# nothing\n---\nname: b\n", "app.yaml")
    assert [document.value["name"] for document in documents] == ["a", "b"]
    assert documents[1].line("name") == 7
    assert read("", "app.yaml") == []


def test_merged_keys_yield_to_own_ones() -> None:
    (document,) = read("base: &b {a: 1, c: 3}\nown:\n  <<: *b\n  a: 2\n", "app.yaml")
    assert document.value["own"] == {"a": 2, "c": 3}
    assert document.line("own.a") == 4


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("a: 1\na: 2\n", "'a' is given twice", "f:2"),
        ("a:\n  b: 1\n  b: 1\n", "'b' is given twice", "f:3"),
        ("a: [\n", "this is not YAML", "f:2:1"),
        ("a: !!python/object:os.system x\n", "this is not YAML", "f:1:4"),
        ("1: a\n", "the key '1' must be a string", "f:1"),
        ("yes: a\n", "the key 'yes' must be a string", "f:1"),
        ("? [a]\n: b\n", "a key must be a string", "f:1"),
        ("a: &x [*x]\n", "", "f"),
        ("a: *nothing\n", "this is not YAML", "f:1:4"),
        ("\x00", "this is not YAML", "f"),
        ("[" * 5000, "", "f"),
        ("a: " + "x" * (1 << 20), "larger than", "f"),
    ],
)
def test_what_is_refused(text: str, what: str, where: str) -> None:
    with pytest.raises(Failure) as caught:
        read(text, "f")
    assert what in caught.value.what
    assert caught.value.where.startswith(where)
    assert caught.value.exit_code == USAGE


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(Failure, match="too large"):
        read("\n".join(lines), "f")


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    exit_code = USAGE
    try:
        read(text, "f")
    except Failure as failure:
        exit_code = failure.exit_code
    assert exit_code == USAGE
