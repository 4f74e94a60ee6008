"""Tokens and drills."""

from __future__ import annotations

from control_plane.core.access import OperatorToken, matches, parse_operator_token, secret_hash
from control_plane.core.drills import Objectives, judge


def test_an_operator_token_has_two_parts() -> None:
    token = OperatorToken("0123456789ab", "s" * 43)
    assert parse_operator_token(token.text()) == token
    for bad in ("", "locciop1.0123456789ab", token.text() + " ", "x" + token.text()):
        assert parse_operator_token(bad) is None


def test_secrets_match_by_hash() -> None:
    assert matches("secret", secret_hash("secret"))
    assert not matches("Secret", secret_hash("secret"))
    assert not matches("", "")


def test_a_run_meets_or_misses_its_objectives() -> None:
    good = {"withdrawn": 3.0, "rerouted": 10.0, "restored": 40.0}
    assert judge(Objectives(), good) == ()
    assert len(judge(Objectives(), {**good, "withdrawn": 3.1})) == 1
    assert len(judge(Objectives(), {})) == 3
