"""Rules over paths: what fits, where it leads, and what must not be."""

from __future__ import annotations

import pytest

from fleet.path_rules import PathRule, endless, first, problem

HOSTS = (b"shop.test", b"www.shop.test")


def rule(template: str, *, path: str = "", prefix: str = "", hosts: tuple[bytes, ...] = ()) -> PathRule:
    return PathRule(path.encode(), prefix.encode(), frozenset(hosts), template.encode())


@pytest.mark.parametrize(
    ("made", "target", "location"),
    [
        (rule("/new", path="/old"), b"/old", b"/new"),
        (rule("/new", path="/old"), b"/old?a=1", b"/new?a=1"),
        (rule("/new?b=2", path="/old"), b"/old?a=1", b"/new?b=2"),
        (rule("/new#top", path="/old"), b"/old?a=1", b"/new?a=1#top"),
        (rule("/new", path="/old"), b"/old/", None),
        (rule("/docs{rest}", prefix="/manual"), b"/manual", b"/docs"),
        (rule("/docs{rest}", prefix="/manual"), b"/manual/a/b?q", b"/docs/a/b?q"),
        (rule("/docs{rest}", prefix="/manual"), b"/manuals", None),
        (rule("/docs/{rest}", prefix="/manual/"), b"/manual/a", b"/docs/a"),
        (rule("/docs/{rest}", prefix="/manual/"), b"/manual", None),
        (rule("https://other.test{path}", prefix="/"), b"/a?q", b"https://other.test/a?q"),
        (rule("https://{host}/x{query}", prefix="/a"), b"/a/b?q", b"https://shop.test:8080/x?q"),
        (rule("/a?was={path}", prefix="/b"), b"/b/c?q", b"/a?was=/b/c"),
        (rule("/{rest}", prefix="/go/"), b"/go//evil.test/", b"/evil.test/"),
        (rule("{path}", prefix="/"), b"//evil.test/", b"/evil.test/"),
        (rule("/x", prefix="/", hosts=(b"www.shop.test",)), b"/", None),
    ],
)
def test_where_a_request_goes(made: PathRule, target: bytes, location: bytes | None) -> None:
    assert made.leads_to(b"shop.test:8080", target) == location


def test_the_first_rule_that_fits_counts() -> None:
    rules = [rule("/1", path="/a"), rule("/2{rest}", prefix="/a"), rule("/3", prefix="/")]
    assert [first(rules, b"shop.test", target)[1] for target in (b"/a", b"/a/b", b"/c")] == [b"/1", b"/2/b", b"/3"]  # type: ignore[index]
    assert first(rules[:2], b"shop.test", b"/c") is None


@pytest.mark.parametrize(
    ("made", "part"),
    [
        (rule("/x"), "either path or prefix"),
        (rule("/x", path="/a", prefix="/b"), "either path or prefix"),
        (rule("/x", path="a"), "begins with '/'"),
        (rule("/x", path="/a?b"), "begins with '/'"),
        (rule("/x", path="/a b"), "begins with '/'"),
        (rule("/{where}", path="/a"), "{where} is not known"),
        (rule("/a\r\nX: 1", path="/a"), "percent-encoded"),
        (rule("/a{", path="/a"), "percent-encoded"),
        (rule("ftp://x/", path="/a"), "a URL of http or https"),
        (rule("javascript:1", path="/a"), "a URL of http or https"),
        (rule("https://x.test{rest}", prefix="/a/"), "a part of the host's name"),
        (rule("https://x.test:80{rest}", path="/a"), "a part of the host's name"),
        (rule("https://x.test@{path}", path="/a"), "a part of the host's name"),
        (rule("https://{rest}/", prefix="/a/"), "a URL of http or https"),
        (rule("https://x.test.{host}/", prefix="/a/"), "a part of the host's name"),
    ],
)
def test_what_is_wrong_is_said(made: PathRule, part: str) -> None:
    assert part in problem(made, urls=True)


def test_what_is_fine() -> None:
    for template in ("/", "/a{rest}", "{path}", "https://x.test", "http://x.test:81/a", "https://x.test{path}",
                     "https://{host}/a", "https://x.test{rest}", "https://x.test{query}", "/a?b={path}#c"):  # fmt: skip
        assert problem(rule(template, prefix="/a"), urls=True) == "", template
    assert problem(rule("/a{rest}", prefix="/a"), urls=False) == ""
    assert "begins with '/'" in problem(rule("https://x.test/", prefix="/a"), urls=False)
    assert "no fragment" in problem(rule("/a#b", prefix="/a"), urls=False)


@pytest.mark.parametrize(
    ("rules", "loops"),
    [
        ([rule("/b", path="/a")], False),
        ([rule("/a", path="/a")], True),
        ([rule("/a/b{rest}", prefix="/a")], True),
        ([rule("/b", path="/a"), rule("/a", path="/b")], True),
        ([rule("https://{host}{path}", prefix="/")], True),
        ([rule("https://www.shop.test{path}", prefix="/")], True),
        ([rule("https://www.shop.test{path}", prefix="/", hosts=(b"shop.test",))], False),
        ([rule("https://www.shop.test{path}", prefix="/", hosts=(b"shop.test",)),
          rule("https://shop.test{path}", prefix="/", hosts=(b"www.shop.test",))], True),
        ([rule("https://elsewhere.test{path}", prefix="/")], False),
        ([rule("/docs{rest}", prefix="/manual"), rule("/manual{rest}", prefix="/docs/a")], False),
        ([rule("/x", path="/a"), rule("/a", prefix="/a")], False),
    ],
)  # fmt: skip
def test_endless_redirects_are_found(rules: list[PathRule], loops: bool) -> None:
    assert (endless(rules, HOSTS) is not None) == loops
