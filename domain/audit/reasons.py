"""Reasons: sentences with the numbers that they contain, and how numbers and times are written."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

Value = int | float | str | bool | datetime | Sequence[int] | None


class Reason(Struct, frozen=True):
    """One reason for the state of a job."""

    code: str  # stable, for programs
    text: str  # one or more sentences
    numbers: Mapping[str, Value] = {}  # that the text contains


class Count(Struct, frozen=True):
    """A number that is counted up to a bound."""

    number: int
    is_exact: bool = True  # False: there are more than `number`

    def of(self, one: str, many: str) -> str:
        """Format the number: "1 job", "3 jobs", "more than 500 jobs"."""
        noun = one if self.number == 1 and self.is_exact else many
        return f"{'' if self.is_exact else 'more than '}{self.number:,} {noun}"


def amount(number: int, noun: str) -> str:
    """Format a number of things: "1 job", "3 jobs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def are_running(number: int) -> str:
    return "is running" if number == 1 else "are running"


def format_time(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def format_seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 (two digits tell)
