"""Turns of users of different partitions, by the way in which workers choose the partition.

Each partition serves its own users in turn: the one who was served the longest time ago is next.
With users who always have work this is a circle, so that one number, the jobs that they have
started, gives the turns of each of them. In front of the circle are users who come back after a
pause with one job: they were served before everybody in it.

Workers claim up to `CLAIM_JOBS` jobs of one partition at a time. What they know of the others may
be some time old; of the partition that has just answered they know the state after their claim. A
partition that is answering a claim refuses others, and their workers ask the next one.
"""

import heapq
import random
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from enum import Enum
from typing import Final

from msgspec import Struct

from tests.simulation.arrivals import hash_of

JOBS_PER_PARTITION: Final = 3_700  # a second, that one log takes through their lives at most
WORK_SHARE: Final = 0.6  # of that, in all partitions together, what the workers can run
WORKERS_PER_PARTITION: Final = 4
CLAIM_JOBS: Final = 100
SHORT_SHARE: Final = 0.1  # of the jobs, those of users who come back with one job
PAUSE_SECONDS: Final = 60  # that these users were away; longer than a round of the circle


class Choice(Enum):
    """How a worker chooses the partition for its next claim."""

    IN_TURN = "one after the other"
    OLDEST_HEAD = "the oldest `last_served`"
    FEWEST_ROUNDS = "the fewest rounds"


class Setup(Struct, frozen=True, kw_only=True):
    users: Sequence[int]  # who always have work, by partition
    choice: Choice
    stale_seconds: float = 0  # most time after which a worker asks all partitions again
    clock_seconds: float = 0  # the partitions' clocks are spread evenly over so much
    short_share: float = SHORT_SHARE
    refuses_when_busy: bool = True  # else claims wait at the partition
    seconds: float = 300
    seed: int = 1


class FairnessResult(Struct, frozen=True):
    turns_min: float  # of a user who always has work, in the partition with the fewest
    turns_max: float  # the same in the partition with the most
    index: float  # Jain's, of the turns of these users: 1 if all are equal
    wait_mean: float  # seconds until a user who comes back is served
    wait_max: float
    jobs_per_second: float
    reads_per_second: float  # of all partitions' states, by all workers


class _Line:
    """The waiting users of one partition."""

    def __init__(
        self, users: int, returns_per_second: float, clock: float, chance: random.Random
    ) -> None:
        self.users = users
        self.turns = 0  # of the users who always have work, together
        self.free_at = 0.0  # when all claims that were sent so far are answered
        self.waits: list[float] = []
        self._clock = clock  # seconds that the partition's clock is ahead
        self._served_at = array("d", [0.0]) * users  # of the circle
        self._next = 0
        self._returns = returns_per_second
        self._chance = chance
        self._returned: deque[float] = deque()  # when users came back who wait
        self._next_return = self._pause()

    def head(self, now: float) -> float:
        """Return when the user who is next was served last, by the partition's clock."""
        self._let_return(now)
        if self._returned:
            return self._returned[0] - PAUSE_SECONDS + self._clock
        return self._served_at[self._next] + self._clock

    def rounds(self) -> float:
        """Return how many turns each user who always has work has had."""
        return self.turns / self.users

    def claim(self, now: float) -> None:
        """Start up to `CLAIM_JOBS` jobs. There are always as many users in the circle."""
        self._let_return(now)
        free = CLAIM_JOBS
        while self._returned and free:
            self.waits.append(now - self._returned.popleft())
            free -= 1
        self.turns += free
        for _ in range(free):
            self._served_at[self._next] = now
            self._next = (self._next + 1) % self.users

    def _let_return(self, now: float) -> None:
        while self._next_return <= now:
            self._returned.append(self._next_return)
            self._next_return += self._pause()

    def _pause(self) -> float:
        return self._chance.expovariate(self._returns) if self._returns else float("inf")


