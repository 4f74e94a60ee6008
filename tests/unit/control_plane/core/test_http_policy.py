"""What an app may ask of edges."""

from __future__ import annotations

import pytest

from control_plane.core.http_policy import HeaderRules, HttpPolicy, Page, Rule, check
from fleet.errors import LocciError

HOSTS = ("shop.test", "www.shop.test")


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        (HttpPolicy(request_headers=HeaderRules(remove=("Host",))), "request_headers.remove[0]"),
        (HttpPolicy(request_headers=HeaderRules(set_=(("X_Forwarded_For", "1"),))), "request_headers.set[0].name"),
        (HttpPolicy(request_headers=HeaderRules(add=(("a b", "1"),))), "request_headers.add[0].name"),
        (HttpPolicy(response_headers=HeaderRules(add=(("X", "a\r\nB: c"),))), "response_headers.add[0].value"),
        (HttpPolicy(response_headers=HeaderRules(add=(("X", " a"),))), "response_headers.add[0].value"),
        (HttpPolicy(response_headers=HeaderRules(set_=(("Content-Length", "1"),))), "response_headers.set[0].name"),
        (HttpPolicy(response_headers=HeaderRules(remove=("Transfer-Encoding",))), "response_headers.remove[0]"),
        (HttpPolicy(response_headers=HeaderRules(remove=("a",) * 33)), "response_headers"),
        (HttpPolicy(redirects=(Rule("/a", template="/b", status=200),)), "redirects[0].status"),
        (HttpPolicy(redirects=(Rule("/a"),)), "redirects[0].location"),
        (HttpPolicy(redirects=(Rule("/a", template="/b\n"),)), "redirects[0]"),
        (HttpPolicy(redirects=(Rule("/\u00e4", template="/b"),)), "redirects[0]"),
        (HttpPolicy(redirects=(Rule("/a", template="/b"), Rule("/b", template="/a"))), "redirects[0]"),
        (HttpPolicy(redirects=(Rule("/a", hostnames=("x.test",), template="/b"),)), "redirects[0].hostnames[0]"),
        (HttpPolicy(redirects=(Rule("/a", template="/b"),) * 101), "redirects"),
        (HttpPolicy(rewrites=(Rule("/a", template="https://x.test/"),)), "rewrites[0]"),
        (HttpPolicy(rewrites=(Rule("/a", template="/" + "b" * 2048),)), "rewrites[0]"),
        (HttpPolicy(pages=(Page((200,), "x"),)), "error_pages[0].statuses"),
        (HttpPolicy(pages=(Page((), "x"),)), "error_pages[0].statuses"),
        (HttpPolicy(pages=(Page((500,), ""),)), "error_pages[0].html"),
        (HttpPolicy(pages=(Page((500,), "\u00e4" * 40_000),)), "error_pages[0].html"),
        (HttpPolicy(pages=(Page((500,), "x" * 65_536),) * 5), "error_pages"),
        (HttpPolicy(pages=(Page((500,), "x"),) * 17), "error_pages"),
        (HttpPolicy(maintenance_html="x" * 65_537), "maintenance.html"),
        (HttpPolicy(retry_after_s=0.5), "maintenance.retry_after"),
        (HttpPolicy(allow=("192.0.2.1/24",)), "maintenance.allow[0]"),
        (HttpPolicy(allow=("::/0",) * 65), "maintenance.allow"),
        (HttpPolicy(client_rate=-1), "limits.client_rate"),
        (HttpPolicy(rate=float("nan")), "limits.rate"),
        (HttpPolicy(rate=float("inf")), "limits.rate"),
        (HttpPolicy(window_s=0.2), "limits.window"),
    ],
)
def test_what_is_wrong_is_named(wrong: HttpPolicy, path: str) -> None:
    with pytest.raises(LocciError) as caught:
        check(wrong, HOSTS)
    assert caught.value.message.startswith(f"manifest.http.{path}: ")


def test_what_is_fine() -> None:
    check(HttpPolicy(), ())
    check(
        HttpPolicy(
            HeaderRules(("Cookie",), (("X-A", "a b"),), (("X-B", ""),)),
            HeaderRules(("Server",), (("Cache-Control", "no-store"),), (("Set-Cookie", "a=b"),)),
            (Rule(prefix="/", hostnames=("WWW.shop.test",), template="https://shop.test{path}", status=301),),
            (Rule(prefix="/api", template="/v1{rest}"),),
            (Page((404, 500), "<h1>{status}</h1>", True),),
            "<p>later</p>",
            60,
            ("192.0.2.0/24", "2001:db8::1"),
            0.5,
            100,
            60,
            1000,
            10,
        ),
        HOSTS,
    )


def test_a_hundred_rules_for_many_names_are_checked_in_no_time() -> None:
    rules = tuple(Rule(f"/{number}", template=f"/{number + 1}") for number in range(0, 200, 2))
    check(HttpPolicy(redirects=rules), tuple(f"h{number}.test" for number in range(200)))
