from __future__ import annotations

from control_plane.http import admission
from control_plane.http.admission import Attempts, Slots, client_key


def test_slots_are_bounded_and_come_back() -> None:
    slots = Slots(2)
    assert [slots.take() for _ in range(3)] == [True, True, False]
    slots.give_back()
    assert slots.take()


def test_attempts_come_back_with_time_and_per_client() -> None:
    attempts = Attempts(burst=2, every_s=10)
    assert [attempts.wait_s("10.0.0.1", 0.0) for _ in range(2)] == [0, 0]
    assert attempts.wait_s("10.0.0.1", 0.0) == 10
    assert attempts.wait_s("10.0.0.2", 0.0) == 0
    assert attempts.wait_s("10.0.0.1", 4.0) == 6
    assert attempts.wait_s("10.0.0.1", 10.0) == 0
    assert attempts.wait_s("10.0.0.1", 1e6) == 0


def test_clients_that_are_remembered_are_bounded() -> None:
    attempts = Attempts(burst=1, every_s=10)
    for number in range(admission.CLIENTS_MAX + 10):
        attempts.wait_s(f"client-{number}", 0.0)
    assert len(attempts._clients) == admission.CLIENTS_MAX
    assert attempts.wait_s("client-0", 0.0) == 0


def test_one_client_is_one_address_or_one_network() -> None:
    assert client_key("::ffff:10.0.0.1") == client_key("10.0.0.1") == "10.0.0.1"
    assert client_key("2001:db8::1%eth0") == client_key("2001:db8::ffff") == "2001:db8::/64"
    assert client_key("unix") == "unix"
