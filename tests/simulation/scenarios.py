"""What is simulated: one draw of the traffic, and all questions that are asked of it."""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from statistics import median
from typing import Final

from msgspec import Struct

from tests.simulation import fairness, outage, quotas
from tests.simulation.arrivals import WAVE, WINDOW_SECONDS, Demand, Traffic, Window, draw
from tests.simulation.fairness import Choice, FairnessResult, Setup
from tests.simulation.outage import Outage, OutageResult
from tests.simulation.quotas import Leases, QuotaResult

LEASES: Final = (
    Leases(100),
    Leases(1_000),
    Leases(10_000),
    Leases(50_000),
    Leases(1_000, adapts=True),
    Leases(10_000, adapts=True),
    Leases(50_000, adapts=True),
)
IDLE_DIVISOR: Final = 1_000  # of the submissions of the partitions that are nearly idle
LEASES_OF_OUTAGES: Final = Leases(10_000, adapts=True)
ROOM: Final = 1.2  # limit of the outages with room, as a multiple of the largest demand
BUSY_SHARE: Final = 0.1  # of all users, those who always have work
OVERLOADED_SHARE: Final = 0.2  # of these, in the partition that cannot serve them all


class Sizes(Struct, frozen=True, kw_only=True):
    traffic: Traffic = Traffic()
    fairness_seconds: int = 300
    outage_seconds: int = 300

    @property
    def windows_of_outage(self) -> int:
        """Windows from the one before the outage until all has caught up."""
        return 2 + 5 * ceil(self.outage_seconds / WINDOW_SECONDS)

    @property
    def arrivals_min(self) -> int:
        """Arrivals that suffice for so many windows, with some to spare for chance."""
        seconds = self.windows_of_outage * WINDOW_SECONDS
        return ceil(seconds * self.traffic.arrivals_per_second * (1.1 + WAVE))


class QuotaFigures(Struct, frozen=True):
    all_busy: QuotaResult
    half_idle: QuotaResult  # where every second partition is nearly idle


class FairnessFigures(Struct, frozen=True):
    spread: str  # of the users over the partitions
    setup: Setup
    result: FairnessResult


class Figures(Struct, frozen=True):
    traffic: Traffic
    windows: int
    arrivals: int
    refused: int  # by users' own limits, of `arrivals`
    limit: int  # of all users together, submissions a window
    quotas: Sequence[QuotaFigures]
    fairness: Sequence[FairnessFigures]
    outages_with_room: Sequence[OutageResult]  # one for each partition
    outages_at_limit: Sequence[OutageResult]


def run(sizes: Sizes) -> Figures:
    demand = draw(sizes.traffic)
    limit = _usual_demand(demand.windows)
    room = round(max(demand.by_window) * ROOM)
    return Figures(
        traffic=sizes.traffic,
        windows=len(demand.windows),
        arrivals=demand.arrivals,
        refused=demand.refused,
        limit=limit,
        quotas=list(_quotas(demand.windows, limit)),
        fairness=[
            FairnessFigures(spread, setup, fairness.simulate(setup))
            for spread, setup in setups(sizes)
        ],
        outages_with_room=list(_outages(sizes, demand, room)),
        outages_at_limit=list(_outages(sizes, demand, limit)),
    )


def _usual_demand(windows: Iterable[Window]) -> int:
    """Return the limit that half of the windows use up."""
    return int(median(sum(map(sum, window)) for window in windows))


def _quotas(windows: Sequence[Window], limit: int) -> Iterator[QuotaFigures]:
    half_idle = [
        [
            [count // IDLE_DIVISOR if at % 2 else count for at, count in enumerate(second)]
            for second in window
        ]
        for window in windows
    ]
    for leases in LEASES:
        yield QuotaFigures(
            quotas.simulate(windows, limit, leases),
            quotas.simulate(half_idle, _usual_demand(half_idle), leases),
        )


def setups(sizes: Sizes) -> Iterator[tuple[str, Setup]]:
    """Yield the spread of the users, in words, and what is simulated with it."""
    partitions = sizes.traffic.partitions
    users = round(sizes.traffic.users * BUSY_SHARE)
    spreads = {
        "by hash": fairness.by_hash(users, partitions),
        "uneven": fairness.uneven(users, partitions),
        "overloaded": fairness.overloaded(users, partitions, OVERLOADED_SHARE),
    }

    def setup(
        spread: str,
        choice: Choice,
        *,
        stale: float = 0,
        clock: float = 0,
        short: float = fairness.SHORT_SHARE,
        refuses: bool = True,
    ) -> tuple[str, Setup]:
        return spread, Setup(
            users=spreads[spread],
            choice=choice,
            stale_seconds=stale,
            clock_seconds=clock,
            short_share=short,
            refuses_when_busy=refuses,
            seconds=sizes.fairness_seconds,
            seed=sizes.traffic.seed,
        )

    yield setup("by hash", Choice.IN_TURN)
    yield setup("uneven", Choice.IN_TURN)
    yield setup("uneven", Choice.OLDEST_HEAD)
    yield setup("uneven", Choice.OLDEST_HEAD, short=0)
    yield setup("uneven", Choice.OLDEST_HEAD, short=0, stale=1)
    yield setup("uneven", Choice.OLDEST_HEAD, short=0, clock=1)
    for stale in (0, 1, 10, 60):
        yield setup("uneven", Choice.FEWEST_ROUNDS, stale=stale)
    yield setup("overloaded", Choice.IN_TURN)
    yield setup("overloaded", Choice.FEWEST_ROUNDS, stale=1)
    yield setup("overloaded", Choice.FEWEST_ROUNDS, stale=1, refuses=False)


def _outages(sizes: Sizes, demand: Demand, limit: int) -> Iterator[OutageResult]:
    """Lose each partition once, at times that are spread over the whole demand."""
    partitions = sizes.traffic.partitions
    spare = len(demand.windows) - sizes.windows_of_outage
    assert spare >= 0, "too few arrivals for an outage and what comes after it"
    for at in range(partitions):
        first = spare * at // max(1, partitions - 1)
        windows = demand.windows[first : first + sizes.windows_of_outage]
        lost = Outage(at, sizes.outage_seconds)
        yield outage.simulate(windows, limit, LEASES_OF_OUTAGES, lost)
