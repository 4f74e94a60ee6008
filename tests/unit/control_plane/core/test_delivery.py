"""What a session is sent: one delta at a time, and everything converges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.delivery import RETRY_AFTER_S, Delivery, accepted, plan, refused


def test_nothing_is_sent_to_a_node_that_holds_all() -> None:
    assert plan(Delivery({"a": "1"}), {"a": "1"}, 5, 0.0)[1] is None


def test_the_difference_is_sent_once_and_the_rest_after_the_answer() -> None:
    delivery, first = plan(Delivery({"a": "1", "b": "1"}), {"a": "2", "c": "1"}, 5, 0.0)
    assert first is not None
    assert (first.changed, first.removed, first.complete) == (("a", "c"), ("b",), False)
    delivery, none = plan(delivery, {"a": "3"}, 6, 0.0)
    assert none is None
    delivery = accepted(delivery, first.nonce)
    assert delivery.accepted_revision == 5
    delivery, second = plan(delivery, {"a": "3"}, 6, 0.0)
    assert second is not None
    assert (second.nonce, second.changed, second.removed) == (2, ("a",), ("c",))


def test_unknown_holdings_are_replaced_whole() -> None:
    _, sent = plan(Delivery(None), {"a": "1"}, 5, 0.0)
    assert sent is not None
    assert sent.complete
    _, sent = plan(Delivery(None), {}, 5, 0.0)
    assert sent is not None


def test_what_was_refused_is_not_sent_again_until_it_changes_or_time_passes() -> None:
    delivery, sent = plan(Delivery({}), {"a": "1"}, 5, 0.0)
    assert sent is not None
    delivery = refused(delivery, sent.nonce, "no", False, 0.0)
    assert plan(delivery, {"a": "1"}, 6, 1.0)[1] is None
    assert plan(delivery, {"a": "2"}, 6, 1.0)[1] is not None
    assert plan(delivery, {"a": "1"}, 6, RETRY_AFTER_S)[1] is not None


def test_a_resync_sends_everything_at_once() -> None:
    delivery, sent = plan(Delivery({"a": "0"}), {"a": "1", "b": "1"}, 5, 0.0)
    assert sent is not None
    delivery = refused(delivery, sent.nonce, "hash", True, 0.0)
    _, again = plan(delivery, {"a": "1", "b": "1"}, 5, 0.0)
    assert again is not None
    assert again.complete


def test_an_answer_to_something_else_changes_nothing() -> None:
    delivery, _ = plan(Delivery({}), {"a": "1"}, 5, 0.0)
    assert accepted(delivery, 99) == delivery
    assert refused(delivery, 99, "no", True, 0.0) == delivery


versions = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123"))


@given(held=versions, wants=st.lists(versions, min_size=1, max_size=6), answers=st.lists(st.booleans(), max_size=12))
def test_whatever_is_refused_on_the_way_the_last_wish_is_held(
    held: dict[str, str], wants: list[dict[str, str]], answers: list[bool]
) -> None:
    node, delivery, now = dict(held), Delivery(held), 0.0
    for want in [*wants, *[wants[-1]] * (len(answers) + 1)]:
        now += RETRY_AFTER_S
        delivery, sent = plan(delivery, want, 1, now)
        if sent is None:
            continue
        if answers and not answers.pop():
            delivery = refused(delivery, sent.nonce, "no", False, now)
            continue
        node = {n: v for n, v in node.items() if n not in sent.removed}
        node.update({n: want[n] for n in sent.changed})
        delivery = accepted(delivery, sent.nonce)
        assert node == want
    assert node == wants[-1]
