"""Limits and errors around the responder, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import dns.message
import dns.rcode
import pytest

from routing.adapters import zone_keys
from routing.answering import Standing
from routing.core.answer import Manners
from routing.core.cookies import CookieJar
from routing.core.dnssec import Signer
from routing.core.rate_limit import RateLimiter
from routing.worker import Follower
from tests.fakes.clock import ManualClock
from tests.unit.routing.core.test_dnssec import KEY
from tests.unit.routing.core.test_records import DECLARED
from tests.unit.routing.tables import ZONE, everything, table

SOURCE = bytes((10, 1, 0, 1))
OTHER = bytes((10, 2, 0, 1))


def answering(per_second: int = 5) -> Follower:
    of = table(zones={"example.net": replace(ZONE, records=DECLARED)}, keys={"example.net": (KEY,)})
    manners = Manners("eu-1", "v", CookieJar([bytes(16)]), Signer(zone_keys.sign, 1_700_000_000))
    made = Follower(ManualClock(), manners, RateLimiter(per_second, slip=0))
    made.take_names(of)
    made.follow(Standing(everything(of.regions)))
    return made


def asked(name: str, number: int = 0, dnssec: bool = True, kind: str = "A") -> bytes:
    return dns.message.make_query(name, kind, want_dnssec=dnssec, id=number).to_wire()


@pytest.mark.parametrize("below", ["example.net", "dev.example.net"])
def test_names_that_are_made_up_count_as_one_and_are_not_signed_for_nothing(below: str) -> None:
    on = answering()
    signer = on.manners.signer
    assert signer is not None
    found = [on.respond(asked(f"n{number}.{below}"), SOURCE, False) for number in range(40)]
    assert [answer is not None for answer in found] == [True] * 5 + [False] * 35
    made = signer.signed
    assert on.respond(asked(f"n99.{below}"), SOURCE, False) is None
    assert signer.signed == made
    assert on.respond(asked(f"n99.{below}"), SOURCE, True) is not None, "TCP proves the address"
    assert on.respond(asked(f"n99.{below}"), OTHER, False) is not None
    assert on.respond(asked("mail.example.net"), SOURCE, False) is not None, "a name that exists is counted by itself"
    assert on.limiter.dropped == 36


def test_an_error_within_one_query_is_servfail(monkeypatch: pytest.MonkeyPatch) -> None:
    on = answering()

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(on, "responder", type("Broken", (), {"respond": broken, "kind_of": broken})())
    for tcp in (False, True):
        answer = on.respond(asked("mail.example.net", 4711), SOURCE, tcp)
        assert answer is not None
        message = dns.message.from_wire(answer, question_only=True)
        assert (message.id, message.rcode()) == (4711, dns.rcode.SERVFAIL)
    answer = on.respond_and_teach(asked("mail.example.net", 4712), SOURCE)
    assert answer is not None
    assert on.broken == 3
