"""Queries signed with TSIG (RFC 8945), as secondaries ask for the SOA with: the answer is signed with the same key.

They are few, so that dnspython takes them apart; the answer itself is the one that the same query gets unsigned.
"""

from __future__ import annotations

from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.tsig

from routing.adapters.refusals import BAD_SIGNATURES, Keys, unproven
from routing.adapters.udp import Respond

TSIG: Final = b"\x00\xfa\x00\xff"
"""Type and class of the record; a query without these bytes has none."""
_FUDGE_S: Final = 300
_PLAIN_BYTES: Final = 512


def answer(data: bytes, source: bytes, tcp: bool, keys: Keys, respond: Respond, now_s: float) -> bytes | None:
    """The answer to a query that may be signed; NOTAUTH when its key is unknown or its signature wrong or too old.
    `now_s` is in seconds since 1970."""
    try:
        query = dns.message.from_wire(data, keyring=dict(keys))
    except BAD_SIGNATURES as error:
        return unproven(data, error, keys, now_s)
    except dns.exception.DNSException:
        return respond(data, source, tcp)
    if not query.had_tsig:
        return respond(data, source, tcp)
    mac, key = query.mac, query.keyring
    assert isinstance(key, dns.tsig.Key)
    assert mac is not None
    query.tsig = None
    plain = respond(query.to_wire(), source, tcp)
    if plain is None:
        return None
    response = dns.message.from_wire(plain)
    try:
        return _signed(response, query, key, mac, 65_535 if tcp else max(query.payload, _PLAIN_BYTES))
    except dns.exception.TooBig:
        short = dns.message.make_response(query)
        short.set_rcode(response.rcode())
        short.flags |= dns.flags.TC
        return _signed(short, query, key, mac, _PLAIN_BYTES)


def _signed(
    response: dns.message.Message, query: dns.message.Message, key: dns.tsig.Key, mac: bytes, size: int
) -> bytes:
    response.use_tsig(key, fudge=_FUDGE_S, original_id=query.id)
    response.request_mac = mac
    return response.to_wire(max_size=size)
