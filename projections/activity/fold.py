"""The fold of a batch of events into metrics, open jobs, users and workers.

The caller loads the rows that `ActivityKeys` names before, and writes back what has changed.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, ClassVar, Final

from msgspec import Struct, field

from domain.jobs.job_fold import is_due
from domain.language.events import (
    FailureReason,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    LeasesExtended,
    RateLimitDecided,
    Recorded,
    RequeueReason,
    SubmissionDeduplicated,
)
from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from domain.language.moments import to_micros
from domain.log.folds import Folded, FoldMethods
from projections.activity.metrics import ActivityMetrics, TopCounts, TopUsers, failure_key, observe

FINEST_SECONDS: Final = 10  # length of the shortest time bucket; the others are multiples of it
MINUTE_SECONDS: Final = 60
WORKER_KEPT_SECONDS: Final = 3600  # since an idle worker was last seen
_SECOND: Final = 1_000_000
_NO_KIND: Final = Kind("")
_JOB_EVENTS: Final[Collection[type]] = frozenset(
    {JobReleased, JobStarted, JobCompleted, JobFailed, JobRequeued, JobCancelled}
)
_WORKER_EVENTS: Final[Collection[type]] = frozenset({JobStarted, LeasesExtended})


class OpenJob(Struct, gc=False):
    """A job that has not ended. Times are Unix time in microseconds."""

    ready_at: int | None = None  # when it joined the line, while it waits
    started_at: int | None = None  # while it runs
    worker: WorkerId | None = None  # while it runs


class UserLoad(Struct, gc=False):
    """The number of a user's jobs that wait and that run."""

    waiting: int = 0
    running: int = 0
    is_stored: bool = False  # True if the user has a row


class WorkerLoad(Struct, gc=False):
    """A worker's jobs. Times are Unix time in microseconds."""

    first_seen: int
    last_seen: int
    server: str | None = None  # that it runs inside of; None: it works over HTTP
    running: int = 0
    completed: int = 0  # attempts since it was first seen
    failed: int = 0  # likewise

    def is_expired(self, now: int) -> bool:
        """Return True if its row may be deleted; when seen again it starts from zero."""
        return self.running <= 0 and now - self.last_seen > WORKER_KEPT_SECONDS * _SECOND


class _Users(dict[UserId, UserLoad]):
    """A user who is missing has no jobs."""

    def __missing__(self, user_id: UserId) -> UserLoad:
        load = self[user_id] = UserLoad()
        return load


