"""The state of the service at one position, without single jobs: counts, the line, the limits, the
schedules and the endpoints of callbacks.

An event implies the states of its job before and after it, so no job is kept: the size grows with
the number of users and schedules, not with the log. A single job is folded from its own events
(`domain.jobs.history`).
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from domain.audit.past_schedules import PastSchedule, PastSchedules
from domain.callbacks.callbacks import Callback, Callbacks
from domain.fairness.line import Line, Load, UserInLine
from domain.fairness.queues import QueueName
from domain.fairness.start_limits import Starts
from domain.fairness.strides import PASS_BYTES
from domain.jobs.job import State
from domain.jobs.job_fold import is_due
from domain.language.events import (
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    Recorded,
    RequeueReason,
)
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId
from domain.language.moments import UNIX_EPOCH, from_micros, to_micros
from domain.limits.limits import Limits, LimitSettings, Subject
from domain.limits.rate_limits import Counter, Windows
from domain.log.folds import folds_by_type

FORMAT: Final = "fairlog-state-4"  # of snapshots; another one whenever the fold gives others
_NEW: Final = None  # the state of a job before its submission
_WINDOWS_MIN: Final = 1000  # below this number, windows that are over are kept


class SystemState:
    """Counts of jobs, the line, limits with their windows, schedules and endpoints of callbacks,
    folded from the log.
    """

    def __init__(self) -> None:
        self.position = 0  # of the latest event folded in
        self.recorded_at = UNIX_EPOCH  # of that event, UTC
        self.jobs: dict[State, int] = dict.fromkeys(State, 0)  # number of jobs
        self.limits = LimitSettings()
        self.line = Line(limits=self.limits)
        self.windows = Windows()
        self.schedules = PastSchedules()
        self.callbacks = Callbacks()
        self._windows_left = 0  # after those that were over were last forgotten
        # In this order: the line needs the limits as they are with the event.
        self._folds = folds_by_type(
            (self.limits, self.line, self.windows, self.schedules, self.callbacks)
        )

    @property
    def size(self) -> int:
        """The number of users and schedules, with which the size of a snapshot grows."""
        return len(self.line.users) + len(self.schedules.rows)

    def evolve(self, events: Sequence[Recorded]) -> None:
        """Fold events in. Never raises: history is never refused."""
        jobs, folds = self.jobs, self._folds
        for recorded in events:
            event = recorded.event
            kind = type(event)
            if (change := _CHANGES.get(kind)) is not None:
                before, after = change(recorded, event)
                if before is not None:
                    jobs[before] -= 1
                jobs[after] += 1
            for fold in folds[kind]:
                fold(recorded, event)
        if events:
            self.position = events[-1].position
            self.recorded_at = events[-1].recorded_at

    def tidy(self) -> None:
        """Forget what only a writer needs, and windows that are over. Queries are not affected.

        The cost is proportional to the events since the last call, not to the number of users.
        """
        windows = self.windows
        self.line.forget_idle()
        windows.changed_counters.clear()
        self.limits.forget_removed()
        self.schedules.changed.clear()
        self.callbacks.changed.clear()
        if len(windows.counters) > 2 * self._windows_left + _WINDOWS_MIN:
            self.forget_windows()

    def forget_windows(self) -> None:
        """Forget the windows that are over."""
        now = to_micros(self.recorded_at)
        self.windows.counters = {
            key: counter
            for key, counter in self.windows.counters.items()
            if counter.start + key[1] * 1_000_000 > now
        }
        self._windows_left = len(self.windows.counters)


_Change = tuple[State | None, State]  # of a job; before the event (None: it did not exist), after


def _of_submission(recorded: Recorded, event: JobSubmitted) -> _Change:
    return _NEW, State.QUEUED if is_due(event, recorded.recorded_at) else State.SCHEDULED


def _of_failure(_: Recorded, event: JobFailed) -> _Change:
    if not event.ran:
        return State.SCHEDULED, State.FAILED
    return State.RUNNING, State.FAILED if event.retry_at is None else State.SCHEDULED


def _of_requeue(_: Recorded, event: JobRequeued) -> _Change:
    if event.reason is not RequeueReason.RETRIED:
        return State.RUNNING, State.QUEUED
    before = State.CANCELLED if event.was_cancelled else State.FAILED
    return before, State.SCHEDULED if event.waits else State.QUEUED


# Of the events that change a job's state. By type, since a `match` would test class after class.
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
    """A state as it is stored: what `SystemState.tidy` leaves of it, sorted."""

    version: Literal[3, 4]  # 3: without schedules and callbacks, which earlier releases left out
    position: int
    recorded_at: int  # Unix time in microseconds
    jobs: dict[State, int]
    virtual_time: bytes
    users: dict[UserId, tuple[int | None, int | None, int, int, bytes, bool, int | None]]
    held_kinds: dict[UserId, list[Kind]]
    lanes: dict[UserId, dict[QueueName, tuple[int, int]]]
    kinds: dict[Kind, tuple[int, int]]
    starts: list[tuple[UserId, Kind, ResourceName, int, int, int]]
    limits: list[tuple[UserId, Kind, ResourceName, PlanName, Limits]]
    counters: list[tuple[UserId, int, int, int, int]]
    schedules: list[PastSchedule] = []
    callbacks: list[Callback] = []


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(_Snapshot).decode


def to_snapshot(state: SystemState) -> bytes:
    """Encode a state after tidying it. Equal states give equal bytes, however they were folded."""
    state.tidy()
    state.forget_windows()
    line, windows = state.line, state.windows
    return _encode(
        _Snapshot(
            4,
            state.position,
            to_micros(state.recorded_at),
            state.jobs,
            line.virtual_time.to_bytes(PASS_BYTES),
            {
                user_id: (
                    user.last_served,
                    user.joined,
                    user.waiting,
                    user.running,
                    user.pass_.to_bytes(PASS_BYTES),
                    user.is_held,
                    user.resumes_at,
                )
                for user_id, user in line.users.items()
            },
            {user_id: sorted(kinds) for user_id, kinds in line.held_kinds.items()},
            {
                user_id: {queue: astuple(load) for queue, load in lanes.items()}
                for user_id, lanes in line.lanes.items()
            },
            {kind: astuple(load) for kind, load in line.kinds.items()},
            sorted((*subject[:3], *astuple(one)) for subject, one in line.starts.items()),
            [(*subject, one) for subject, one in sorted(state.limits.all_set(), key=itemgetter(0))],
            sorted(
                (*key, one.start, one.used, one.refused) for key, one in windows.counters.items()
            ),
            state.schedules.in_order(),
            [callback for _, callback in sorted(state.callbacks.rows.items())],
        )
    )


def from_snapshot(snapshot: bytes) -> SystemState:
    found = _decode(snapshot)
    state = SystemState()
    state.position = found.position
    state.recorded_at = from_micros(found.recorded_at)
    state.jobs |= found.jobs
    line = state.line
    line.virtual_time = int.from_bytes(found.virtual_time)
    for user_id, row in found.users.items():
        last_served, joined, waiting, running, pass_, is_held, resumes_at = row
        line.users[user_id] = UserInLine(
            last_served, joined, waiting, running, int.from_bytes(pass_), is_held, resumes_at
        )
    line.held_kinds = {user_id: frozenset(kinds) for user_id, kinds in found.held_kinds.items()}
    for user_id, lanes in found.lanes.items():
        for queue, load in lanes.items():
            line.put_lane((user_id, queue), Load(*load))
    line.kinds = {kind: Load(*load) for kind, load in found.kinds.items()}
    line.starts = {Subject(*row[:3]): Starts(*row[3:]) for row in found.starts}
    for user_id, kind, resource, plan, limits in found.limits:
        state.limits.put(Subject(user_id, kind, resource, plan), limits)
    state.limits.count_members()
    state.windows.counters = {
        (user_id, seconds): Counter(start, used, refused)
        for user_id, seconds, start, used, refused in found.counters
    }
    state.schedules.know(found.schedules)
    state.callbacks.know(found.callbacks)
    return state


def line_in_order(state: SystemState) -> list[tuple[UserId, UserInLine]]:
    """Return the users in the line, in the order in which they are served."""
    waiting = [
        (user.order, user_id, user)
        for user_id, user in state.line.users.items()
        if user.order is not None
    ]
    return [(user_id, user) for _, user_id, user in sorted(waiting, key=lambda one: one[:2])]
