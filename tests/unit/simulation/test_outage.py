import pytest

from tests.simulation.fairness import JOBS_PER_PARTITION
from tests.simulation.outage import Outage, OutageResult, catch_up_seconds, simulate
from tests.simulation.quotas import Leases

RATE = 1_000
PARTITIONS = 4
LIMIT = PARTITIONS * RATE * 60
WINDOWS = [[[RATE] * PARTITIONS] * 60] * 6


def lost(limit: int, seconds: int = 60) -> OutageResult:
    return simulate(WINDOWS, limit, Leases(500), Outage(partition=1, seconds=seconds))


def test_catching_up_takes_as_long_as_the_free_capacity_says() -> None:
    expected = 60 * RATE / (JOBS_PER_PARTITION - RATE)
    result = lost(2 * LIMIT)
    assert result.catch_up_expected == catch_up_seconds(60, RATE) == expected
    assert result.catch_up_seconds == pytest.approx(expected, abs=1)


def test_whoever_came_during_the_outage_or_catching_up_is_late_and_nobody_is_refused() -> None:
    result = lost(2 * LIMIT)
    assert result.delayed == pytest.approx(RATE * (60 + result.catch_up_seconds), rel=0.02)
    assert result.delay_max == 60
    assert result.refused == 0


def test_the_others_notice_nothing_where_the_limit_has_room() -> None:
    result = lost(2 * LIMIT)
    assert (result.others_more, result.others_less, result.others_delayed) == (0, 0, 0)


def test_what_was_not_admitted_meanwhile_is_refused_later_where_the_limit_has_no_room() -> None:
    result = lost(LIMIT)
    assert result.refused > 0
    # Half of the outage is in each of two windows. In the first, others have no use for the room.
    assert result.refused + result.others_less == pytest.approx(30 * RATE, rel=0.1)


def test_the_quota_of_a_lost_partition_is_less_than_a_lease() -> None:
    assert 0 <= lost(LIMIT).quota_lost < 500


def test_an_outage_that_the_windows_do_not_outlast_is_an_error() -> None:
    with pytest.raises(AssertionError, match="reach beyond"):
        lost(2 * LIMIT, seconds=265)
