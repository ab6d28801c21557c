"""The fold of a batch of events into metrics, open jobs, users and workers.

The caller loads the rows that `ActivityKeys` names before, and writes back what has changed.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from msgspec import Struct

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


class ActivityRows:
    """Cached rows. A row that is not in the cache may still be stored."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, OpenJob | None] = {}  # None: no such row, or the job has ended
        self.users: dict[UserId, UserLoad] = {}
        self.workers: dict[WorkerId, WorkerLoad] = {}

    def count(self) -> int:
        return len(self.jobs) + len(self.users) + len(self.workers)


class ActivityKeys:
    """Keys of the stored rows that a batch of events changes, but for the workers of `jobs`."""

    def __init__(self, events: Sequence[Recorded]) -> None:
        self.jobs: set[JobId] = set()
        self.users: set[UserId] = set()
        self.workers: set[WorkerId] = set()
        new = events[0].position  # a job's id is the position of its submission
        for recorded in events:
            event: Any = recorded.event
            kind = type(event)
            if kind in _JOB_EVENTS:
                self.users.add(event.user_id)
                job_id = _job_of(recorded)
                if job_id < new:
                    self.jobs.add(job_id)
            elif kind is JobSubmitted:
                self.users.add(event.user_id)
            if kind in _WORKER_EVENTS:
                self.workers.add(event.worker)


