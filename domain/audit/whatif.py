"""Simulation of other limits ("what if"): decides the recorded submissions again.

Every submission is in the log, admitted or refused; merged refusals have a count and the times of
the first and the last. They are decided in log order, the user's limit first, each under the limits
of its time, their own or their plan's, unless others are given. Under the recorded limits the
result is what was recorded.

Three things can make the result an estimate. The times of merged refusals are not known exactly:
if a window of another length begins between the first and the last, their split is not known. A
refusal is recorded after its batch, and one from a refusal cache later still: if it is admitted now
and the global limit is reached in the same window, the true order matters. And a refusal may be
recorded when its window is closed, or not known yet. Each number then has bounds, which hold for
any order.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from domain.language.events import (
    LimitChanged,
    PlanDeleted,
    RateLimitDecided,
    Recorded,
    Scope,
)
from domain.language.identifiers import PlanName, UserId
from domain.language.moments import from_micros, to_micros
from domain.limits.limits import LimitSettings

_Window = tuple[int, int]  # length in seconds, start as Unix time in microseconds
# From the end of a window until it is closed. Reports of refusals come about a second late, those
# of a hundred thousand refused users up to 14 minutes (ADR 16).
CLOSING_SECONDS: Final = 1_200
_UNLIMITED: Final = 2**62


class OtherLimits(Struct, frozen=True, kw_only=True):
    """The limits to try. None: as recorded."""

    user_limit: int | None = None  # submissions per window, for each user
    plan_limits: Mapping[PlanName, int] = {}  # likewise, for each user who was on the plan then
    global_limit: int | None = None  # submissions per window, for all users together
    window_seconds: int | None = None


class Outcome(Struct):
    """Numbers of submissions, of one user or of all."""

    admitted: int = 0  # as recorded
    refused: int = 0  # as recorded
    would_be_admitted: int = 0
    at_least: int = 0  # lower bound of would_be_admitted
    at_most: int = 0  # upper bound of would_be_admitted

    @property
    def submissions(self) -> int:
        return self.admitted + self.refused

    @property
    def would_be_refused(self) -> int:
        return self.submissions - self.would_be_admitted

    @property
    def is_estimate(self) -> bool:
        return self.at_least != self.at_most

    def add(self, other: "Outcome") -> None:
        self.admitted += other.admitted
        self.refused += other.refused
        self.would_be_admitted += other.would_be_admitted
        self.at_least += other.at_least
        self.at_most += other.at_most


class Defaults(Struct):
    """The default limits, as far as the events so far show them."""

    user_limit: int  # submissions per window
    global_limit: int  # submissions per window


class _Share(Struct):
    """One user's submissions in one window."""

    admitted: int = 0  # by the simulation
    certain: int = 0  # submissions that were in this window
    possible: int = 0  # those that were or may have been
    in_scope: int = 0  # of the possible ones, recorded at or after `since`
    limit_least: int = _UNLIMITED  # lowest limit of the user during the window
    limit_most: int = 0  # highest
    outcome: Outcome = msgspec.field(default_factory=Outcome)  # of those in scope


class _OpenWindow(Struct):
    """One window, until all its submissions are known."""

    shares: dict[UserId, _Share]
    admitted: int = 0
    global_least: int = _UNLIMITED
    global_most: int = 0
    is_out_of_order: bool = False  # a recorded refusal could be admitted; its order is not known


