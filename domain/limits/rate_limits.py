"""Rate limits: fixed windows aligned to Unix time 0, one counter per user and one for all users.

A decision counts in the window of the log's time. Refusals are counted apart and use up no quota;
neither does a submission that repeats a job, although the limits are looked at before.
Only the latest window of each user is kept: earlier ones decide nothing, and the log has them.
"""

from datetime import datetime
from functools import lru_cache
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from domain.language.events import RateLimitDecided, Recorded, Scope
from domain.language.identifiers import GLOBAL, UserId
from domain.language.moments import from_micros, later, to_micros
from domain.language.policy import Policy
from domain.limits.limits import LimitSettings
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

    def _decided(self, _: Recorded, event: RateLimitDecided) -> None:
        used, refused = (event.count, 0) if event.allowed else (0, event.count)
        seconds, start = event.window_seconds, to_micros(event.window_start)
        self._count((event.user_id, seconds), start, used, refused)
        self._count((GLOBAL, seconds), start, used, refused)

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
        return self._window(user_id, policy.user_limit if own is None else own, policy, now)

    def global_window(self, limits: LimitSettings, policy: Policy, now: datetime) -> WindowState:
        own = limits.everyone.submissions
        return self._window(GLOBAL, policy.global_limit if own is None else own, policy, now)

    def _window(self, who: UserId, limit: int, policy: Policy, now: datetime) -> WindowState:
        start = window_start(now, policy.window_seconds)
        return WindowState(
            limit=limit,
            used=self.used(who, policy.window_seconds, to_micros(start)),
            window_start=start,
            window_seconds=policy.window_seconds,
        )


def decide_admission(
    windows: Windows, limits: LimitSettings, user_id: UserId, policy: Policy, now: datetime
) -> RateLimitDecided:
    """Admit or refuse one submission. The user's limit is checked first, then the global one."""
    user = windows.user_window(limits, user_id, policy, now)
    everyone = windows.global_window(limits, policy, now)
    for scope, window in ((Scope.USER, user), (Scope.GLOBAL, everyone)):
        if window.used >= window.limit:
            return RateLimitDecided(
                user_id=user_id,
                scope=scope,
                allowed=False,
                used=window.used,
                limit=window.limit,
                window_start=window.window_start,
                window_seconds=policy.window_seconds,
            )
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
    )


def without_use(admission: RateLimitDecided) -> RateLimitDecided:
    """Return the admission of a submission that uses up nothing."""
    everyone = admission.global_used
    return replace(
        admission,
        count=0,
        used=admission.used - 1,
        global_used=None if everyone is None else everyone - 1,
    )


def limit_of_everyone(decided: RateLimitDecided) -> int | None:
    """Return the limit of all users together that decided; None if the event has none."""
    if decided.allowed:
        return decided.global_limit
    return decided.limit if decided.scope is Scope.GLOBAL else None


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
