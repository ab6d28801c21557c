"""Fairlog as it stands at one position, in all but its single jobs: counts, the line, the limits.

An event says by itself what a job was before it and is behind it, so no job has to be remembered:
what is kept grows with the users that there are, never with the log. A single job is folded from
its own events (`domain.jobs.life_cycle`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from domain.fairness.line import KindInLine, Line, UserInLine
from domain.jobs.job import State
from domain.jobs.job_fold import is_due
from domain.language.events import (
    AttemptEnded,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    LimitChanged,
    RateLimitDecided,
    Recorded,
    RequeueReason,
)
from domain.language.identifiers import Kind, UserId
from domain.language.moments import EPOCH, from_micros, to_micros
from domain.limits.rate_limits import Counter, Limits, Windows

_NEW: Final = None  # what a job is before its submission
_WINDOWS_MIN: Final = 1000  # below it none are looked through


class SystemState:
    """What is folded in last is at `position`, recorded at `recorded_at` (UTC)."""

    def __init__(self) -> None:
        self.position = 0
        self.recorded_at = EPOCH
        self.jobs: dict[State, int] = dict.fromkeys(State, 0)
        self.line = Line(is_served=False)
        self.windows = Windows()
        self._windows_left = 0  # when those that were over were last forgotten

    def evolve(self, recorded: Recorded) -> None:
        """Fold one fact in. Total: history is never refused."""
        event = recorded.event
        if isinstance(event, RateLimitDecided):
            self.windows.evolve(recorded)
        elif isinstance(event, LimitChanged):
            self.windows.evolve(recorded)
            self.line.evolve(recorded)
        elif isinstance(event, AttemptEnded):
            self.line.evolve(recorded)
        elif (change := change_of(recorded)) is not None:
            before, after = change
            if before is not None:
                self.jobs[before] -= 1
            self.jobs[after] += 1
            self.line.evolve(recorded)
        self.position = recorded.position
        self.recorded_at = recorded.recorded_at

    def tidy(self) -> None:
        """Let go of what only a writer needs, and of windows that are over. Changes no answer.

        It costs as much as the events since the last time, not as much as there are users.
        """
        line, windows = self.line, self.windows
        for user_id, kind in line.changed_lanes:
            lanes = line.lanes.get(user_id, {})
            if not lanes.get(kind):
                lanes.pop(kind, None)
                if not lanes:
                    line.lanes.pop(user_id, None)
        for noted in (
            line.changed_users,
            line.changed_lanes,
            line.changed_kinds,
            windows.changed_counters,
            windows.changed_limits,
        ):
            noted.clear()
        if len(windows.counters) > 2 * self._windows_left + _WINDOWS_MIN:
            self.forget_windows()

    def forget_windows(self) -> None:
        """Of those that are over."""
        now = to_micros(self.recorded_at)
        self.windows.counters = {
            key: counter
            for key, counter in self.windows.counters.items()
            if counter.start + key[1] * 1_000_000 > now
        }
        self._windows_left = len(self.windows.counters)


def change_of(recorded: Recorded) -> tuple[State | None, State] | None:
    """What the event's job was before it, None if it was not, and is behind it.

    None for an event that leaves the state of every job as it is.
    """
    change = _CHANGES.get(type(recorded.event))
    return None if change is None else change(recorded, recorded.event)


_Change = tuple[State | None, State]


def _of_submission(recorded: Recorded, event: JobSubmitted) -> _Change:
    return _NEW, State.QUEUED if is_due(event, recorded.recorded_at) else State.SCHEDULED


def _of_failure(_: Recorded, event: JobFailed) -> _Change:
    return State.RUNNING, State.FAILED if event.retry_at is None else State.SCHEDULED


def _of_requeue(_: Recorded, event: JobRequeued) -> _Change:
    if event.reason is not RequeueReason.RETRIED:
        return State.RUNNING, State.QUEUED
    return State.CANCELLED if event.was_cancelled else State.FAILED, State.QUEUED


# By type, since every event is asked: a `match` would try one class after another.
_CHANGES: Final[Mapping[type, Callable[[Recorded, Any], _Change]]] = {
    JobSubmitted: _of_submission,
    JobReleased: lambda *_: (State.SCHEDULED, State.QUEUED),
    JobStarted: lambda *_: (State.QUEUED, State.RUNNING),
    JobCompleted: lambda *_: (State.RUNNING, State.DONE),
    JobFailed: _of_failure,
    JobRequeued: _of_requeue,
    JobCancelled: lambda _, event: (State(event.was), State.CANCELLED),
}


class _Snapshot(Struct, array_like=True, frozen=True):
    """A standing as it is stored: what `SystemState.tidy` leaves of it, all in order."""

    version: Literal[1]
    position: int
    recorded_at: int  # UTC, microseconds
    jobs: dict[State, int]
    users: dict[UserId, tuple[int | None, int | None, int, int, int | None]]
    lanes: dict[UserId, dict[Kind, int]]
    kinds: dict[Kind, tuple[int, int, int | None]]
    limits: list[tuple[UserId, Kind, int | None, int | None]]
    counters: list[tuple[UserId, int, int, int, int]]


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(_Snapshot).decode


def to_snapshot(standing: SystemState) -> bytes:
    """Equal standings give equal bytes, however they came about. Tidies the standing."""
    standing.tidy()
    standing.forget_windows()
    line, windows = standing.line, standing.windows
    return _encode(
        _Snapshot(
            1,
            standing.position,
            to_micros(standing.recorded_at),
            standing.jobs,
            {
                user_id: (
                    user.last_served,
                    user.joined,
                    user.waiting,
                    user.running,
                    user.running_limit,
                )
                for user_id, user in line.users.items()
            },
            line.lanes,
            {
                kind: (load.waiting, load.running, load.running_limit)
                for kind, load in line.kinds.items()
            },
            sorted(
                (*subject, one.submissions, one.running) for subject, one in windows.limits.items()
            ),
            sorted(
                (*key, one.start, one.used, one.refused) for key, one in windows.counters.items()
            ),
        )
    )


def from_snapshot(snapshot: bytes) -> SystemState:
    found = _decode(snapshot)
    standing = SystemState()
    standing.position = found.position
    standing.recorded_at = from_micros(found.recorded_at)
    standing.jobs |= found.jobs
    standing.line.users = {user_id: UserInLine(*row) for user_id, row in found.users.items()}
    standing.line.lanes = found.lanes
    standing.line.kinds = {kind: KindInLine(*row) for kind, row in found.kinds.items()}
    standing.windows.limits = {
        (user_id, kind): Limits(submissions, running)
        for user_id, kind, submissions, running in found.limits
    }
    standing.windows.counters = {
        (user_id, seconds): Counter(start, used, refused)
        for user_id, seconds, start, used, refused in found.counters
    }
    return standing


def line_in_order(standing: SystemState) -> list[tuple[UserId, UserInLine]]:
    """Who is in the line, the next to be served first."""
    waiting = [
        (user.turn, user_id, user)
        for user_id, user in standing.line.users.items()
        if user.turn is not None
    ]
    return [(user_id, user) for _, user_id, user in sorted(waiting, key=lambda one: one[:2])]
