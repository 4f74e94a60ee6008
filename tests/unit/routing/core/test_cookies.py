"""Server cookies: the vectors of RFC 9018, and what is no cookie of ours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from routing.core.cookies import CookieJar, siphash24

SECRET = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
CLIENT = bytes.fromhex("2464c4abcf10c957")
SOURCE = bytes((198, 51, 100, 100))


def test_the_first_vector_of_rfc_9018() -> None:
    head = bytes.fromhex("010000005cf79f11")
    assert siphash24(SECRET, CLIENT + head + SOURCE) == bytes.fromhex("1f8130c3eee29480")
    jar = CookieJar([SECRET], 0x5CF79F11)
    assert jar.is_ours(CLIENT, head + bytes.fromhex("1f8130c3eee29480"), SOURCE)


@given(st.binary(min_size=8, max_size=8), st.sampled_from([4, 16]).flatmap(lambda n: st.binary(min_size=n, max_size=n)))
def test_what_was_made_here_is_known_here_for_an_hour(client: bytes, source: bytes) -> None:
    jar = CookieJar([SECRET], 1_000_000)
    option = jar.reply(client, source)
    assert option[:4] == b"\0\x0a\0\x18"
    assert option[4:12] == client
    server = option[12:]
    for age_s, known in ((0, True), (1800, True), (3700, False)):
        jar.now_s = 1_000_000 + age_s
        jar.reply(client, source)
        assert jar.is_ours(client, server, source) is known
    jar.now_s = 1_000_000
    assert not jar.is_ours(bytes(8) if any(client) else b"\1" * 8, server, source)
    assert not jar.is_ours(client, server, bytes(len(source)) if any(source) else b"\1" * len(source))
    assert not jar.is_ours(client, server[:-1], source)


def test_an_old_secret_is_still_known() -> None:
    before = CookieJar([SECRET], 1_000_000)
    server = before.reply(CLIENT, SOURCE)[12:]
    after = CookieJar([bytes(16), SECRET], 1_000_000)
    assert after.is_ours(CLIENT, server, SOURCE)
    assert after.reply(CLIENT, SOURCE)[12:] != server
    assert not CookieJar([bytes(16)], 1_000_000).is_ours(CLIENT, server, SOURCE)


def test_the_time_wraps() -> None:
    jar = CookieJar([SECRET], (1 << 32) - 30)
    server = jar.reply(CLIENT, SOURCE)[12:]
    jar.now_s = (1 << 32) + 30
    assert jar.is_ours(CLIENT, server, SOURCE)
