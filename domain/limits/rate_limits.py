"""Fixed windows, aligned to the epoch: one counter per user and one for all users together.

Every decision counts against the window that the log's clock is in. Refusals are counted beside the
admitted ones, but use nothing up. Of each user the latest window is known, and none before it: what
is over decides nothing any more, and the log has it.
"""

from datetime import datetime
from functools import lru_cache
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from domain.language.commands import ChangeLimit
from domain.language.events import LimitChanged, RateLimitDecided, Recorded, Scope
from domain.language.identifiers import GLOBAL, Kind, UserId
from domain.language.moments import from_micros, later, to_micros
from domain.language.policy import Policy
from domain.log.folds import Folded, FoldMethods

Subject = tuple[UserId, Kind]  # whose limits: (user, ""), (GLOBAL, "") or (GLOBAL, kind)
WindowKey = tuple[UserId, int]  # (user or GLOBAL, window_seconds): the latest of this length

_NO_KIND = Kind("")


class Limits(Struct, frozen=True, gc=False):
    """What was set for one subject. None: the default."""

    submissions: int | None = None  # a window
    running: int | None = None  # at once; the default is no cap


class Counter(Struct, frozen=True, gc=False):
    start: int  # of the window; UTC, microseconds
    used: int = 0  # submissions admitted
    refused: int = 0


class WindowState(Struct, frozen=True, kw_only=True, gc=False):
    """How a window stands, for an answer."""

    limit: int
    used: int
    window_start: datetime  # UTC, inclusive
    window_seconds: int

    @property
    def resets_at(self) -> datetime:
        """UTC, exclusive."""
        return later(self.window_start, self.window_seconds)

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


@lru_cache(maxsize=64)  # asked for each submission of a batch, all at the same time
def window_start(now: datetime, window_seconds: int) -> datetime:
    """The start of the window that `now` is in; a multiple of its length since the epoch."""
    length = window_seconds * 1_000_000
    return from_micros(to_micros(now) // length * length)


class Windows(Folded):
    """Limits and the latest windows, as far as they are known; a missing counter is zero."""

    def __init__(self) -> None:
        self.limits: dict[Subject, Limits] = {}
        self.counters: dict[WindowKey, Counter] = {}
        self.changed_limits: set[Subject] = set()
        self.changed_counters: set[WindowKey] = set()

    def _decided(self, _: Recorded, event: RateLimitDecided) -> None:
        used, refused = (1, 0) if event.allowed else (0, event.count)
        seconds, start = event.window_seconds, to_micros(event.window_start)
        self._count((event.user_id, seconds), start, used, refused)
        self._count((GLOBAL, seconds), start, used, refused)

    def _limited(self, _: Recorded, event: LimitChanged) -> None:
        subject = subject_of(event)
        self.limits[subject] = Limits(event.limit, event.running)
        self.changed_limits.add(subject)

    def _count(self, key: WindowKey, start: int, used: int, refused: int) -> None:
        """A refusal that is told late, of a window before the latest, counts in the log alone."""
        old = self.counters.get(key)
        if old is None or old.start != start:
            if old is not None and start < old.start and not used:
                return
            old = Counter(start)
        self.counters[key] = Counter(start, old.used + used, old.refused + refused)
        self.changed_counters.add(key)

    FOLDS: ClassVar[FoldMethods] = {RateLimitDecided: _decided, LimitChanged: _limited}

    def used(self, who: UserId, window_seconds: int, start: int) -> int:
        """How many submissions a window admitted, of a user or GLOBAL; 0 where it is not known."""
        counter = self.counters.get((who, window_seconds))
        return counter.used if counter is not None and counter.start == start else 0

    def user_window(self, user_id: UserId, policy: Policy, now: datetime) -> WindowState:
        return self._window(user_id, policy.user_limit, policy, now)

    def global_window(self, policy: Policy, now: datetime) -> WindowState:
        return self._window(GLOBAL, policy.global_limit, policy, now)

    def _window(self, who: UserId, default: int, policy: Policy, now: datetime) -> WindowState:
        start = window_start(now, policy.window_seconds)
        limits = self.limits.get((who, _NO_KIND))
        return WindowState(
            limit=default if limits is None or limits.submissions is None else limits.submissions,
            used=self.used(who, policy.window_seconds, to_micros(start)),
            window_start=start,
            window_seconds=policy.window_seconds,
        )


def decide_admission(
    windows: Windows, user_id: UserId, policy: Policy, now: datetime
) -> RateLimitDecided:
    """Let one submission in, or refuse it. The user's limit is looked at first."""
    user = windows.user_window(user_id, policy, now)
    everyone = windows.global_window(policy, now)
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


def limit_of_everyone(decided: RateLimitDecided) -> int | None:
    """The limit of all users together that it was held against; None where it does not say."""
    if decided.allowed:
        return decided.global_limit
    return decided.limit if decided.scope is Scope.GLOBAL else None


def decide_limit(windows: Windows, command: ChangeLimit) -> LimitChanged:
    """Merge the wish with what was set before: an event holds all limits of its subject."""
    changed = LimitChanged(scope=command.scope, user_id=command.user_id, kind=command.kind)
    before = windows.limits.get(subject_of(changed), Limits())
    return LimitChanged(
        scope=command.scope,
        user_id=command.user_id,
        kind=command.kind,
        limit=command.limit if isinstance(command.limit, int | None) else before.submissions,
        running=command.running if isinstance(command.running, int | None) else before.running,
    )


def subject_of(changed: LimitChanged) -> Subject:
    return (changed.user_id or GLOBAL, changed.kind or _NO_KIND)


def merge_refusals(
    earlier: RateLimitDecided, another: RateLimitDecided, now: datetime
) -> RateLimitDecided:
    """Put refusals of one user in one window together; both must be `allowed=False`.

    `now` is when those were made that carry no time of their own.
    """
    return replace(
        earlier,
        count=earlier.count + another.count,
        first_at=min(earlier.first_at or now, another.first_at or now),
        last_at=max(earlier.last_at or now, another.last_at or now),
    )
