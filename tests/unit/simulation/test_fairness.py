from collections.abc import Sequence

import pytest

from tests.simulation.fairness import (
    JOBS_PER_PARTITION,
    Choice,
    FairnessResult,
    Setup,
    by_hash,
    overloaded,
    simulate,
    uneven,
)

SECONDS = 15
PARTITIONS = 16
USERS = 16_000
UNEVEN = uneven(USERS, PARTITIONS)


def run(
    users: Sequence[int],
    choice: Choice,
    *,
    stale: float = 0,
    short: float = 0.1,
    refuse: bool = True,
) -> FairnessResult:
    return simulate(
        Setup(
            users=users,
            choice=choice,
            stale_seconds=stale,
            short_share=short,
            refuses_when_busy=refuse,
            seconds=SECONDS,
        )
    )


def ratio(result: FairnessResult) -> float:
    return result.turns_max / result.turns_min


def test_equal_partitions_in_turn_give_equal_turns() -> None:
    assert ratio(run([1_000] * PARTITIONS, Choice.IN_TURN)) < 1.2


def test_uneven_partitions_in_turn_give_turns_as_uneven_as_they_are() -> None:
    assert ratio(run(UNEVEN, Choice.IN_TURN)) == pytest.approx(4, rel=0.15)


def test_the_fewest_rounds_give_equal_turns_in_uneven_partitions() -> None:
    result = run(UNEVEN, Choice.FEWEST_ROUNDS)
    assert ratio(result) < 1.01
    assert result.index > 0.999


def test_the_oldest_head_is_fair_only_where_nobody_comes_back() -> None:
    assert ratio(run(UNEVEN, Choice.OLDEST_HEAD, short=0)) < 1.3
    assert ratio(run(UNEVEN, Choice.OLDEST_HEAD)) > 2


def test_users_of_an_overloaded_partition_slow_down_nobody_else() -> None:
    users = overloaded(USERS, PARTITIONS, 0.2)
    usual = run(by_hash(USERS, PARTITIONS), Choice.FEWEST_ROUNDS)
    result = run(users, Choice.FEWEST_ROUNDS)
    blocking = run(users, Choice.FEWEST_ROUNDS, refuse=False)
    assert result.jobs_per_second == pytest.approx(usual.jobs_per_second, rel=0.02)
    assert result.turns_max > usual.turns_max
    assert result.turns_min * users[0] <= JOBS_PER_PARTITION * SECONDS
    assert blocking.jobs_per_second < 0.9 * result.jobs_per_second
    assert ratio(blocking) < 1.05


def test_the_seed_decides_all() -> None:
    first, second = (run(UNEVEN, Choice.FEWEST_ROUNDS, stale=1) for _ in range(2))
    assert first == second


def test_users_are_spread_completely() -> None:
    assert sum(by_hash(4_000, 7)) == 4_000
    assert uneven(1_000, 4) == [100, 200, 300, 400]
    assert overloaded(1_000, 4, 0.4) == [400, 200, 200, 200]
