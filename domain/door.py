"""Refusing at the door: submissions in a window that is known to be used up need not reach the log.

They are counted, and the counts reported within a second as one event for each user and window. The
door only ever closes on what the log decided; it opens at the window's end and on any limit change.

Time comes in as ticks: seconds on a clock of this process that never runs slower than the log's.
"""

from datetime import datetime

from msgspec import Struct

from domain.commands import ReportRefusals
from domain.errors import RateLimited
from domain.events import RateLimitDecided, Scope
from domain.identifiers import GLOBAL, UserId
from domain.moments import later

CLOSED_MAX = 100_000  # users; beyond it the door forgets them all, and the log decides again


class _Closed(Struct, frozen=True, gc=False):
    """A used up window."""

    decision: RateLimitDecided
    decided_at: datetime  # UTC, by the log's clock
    tick: float  # not after the decision
    opens_at: float  # tick


class _Count(Struct, gc=False):
    count: int
    first_at: datetime  # UTC, by the log's clock as far as it is known here
    last_at: datetime


class Door:
    """One a process, used by one thread."""

    def __init__(self) -> None:
        self._closed: dict[UserId, _Closed] = {}  # GLOBAL: for everybody
        self._counts: dict[tuple[UserId, RateLimitDecided], _Count] = {}

    @property
    def is_closed_to_any(self) -> bool:
        return bool(self._closed)

    def close(self, refused: RateLimited, tick: float) -> None:
        """The log refused a submission that was sent at `tick`.

        The decision came later than that, so what is left of the window is never overestimated.
        """
        if len(self._closed) >= CLOSED_MAX:
            self._closed.clear()
        left = (refused.resets_at - refused.decided_at).total_seconds()
        who = GLOBAL if refused.scope is Scope.GLOBAL else refused.user_id
        self._closed[who] = _Closed(refused.decision, refused.decided_at, tick, tick + left)

    def open_all(self) -> None:
        """A limit has changed: let the log decide."""
        self._closed.clear()

    def refuse(self, user_id: UserId, tick: float) -> RateLimited | None:
        """The refusal of this submission, counted; None when the log has to decide."""
        if not self._closed:
            return None
        return self._refuse(user_id, user_id, tick) or self._refuse(GLOBAL, user_id, tick)

    def _refuse(self, who: UserId, user_id: UserId, tick: float) -> RateLimited | None:
        closed = self._closed.get(who)
        if closed is None:
            return None
        if not closed.tick <= tick < closed.opens_at:  # over, or a clock that went back
            del self._closed[who]
            return None
        at = later(closed.decided_at, tick - closed.tick)
        self._count(user_id, closed.decision, at)
        return RateLimited(closed.decision, at, user_id)

    def _count(self, user_id: UserId, decided: RateLimitDecided, at: datetime) -> None:
        counted = self._counts.get((user_id, decided))
        if counted is None:
            self._counts[user_id, decided] = _Count(1, at, at)
        else:
            counted.count += 1
            counted.last_at = at

    def take_reports(self) -> list[ReportRefusals]:
        """What was refused here since the last time, for the log."""
        counts, self._counts = self._counts, {}
        return [
            ReportRefusals(
                user_id=user_id, scope=decided.scope, used=decided.used, limit=decided.limit,
                window_start=decided.window_start, window_seconds=decided.window_seconds,
                count=counted.count, first_at=counted.first_at, last_at=counted.last_at,
            )
            for (user_id, decided), counted in counts.items()
        ]  # fmt: skip
