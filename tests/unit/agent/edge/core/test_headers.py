from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.edge.core.headers import Origin, acceptable_traceparent, fields_of, to_upstream, traceparent

KNOWN = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("value", "good"),
    [
        (KNOWN, True),
        (b"01" + KNOWN[2:] + b"-more", True),  # a later version may have more
        (b"ff" + KNOWN[2:], False),
        (KNOWN.upper(), False),
        (KNOWN.replace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"0" * 32), False),
        (KNOWN.replace(b"00f067aa0ba902b7", b"0" * 16), False),
        (KNOWN + b", " + KNOWN, False),
        (b"", False),
        (None, False),
    ],
)
def test_which_trace_context_is_one(value: bytes | None, good: bool) -> None:
    assert acceptable_traceparent(value) is good


@given(st.integers(0, 2**192 - 1))
def test_a_new_trace_is_acceptable(randomness: int) -> None:
    assert acceptable_traceparent(traceparent(randomness))


@pytest.mark.parametrize("sent", [KNOWN, b"nonsense", None])
def test_a_broken_trace_is_replaced_with_its_state(sent: bytes | None) -> None:
    headers = [(b"tracestate", b"a=b")] + ([(b"traceparent", sent)] if sent else [])
    ours = traceparent(7)
    origin = Origin(b"10.0.0.1", b"http", b"a.test", b"request-1", False, ours)
    passed = [pair for pair in to_upstream(headers, fields_of(headers), origin, 1) if pair[0].startswith(b"trace")]
    if sent == KNOWN:
        assert passed == headers
    else:
        assert passed == [(b"traceparent", ours)]
