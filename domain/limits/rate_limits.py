"""Rate limits: fixed windows aligned to Unix time 0, counted for each user and for all users.

Everybody has a window of `Policy.window_seconds`; users and all users together may have further
ones. A further one counts from the submission on with which its limit first held.

A decision counts in the window of the log's time. Refusals are counted apart and use up no quota;
neither does a submission that repeats a job, although the limits are looked at before.
Only the latest window of each length is kept: earlier ones decide nothing, and the log has them.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from domain.language.events import RateLimitDecided, Recorded, Scope, WindowUse
from domain.language.identifiers import GLOBAL, UserId
from domain.language.moments import from_micros, later, to_micros
from domain.language.policy import Policy
from domain.limits.limits import Limits, LimitSettings
from domain.log.folds import Folded, FoldMethods

WindowKey = tuple[UserId, int]  # (user or GLOBAL, window_seconds): the latest window


class Counter(Struct, frozen=True, gc=False):
    """The submissions of a user, or of all users, in one window."""

    start: int  # of the window, Unix time in microseconds
    used: int = 0  # submissions admitted
    refused: int = 0  # submissions


class WindowState(Struct, frozen=True, kw_only=True, gc=False):
    """The current window of a user, or of all users, with its limit."""

    limit: int  # submissions per window
    used: int  # submissions admitted; more than `limit` if that was lowered
    window_start: datetime  # UTC, inclusive
    window_seconds: int

    @property
    def resets_at(self) -> datetime:
        """End of the window, UTC, exclusive."""
        return later(self.window_start, self.window_seconds)

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


@lru_cache(maxsize=64)  # called for each submission of a batch, with one `now`
def window_start(now: datetime, window_seconds: int) -> datetime:
    """Return the start of the window of `now`; its Unix time is a multiple of the length."""
    length = window_seconds * 1_000_000
    return from_micros(to_micros(now) // length * length)


class Windows(Folded):
    """The latest windows in memory; a missing counter is zero."""

    def __init__(self) -> None:
        self.counters: dict[WindowKey, Counter] = {}
        self.changed_counters: set[WindowKey] = set()

    def evict(self) -> None:
        """Drop all counters, whose rows are written."""
        self.counters.clear()

    def _decided(self, recorded: Recorded, event: RateLimitDecided) -> None:
        used, refused = (event.count, 0) if event.allowed else (0, event.count)
        seconds, start = event.window_seconds, to_micros(event.window_start)
        self._count((event.user_id, seconds), start, used, refused)
        self._count((GLOBAL, seconds), start, used, refused)
        if event.allowed:
            for other in event.windows:
                if other.seconds != seconds:
                    who = event.user_id if other.scope is Scope.USER else GLOBAL
                    began = window_start(recorded.recorded_at, other.seconds)
                    self._count((who, other.seconds), to_micros(began), used, 0)

    def _count(self, key: WindowKey, start: int, used: int, refused: int) -> None:
        """Count submissions. Refusals of a window before the latest, reported late, are dropped."""
        old = self.counters.get(key)
        if old is None or old.start != start:
            if old is not None and start < old.start and not used:
                return
            old = Counter(start)
        self.counters[key] = Counter(start, old.used + used, old.refused + refused)
        self.changed_counters.add(key)

    FOLDS: ClassVar[FoldMethods] = {RateLimitDecided: _decided}

    def used(self, who: UserId, window_seconds: int, start: int) -> int:
        """Return the submissions that a window admitted, of a user or GLOBAL; 0 if unknown."""
        counter = self.counters.get((who, window_seconds))
        return counter.used if counter is not None and counter.start == start else 0

    def user_window(
        self, limits: LimitSettings, user_id: UserId, policy: Policy, now: datetime
    ) -> WindowState:
        own = limits.of_user(user_id).submissions
        limit = policy.user_limit if own is None else own
        return self._state(user_id, limit, policy.window_seconds, now)

    def global_window(self, limits: LimitSettings, policy: Policy, now: datetime) -> WindowState:
        own = limits.everyone.submissions
        limit = policy.global_limit if own is None else own
        return self._state(GLOBAL, limit, policy.window_seconds, now)

    def further(self, limits: Limits, who: UserId, now: datetime) -> list[WindowState]:
        """Return the further windows of a user, or of GLOBAL, whose limits these are."""
        rates = limits.windows or ()
        return [self._state(who, rate.limit, rate.seconds, now) for rate in rates]

    def _state(self, who: UserId, limit: int, seconds: int, now: datetime) -> WindowState:
        start = window_start(now, seconds)
        return WindowState(
            limit=limit,
            used=self.used(who, seconds, to_micros(start)),
            window_start=start,
            window_seconds=seconds,
        )


def decide_admission(
    windows: Windows, limits: LimitSettings, user_id: UserId, policy: Policy, now: datetime
) -> RateLimitDecided:
    """Admit or refuse one submission: all windows have to allow it.

    The user's windows are checked first, then those of all users together.
    """
    user = windows.user_window(limits, user_id, policy, now)
    everyone = windows.global_window(limits, policy, now)
    further_of_user = windows.further(limits.of_user(user_id), user_id, now)
    further_of_all = windows.further(limits.everyone, GLOBAL, now)
    for scope, window, further in (
        (Scope.USER, user, further_of_user),
        (Scope.GLOBAL, everyone, further_of_all),
    ):
        used_up = [one for one in (window, *further) if one.used >= one.limit]
        if used_up:
            of_user = further_of_user if scope is Scope.USER else []
            # The one that ends last: no submission is admitted before.
            refusing = max(used_up, key=lambda one: one.resets_at)
            others = [*_uses(Scope.USER, of_user), *_uses(Scope.GLOBAL, further_of_all)]
            if refusing is not window:
                others += _uses(Scope.GLOBAL, [everyone], is_default=True)
                if scope is Scope.USER:
                    others += _uses(Scope.USER, [user], is_default=True)
            return RateLimitDecided(
                user_id=user_id,
                scope=scope,
                allowed=False,
                used=refusing.used,
                limit=refusing.limit,
                window_start=refusing.window_start,
                window_seconds=refusing.window_seconds,
                windows=tuple(others),
            )
    others = [*_uses(Scope.USER, further_of_user, 1), *_uses(Scope.GLOBAL, further_of_all, 1)]
    return RateLimitDecided(
        user_id=user_id,
        scope=Scope.USER,
        allowed=True,
        used=user.used + 1,
        limit=user.limit,
        window_start=user.window_start,
        window_seconds=policy.window_seconds,
        global_used=everyone.used + 1,
        global_limit=everyone.limit,
        windows=tuple(others),
    )


def _uses(
    scope: Scope, windows: Sequence[WindowState], count: int = 0, *, is_default: bool = False
) -> list[WindowUse]:
    """Return the use of windows after `count` more submissions."""
    return [
        WindowUse(scope, one.limit, one.window_seconds, one.used + count, is_default)
        for one in windows
    ]


def without_use(admission: RateLimitDecided) -> RateLimitDecided:
    """Return the admission of a submission that uses up nothing."""
    everyone = admission.global_used
    return replace(
        admission,
        count=0,
        used=admission.used - 1,
        global_used=None if everyone is None else everyone - 1,
        windows=tuple(replace(one, used=one.used - 1) for one in admission.windows),
    )


def limit_of_everyone(decided: RateLimitDecided) -> int | None:
    """Return the limit of all users together that decided; None if the event has none.

    It is that of `Policy.window_seconds`.
    """
    if decided.allowed:
        return decided.global_limit
    is_of_all = decided.scope is Scope.GLOBAL and not decided.is_by_further
    return decided.limit if is_of_all else None


def merge_refusals(
    earlier: RateLimitDecided, another: RateLimitDecided, now: datetime
) -> RateLimitDecided:
    """Merge two refusals of one user in one window.

    `now` is the time of a refusal without `first_at` and `last_at`.
    """
    return replace(
        earlier,
        count=earlier.count + another.count,
        first_at=min(earlier.first_at or now, another.first_at or now),
        last_at=max(earlier.last_at or now, another.last_at or now),
    )