class _Worker:
    """What one worker knows of the partitions."""

    def __init__(
        self, setup: Setup, lines: Sequence[_Line], number: int, first_read: float
    ) -> None:
        self._setup = setup
        self._lines = lines
        self._known = [0.0] * len(lines)
        self._latest = number % len(lines)
        self._next_read = first_read
        self.reads = 0

    def choices(self, now: float) -> Sequence[int]:
        """Return the partitions in the order in which the worker asks them."""
        number = len(self._lines)
        if self._setup.choice is Choice.IN_TURN:
            return [(self._latest + 1 + step) % number for step in range(number)]
        if now >= self._next_read:
            self.reads += 1
            self._next_read = now + self._setup.stale_seconds
            self._known = [self._state(line, now) for line in self._lines]
        return sorted(range(number), key=self._known.__getitem__)

    def has_claimed(self, at: int, now: float) -> None:
        self._latest = at
        self._known[at] = self._state(self._lines[at], now)

    def _state(self, line: _Line, now: float) -> float:
        if self._setup.choice is Choice.OLDEST_HEAD:
            return line.head(now)
        return line.rounds()


def simulate(setup: Setup) -> FairnessResult:
    """Let workers claim for some time, while the users of each circle always have work."""
    chance = random.Random(setup.seed)
    number = len(setup.users)
    rate = number * JOBS_PER_PARTITION * WORK_SHARE
    clocks = [setup.clock_seconds * at / max(1, number - 1) for at in range(number)]
    returns = rate * setup.short_share / number
    lines = [
        _Line(users, returns, clock, chance)
        for users, clock in zip(setup.users, clocks, strict=True)
    ]
    workers = [
        _Worker(setup, lines, at, chance.random() * setup.stale_seconds)
        for at in range(number * WORKERS_PER_PARTITION)
    ]
    run_seconds = CLAIM_JOBS / rate * len(workers)  # of a claim's jobs, on average
    claims = 0
    due = [(chance.random() * run_seconds, at) for at in range(len(workers))]
    heapq.heapify(due)
    while (now := due[0][0]) < setup.seconds:
        worker = workers[due[0][1]]
        order = worker.choices(now)
        at = order[0]
        if setup.refuses_when_busy:
            free = (one for one in order if lines[one].free_at <= now)
            at = next(free, min(order, key=lambda one: lines[one].free_at))
        line = lines[at]
        line.claim(now)
        worker.has_claimed(at, now)
        line.free_at = max(line.free_at, now) + CLAIM_JOBS / JOBS_PER_PARTITION
        ran = run_seconds * chance.uniform(0.5, 1.5)
        heapq.heapreplace(due, (line.free_at + ran, due[0][1]))
        claims += 1
    return _result(setup, lines, claims, sum(worker.reads for worker in workers))


def _result(setup: Setup, lines: Sequence[_Line], claims: int, reads: int) -> FairnessResult:
    rounds = [line.rounds() for line in lines]
    turns = sum(line.turns for line in lines)
    squares = sum(line.users * line.rounds() ** 2 for line in lines)
    waits = [wait for line in lines for wait in line.waits] or [0.0]
    return FairnessResult(
        turns_min=min(rounds),
        turns_max=max(rounds),
        index=turns**2 / (sum(setup.users) * squares),
        wait_mean=sum(waits) / len(waits),
        wait_max=max(waits),
        jobs_per_second=claims * CLAIM_JOBS / setup.seconds,
        reads_per_second=reads * len(lines) / setup.seconds,
    )


def by_hash(users: int, partitions: int) -> Sequence[int]:
    """Spread users over partitions by the hash of their ids."""
    counts = Counter(hash_of(user) % partitions for user in range(users))
    return [counts[at] for at in range(partitions)]


def uneven(users: int, partitions: int) -> Sequence[int]:
    """Spread users over partitions so that the last one has four times as many as the first."""
    weights = [1 + 3 * at / max(1, partitions - 1) for at in range(partitions)]
    return [round(users * weight / sum(weights)) for weight in weights]


def overloaded(users: int, partitions: int, share: float) -> Sequence[int]:
    """Give one partition a share of all users, and the others equal parts of the rest."""
    rest = round(users * (1 - share) / (partitions - 1))
    return [round(users * share), *[rest] * (partitions - 1)]
