"""What passes between versions of the program."""

from __future__ import annotations

import json
import os

import pytest

from routing.adapters.handover import Handover

HANDED = Handover({0: {"0.0.0.0:53": (3, 4)}, 2: {"0.0.0.0:53": (5, 6), "[::]:53": (7, 8)}}, 9, 10, 11)


def test_it_is_read_as_it_was_written() -> None:
    assert Handover.decode(HANDED.encode()) == HANDED
    assert sorted(HANDED.descriptors()) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert (dict(HANDED.of(0)), HANDED.of(1)) == ({"0.0.0.0:53": (3, 4)}, {})


def test_what_a_later_version_adds_is_passed_over_and_what_it_leaves_out_is_nothing() -> None:
    assert Handover.decode(json.dumps({"later": 1})) == Handover()
    with pytest.raises(ValueError, match="Expecting"):
        Handover.decode("{")


def test_sockets_are_let_go_of_and_pipes_not() -> None:
    numbers = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    Handover({0: {"a": (numbers[0], numbers[1])}}, lifeline=numbers[2]).close()
    for number in numbers[:2]:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)
    os.close(numbers[2])