class ActivityRows:
    """Rows in memory. A row of a job, user or worker that is missing here may still be stored."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, OpenJob | None] = {}  # None: it has no row
        self.users = _Users()
        self.workers: dict[WorkerId, WorkerLoad] = {}
        # Rows of the time buckets that the latest event belongs to, by length and start, and kind.
        self.buckets: dict[tuple[int, int], dict[bytes, ActivityMetrics]] = {}
        self.tops: dict[int, TopUsers] = {}  # of the minute of the latest event, by its start

    def evict(self, rows_max: int) -> None:
        """Forget the rows that have been here longest, of more than `rows_max` of a kind."""
        of_each: tuple[dict[Any, Any], ...] = (self.jobs, self.users, self.workers)
        for rows in of_each:
            for key in list(islice(rows, max(0, len(rows) - rows_max))):
                del rows[key]


class ActivityKeys:
    """Keys of the rows that a batch of events changes, but for the workers of its jobs."""

    def __init__(self, events: Sequence[Recorded]) -> None:
        self.jobs: set[JobId] = set()
        self.users: set[UserId] = set()
        self.workers: set[WorkerId] = set()
        for recorded in events:
            event: Any = recorded.event
            kind = type(event)
            if kind is JobSubmitted:
                self.users.add(event.user_id)
                self.jobs.add(JobId(recorded.position))
            elif kind in _JOB_EVENTS:
                self.users.add(event.user_id)
                self.jobs.add(_job_of(recorded))
            if kind in _WORKER_EVENTS:
                self.workers.add(event.worker)


class _Increment(ActivityMetrics):
    """The counts that a batch of events adds to the metrics of a kind."""

    wait_micros: list[int] = field(default_factory=list)  # latencies that are not in `waits` yet
    run_micros: list[int] = field(default_factory=list)  # likewise, of `runs`


class _Increments(dict[Kind, _Increment]):
    """Increments by kind; the key of events without a kind is empty."""

    def __missing__(self, kind: Kind) -> _Increment:
        increment = self[kind] = _Increment()
        return increment


class ActivityFold(Folded):
    """Folds a batch of events; `rows` must have every row that the events change."""

    def __init__(self, rows: ActivityRows) -> None:
        # By start of the bucket of FINEST_SECONDS.
        self.metrics: dict[int, _Increments] = {}
        self.workers_left: set[WorkerId] = set()  # of attempts that ended
        self._jobs = rows.jobs
        self._users = rows.users
        self._workers = rows.workers
        self._tops = rows.tops

    def apply(self, events: Sequence[Recorded]) -> None:
        folds = self.folds()
        moment: datetime | None = None
        for recorded in events:
            event = recorded.event
            fold = folds.get(type(event))
            if fold is not None:
                if recorded.recorded_at is not moment:  # the events of a batch have one time
                    moment = recorded.recorded_at
                    self._set_time(moment)
                fold(recorded, event)
        for increments in self.metrics.values():
            for increment in increments.values():
                observe(increment.waits, increment.wait_micros)
                observe(increment.runs, increment.run_micros)

    def _set_time(self, moment: datetime) -> None:
        """Select the buckets that the next events are counted in."""
        self._at = at = to_micros(moment)
        seconds = at // _SECOND
        bucket = seconds // FINEST_SECONDS * FINEST_SECONDS
        minute = seconds // MINUTE_SECONDS * MINUTE_SECONDS
        self._metrics = self.metrics.setdefault(bucket, _Increments())
        if minute not in self._tops:
            self._tops[minute] = TopUsers(TopCounts())
        self._top = self._tops[minute]

    def _refuse(self, _: Recorded, event: RateLimitDecided) -> None:
        if not event.allowed:
            self._metrics[_NO_KIND].refused += event.count
            self._top.refused.count(event.user_id, event.count)

    def _repeat(self, _: Recorded, event: SubmissionDeduplicated) -> None:
        self._metrics[event.kind].duplicates += 1

    def _submit(self, recorded: Recorded, event: JobSubmitted) -> None:
        self._metrics[event.kind].submitted += 1
        self._top.submitted.count(event.user_id)
        if is_due(event, recorded.recorded_at):
            self._enter(JobId(recorded.position), event.user_id)
        else:
            self._jobs[JobId(recorded.position)] = OpenJob()

    def _release(self, recorded: Recorded, event: JobReleased) -> None:
        self._enter(_job_of(recorded), event.user_id)

    def _start(self, recorded: Recorded, event: JobStarted) -> None:
        at, jobs, job_id = self._at, self._jobs, _job_of(recorded)
        metrics = self._metrics[event.kind]
        metrics.started += 1
        job = jobs.get(job_id)
        if job is not None and job.ready_at is not None:
            metrics.wait_micros.append(at - job.ready_at)
        jobs[job_id] = OpenJob(None, at, event.worker)
        self._top.served.count(event.user_id)
        user = self._users[event.user_id]
        user.waiting -= 1
        user.running += 1
        worker = self._worker(event.worker)
        worker.running += 1
        worker.server = event.server

    def _complete(self, recorded: Recorded, event: JobCompleted) -> None:
        metrics = self._metrics[event.kind]
        metrics.completed += 1
        worker = self._end_run(recorded, event.user_id, metrics)
        if worker is not None:
            worker.completed += 1
        self._jobs[_job_of(recorded)] = None

    def _fail(self, recorded: Recorded, event: JobFailed) -> None:
        metrics = self._metrics[event.kind]
        if not event.ran:  # it failed with its parent: no attempt did
            metrics.given_up += 1
            self._jobs[_job_of(recorded)] = None
            return
        metrics.failed += 1
        metrics.reasons[event.reason] = metrics.reasons.get(event.reason, 0) + 1
        is_seen = event.reason in {FailureReason.ERROR, FailureReason.TIMED_OUT}
        worker = self._end_run(recorded, event.user_id, metrics, is_seen=is_seen)
        if worker is not None and is_seen:
            worker.failed += 1
        key = failure_key(event.kind, event.reason, event.error_sha256)
        self._top.count_failure(key, recorded.position)
        if event.retry_at is None:
            metrics.given_up += 1
            self._jobs[_job_of(recorded)] = None
        else:
            self._jobs[_job_of(recorded)] = OpenJob()

    def _requeue(self, recorded: Recorded, event: JobRequeued) -> None:
        self._metrics[event.kind].requeued += 1
        if event.reason is not RequeueReason.RETRIED:
            self._leave_worker(recorded, event.user_id, is_seen=False)
        if event.waits:
            self._jobs[_job_of(recorded)] = OpenJob()
        else:
            self._enter(_job_of(recorded), event.user_id)

    def _cancel(self, recorded: Recorded, event: JobCancelled) -> None:
        self._metrics[event.kind].cancelled += 1
        if event.was == "running":
            self._leave_worker(recorded, event.user_id, is_seen=False)
        elif event.was == "queued":
            self._users[event.user_id].waiting -= 1
        self._jobs[_job_of(recorded)] = None

    def _extend(self, _: Recorded, event: LeasesExtended) -> None:
        self._worker(event.worker)

    FOLDS: ClassVar[FoldMethods] = {
        RateLimitDecided: _refuse,
        JobSubmitted: _submit,
        SubmissionDeduplicated: _repeat,
        JobReleased: _release,
        JobStarted: _start,
        JobCompleted: _complete,
        JobFailed: _fail,
        JobRequeued: _requeue,
        JobCancelled: _cancel,
        LeasesExtended: _extend,
    }

    def _end_run(
        self, recorded: Recorded, user_id: UserId, metrics: _Increment, *, is_seen: bool = True
    ) -> WorkerLoad | None:
        """Count the length of an attempt that ended; return its worker."""
        job = self._jobs.get(_job_of(recorded))
        if job is not None and job.started_at is not None:
            metrics.run_micros.append(self._at - job.started_at)
        return self._leave_worker(recorded, user_id, is_seen=is_seen)

    def _leave_worker(
        self, recorded: Recorded, user_id: UserId, *, is_seen: bool
    ) -> WorkerLoad | None:
        self._users[user_id].running -= 1
        job = self._jobs.get(_job_of(recorded))
        if job is None or job.worker is None:
            return None
        self.workers_left.add(job.worker)
        worker = self._worker(job.worker, is_seen=is_seen)
        worker.running -= 1
        return worker

    def _enter(self, job_id: JobId, user_id: UserId) -> None:
        self._jobs[job_id] = OpenJob(self._at)
        self._users[user_id].waiting += 1

    def _worker(self, worker: WorkerId, *, is_seen: bool = True) -> WorkerLoad:
        at = self._at
        load = self._workers.get(worker)
        if load is None or load.is_expired(at):
            load = self._workers[worker] = WorkerLoad(first_seen=at, last_seen=at)
        elif is_seen:
            load.last_seen = at
        return load


def _job_of(recorded: Recorded) -> JobId:
    return recorded.job_id or JobId(0)


def seconds_of(moment: datetime) -> int:
    return to_micros(moment) // _SECOND
