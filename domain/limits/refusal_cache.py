"""A cache of refusals: submissions in a window that is known to be used up do not reach the log.

Each process counts the submissions that it refuses by itself and reports the counts to the log,
oldest count first, as one event per user and window. A count grows until it is reported, so that
very many refused users make no more events than the reports that the caller takes, and no refusal
is lost (ADR 16). Only a refusal by the log enters the cache; it leaves at the end of its window, or
when any limit changes.

Times are ticks: seconds on a clock of this process that never runs slower than the log's.
"""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice

from msgspec import Struct

from domain.language import validation
from domain.language.commands import Caller, ReportRefusals
from domain.language.errors import RateLimited
from domain.language.events import RateLimitDecided, Scope, WindowUse
from domain.language.identifiers import GLOBAL, UserId
from domain.language.moments import later

REFUSALS_MAX = 100_000  # users; at this size the cache is cleared, and the log decides again
COUNTS_MAX = 100_000  # unreported; beyond it, the log decides about users without a count

# User, scope, used, limit, window, the other windows, and the caller.
_Key = tuple[UserId, Scope, int, int, datetime, int, tuple[WindowUse, ...], Caller | None]


class _Refusal(Struct, frozen=True, gc=False):
    """A refusal by the log, which holds until its window ends."""

    decision: RateLimitDecided
    decided_at: datetime  # UTC, by the log's clock
    sent: float  # tick at or before the decision
    received: float  # tick at or after the decision
    expires: float  # tick, exclusive


class _Count(Struct, gc=False):
    count: int
    first_at: datetime  # UTC, by the estimate of the log's clock
    last_at: datetime  # likewise


class RefusalCache:
    """The refusals that one process knows and the submissions that it refused itself.

    Not thread-safe: one thread uses it.
    """

    def __init__(self) -> None:
        self._refusals: dict[UserId, _Refusal] = {}  # GLOBAL: of all users
        self._counts: dict[_Key, _Count] = {}  # oldest first

    @property
    def has_any(self) -> bool:
        return bool(self._refusals)

    def add(self, refused: RateLimited, tick: float, received: float) -> None:
        """Add a refusal by the log of a submission that was sent at `tick`, answered at `received`.

        The decision was made between the two ticks. The entry expires by the earlier one, so never
        too late, and `decided_at` of later refusals counts from the later one.
        """
        if len(self._refusals) >= REFUSALS_MAX:
            self._refusals.clear()
        left = (refused.resets_at - refused.decided_at).total_seconds()
        subject = GLOBAL if refused.scope is Scope.GLOBAL else refused.user_id
        self._refusals[subject] = _Refusal(
            refused.decision, refused.decided_at, tick, received, tick + left
        )

    def clear(self) -> None:
        """Remove all refusals, since a limit has changed. The counts stay."""
        self._refusals.clear()

    def refuse(self, user_id: UserId, tick: float, by: Caller | None = None) -> RateLimited | None:
        """Return the counted refusal of a caller's submission, or None when the log has to decide.

        Raises `InvalidInput` for an invalid user id, so that none is ever reported.
        """
        if not self._refusals:
            return None
        return self._refuse(user_id, user_id, tick, by) or self._refuse(GLOBAL, user_id, tick, by)

    def _refuse(
        self, subject: UserId, user_id: UserId, tick: float, by: Caller | None
    ) -> RateLimited | None:
        known = self._refusals.get(subject)
        if known is None:
            return None
        if not known.sent <= tick < known.expires:  # over, or the clock went back
            del self._refusals[subject]
            return None
        at = later(known.decided_at, max(0.0, tick - known.received))
        if not self._count(_key(user_id, known.decision, by), at):
            return None
        return RateLimited(known.decision, at, user_id)

    def _count(self, key: _Key, at: datetime) -> bool:
        """Count a refusal; return False, without counting it, if there are COUNTS_MAX counts."""
        counted = self._counts.get(key)
        if counted is not None:
            counted.count += 1
            counted.last_at = max(counted.last_at, at)  # estimates of the log's clock vary
        elif len(self._counts) < COUNTS_MAX:
            validation.user_id(key[0])  # it is about to be stored in the log for ever
            self._counts[key] = _Count(1, at, at)
        else:
            return False
        return True

    def take_reports(self, reports_max: int) -> list[ReportRefusals]:
        """Remove the oldest counts, at most `reports_max`, and return them as commands."""
        oldest = list(islice(self._counts, reports_max))
        return [_report(key, self._counts.pop(key)) for key in oldest]

    def put_back(self, reports: Iterable[ReportRefusals]) -> None:
        """Put back reports that the log did not record; they are the first to be taken again."""
        newer, self._counts = self._counts, {}
        for report in reports:
            counted = _Count(report.count, report.first_at, report.last_at)
            self._counts[_key(report.user_id, report, report.by)] = counted
        for key, counted in newer.items():
            earlier = self._counts.setdefault(key, counted)
            if earlier is not counted:
                earlier.count += counted.count
                earlier.first_at = min(earlier.first_at, counted.first_at)
                earlier.last_at = max(earlier.last_at, counted.last_at)


def _key(user_id: UserId, refused: RateLimitDecided | ReportRefusals, by: Caller | None) -> _Key:
    return (
        user_id,
        refused.scope,
        refused.used,
        refused.limit,
        refused.window_start,
        refused.window_seconds,
        refused.windows,
        by,
    )


def _report(key: _Key, counted: _Count) -> ReportRefusals:
    user_id, scope, used, limit, window_start, window_seconds, windows, by = key
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
        windows=windows,
        by=by,
    )
