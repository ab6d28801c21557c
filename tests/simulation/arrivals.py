"""Traffic: how many submissions of how many users reach each partition, second by second.

A user belongs to the partition that a hash of the id names. How often users submit follows Zipf's
law: the user of rank `r` submits `1/r` as often as the first. Users pause and come back in groups,
all together submit more and less in a wave of an hour, and in each window other users are noisy.

The submissions of a user are a Poisson process, and the sum of such processes is one too. So the
users who stay far below their own limit are drawn together, one number for each partition and
second. That changes no sum; what is lost is which of these users it was, and the order within a
second. Users who may reach their limit are drawn one by one.
"""

import math
import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from msgspec import Struct

WINDOW_SECONDS: Final = 60
USER_LIMIT: Final = 600  # submissions a window; the service's default
ARRIVALS_PER_PARTITION: Final = 3_125  # a second, on average over time and partitions
NOISY_SHARE: Final = 0.2  # of all arrivals
NOISY_RATE: Final = 100  # arrivals a second of a noisy user, who is so for one window
GROUPS: Final = 64  # of users of a partition who pause together
PAUSES: Final = 0.1  # part of the active groups that pause when a window begins
RETURNS: Final = 0.3  # part of the pausing groups that come back when a window begins
WAVE: Final = 0.3  # most that the rate differs from its mean in an hour
_NORMAL_FROM: Final = 30  # mean from which a Poisson number is drawn as a rounded normal one

Second = Sequence[int]  # submissions by partition
Window = Sequence[Second]


class Traffic(Struct, frozen=True, kw_only=True):
    """The size of the traffic, and the seed that all of its draws follow from."""

    users: int = 1_000_000
    arrivals: int = 1_000_000_000
    partitions: int = 16
    seed: int = 1

    @property
    def arrivals_per_second(self) -> int:
        return self.partitions * ARRIVALS_PER_PARTITION


class Demand(Struct, frozen=True):
    """What the global limit is asked to admit: the arrivals that no user's own limit refuses."""

    windows: Sequence[Window]
    arrivals: int  # refused ones included

    @property
    def by_window(self) -> Sequence[int]:
        return [sum(map(sum, window)) for window in self.windows]

    @property
    def refused(self) -> int:
        """Return how many arrivals the users' own limits refuse."""
        return self.arrivals - sum(self.by_window)


class _User(Struct):
    """A user who may reach the limit, in one window."""

    partition: int
    rate: float  # arrivals a second
    left: int = USER_LIMIT  # submissions that the window still admits


class _Population:
    """Who submits how often, and where."""

    def __init__(self, traffic: Traffic) -> None:
        harmonic = sum(1 / rank for rank in range(1, traffic.users + 1))
        active_share = RETURNS / (RETURNS + PAUSES)
        steady = traffic.arrivals_per_second * (1 - NOISY_SHARE) / active_share
        self.heavy: list[tuple[int, int, float]] = []  # partition, group, arrivals a second
        # Of all other users: arrivals a second by partition and group.
        self.rates = [[0.0] * GROUPS for _ in range(traffic.partitions)]
        for rank in range(1, traffic.users + 1):
            place = hash_of(rank)
            partition, group = place % traffic.partitions, place // traffic.partitions % GROUPS
            rate = steady / harmonic / rank
            if rate * (1 + WAVE) * WINDOW_SECONDS > USER_LIMIT / 2:
                self.heavy.append((partition, group, rate))
            else:
                self.rates[partition][group] += rate
        self.active = [[True] * GROUPS for _ in range(traffic.partitions)]

    def pause_and_return(self, chance: random.Random) -> None:
        for groups in self.active:
            groups[:] = [
                chance.random() >= PAUSES if is_active else chance.random() < RETURNS
                for is_active in groups
            ]


def draw(traffic: Traffic) -> Demand:
    """Draw whole windows until there are as many arrivals as asked for."""
    chance = random.Random(traffic.seed)
    population = _Population(traffic)
    windows: list[Window] = []
    arrivals = 0
    while arrivals < traffic.arrivals:
        population.pause_and_return(chance)
        window, arrived = _draw_window(chance, traffic, population, len(windows))
        windows.append(window)
        arrivals += arrived
    return Demand(windows, arrivals)


def _draw_window(
    chance: random.Random,
    traffic: Traffic,
    population: _Population,
    number: int,
) -> tuple[Window, int]:
    """Return the demand of one window and the number of its arrivals, refused ones included."""
    rates = [
        sum(rate for rate, on in zip(rates, groups, strict=True) if on)
        for rates, groups in zip(population.rates, population.active, strict=True)
    ]
    users = [
        _User(at, rate) for at, group, rate in population.heavy if population.active[at][group]
    ]
    noisy = round(traffic.arrivals_per_second * NOISY_SHARE / NOISY_RATE)
    users += [_User(chance.randrange(traffic.partitions), NOISY_RATE) for _ in range(noisy)]
    refused_rate = 0.0  # of the users whose limit is used up
    window: list[Second] = []
    arrivals = 0
    for second in range(WINDOW_SECONDS):
        at = number * WINDOW_SECONDS + second
        wave = 1 + WAVE * math.sin(2 * math.pi * at / 3600)
        asked = [poisson(chance, rate * wave) for rate in rates]
        arrivals += sum(asked) + poisson(chance, refused_rate * wave)
        for user in users:
            count = poisson(chance, user.rate * wave)
            arrivals += count
            within = min(count, user.left)
            user.left -= within
            asked[user.partition] += within
            if not user.left:
                refused_rate += user.rate
        users = [user for user in users if user.left]
        window.append(asked)
    return window, arrivals


def hash_of(user: int) -> int:
    """Return a number whose remainder by the number of partitions is the user's partition."""
    return int.from_bytes(blake2b(user.to_bytes(8), digest_size=8).digest())


def poisson(chance: random.Random, mean: float) -> int:
    """Draw a Poisson number: by Knuth's method; with a large mean, rounded from a normal one."""
    if mean > _NORMAL_FROM:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    threshold = math.exp(-mean)
    count, product = 0, chance.random()
    while product > threshold:
        count += 1
        product *= chance.random()
    return count
