"""The language of `filter` and `order_by`, over messages of the contract."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import pkgutil
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import locci.v1
from control_plane.core.filter_match import compile_filter, compile_order
from control_plane.core.filter_syntax import All, AnyOf, Comparison, Not, Word, parse
from control_plane.http import comments
from fleet.errors import Code, LocciError
from locci.v1 import app_pb2, manifest_pb2, node_pb2

NODE = node_pb2.Node(
    name="nodes/eu-1",
    region="regions/eu",
    roles=[node_pb2.NODE_ROLE_EDGE, node_pb2.NODE_ROLE_DNS],
    condition=node_pb2.NODE_CONDITION_READY,
    condition_reason='it says "fine"',
    addresses=["192.0.2.1", "2001:db8::1"],
    labels={"tier": "gold", "topology.kubernetes.io/zone": "a"},
    facts=node_pb2.NodeFacts(cpus=4, memory_bytes=8 << 30, architecture="arm64"),
    sessions=[node_pb2.NodeSession(role=node_pb2.NODE_ROLE_EDGE, epoch=7, connected=True)],
    healthy_replicas=3,
)
NODE.create_time.FromJsonString("2026-11-23T10:00:00.5Z")


def passes(text: str, message: object = NODE) -> bool:
    tree = parse(text)
    assert tree is not None
    return compile_filter(tree, message.DESCRIPTOR)(message)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "condition = READY",
        "condition=NODE_CONDITION_READY",
        "condition = ready",
        "condition != LOST",
        "name = nodes/eu-1",
        "name = nodes/eu-*",
        "name = 'nodes/*'",
        "name : EU",
        "cordoned = false",
        "NOT cordoned = true",
        "-cordoned = true",
        "healthy_replicas >= 3 healthy_replicas < 4",
        "healthyReplicas = 3",
        "labels.tier = gold",
        'labels."topology.kubernetes.io/zone" = a',
        "labels.topology.kubernetes.io/zone = a",
        "labels:tier",
        "labels.tier:*",
        "labels.other != gold",
        "NOT labels:other",
        "roles:DNS",
        "addresses:192.0.2.*",
        "sessions.connected:true AND sessions.role:EDGE",
        "sessions.epoch:7",
        "facts.cpus > 2",
        "facts.memory_bytes = 8589934592",
        "facts:*",
        "NOT condition_time:*",
        "create_time > 2026-11-23T09:00:00Z",
        'create_time <= "2026-11-23T11:00:01+01:00"',
        "create_time > 2026-11-22",
        "gold",
        "NOT silver",
        r'condition_reason = "it says \"fine\""',
        "region = regions/us OR region = regions/eu AND condition = READY",
        "(region = regions/us OR region = regions/eu)",
        "region > regions/a AND region < regions/f",
    ],
)
def test_a_node_passes(text: str) -> None:
    assert passes(text)
    assert not passes(f"NOT ({text})")


def test_or_binds_more_tightly_than_and() -> None:
    tree = parse("a = 1 AND b = 2 OR c = 3")
    assert isinstance(tree, All)
    assert isinstance(tree.parts[1], AnyOf)
    assert not passes("condition = LOST AND cordoned = true OR cordoned = false")


def test_unset_times_and_durations_pass_no_comparison() -> None:
    assert not passes("condition_time > 2000-01-01T00:00:00Z")
    assert not passes("condition_time < 2100-01-01T00:00:00Z")
    assert passes("condition_time != 2000-01-01T00:00:00Z")
    app = app_pb2.App(manifest=manifest_pb2.AppManifest())
    app.manifest.rollout.healthy_for.FromTimedelta(datetime.timedelta(seconds=90))
    assert passes("manifest.rollout.healthy_for = 1.5m", app)
    assert passes("manifest.rollout.healthy_for > 5s", app)


@pytest.mark.parametrize(
    ("text", "position", "part"),
    [
        ("conditon = READY", 1, "did you mean 'condition'"),
        ("facts.cpu = 1", 1, "facts.cpu"),
        ("condition = RAEDY", 13, "none of"),
        ("condition > READY", 1, "no order"),
        ("cordoned = yes", 12, "true or false"),
        ("healthy_replicas = many", 20, "whole number"),
        ("create_time > yesterday", 15, "no time"),
        ("roles = DNS", 1, "a list"),
        ("labels = x", 1, "a map"),
        ("facts = x", 1, "a message"),
        ("name.x = 1", 1, "no fields"),
        ("name =", 7, "a value is expected"),
        ("name = 'x", 8, "not closed"),
        ("(name = x", 1, "not closed"),
        ("name = x)", 9, "not expected"),
        ("AND name = x", 1, "AND"),
        ("name = x OR", 12, "expected"),
        ("OR name = x", 1, "OR"),
        ("= x", 1, "expected"),
        ("(" * 30 + "a" + ")" * 30, 21, "deep"),
        (" ".join(["a"] * 101), 201, "more than 100"),
    ],
)
def test_errors_name_the_place(text: str, position: int, part: str) -> None:
    with pytest.raises(LocciError) as caught:
        passes(text)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.field == "filter"
    assert f"at character {position}:" in caught.value.message
    assert part in caught.value.message


def test_a_long_filter_is_refused() -> None:
    with pytest.raises(LocciError, match="2001 characters"):
        parse("a" * 2001)
    assert parse("  ") is None


@given(st.text(alphabet="ab =:<>!()\"'\\*.-ANDORT\n\x00é", max_size=40) | st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    with contextlib.suppress(LocciError):
        tree = parse(text)
        if tree is not None:
            compile_filter(tree, node_pb2.Node.DESCRIPTOR)(NODE)


NAMES = st.text(alphabet="abc_", min_size=1, max_size=5)
TREES = st.recursive(
    st.builds(lambda name, value: f'{name} = "{value}"', NAMES, NAMES) | NAMES,
    lambda inner: (
        st.builds(lambda a: f"NOT ({a})", inner)
        | st.builds(lambda a, b: f"({a}) AND ({b})", inner, inner)
        | st.builds(lambda a, b: f"({a}) OR ({b})", inner, inner)
    ),
    max_leaves=8,
)


@given(TREES)
def test_what_is_well_formed_parses(text: str) -> None:
    assert isinstance(parse(text), Word | Comparison | Not | All | AnyOf)


def test_order_is_checked_and_keys_are_found() -> None:
    keys = compile_order("region, facts.cpus desc, labels.tier asc,create_time", node_pb2.Node.DESCRIPTOR)
    assert [descending for _, descending in keys] == [False, True, False, False]
    assert [key(NODE) for key, _ in keys] == ["regions/eu", 4, "gold", NODE.create_time.seconds + 0.5]
    assert [key(node_pb2.Node()) for key, _ in keys] == ["", 0, "", 0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("nam", "at character 1: unknown field 'nam'; did you mean 'name'"),
        ("name, region down", "at character 7: 'region down'"),
        ("name,", "at character 6"),
        ("labels", "no order"),
        ("sessions.epoch", "no order"),
        ("facts", "no order"),
        (",".join(["name"] * 9), "more than 8"),
    ],
)
def test_orders_that_cannot_be(text: str, part: str) -> None:
    with pytest.raises(LocciError, match=re.escape(part)) as caught:
        compile_order(text, node_pb2.Node.DESCRIPTOR)
    assert caught.value.field == "order_by"


def test_examples_in_the_contract_hold() -> None:
    checked = 0
    for found_module in pkgutil.iter_modules(locci.v1.__path__):
        if not found_module.name.endswith("_pb2"):
            continue
        file = importlib.import_module(f"locci.v1.{found_module.name}")
        for name, message in file.DESCRIPTOR.message_types_by_name.items():
            if not name.startswith("List") or "filter" not in message.fields_by_name:
                continue
            response = file.DESCRIPTOR.message_types_by_name[name.replace("Request", "Response")]
            listed = response.fields[0].message_type
            for field in {"filter", "order_by"} & set(message.fields_by_name):
                found = re.search("`([^`]+)`", comments.load()[f"locci.v1.{name}.{field}"])
                if found is None:
                    continue
                if field == "filter":
                    tree = parse(found[1])
                    assert tree is not None
                    compile_filter(tree, listed)
                else:
                    compile_order(found[1], listed)
                checked += 1
    assert checked >= 30
