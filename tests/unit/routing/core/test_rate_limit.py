"""Limits by network and kind, in virtual seconds."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from routing.core.rate_limit import Admission, RateLimiter


def packed(text: str) -> bytes:
    return ip_address(text).packed


def test_so_many_a_second_to_a_network_then_every_second_one_slips() -> None:
    limiter = RateLimiter(3)
    found = [limiter.admit(packed(f"192.0.2.{n}"), b"name") for n in range(7)]
    assert found == [Admission.SEND] * 3 + [Admission.DROP, Admission.SLIP, Admission.DROP, Admission.SLIP]
    assert (limiter.dropped, limiter.slipped) == (2, 2)
    limiter.now_s = 1
    assert limiter.admit(packed("192.0.2.1"), b"name") is Admission.SEND


def test_other_networks_and_other_kinds_are_counted_apart() -> None:
    limiter = RateLimiter(1)
    assert limiter.admit(packed("192.0.2.1"), b"name") is Admission.SEND
    assert limiter.admit(packed("192.0.3.1"), b"name") is Admission.SEND
    assert limiter.admit(packed("192.0.2.1"), b"other") is Admission.SEND
    assert limiter.admit(packed("2001:db8::1"), b"name") is Admission.SEND
    assert limiter.admit(packed("2001:db8:0:ff::2"), b"name") is not Admission.SEND


def test_exempt_networks_and_no_limit() -> None:
    limiter = RateLimiter(1, exempt=[ip_network("192.0.2.0/25"), ip_network("2001:db8::/32")])
    assert {limiter.admit(packed("192.0.2.1"), b"name") for _ in range(9)} == {Admission.SEND}
    assert {limiter.admit(packed("2001:db8::1"), b"name") for _ in range(9)} == {Admission.SEND}
    assert Admission.DROP in {limiter.admit(packed("192.0.2.200"), b"name") for _ in range(9)}
    assert {RateLimiter(0).admit(packed("192.0.2.1"), b"name") for _ in range(9)} == {Admission.SEND}


def test_a_flood_of_forged_networks_does_not_fill_the_memory() -> None:
    limiter = RateLimiter(1)
    for number in range(120_000):
        limiter.admit(number.to_bytes(4, "big")[1:] + b"\1", b"name")
    assert len(limiter._counts) <= 100_000
