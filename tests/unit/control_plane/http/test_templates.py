from __future__ import annotations

import pytest

from control_plane.http.templates import compile_template
from fleet.errors import LocciError


@pytest.mark.parametrize(
    ("template", "path", "bound"),
    [
        ("/v1/apps", "/v1/apps", {}),
        ("/v1/apps:apply", "/v1/apps:apply", {}),
        ("/v1/{name=apps/*}", "/v1/apps/hello", {"name": "apps/hello"}),
        ("/v1/{name=apps/*}:rollback", "/v1/apps/hello:rollback", {"name": "apps/hello"}),
        ("/v1/{node.name=nodes/*}", "/v1/nodes/eu-1", {"node.name": "nodes/eu-1"}),
        ("/v1/{name=apps/*/rollouts/*}:watch", "/v1/apps/a/rollouts/3:watch", {"name": "apps/a/rollouts/3"}),
        ("/v1/{name=zones/*}", "/v1/zones/ex%61mple.net", {"name": "zones/example.net"}),
        ("/v1/{name=zones/*}", "/v1/zones/a%2Fb", {"name": "zones/a/b"}),
        ("/v1/{name=files/**}", "/v1/files/a/b", {"name": "files/a/b"}),
        ("/v1/{id}", "/v1/x", {"id": "x"}),
    ],
)
def test_what_matches(template: str, path: str, bound: dict[str, str]) -> None:
    assert compile_template(template).match(path) == bound


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/v1/apps", "/v1/apps/"),
        ("/v1/{name=apps/*}", "/v1/apps/"),
        ("/v1/{name=apps/*}", "/v1/apps/a/b"),
        ("/v1/{name=apps/*}", "/v1/apps/a:rollback"),
        ("/v1/{name=apps/*}", "/v1/nodes/a"),
        ("/v1/{name=apps/*}:rollback", "/v1/apps/a"),
        ("/v1/a.b", "/v1/aXb"),
    ],
)
def test_what_does_not(template: str, path: str) -> None:
    assert compile_template(template).match(path) is None


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(LocciError, match="not UTF-8"):
        compile_template("/v1/{name=apps/*}").match("/v1/apps/%FF")
