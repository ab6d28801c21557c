"""What other limits would have made of the recorded submissions.

Every submission is in the log, admitted or refused; refusals put together have a count and the
times of the first and the last. They are decided again in the order of the log, the user's limit
first, each against the limits of then unless others are asked for. With the recorded limits that
gives what was recorded.

Three things can make it an estimate. Refusals put together lie somewhere between two times: when
windows of another length begin between them, how many belong to which is not known. A refusal is
recorded behind its batch, and one at a door later still: when it is admitted now while the limit of
all together is reached in the same window, it matters whom it came before. And one may be recorded
when its window is no longer known, or not yet. Then each number has bounds, which hold whatever the
order was.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from domain.language.events import LimitChanged, RateLimitDecided, Recorded, Scope
from domain.language.identifiers import UserId
from domain.language.moments import from_micros, to_micros

_Window = tuple[int, int]  # length in seconds, start in microseconds
# A window is settled this long after its end. Reports of refusals come about a second late, those
# of a hundred thousand refused users up to 14 minutes (ADR 16).
SETTLED_SECONDS: Final = 1_200
_UNLIMITED: Final = 2**62


class OtherLimits(Struct, frozen=True, kw_only=True):
    """None: as it was."""

    user_limit: int | None = None  # submissions a window, for each user
    global_limit: int | None = None  # for all users together
    window_seconds: int | None = None


class Outcome(Struct):
    """Of one user's submissions, or of all."""

    admitted: int = 0  # as it was
    refused: int = 0
    would_be_admitted: int = 0
    at_least: int = 0  # admitted; with `at_most` the bounds of an estimate
    at_most: int = 0

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
    """The limits of who has none of their own, as far as the log has shown them by now."""

    user_limit: int
    global_limit: int


class _Share(Struct):
    """One user's part of one window."""

    admitted: int = 0  # by the simulation
    certain: int = 0  # submissions that were in this window
    possible: int = 0  # and with those that may have been
    asked_for: int = 0  # of the possible ones
    limit_least: int = _UNLIMITED  # that was in force for the user in it
    limit_most: int = 0
    outcome: Outcome = msgspec.field(default_factory=Outcome)  # of those that are asked for


class _Tally(Struct):
    """One window."""

    shares: dict[UserId, _Share]
    admitted: int = 0
    global_least: int = _UNLIMITED
    global_most: int = 0
    is_out_of_order: bool = False  # a refused one would have had a chance, and stands too late


