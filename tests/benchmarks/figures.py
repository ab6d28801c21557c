"""A figure, the limit that it is held against, and the target that an issue sets."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

from msgspec import Struct

R = TypeVar("R")


class Limit(Struct, frozen=True):
    """The limit of a figure, measured in the same run, in the figure's unit."""

    value: float
    what: str  # "the no-op"


class Target(Struct, frozen=True):
    bound: float  # inclusive
    is_least: bool  # else it is the most
    of_ratio: bool  # of figure to limit; else of the figure itself

    def is_met(self, figure: float, ratio: float | None) -> bool:
        measured = ratio if self.of_ratio else figure
        if measured is None:
            return False
        return measured >= self.bound if self.is_least else measured <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.is_least else "≤"
        return f"{sign} {number(self.bound)}{' ×' if self.of_ratio else ''}"


def at_least(bound: float) -> Target:
    """The figure itself."""
    return Target(bound, is_least=True, of_ratio=False)


def at_most(bound: float) -> Target:
    """The figure itself."""
    return Target(bound, is_least=False, of_ratio=False)


def ratio_at_least(bound: float) -> Target:
    return Target(bound, is_least=True, of_ratio=True)


def ratio_at_most(bound: float) -> Target:
    return Target(bound, is_least=False, of_ratio=True)


class Figure(Struct, frozen=True, omit_defaults=True):
    name: str
    value: float
    unit: str
    limit: Limit | None = None
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        if self.limit is None or not self.limit.value:
            return None
        return self.value / self.limit.value

    @property
    def is_met(self) -> bool | None:
        """None: nothing was asked."""
        return None if self.target is None else self.target.is_met(self.value, self.ratio)


def number(value: float) -> str:
    """Return a value with as many digits as a measurement deserves."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def alternate(rounds: int, *measures: Callable[[], R]) -> tuple[list[R], ...]:
    """Run all measures in turn, `rounds` times over; the results of each, in order.

    Whatever the machine does meanwhile, it does it to all of them.
    """
    results: tuple[list[R], ...] = tuple([] for _ in measures)
    for _ in range(rounds):
        for measure, found in zip(measures, results, strict=True):
            found.append(measure())
    return results


def median_of(values: Sequence[R], key: Callable[[R], float]) -> float:
    return median(map(key, values))