class WhatIf:
    """Takes events in log order. Those recorded before `since` only count in their windows."""

    def __init__(
        self,
        other: OtherLimits,
        defaults: Defaults,
        since: datetime | None,
        settings: LimitSettings | None = None,
    ) -> None:
        """`settings` are the limits before the first event, which are changed; None: none are
        set.
        """
        self.users: dict[UserId, Outcome] = {}
        self._other = other
        self._defaults = defaults
        self._since = since
        # Windows that ended before are not known.
        self._known_from = 0 if since is None else to_micros(since)
        self._settings = LimitSettings() if settings is None else settings
        self._open: dict[_Window, _OpenWindow] = {}
        self._closed_at = 0  # when windows were last closed, Unix time in microseconds

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        if isinstance(event, LimitChanged | PlanDeleted):
            self._settings.evolve(recorded)
        elif isinstance(event, RateLimitDecided):
            self._decide(recorded.recorded_at, event)

    def finish(self) -> Outcome:
        """Close all windows, and return the totals of all users."""
        for window in sorted(self._open):
            self._close(self._open[window])
        self._open.clear()
        total = Outcome()
        for outcome in self.users.values():  # one submission that may be in two windows
            outcome.at_most = min(outcome.at_most, outcome.submissions)
            total.add(outcome)
        return total

    def _decide(self, recorded_at: datetime, event: RateLimitDecided) -> None:
        self._close_old(to_micros(recorded_at))
        self._learn(event)
        is_in_scope = self._since is None or recorded_at >= self._since
        if not event.allowed and event.is_by_further:
            # Further windows stay as they were: a submission that one of them refused may have
            # been admitted only if others before it are refused now.
            if is_in_scope:
                self._refuse_as_before(event, event.count)
            return
        parts = list(self._parts(event, recorded_at))
        for window, count in parts:
            possible = count if len(parts) == 1 else event.count
            if self._is_closed(window):
                if is_in_scope:
                    self._refuse_as_before(event, count, possible)
                continue
            opened = self._open.setdefault(window, _OpenWindow({}))
            share = opened.shares.setdefault(event.user_id, _Share())
            limit, everyone = self._limits(event)
            _note_limits(opened, share, limit, everyone)
            quota = max(0, limit - share.admitted)
            admitted = min(count, quota, max(0, everyone - opened.admitted))
            as_recorded = self._other == OtherLimits() or (
                event.scope is Scope.GLOBAL and opened.admitted == event.used
            )
            if not event.allowed and quota and (admitted or not as_recorded):
                opened.is_out_of_order = True
            share.admitted += admitted
            opened.admitted += admitted
            share.certain += count if len(parts) == 1 else 0
            share.possible += possible
            if is_in_scope:
                share.in_scope += possible
                share.outcome.admitted += count if event.allowed else 0
                share.outcome.refused += 0 if event.allowed else count
                share.outcome.would_be_admitted += admitted

    def _refuse_as_before(
        self, event: RateLimitDecided, count: int, possible: int | None = None
    ) -> None:
        """Count refusals that are not decided again, since the other submissions in their window
        are not known, or the window is a further one.
        """
        may_be = 0 if self._other == OtherLimits() else count if possible is None else possible
        outcome = self.users.setdefault(event.user_id, Outcome())
        outcome.add(Outcome(refused=count, at_most=may_be))

    def _parts(
        self, event: RateLimitDecided, recorded_at: datetime
    ) -> Iterator[tuple[_Window, int]]:
        """Yield the windows of the event's submissions, with numbers spread evenly over time."""
        seconds = self._other.window_seconds
        if seconds is None or seconds == event.window_seconds:
            yield (event.window_seconds, to_micros(event.window_start)), event.count
            return
        length = seconds * 1_000_000
        begin = to_micros(event.first_at or recorded_at)
        end = to_micros(event.last_at or recorded_at)
        left = event.count
        for start in range(begin // length * length, end + 1, length):
            upto = min(end, start + length)
            share = (upto - begin) / (end - begin) if end > begin else 1.0
            count = max(0, round(event.count * share) - (event.count - left))
            count = left if start + length > end else min(left, count)
            left -= count
            yield (seconds, start), count

    def _limits(self, event: RateLimitDecided) -> tuple[int, int]:
        """Return the user's and the global limit; the event's own ones if it has them."""
        other = self._other
        user = self._settings.of_user(event.user_id)
        own = self._defaults.user_limit if user.submissions is None else user.submissions
        set_for_all = self._settings.everyone.submissions
        everyone = self._defaults.global_limit if set_for_all is None else set_for_all
        if event.scope is Scope.USER:
            own = event.limit
        else:
            everyone = event.limit
        if event.allowed and event.global_limit is not None:
            everyone = event.global_limit
        of_plan = None if user.plan is None else other.plan_limits.get(user.plan)
        given = of_plan if of_plan is not None else other.user_limit
        return (
            own if given is None else given,
            everyone if other.global_limit is None else other.global_limit,
        )

    def _learn(self, event: RateLimitDecided) -> None:
        if not event.allowed:  # its limit may be outdated
            return
        if self._settings.of_user(event.user_id).submissions is None:
            self._defaults.user_limit = event.limit
        if self._settings.everyone.submissions is None and event.global_limit is not None:
            self._defaults.global_limit = event.global_limit

    def _close_old(self, now: int) -> None:
        if now - self._closed_at < CLOSING_SECONDS * 1_000_000:
            return
        self._closed_at = now
        for window in sorted(self._open):
            if self._is_closed(window):
                self._close(self._open.pop(window))

    def _is_closed(self, window: _Window) -> bool:
        seconds, start = window
        end = start + seconds * 1_000_000
        return end <= max(self._known_from, self._closed_at - CLOSING_SECONDS * 1_000_000)

    def _close(self, opened: _OpenWindow) -> None:
        for user_id, bounded in _bounded(opened):
            self.users.setdefault(user_id, Outcome()).add(bounded)


def _note_limits(opened: _OpenWindow, share: _Share, limit: int, everyone: int) -> None:
    share.limit_least = min(share.limit_least, limit)
    share.limit_most = max(share.limit_most, limit)
    opened.global_least = min(opened.global_least, everyone)
    opened.global_most = max(opened.global_most, everyone)


def _bounded(opened: _OpenWindow) -> Iterator[tuple[UserId, Outcome]]:
    """Yield the outcome of each user's submissions in a window, with bounds.

    The user's limit admits all submissions up to it, in any order. The global limit leaves at least
    what the other users cannot have used.
    """
    least = {user: min(one.limit_least, one.certain) for user, one in opened.shares.items()}
    most = {user: min(one.limit_most, one.possible) for user, one in opened.shares.items()}
    all_most = sum(most.values())
    is_split = any(one.certain != one.possible for one in opened.shares.values())
    is_known = not is_split and not (opened.is_out_of_order and all_most > opened.global_least)
    for user, share in opened.shares.items():
        outcome = share.outcome
        if is_known:
            outcome.at_least = outcome.at_most = outcome.would_be_admitted
        else:
            left = max(0, opened.global_least - (all_most - most[user]))
            out_of_scope = share.possible - share.in_scope
            outcome.at_least = max(0, min(least[user], left) - out_of_scope)
            outcome.at_most = min(most[user], opened.global_most, share.in_scope)
        if share.in_scope:
            yield user, outcome


def warm_up_from(since: datetime, window_seconds: int) -> datetime:
    """Return the start of the window of `since`: events from there on have to be taken."""
    length = window_seconds * 1_000_000
    return from_micros(to_micros(since) // length * length)
