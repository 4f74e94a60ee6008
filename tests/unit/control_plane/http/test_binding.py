"""From path, query and body to a request message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.http import binding, routes
from fleet.errors import Code, LocciError
from tests.unit.control_plane.http.contract_services import ALL

TABLE = routes.build(ALL)


def bind(method: str, path: str, query: list[tuple[str, str]] | None = None, body: Any = None) -> Any:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return binding.bind(TABLE.match(method, path), query or [], content)


def refusal(method: str, path: str, query: list[tuple[str, str]] | None = None, body: Any = None) -> LocciError:
    with pytest.raises(LocciError) as caught:
        bind(method, path, query, body)
    assert caught.value.code is Code.INVALID_ARGUMENT
    return caught.value


def test_path_query_and_body_meet_in_one_message() -> None:
    message = bind("POST", "/v1/regions", [("region_id", "eu"), ("validateOnly", "true")], {"latitude": 50})
    assert (message.region_id, message.validate_only, message.region.latitude) == ("eu", True, 50.0)
    listed = bind("GET", "/v1/events", [("page_size", "5"), ("ascending", "")])
    assert (listed.page_size, listed.ascending) == (5, True)
    assert bind("POST", "/v1/apps/a:rollback", [], {"release": "r"}).name == "apps/a"
    assert bind("POST", "/v1/apps/a:rollback").name == "apps/a"


def test_the_path_wins_over_the_body() -> None:
    assert bind("PATCH", "/v1/regions/eu", [], {"name": "regions/us"}).region.name == "regions/eu"


def test_a_patch_without_mask_changes_what_its_body_names() -> None:
    body = {"name": "x", "cordoned": False, "labels": {}, "etag": "5", "condition": "NODE_CONDITION_READY"}
    message = bind("PATCH", "/v1/nodes/a", [], body)
    assert list(message.update_mask.paths) == ["cordoned", "labels"]
    assert message.node.condition == 0
    given_mask = bind("PATCH", "/v1/nodes/a", [("update_mask", "labels,addresses")], body)
    assert list(given_mask.update_mask.paths) == ["labels", "addresses"]
    for text in ("condition_reason,labels", "conditionReason,labels"):
        in_either_case = bind("PATCH", "/v1/nodes/a", [("update_mask", text)], body)
        assert list(in_either_case.update_mask.paths) == ["condition_reason", "labels"]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ([("region_idd", "eu")], "region_idd: unknown query parameter; did you mean 'region_id'?"),
        ([("region.latitude", "1")], "unknown query parameter"),
        ([("region_id", "a"), ("region_id", "b")], "is given twice"),
        ([("region_id", "a"), ("regionId", "b")], "is given twice"),
        ([("validate_only", "maybe")], "must be true or false"),
        ([("", "")], "unknown query parameter"),
    ],
)
def test_query_parameters_that_are_refused(query: list[tuple[str, str]], text: str) -> None:
    assert text in refusal("POST", "/v1/regions", query, {}).message


def test_a_method_that_takes_the_whole_body_takes_no_query() -> None:
    assert "no query parameters" in refusal("POST", "/v1/apps:apply", [("x", "1")], {}).message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "line 1, column 2"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[]", "must be a JSON object"),
        (b'{"manifest": {"name": "a", "name": "b"}}', "'name' is given twice"),
        (b'{"x": NaN}', "NaN is no JSON number"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "is not JSON that is taken here"),
        (b'{"manifest": {"imge": "x"}}', "manifest.imge: unknown field; did you mean 'image'?"),
        (b"{}", "manifest: is required"),
        (b'{"manifest": {"name": "a", "image": "b", "ports": [{}]}}', "container_port: is required and must not be 0"),
    ],
)
def test_bodies_that_are_refused(body: bytes, text: str) -> None:
    assert text in refusal("POST", "/v1/apps:apply", [], body).message


def test_a_body_where_none_belongs() -> None:
    assert refusal("GET", "/v1/apps", [], {}).reason == "UNEXPECTED_BODY"


def test_too_many_parameters() -> None:
    assert "more than 200" in refusal("GET", "/v1/apps", [("page_size", "1")] * 201).message


@given(st.binary(max_size=60), st.lists(st.tuples(st.text(max_size=12), st.text(max_size=6)), max_size=4))
def test_garbage_is_refused_in_words(body: bytes, query: list[tuple[str, str]]) -> None:
    for path in ("/v1/regions", "/v1/apps:apply", "/v1/zones"):
        code = Code.INVALID_ARGUMENT
        try:
            binding.bind(TABLE.match("POST", path), query, body)
        except LocciError as error:
            code = error.code
        assert code is Code.INVALID_ARGUMENT