class WhatIf:
    """Takes the events in log order; those recorded before `since` only fill their windows."""

    def __init__(self, other: OtherLimits, defaults: Defaults, since: datetime | None) -> None:
        self.users: dict[UserId, Outcome] = {}
        self._other = other
        self._defaults = defaults
        self._since = since
        self._known_from = 0 if since is None else to_micros(since)  # what ended before is not
        self._own: dict[UserId, int] = {}  # limits that were set for a user
        self._global: int | None = None
        self._open: dict[_Window, _Tally] = {}
        self._looked_at = 0  # microseconds: when the settled windows were last looked for

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        if isinstance(event, LimitChanged):
            self.set_limit(event)
        elif isinstance(event, RateLimitDecided):
            self._decide(recorded.recorded_at, event)

    def set_limit(self, event: LimitChanged) -> None:
        if event.scope is Scope.GLOBAL:
            self._global = event.limit
        elif event.scope is Scope.USER and event.user_id is not None:
            if event.limit is None:
                self._own.pop(event.user_id, None)
            else:
                self._own[event.user_id] = event.limit

    def finish(self) -> Outcome:
        """Settle what is open; all users together."""
        for window in sorted(self._open):
            self._settle(self._open[window])
        self._open.clear()
        total = Outcome()
        for outcome in self.users.values():  # one that may be in two windows is still one
            outcome.at_most = min(outcome.at_most, outcome.submissions)
            total.add(outcome)
        return total

    def _decide(self, recorded_at: datetime, event: RateLimitDecided) -> None:
        self._settle_old(to_micros(recorded_at))
        self._learn(event)
        is_asked_for = self._since is None or recorded_at >= self._since
        parts = list(self._parts(event, recorded_at))
        for window, count in parts:
            possible = count if len(parts) == 1 else event.count
            if self._is_settled(window):
                if is_asked_for:
                    self._refuse_late(event, count, possible)
                continue
            tally = self._open.setdefault(window, _Tally({}))
            share = tally.shares.setdefault(event.user_id, _Share())
            limit, everyone = self._limits(event)
            _note_limits(tally, share, limit, everyone)
            room = max(0, limit - share.admitted)
            admitted = min(count, room, max(0, everyone - tally.admitted))
            as_recorded = self._other == OtherLimits() or (
                event.scope is Scope.GLOBAL and tally.admitted == event.used
            )
            if not event.allowed and room and (admitted or not as_recorded):
                tally.is_out_of_order = True
            share.admitted += admitted
            tally.admitted += admitted
            share.certain += count if len(parts) == 1 else 0
            share.possible += possible
            if is_asked_for:
                share.asked_for += possible
                share.outcome.admitted += count if event.allowed else 0
                share.outcome.refused += 0 if event.allowed else count
                share.outcome.would_be_admitted += admitted

    def _refuse_late(self, event: RateLimitDecided, count: int, possible: int) -> None:
        """What is reported when its window is settled; what others were in it, is not known."""
        may_be = 0 if self._other == OtherLimits() else possible
        outcome = self.users.setdefault(event.user_id, Outcome())
        outcome.add(Outcome(refused=count, at_most=may_be))

    def _parts(
        self, event: RateLimitDecided, recorded_at: datetime
    ) -> Iterator[tuple[_Window, int]]:
        """The windows that the submissions were in, as far as it is known spread by time."""
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
        """The user's, and that of all together; the event's own where it has it."""
        other = self._other
        own = self._own.get(event.user_id, self._defaults.user_limit)
        everyone = self._defaults.global_limit if self._global is None else self._global
        if event.scope is Scope.USER:
            own = event.limit
        else:
            everyone = event.limit
        if event.allowed and event.global_limit is not None:
            everyone = event.global_limit
        return (
            own if other.user_limit is None else other.user_limit,
            everyone if other.global_limit is None else other.global_limit,
        )

    def _learn(self, event: RateLimitDecided) -> None:
        if not event.allowed:  # it may be an older one
            return
        if event.user_id not in self._own:
            self._defaults.user_limit = event.limit
        if self._global is None and event.global_limit is not None:
            self._defaults.global_limit = event.global_limit

    def _settle_old(self, now: int) -> None:
        if now - self._looked_at < SETTLED_SECONDS * 1_000_000:
            return
        self._looked_at = now
        for window in sorted(self._open):
            if self._is_settled(window):
                self._settle(self._open.pop(window))

    def _is_settled(self, window: _Window) -> bool:
        seconds, start = window
        end = start + seconds * 1_000_000
        return end <= max(self._known_from, self._looked_at - SETTLED_SECONDS * 1_000_000)

    def _settle(self, tally: _Tally) -> None:
        for user_id, bounded in _bounded(tally):
            self.users.setdefault(user_id, Outcome()).add(bounded)


def _note_limits(tally: _Tally, share: _Share, limit: int, everyone: int) -> None:
    share.limit_least = min(share.limit_least, limit)
    share.limit_most = max(share.limit_most, limit)
    tally.global_least = min(tally.global_least, everyone)
    tally.global_most = max(tally.global_most, everyone)


def _bounded(tally: _Tally) -> Iterator[tuple[UserId, Outcome]]:
    """What became of each user's submissions in a window, with bounds.

    By the user's own limit, admitted are as many as there are, up to it, whatever their order; the
    limit of all together leaves at least what the others cannot have taken.
    """
    least = {user: min(one.limit_least, one.certain) for user, one in tally.shares.items()}
    most = {user: min(one.limit_most, one.possible) for user, one in tally.shares.items()}
    all_most = sum(most.values())
    is_split = any(one.certain != one.possible for one in tally.shares.values())
    is_known = not is_split and not (tally.is_out_of_order and all_most > tally.global_least)
    for user, share in tally.shares.items():
        outcome = share.outcome
        if is_known:
            outcome.at_least = outcome.at_most = outcome.would_be_admitted
        else:
            left = max(0, tally.global_least - (all_most - most[user]))
            unasked = share.possible - share.asked_for
            outcome.at_least = max(0, min(least[user], left) - unasked)
            outcome.at_most = min(most[user], tally.global_most, share.asked_for)
        if share.asked_for:
            yield user, outcome


def warm_up_from(since: datetime, window_seconds: int) -> datetime:
    """The start of the window that `since` is in: from there on its counts are known."""
    length = window_seconds * 1_000_000
    return from_micros(to_micros(since) // length * length)
