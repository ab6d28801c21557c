import random

from hypothesis import given
from hypothesis import strategies as st

from projections.activity.metrics import (
    COUNTERS_MAX,
    ActivityMetrics,
    SpaceSaving,
    highest,
    latency_bucket,
    observe,
    quantile,
    total,
)


def test_a_quantile_is_within_a_tenth_of_the_truth() -> None:
    chance = random.Random(7)
    seconds = sorted(chance.lognormvariate(0, 2) for _ in range(10_000))
    histogram: dict[int, int] = {}
    observe(histogram, (round(one * 1_000_000) for one in seconds))
    for share in (0.5, 0.95, 0.99):
        found = quantile(histogram, share)
        truth = seconds[int(share * len(seconds))]
        assert found is not None
        assert abs(found - truth) <= 0.1 * truth + 0.001


def test_nothing_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None


def test_a_clock_that_stood_still_is_the_lowest_bucket() -> None:
    assert latency_bucket(0) == latency_bucket(-1) == 0


def test_metrics_of_parts_add_up() -> None:
    one = ActivityMetrics(submitted=2, waits={3: 1}, reasons={"error": 1})
    other = ActivityMetrics(submitted=1, failed=4, waits={3: 1, 5: 2}, reasons={"error": 2})
    assert total([one, other]) == ActivityMetrics(
        submitted=3, failed=4, waits={3: 2, 5: 2}, reasons={"error": 3}
    )
    assert one == ActivityMetrics(submitted=2, waits={3: 1}, reasons={"error": 1})


@given(st.lists(st.integers(0, 200), max_size=2000))
def test_top_counts_are_bounded_and_never_counted_too_low(users: list[int]) -> None:
    counts: dict[str, int] = {}
    sketch = SpaceSaving(counts)
    for user in users:
        sketch.count(str(user))
    assert len(counts) <= COUNTERS_MAX
    for name, count in counts.items():
        truth = users.count(int(name))
        assert truth <= count <= truth + len(users) / COUNTERS_MAX


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(-1, 3)), max_size=500))
def test_who_is_dropped_does_not_depend_on_where_counting_was_interrupted(
    counted: list[tuple[int, int]],
) -> None:
    at_once: dict[str, int] = {}
    in_pieces: dict[str, int] = {}
    sketch = SpaceSaving(at_once)
    for user, by in counted:
        lowest = min(at_once.items(), key=lambda one: (one[1], one[0]), default=None)
        dropped = sketch.count(str(user), by)
        assert dropped is None or (lowest is not None and dropped == lowest[0])
        assert SpaceSaving(in_pieces).count(str(user), by) == dropped
    assert at_once == in_pieces


def test_the_most_frequent_come_first_and_equal_ones_by_name() -> None:
    assert highest({"b": 2, "a": 2, "c": 9}, 2) == [("c", 9), ("a", 2)]
