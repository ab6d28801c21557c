"""Refusing at the door: submissions in a window that is known to be used up need not reach the log.

They are counted, and the counts reported, those that wait longest first, as one event for each user
and window. Until its turn comes a count goes on growing, so that very many refused users make no
more events than the reports that are asked for, and nothing is lost (ADR 16). The door only ever
closes on what the log decided; it opens at the window's end and on any limit change.

Time comes in as ticks: seconds on a clock of this process that never runs slower than the log's.
"""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice

from msgspec import Struct

from domain.language import validation
from domain.language.commands import ReportRefusals
from domain.language.errors import RateLimited
from domain.language.events import RateLimitDecided, Scope
from domain.language.identifiers import GLOBAL, UserId
from domain.language.moments import later

CLOSED_MAX = 100_000  # users; beyond it the door forgets them all, and the log decides again
COUNTS_MAX = 100_000  # waiting for their turn; beyond it, who has none yet is the log's to decide

_Key = tuple[UserId, Scope, int, int, datetime, int]  # whose, by which limit used up, which window


class _Closed(Struct, frozen=True, gc=False):
    """A used up window."""

    decision: RateLimitDecided
    decided_at: datetime  # UTC, by the log's clock
    tick: float  # not after the decision
    heard: float  # tick, not before the decision
    opens_at: float  # tick


class _Count(Struct, gc=False):
    count: int
    first_at: datetime  # UTC, by the log's clock as far as it is known here
    last_at: datetime


class Door:
    """One a process, used by one thread."""

    def __init__(self) -> None:
        self._closed: dict[UserId, _Closed] = {}  # GLOBAL: for everybody
        self._counts: dict[_Key, _Count] = {}  # in the order in which they began

    @property
    def is_closed_to_any(self) -> bool:
        return bool(self._closed)

    def close(self, refused: RateLimited, tick: float, heard: float) -> None:
        """The log refused a submission that was sent at `tick`; the answer was `heard` at another.

        The decision came between them. So the door opens early rather than late, and who is told
        when the window ends is not told too early a time.
        """
        if len(self._closed) >= CLOSED_MAX:
            self._closed.clear()
        left = (refused.resets_at - refused.decided_at).total_seconds()
        who = GLOBAL if refused.scope is Scope.GLOBAL else refused.user_id
        self._closed[who] = _Closed(refused.decision, refused.decided_at, tick, heard, tick + left)

    def open_all(self) -> None:
        """A limit has changed: let the log decide."""
        self._closed.clear()

    def refuse(self, user_id: UserId, tick: float) -> RateLimited | None:
        """The refusal of this submission, counted; None when the log has to decide.

        Raises `InvalidInput` for what is no user id, so that none is ever reported.
        """
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
        at = later(closed.decided_at, max(0.0, tick - closed.heard))
        if not self._count(_key(user_id, closed.decision), at):
            return None
        return RateLimited(closed.decision, at, user_id)

    def _count(self, key: _Key, at: datetime) -> bool:
        """False, and not counted, when too many counts wait already."""
        counted = self._counts.get(key)
        if counted is not None:
            counted.count += 1
            counted.last_at = max(counted.last_at, at)  # what is known of the log's clock varies
        elif len(self._counts) < COUNTS_MAX:
            validation.user_id(key[0])  # it is about to stand in the log for ever
            self._counts[key] = _Count(1, at, at)
        else:
            return False
        return True

    def take_reports(self, reports_max: int) -> list[ReportRefusals]:
        """For the log, what has waited longest; what is left goes on counting."""
        longest = list(islice(self._counts, reports_max))
        return [_report(key, self._counts.pop(key)) for key in longest]

    def put_back(self, reports: Iterable[ReportRefusals]) -> None:
        """The log has not got these: they go on counting, and are the first to be taken again."""
        newer, self._counts = self._counts, {}
        for report in reports:
            counted = _Count(report.count, report.first_at, report.last_at)
            self._counts[_key(report.user_id, report)] = counted
        for key, counted in newer.items():
            earlier = self._counts.setdefault(key, counted)
            if earlier is not counted:
                earlier.count += counted.count
                earlier.first_at = min(earlier.first_at, counted.first_at)
                earlier.last_at = max(earlier.last_at, counted.last_at)


def _key(user_id: UserId, refused: RateLimitDecided | ReportRefusals) -> _Key:
    return (
        user_id,
        refused.scope,
        refused.used,
        refused.limit,
        refused.window_start,
        refused.window_seconds,
    )


def _report(key: _Key, counted: _Count) -> ReportRefusals:
    user_id, scope, used, limit, window_start, window_seconds = key
    return ReportRefusals(
        user_id=user_id,
        scope=scope,
        used=used,
        limit=limit,
        window_start=window_start,
        window_seconds=window_seconds,
        count=counted.count,
        first_at=counted.first_at,
        last_at=counted.last_at,
    )
