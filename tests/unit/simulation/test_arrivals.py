import random
from statistics import mean, pvariance

import pytest

from tests.simulation.arrivals import (
    NOISY_RATE,
    NOISY_SHARE,
    USER_LIMIT,
    Traffic,
    draw,
    poisson,
)

SMALL = Traffic(users=2_000, arrivals=2_000_000, partitions=3, seed=5)


def test_the_seed_decides_all_draws() -> None:
    other = Traffic(users=2_000, arrivals=2_000_000, partitions=3, seed=6)
    assert draw(SMALL) == draw(SMALL)
    assert draw(SMALL).windows != draw(other).windows


def test_there_are_as_many_arrivals_as_asked_for_and_users_limits_refuse_some() -> None:
    demand = draw(SMALL)
    assert demand.arrivals >= SMALL.arrivals
    assert 0 < demand.refused < demand.arrivals


def test_a_user_is_asked_for_no_more_than_the_users_own_limit() -> None:
    alone = Traffic(users=1, arrivals=1_000_000, partitions=1, seed=2)
    noisy = round(alone.arrivals_per_second * NOISY_SHARE / NOISY_RATE)
    demand = draw(alone)
    assert len(demand.by_window) > 3
    # The noisy users always reach their limits, the one user unless the group pauses.
    assert {noisy * USER_LIMIT, (noisy + 1) * USER_LIMIT} >= set(demand.by_window)


@pytest.mark.parametrize("expected", [0.5, 8, 29, 200])
def test_poisson_numbers_have_a_mean_and_a_variance_of_that_size(expected: float) -> None:
    chance = random.Random(1)
    drawn = [poisson(chance, expected) for _ in range(20_000)]
    assert mean(drawn) == pytest.approx(expected, rel=0.03)
    assert pvariance(drawn) == pytest.approx(expected, rel=0.06)
