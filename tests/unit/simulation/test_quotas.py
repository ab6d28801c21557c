from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.quotas import Coordinator, Leases, Partition, bound, simulate

WINDOWS = st.integers(2, 5).flatmap(
    lambda partitions: st.lists(
        st.lists(
            st.lists(st.integers(0, 40), min_size=partitions, max_size=partitions),
            min_size=1,
            max_size=6,
        ),
        min_size=1,
        max_size=4,
    )
)


@given(
    windows=WINDOWS,
    limit=st.integers(0, 300),
    leases=st.builds(Leases, st.integers(1, 60), adapts=st.booleans()),
)
def test_the_limit_is_never_exceeded_and_missed_by_no_more_than_the_bound(
    windows: Sequence[Sequence[Sequence[int]]], limit: int, leases: Leases
) -> None:
    result = simulate(windows, limit, leases)
    assert result.over == 0
    assert result.missed_max <= result.bound


def test_the_bound_is_reached_where_all_others_use_one_submission_of_their_leases() -> None:
    window = [[0, 1, 1, 1], [1_000, 0, 0, 0]]
    result = simulate([window], 100, Leases(20))
    assert result.missed_max == result.bound == bound(4, 100, Leases(20)) == 3 * 19


def test_adapting_leases_leave_little_where_little_is_used() -> None:
    window = [[0, 1, 1, 1], [1_000, 0, 0, 0]]
    assert simulate([window], 100, Leases(20, adapts=True)).missed_max == 0


def test_leases_of_one_submission_miss_nothing_and_need_a_request_for_each() -> None:
    result = simulate([[[30, 5], [40, 60]]], 100, Leases(1))
    assert (result.missed_max, result.over, result.used_up) == (0, 0, 1)
    assert result.requests_per_second >= 100 / 2


class KeepsWhatIsLeft(Partition):
    """Uses what is left of a window's lease in the next window."""

    def begin_window(self) -> None:
        held = self.held
        super().begin_window()
        self.held = held


class ForgetsWhatItUsed(Partition):
    """Has its whole lease again after each call, as if its use were not in its log."""

    def admit(self, count: int) -> int:
        held = self.held
        admitted = super().admit(count)
        self.held = max(self.held, held)
        return admitted


@pytest.mark.parametrize("faulty", [KeepsWhatIsLeft, ForgetsWhatItUsed])
def test_a_partition_that_uses_quota_twice_is_noticed(faulty: type[Partition]) -> None:
    windows = [[[15, 15]], [[15, 15]] * 4]
    assert simulate(windows, 100, Leases(20)).over == 0
    assert simulate(windows, 100, Leases(20), faulty).over > 0


def test_a_coordinator_that_leases_the_quota_of_a_silent_partition_again_exceeds_the_limit() -> (
    None
):
    coordinator = Coordinator(100, Leases(60), partitions=2)
    silent, other = Partition(coordinator), Partition(coordinator)
    admitted = silent.admit(1)
    coordinator.begin_window()  # gives out anew what the silent one still holds
    admitted += other.admit(100) + silent.admit(59)
    assert admitted > 100
