"""Users with weights are served in proportion to them; with equal weights the order is by turn."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from random import Random

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from domain.language.commands import CancelJob
from domain.language.events import JobCancelled, JobStarted, JobSubmitted
from domain.language.identifiers import JobId, UserId
from tests.support.live_line import LiveLine, limit_user, starts
from tests.support.stories import ALICE, BOB, CAROL, submit

WEIGHTS = st.integers(1, 100_000)  # hundredths


def weighted(weights: dict[UserId, int], jobs: int) -> LiveLine:
    """Return a line in which each of these users waits with so many jobs."""
    line = LiveLine()
    line.decide(*[limit_user(user_id, weight=weight) for user_id, weight in weights.items()])
    for user_id in weights:
        line.decide(*[submit(user_id, payload=number) for number in range(jobs)])
    return line


def test_a_user_of_twice_the_weight_is_served_twice_as_often() -> None:
    line = weighted({ALICE: 200, BOB: 100}, 12)
    assert Counter(line.claim(9)) == {ALICE: 6, BOB: 3}
    assert Counter(line.claim(3)) == {ALICE: 2, BOB: 1}


def test_a_change_of_weight_takes_effect_at_the_next_turn() -> None:
    line = weighted({ALICE: 100, BOB: 100}, 40)
    assert Counter(line.claim(10)) == {ALICE: 5, BOB: 5}
    line.decide(limit_user(ALICE, weight=300))
    assert Counter(line.claim(2)) == {ALICE: 1, BOB: 1}
    assert Counter(line.claim(20)) == {ALICE: 15, BOB: 5}


def test_nobody_gains_by_being_away() -> None:
    line = weighted({ALICE: 1000, BOB: 100}, 2)
    line.decide(*[submit(BOB, payload=100 + number) for number in range(50)])
    line.claim(30)  # alice has had her two jobs, and is away
    line.decide(*[submit(ALICE, payload=200 + number) for number in range(50)])
    assert Counter(line.claim(22)) == {ALICE: 20, BOB: 2}


@pytest.mark.parametrize("seed", range(5))
def test_all_who_wait_are_served_in_proportion_at_every_prefix(seed: int) -> None:
    weights = {ALICE: 100, BOB: 200, CAROL: 1000, UserId("dave"): 50}
    line = weighted(weights, 2000)
    random = Random(seed)
    while len(starts(line.recorded)) < 2000:
        line.claim(random.randint(1, 50))
    assert_in_proportion(line, weights, [start.user_id for start in starts(line.recorded)][:2000])


@for_all(
    weights=st.lists(WEIGHTS, min_size=2, max_size=7),
    claims=st.lists(st.integers(1, 30), min_size=1, max_size=15),
)
def test_any_weights_are_in_proportion_at_every_prefix(
    weights: list[int], claims: list[int]
) -> None:
    of_users = {UserId(f"user-{number}"): weight for number, weight in enumerate(weights)}
    line = weighted(of_users, sum(claims) + 1)
    served = [user_id for jobs_max in claims for user_id in line.claim(jobs_max)]
    assert_in_proportion(line, of_users, served)


def test_300_tenants_with_a_zipf_load_are_served_in_proportion_while_they_wait() -> None:
    random = Random(7)
    line = LiveLine()
    weights = {UserId(f"tenant-{number}"): random.randint(1, 2_000) for number in range(300)}
    line.decide(*[limit_user(user_id, weight=weight) for user_id, weight in weights.items()])
    names = list(weights)
    load = [1 / (rank + 1) for rank in range(300)]
    shares = _Shares(weights)
    for number in range(400):
        arrivals = random.choices(names, load, k=8)
        line.decide(
            *[submit(UserId(name), payload=number * 8 + n) for n, name in enumerate(arrivals)]
        )
        line.claim(random.randint(1, 12))
        shares.see(line)


@for_all(
    weights=st.lists(WEIGHTS, min_size=3, max_size=5),
    moves=st.lists(
        st.tuples(st.sampled_from(["submit", "claim", "cancel"]), st.integers(0, 30)), max_size=60
    ),
)
def test_while_two_users_wait_they_differ_by_at_most_a_job_of_each(
    weights: list[int], moves: list[tuple[str, int]]
) -> None:
    of_users = {UserId(f"user-{number}"): weight for number, weight in enumerate(weights)}
    line = weighted(of_users, 2)
    shares = _Shares(of_users)
    for count, (move, number) in enumerate(moves):
        if move == "submit":
            user_id = list(of_users)[number % len(weights)]
            line.decide(*[submit(user_id, payload=1000 * count + n) for n in range(1 + number % 4)])
        elif move == "claim":
            line.claim(1 + number % 6)
        else:
            line.decide(CancelJob(job_id=JobId(number)))
        shares.see(line)


@for_all(
    weight=WEIGHTS,
    moves=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=60),
)
def test_with_equal_weights_the_order_is_by_turn(weight: int, moves: list[tuple[int, int]]) -> None:
    plain = LiveLine()
    of_weight = weighted({UserId(f"user-{number}"): weight for number in range(5)}, 0)
    for count, (number, jobs) in enumerate(moves):
        user_id = UserId(f"user-{number}")
        for line in (plain, of_weight):
            line.decide(*[submit(user_id, payload=(count, n)) for n in range(jobs)])
        assert plain.claim(2) == of_weight.claim(2)
        in_line = [one for one in of_weight.model.line.users.values() if one.turn is not None]
        by_turn = sorted(in_line, key=lambda one: one.turn or 0)
        assert sorted(in_line, key=lambda one: one.order or 0) == by_turn


class _Shares:
    """Checks the bound between each two users while both wait."""

    def __init__(self, weights: dict[UserId, int]) -> None:
        self._weights = weights
        self._waiting: Counter[UserId] = Counter()
        self._served: dict[frozenset[UserId], Counter[UserId]] = {}  # since both wait
        self._seen = 0

    def see(self, line: LiveLine) -> None:
        """Check the events that are new."""
        for one in line.recorded[self._seen :]:
            match one.event:
                case JobSubmitted(user_id=user_id):
                    self._waiting[user_id] += 1
                case JobCancelled(user_id=user_id, was="queued"):
                    self._leave(user_id)
                case JobStarted(user_id=user_id):
                    self._serve(user_id)
                    self._leave(user_id)
                case _:
                    pass
        self._seen = len(line.recorded)

    def _serve(self, user_id: UserId) -> None:
        for other, waiting in self._waiting.items():
            if waiting and other != user_id:
                pair = frozenset((user_id, other))
                counts = self._served.setdefault(pair, Counter())
                counts[user_id] += 1
                parts = [Fraction(counts[one], self._weights[one]) for one in pair]
                bound = sum(Fraction(1, self._weights[one]) for one in pair)
                assert abs(parts[0] - parts[1]) <= bound, counts

    def _leave(self, user_id: UserId) -> None:
        self._waiting[user_id] -= 1
        if not self._waiting[user_id]:
            self._served = {pair: one for pair, one in self._served.items() if user_id not in pair}


def assert_in_proportion(line: LiveLine, weights: dict[UserId, int], served: Sequence[str]) -> None:
    """Check that users who joined together never differ by more than one job of either."""
    assert all(user.waiting for user in line.model.line.users.values())
    counts: Counter[str] = Counter()
    for user_id in served:
        counts[user_id] += 1
        for pair in combinations(weights, 2):
            first, second = (Fraction(counts[one], weights[one]) for one in pair)
            assert abs(first - second) <= max(Fraction(1, weights[one]) for one in pair)
