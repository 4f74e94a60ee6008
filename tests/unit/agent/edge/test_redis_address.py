from __future__ import annotations

import ssl

import pytest

from agent.edge.redis_address import Address, address_of


def test_a_socket_with_a_database() -> None:
    address = address_of("unix:///run/redis.sock?db=3")
    assert address == Address(path="/run/redis.sock", database=3)
    assert address.greeting() == [b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n"]
    assert address.name == "/run/redis.sock"


def test_who_is_let_in() -> None:
    address = address_of("redis://user:pw@cache.test:7000")
    assert (address.host, address.port, address.tls) == ("cache.test", 7000, None)
    assert address.greeting() == [b"*3\r\n$4\r\nAUTH\r\n$4\r\nuser\r\n$2\r\npw\r\n"]
    assert "pw" not in repr(address)
    assert address_of("redis://:pw@h").greeting() == [b"*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n"]
    assert address_of("redis://h").greeting() == []


def test_tls_checks_the_server_unless_told_otherwise() -> None:
    strict, lax = address_of("rediss://h").tls, address_of("rediss://h?ssl_cert_reqs=none").tls
    assert strict is not None
    assert strict.verify_mode is ssl.CERT_REQUIRED
    assert strict.check_hostname
    assert lax is not None
    assert lax.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize("url", ["http://h", "nonsense", "rediss://h?ssl_ca_certs=/not/there"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        address_of(url)
