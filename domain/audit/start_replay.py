"""Simulation of other throttles and weights ("what if"): the starts of recorded jobs again.

The assumptions are these. Jobs join the line when they did, a further attempt as long after the
start of the one before as it did, and each attempt runs as long as it did. While jobs in the record
waited that might have started, as many run at once as did; while there were none, up to as many as
ever did at once in the span. The next job is the first in the fair order under the other limits,
of the kinds that the workers took. Under the recorded limits each job starts when it did.

Workers that took the same kinds are one pool, with as many slots as jobs that they ever ran at
once. A job that never ran in the record runs as long as others of its kind on average, and one that
was cancelled while it waited leaves at that time.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Final, Literal

from msgspec import UNSET, Struct
from msgspec.structs import replace

from domain.audit.waits import Moment, Wait
from domain.fairness.known_line import WaitingJob
from domain.fairness.line import Line
from domain.fairness.serve import serve
from domain.language.commands import ChangeLimit
from domain.language.events import (
    Event,
    JobCancelled,
    JobCompleted,
    JobReleased,
    JobStarted,
    LimitChanged,
    LineUpdated,
    PlanDeleted,
    Recorded,
)
from domain.language.identifiers import JobId, Kind, WorkerId
from domain.language.limits import Rate
from domain.language.moments import from_micros, to_micros
from domain.limits.limits import Subject, decide_limit, subject_of

_FIRST: Final = 0  # before all positions
_LAST: Final = 2**62
_NO_WORKER: Final = WorkerId("")


class OtherStarts(Struct, frozen=True, kw_only=True):
    """The limits on starts to try, by subject. What is not named stays as recorded."""

    throttles: Mapping[Subject, Rate | None] = {}  # None: none
    weights: Mapping[Subject, int | None] = {}  # in hundredths; None: the default

    def subjects(self) -> set[Subject]:
        return {*self.throttles, *self.weights}

    def changed(self, event: LimitChanged) -> LimitChanged:
        """Return a change of limits with these in place of its own."""
        subject = subject_of(event)
        if subject in self.throttles:
            event = replace(event, throttle=self.throttles[subject])
        if subject in self.weights:
            event = replace(event, weight=self.weights[subject])
        return event

    def command(self, subject: Subject) -> ChangeLimit:
        """Return the command that sets them for a subject."""
        return ChangeLimit(
            scope=subject.scope,
            user_id=subject.user_id or None,
            kind=subject.kind or None,
            resource=subject.resource or None,
            plan=subject.plan or UNSET,
            throttle=self.throttles.get(subject, UNSET),
            weight=self.weights.get(subject, UNSET),
        )


class _Pool(Struct):
    """The workers that took the same kinds."""

    kinds: tuple[Kind, ...]
    slots: int = 0  # the most that ran at once in the record
    recorded: int = 0  # that run in the record
    running: int = 0  # that run in the replay
    resumes_at: int | None = None  # when more may start in the replay because of the time


class Replayed(Struct, gc=False):
    """A wait in the replay, as far as it came."""

    joined: int  # Unix time in microseconds
    started: int | None = None


_Role = Literal["joins", "ends"]


class StartReplay:
    """Takes the events of the span in log order, and keeps the recorded line beside its own."""

    def __init__(
        self,
        line: Line,
        other: OtherStarts,
        waits: Sequence[Wait],
        position: int,
        since: datetime,
        until: datetime,
    ) -> None:
        """`line` is that after the event at `position`, with all its jobs in memory; it is changed.

        `waits` are those that were open at `since`, and those until `until`, exclusive.
        """
        self.replayed: dict[int, Replayed] = {}  # by the position of the recorded joining
        self._record = line
        self._line: Line = deepcopy(line)
        self._other = other
        self._now, self._until = to_micros(since), to_micros(until)
        self._position = position  # of the replay's own events
        self._waits = {wait.joined[1]: wait for wait in waits}
        self._by_start = {wait.started[1]: wait for wait in waits if wait.started}
        self._by_end = {wait.ended[1]: wait for wait in waits if wait.ended}
        self._by_leaving = {wait.left[1]: wait for wait in waits if wait.left}
        self._waiting: dict[JobId, Wait] = {}
        self._gone: set[int] = set()  # by position: cancelled before they joined in the replay
        self._agenda: list[tuple[Moment, int, _Role, Wait, _Pool | None]] = []
        self._numbers = itertools.count()
        self._pool_of: dict[WorkerId, _Pool] = {}
        self._pools = self._made_pools(waits)
        self._runs = _mean_runs(waits)
        for wait in waits:
            if wait.joined[1] <= position:
                self._resume_open(wait, position)
        for subject in sorted(other.subjects()):
            event = decide_limit(self._line.limits, other.command(subject))
            self._fold(event, None)
        self._start_more()

    def take(self, recorded: Recorded) -> None:
        """Replay what comes before an event, and then what follows from it."""
        moment = (to_micros(recorded.recorded_at), recorded.position)
        self._advance(moment)
        self._now = moment[0]
        while self._agenda and self._agenda[0][0] <= moment:
            self._act()
        self._record.limits.evolve(recorded)
        self._record.evolve(recorded)
        event = recorded.event
        if isinstance(event, LimitChanged):
            self._fold(self._other.changed(event), None)
        elif isinstance(event, PlanDeleted):
            self._fold(event, None)
        if (wait := self._by_start.get(recorded.position)) is not None:
            self._pool(wait).recorded += 1
        if (wait := self._by_end.get(recorded.position)) is not None:
            self._pool(wait).recorded -= 1
        wait = self._waits.get(recorded.position)
        if wait is not None and wait.before is None:
            self._join(wait)
        if (wait := self._by_leaving.get(recorded.position)) is not None:
            self._leave(wait)
        self._start_more()

    def finish(self) -> None:
        """Replay what is left of the span."""
        self._advance((self._until, _FIRST))

    # The course of time

    def _advance(self, end: Moment) -> None:
        """Replay all that comes before a moment by itself."""
        while True:
            due = self._agenda[0][0] if self._agenda else (_LAST, _LAST)
            resumption = (self._next_resumption(), _FIRST)
            if min(due, resumption) >= end:
                return
            self._now = max(self._now, min(due, resumption)[0])
            if due < resumption:
                self._act()
            self._start_more()

    def _next_resumption(self) -> int:
        assert self._line.known is not None
        times = [pool.resumes_at for pool in self._pools]
        times.append(self._line.known.next_resumption())
        return min((at for at in times if at is not None), default=_LAST)

    def _act(self) -> None:
        _, _, role, wait, pool = heapq.heappop(self._agenda)
        if role == "joins":
            self._join(wait)
        else:
            assert pool is not None
            pool.running -= 1
            self._fold(
                JobCompleted(
                    user_id=wait.user_id, kind=wait.kind, attempt=1, resources=wait.resources
                ),
                wait.job_id,
            )

    def _plan(self, moment: Moment, role: _Role, wait: Wait, pool: _Pool | None = None) -> None:
        heapq.heappush(self._agenda, (moment, next(self._numbers), role, wait, pool))

    # Moves of jobs

    def _resume_open(self, wait: Wait, position: int) -> None:
        """Take over a wait that was open when the span began."""
        if wait.started is None or wait.started[1] > position:
            self._waiting[wait.job_id] = wait
            self.replayed[wait.joined[1]] = Replayed(wait.joined[0])
            return
        pool = self._pool(wait)
        pool.running += 1
        pool.recorded += 1
        if wait.ended is not None:
            self._plan(wait.ended, "ends", wait, pool)
        if wait.after is not None:
            self._plan(wait.after.joined, "joins", wait.after)

    def _join(self, wait: Wait) -> None:
        if wait.joined[1] in self._gone or wait.job_id in self._waiting:
            return
        self._waiting[wait.job_id] = wait
        self.replayed[wait.joined[1]] = Replayed(self._now)
        self._fold(
            JobReleased(
                user_id=wait.user_id,
                kind=wait.kind,
                priority=wait.priority,
                resources=wait.resources,
            ),
            wait.job_id,
        )

    def _leave(self, wait: Wait) -> None:
        if self._waiting.get(wait.job_id) is not wait:
            if wait.joined[1] not in self.replayed:
                self._gone.add(wait.joined[1])
            return
        del self._waiting[wait.job_id]
        self._fold(
            JobCancelled(
                user_id=wait.user_id, kind=wait.kind, was="queued", resources=wait.resources
            ),
            wait.job_id,
        )

    def _start_more(self) -> None:
        """Start all that may start now."""
        self._update(self._record)
        self._update(self._line)
        for pool in self._pools:
            pool.resumes_at = None
            while self._waiting and pool.running < pool.slots:
                served = serve(self._line, pool.kinds, 1, self._position + 1, self._now)
                if not served.jobs:
                    pool.resumes_at = served.resumes_at
                    break
                if pool.running >= pool.recorded and self._has_more(pool):
                    break
                self._start(served.jobs[0], pool)

    def _has_more(self, pool: _Pool) -> bool:
        """Return True if, in the record, a job waits now that the pool might start."""
        return bool(serve(self._record, pool.kinds, 1, self._position + 1, self._now).jobs)

    def _start(self, job: WaitingJob, pool: _Pool) -> None:
        wait = self._waiting.pop(job.job_id)
        self.replayed[wait.joined[1]].started = self._now
        pool.running += 1
        self._fold(
            JobStarted(
                user_id=wait.user_id,
                kind=wait.kind,
                attempt=1,
                worker=_NO_WORKER,
                lease_expires_at=from_micros(self._now),
                resources=wait.resources,
            ),
            wait.job_id,
        )
        ends = _LAST if wait.ended is None else wait.ended[1]
        self._plan((self._now + self._run_of(wait), ends), "ends", wait, pool)
        if wait.after is not None and wait.started is not None:
            later = wait.after.joined[0] - wait.started[0]
            self._plan((self._now + later, wait.after.joined[1]), "joins", wait.after)

    def _run_of(self, wait: Wait) -> int:
        """Return how long the run of a job takes, in microseconds."""
        if (run := wait.run_micros) is not None:
            return run
        mean = self._runs.get(wait.kind, 0)
        return mean if wait.started is None else max(mean, self._until - wait.started[0])

    # The line

    def _fold(self, event: Event, job_id: JobId | None) -> None:
        self._position += 1
        recorded = Recorded(self._position, from_micros(self._now), job_id, event)
        self._line.limits.evolve(recorded)
        self._line.evolve(recorded)

    def _update(self, line: Line) -> None:
        """Put the users in line again whose throttles have a new window."""
        assert line.known is not None
        users = tuple(line.known.resuming(self._now))
        if users:
            at = from_micros(self._now)
            line.evolve(Recorded(self._position, at, None, LineUpdated(users=users)))
            for user_id in users:
                line.known.resume(user_id, line.users[user_id].resumes_at)

    # Workers

    def _made_pools(self, waits: Iterable[Wait]) -> list[_Pool]:
        """Make the pools, with their slots."""
        kinds: defaultdict[WorkerId, set[Kind]] = defaultdict(set)
        for wait in waits:
            if wait.worker is not None:
                kinds[wait.worker].add(wait.kind)
        pools: dict[tuple[Kind, ...], _Pool] = {}
        for worker, taken in kinds.items():
            names = tuple(sorted(taken))
            self._pool_of[worker] = pools.setdefault(names, _Pool(names))
        running: Counter[tuple[Kind, ...]] = Counter()
        for _, change, pool in sorted(self._changes(waits), key=lambda one: one[:2]):
            running[pool.kinds] += change
            pool.slots = max(pool.slots, running[pool.kinds])
        return [pools[names] for names in sorted(pools)]

    def _changes(self, waits: Iterable[Wait]) -> Iterator[tuple[Moment, int, _Pool]]:
        for wait in waits:
            if wait.started is not None:
                yield wait.started, 1, self._pool(wait)
            if wait.ended is not None:
                yield wait.ended, -1, self._pool(wait)

    def _pool(self, wait: Wait) -> _Pool:
        assert wait.worker is not None
        return self._pool_of[wait.worker]


def _mean_runs(waits: Iterable[Wait]) -> Mapping[Kind, int]:
    """Return how long jobs of each kind ran on average, in microseconds."""
    runs: defaultdict[Kind, list[int]] = defaultdict(list)
    for wait in waits:
        if (run := wait.run_micros) is not None:
            runs[wait.kind].append(run)
    return {kind: sum(known) // len(known) for kind, known in runs.items()}
