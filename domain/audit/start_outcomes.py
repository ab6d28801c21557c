"""The waits of each user, as they would have been under other limits on starts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct, field

from domain.audit.start_replay import Replayed
from domain.audit.waits import Wait
from domain.language.identifiers import UserId
from domain.language.moments import to_micros

NOTICED_MICROS: Final = 100_000  # a start is later or sooner if it is so by as much


class Waited(Struct):
    """The waits of a user's jobs, each from joining the line to the start."""

    micros: list[int] = field(default_factory=list)
    started: int = 0
    waiting: int = 0  # at the end of the span; they count with what they had waited until then

    def seconds(self, share: float) -> float | None:
        """Return the wait that this share of them does not exceed (nearest rank); None: no waits.

        `share` is above 0 and at most 1: 0.95 for the 95th percentile, 1 for the longest.
        """
        if not self.micros:
            return None
        return sorted(self.micros)[math.ceil(share * len(self.micros)) - 1] / 1_000_000

    def add(self, joined: int, started: int | None, until: int) -> None:
        self.micros.append(max(0, (until if started is None else started) - joined))
        self.started += started is not None
        self.waiting += started is None


class StartOutcome(Struct):
    """The starts of one user's jobs, or of all."""

    recorded: Waited = field(default_factory=Waited)
    replayed: Waited = field(default_factory=Waited)
    later: int = 0  # starts that would have been later, or not in the span any more
    sooner: int = 0  # starts that would have been sooner, or only then in the span


def outcomes(
    waits: Iterable[Wait], replayed: Mapping[int, Replayed], since: int, until: datetime
) -> dict[UserId, StartOutcome]:
    """Compare the waits of a span with those of its replay.

    `since` is the position before the span. A job that was cancelled while it waited counts where
    it started.
    """
    found: dict[UserId, StartOutcome] = {}
    end = to_micros(until)
    for wait in waits:
        if wait.started is not None and wait.started[1] <= since:
            continue
        outcome = found.setdefault(wait.user_id, StartOutcome())
        start = None if wait.started is None else wait.started[0]
        other = replayed.get(wait.joined[1])
        other_start = None if other is None else other.started
        if start is not None or wait.left is None:
            outcome.recorded.add(wait.joined[0], start, end)
        if other is not None and (other_start is not None or wait.left is None):
            outcome.replayed.add(other.joined, other_start, end)
        change = (end if other_start is None else other_start) - (end if start is None else start)
        outcome.later += change >= NOTICED_MICROS
        outcome.sooner += -change >= NOTICED_MICROS
    return found


def together(users: Sequence[StartOutcome]) -> StartOutcome:
    """Return the outcome of several users together."""
    total = StartOutcome()
    for one in users:
        for mine, theirs in ((total.recorded, one.recorded), (total.replayed, one.replayed)):
            mine.micros += theirs.micros
            mine.started += theirs.started
            mine.waiting += theirs.waiting
        total.later += one.later
        total.sooner += one.sooner
    return total