class ActivityFold(Folded):
    """Folds a batch of events; `rows` must have every row that the events change."""

    def __init__(self, rows: ActivityRows) -> None:
        # Increments of this batch, by start of the bucket of FINEST_SECONDS.
        self.metrics: dict[int, dict[Kind, ActivityMetrics]] = {}
        self.top_counts: dict[int, TopCounts] = {}  # by minute; the caller loads the first one
        self.changed_jobs: set[JobId] = set()
        self.changed_users: set[UserId] = set()
        self.changed_workers: set[WorkerId] = set()
        self._rows = rows
        self._top_by_minute: dict[int, TopUsers] = {}  # wraps `top_counts`
        self._moment: datetime | None = None  # of the event that is folded

    def apply(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            self.evolve(recorded)

    def evolve(self, recorded: Recorded) -> None:
        if recorded.recorded_at is not self._moment:  # the events of a batch have one time
            self._set_time(recorded.recorded_at)
        super().evolve(recorded)

    def _set_time(self, moment: datetime) -> None:
        """Select the buckets that the next events are counted in."""
        at = to_micros(moment)
        seconds = at // _SECOND
        minute = seconds // MINUTE_SECONDS * MINUTE_SECONDS
        self._moment = moment
        self._at = at
        self._bucket = self.metrics.setdefault(seconds // FINEST_SECONDS * FINEST_SECONDS, {})
        if minute not in self._top_by_minute:
            self._top_by_minute[minute] = TopUsers(self.top_counts.setdefault(minute, TopCounts()))
        self._top = self._top_by_minute[minute]

    def _refuse(self, _: Recorded, event: RateLimitDecided) -> None:
        if not event.allowed:
            self._metrics(Kind("")).refused += event.count
            self._top.refused.count(event.user_id, event.count)

    def _repeat(self, _: Recorded, event: SubmissionDeduplicated) -> None:
        self._metrics(event.kind).duplicates += 1

    def _release(self, recorded: Recorded, event: JobReleased) -> None:
        self._enter(_job_of(recorded), event.user_id)

    def _complete(self, recorded: Recorded, event: JobCompleted) -> None:
        job_id = _job_of(recorded)
        self._end_run(job_id, event.user_id, event.kind, completed=1)
        self._metrics(event.kind).completed += 1
        self._put_job(job_id, None)

    def _requeue(self, recorded: Recorded, event: JobRequeued) -> None:
        job_id = _job_of(recorded)
        self._metrics(event.kind).requeued += 1
        if event.reason is not RequeueReason.RETRIED:
            self._leave_worker(job_id, event.user_id)
        self._enter(job_id, event.user_id)

    def _cancel(self, recorded: Recorded, event: JobCancelled) -> None:
        job_id = _job_of(recorded)
        self._metrics(event.kind).cancelled += 1
        if event.was == "running":
            self._leave_worker(job_id, event.user_id)
        elif event.was == "queued":
            self._user(event.user_id).waiting -= 1
        self._put_job(job_id, None)

    def _extend(self, _: Recorded, event: LeasesExtended) -> None:
        self._worker(event.worker)

    def _submit(self, recorded: Recorded, event: JobSubmitted) -> None:
        job_id = JobId(recorded.position)
        self._metrics(event.kind).submitted += 1
        self._top.submitted.count(event.user_id)
        if is_due(event, recorded.recorded_at):
            self._enter(job_id, event.user_id)
        else:
            self._put_job(job_id, OpenJob())

    def _start(self, recorded: Recorded, event: JobStarted) -> None:
        job_id = _job_of(recorded)
        metrics = self._metrics(event.kind)
        metrics.started += 1
        job = self._rows.jobs.get(job_id)
        if job is not None and job.ready_at is not None:
            observe(metrics.waits, (self._at - job.ready_at) / _SECOND)
        self._top.served.count(event.user_id)
        self._put_job(job_id, OpenJob(started_at=self._at, worker=event.worker))
        user = self._user(event.user_id)
        user.waiting -= 1
        user.running += 1
        worker = self._worker(event.worker)
        worker.running += 1
        worker.server = event.server

    def _fail(self, recorded: Recorded, event: JobFailed) -> None:
        job_id = _job_of(recorded)
        seen = int(event.reason in {FailureReason.ERROR, FailureReason.TIMED_OUT})
        self._end_run(job_id, event.user_id, event.kind, failed=seen)
        metrics = self._metrics(event.kind)
        metrics.failed += 1
        metrics.reasons[event.reason] = metrics.reasons.get(event.reason, 0) + 1
        key = failure_key(event.kind, event.reason, event.error_sha256)
        self._top.count_failure(key, recorded.position)
        if event.retry_at is None:
            metrics.given_up += 1
            self._put_job(job_id, None)
        else:
            self._put_job(job_id, OpenJob())

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
        self, job_id: JobId, user_id: UserId, kind: Kind, *, completed: int = 0, failed: int = 0
    ) -> None:
        job = self._rows.jobs.get(job_id)
        if job is not None and job.started_at is not None:
            observe(self._metrics(kind).runs, (self._at - job.started_at) / _SECOND)
        worker = self._leave_worker(job_id, user_id, is_seen=bool(completed or failed))
        if worker is not None:
            worker.completed += completed
            worker.failed += failed

    def _leave_worker(
        self, job_id: JobId, user_id: UserId, *, is_seen: bool = False
    ) -> WorkerLoad | None:
        self._user(user_id).running -= 1
        job = self._rows.jobs.get(job_id)
        if job is None or job.worker is None:
            return None
        worker = self._worker(job.worker, is_seen=is_seen)
        worker.running -= 1
        return worker

    def _enter(self, job_id: JobId, user_id: UserId) -> None:
        self._put_job(job_id, OpenJob(ready_at=self._at))
        self._user(user_id).waiting += 1

    def _metrics(self, kind: Kind) -> ActivityMetrics:
        """Return the current bucket's metrics of a kind; empty: of events without a kind."""
        metrics = self._bucket.get(kind)
        if metrics is None:
            metrics = self._bucket[kind] = ActivityMetrics()
        return metrics

    def _user(self, user_id: UserId) -> UserLoad:
        self.changed_users.add(user_id)
        user = self._rows.users.get(user_id)
        if user is None:
            user = self._rows.users[user_id] = UserLoad()
        return user

    def _put_job(self, job_id: JobId, job: OpenJob | None) -> None:
        self.changed_jobs.add(job_id)
        self._rows.jobs[job_id] = job

    def _worker(self, worker: WorkerId, *, is_seen: bool = True) -> WorkerLoad:
        at = self._at
        self.changed_workers.add(worker)
        load = self._rows.workers.get(worker)
        if load is None or load.is_expired(at):
            load = self._rows.workers[worker] = WorkerLoad(first_seen=at, last_seen=at)
        elif is_seen:
            load.last_seen = at
        return load


def _job_of(recorded: Recorded) -> JobId:
    return recorded.job_id or JobId(0)


def seconds_of(moment: datetime) -> int:
    return to_micros(moment) // _SECOND
