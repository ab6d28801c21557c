"""Requests with wrong keys: limited by address, and counted for a report."""

from datetime import timedelta

import pytest

from entrypoints.http.wrong_keys import (
    ADDRESSES_MAX,
    WINDOW_SECONDS,
    WRONG_KEYS_MAX,
    TooManyWrongKeys,
    WrongKeys,
)
from tests.support.given import NOW, at


class Time:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def wrong_keys(time: Time) -> WrongKeys:
    return WrongKeys(time)


def use_up(wrong_keys: WrongKeys, address: str) -> None:
    for _ in range(WRONG_KEYS_MAX):
        wrong_keys.refused(address, NOW)


def test_an_address_is_limited_until_its_window_ends(wrong_keys: WrongKeys, time: Time) -> None:
    use_up(wrong_keys, "192.0.2.1")
    time.seconds = 10.0
    with pytest.raises(TooManyWrongKeys) as limited:
        wrong_keys.refused("192.0.2.1", NOW)
    assert limited.value.seconds == WINDOW_SECONDS - 10
    assert wrong_keys.is_limited("192.0.2.1")
    assert not wrong_keys.is_limited("192.0.2.2")
    wrong_keys.refused("192.0.2.2", NOW)
    time.seconds = WINDOW_SECONDS
    assert not wrong_keys.is_limited("192.0.2.1")
    wrong_keys.refused("192.0.2.1", NOW)


def test_all_addresses_of_a_network_of_ipv6_are_one_client(wrong_keys: WrongKeys) -> None:
    use_up(wrong_keys, "2001:db8::1")
    with pytest.raises(TooManyWrongKeys):
        wrong_keys.refused("2001:db8::ffff:2", NOW)
    wrong_keys.refused("2001:db8:0:1::1", NOW)


def test_the_addresses_in_memory_are_bounded(wrong_keys: WrongKeys) -> None:
    use_up(wrong_keys, "first")
    for number in range(ADDRESSES_MAX):
        wrong_keys.refused(f"address {number}", NOW)
    wrong_keys.refused("first", NOW)  # it was dropped


def test_a_report_counts_requests_and_addresses_since_the_last(wrong_keys: WrongKeys) -> None:
    assert wrong_keys.take_report() is None
    for seconds, address in ((1, "a"), (3, "b"), (2, "a")):
        wrong_keys.refused(address, at(seconds))
    report = wrong_keys.take_report()
    assert report is not None
    assert (report.count, report.addresses) == (3, 2)
    assert report.last_at - report.first_at == timedelta(seconds=2)
    assert wrong_keys.take_report() is None
