"""What a batch of events does to the figures, the jobs in hand, the users in line and the workers.

A fold over rows that were read before: the caller loads what `Needed` names and writes back what
has changed.
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
from projections.activity.metrics import ActivityMetrics, Leading, TopUsers, failure_key, put

FINEST_SECONDS: Final = 10  # every other length of a slot is a multiple
MINUTE_SECONDS: Final = 60
WORKER_KEPT_SECONDS: Final = 3600  # after it was last seen, without a job
_SECOND: Final = 1_000_000
_JOB_EVENTS: Final[Collection[type]] = frozenset(
    {JobReleased, JobStarted, JobCompleted, JobFailed, JobRequeued, JobCancelled}
)
_WORKER_EVENTS: Final[Collection[type]] = frozenset({JobStarted, LeasesExtended})


class OpenJob(Struct, gc=False):
    ready_at: int | None = None  # UTC, microseconds; in line since
    started_at: int | None = None
    worker: WorkerId | None = None  # while running


class UserLoad(Struct, gc=False):
    waiting: int = 0
    running: int = 0
    is_stored: bool = False  # has a row


class WorkerLoad(Struct, gc=False):
    first_seen: int  # UTC, microseconds
    last_seen: int
    server: str | None = None
    running: int = 0
    completed: int = 0
    failed: int = 0

    def is_forgotten(self, now: int) -> bool:
        """Whether its row goes, and it would begin anew."""
        return self.running <= 0 and now - self.last_seen > WORKER_KEPT_SECONDS * _SECOND


class Rows:
    """Those that are known; what is not among them may be stored."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, OpenJob | None] = {}  # None: there is none, or it has ended
        self.users: dict[UserId, UserLoad] = {}
        self.workers: dict[WorkerId, WorkerLoad] = {}

    def count(self) -> int:
        return len(self.jobs) + len(self.users) + len(self.workers)


class Needed:
    """Which stored rows a batch of events is about; those of a job's worker beside them."""

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


class Fold(Folded):
    """A batch over the rows that it touches, which have to be known."""

    def __init__(self, rows: Rows) -> None:
        self.figures: dict[
            int, dict[Kind, ActivityMetrics]
        ] = {}  # new ones, by slot of FINEST_SECONDS
        self.leading: dict[int, Leading] = {}  # by minute; loaded
        self.changed_jobs: set[JobId] = set()
        self.changed_users: set[UserId] = set()
        self.changed_workers: set[WorkerId] = set()
        self._rows = rows
        self._boards: dict[int, TopUsers] = {}  # of those leading
        self._moment: datetime | None = None  # of what is folded in

    def apply(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            self.evolve(recorded)

    def evolve(self, recorded: Recorded) -> None:
        if recorded.recorded_at is not self._moment:  # the events of a batch have one time
            self._come_to(recorded.recorded_at)
        super().evolve(recorded)

    def _come_to(self, moment: datetime) -> None:
        """What is folded in next happened then."""
        at = to_micros(moment)
        seconds = at // _SECOND
        minute = seconds // MINUTE_SECONDS * MINUTE_SECONDS
        self._moment = moment
        self._at = at
        self._slot = self.figures.setdefault(seconds // FINEST_SECONDS * FINEST_SECONDS, {})
        if minute not in self._boards:
            self._boards[minute] = TopUsers(self.leading.setdefault(minute, Leading()))
        self._board = self._boards[minute]

    def _refuse(self, _: Recorded, event: RateLimitDecided) -> None:
        if not event.allowed:
            self._of(Kind("")).refused += event.count
            self._board.refused.count(event.user_id, event.count)

    def _repeat(self, _: Recorded, event: SubmissionDeduplicated) -> None:
        self._of(event.kind).duplicates += 1

    def _release(self, recorded: Recorded, event: JobReleased) -> None:
        self._enter(_job_of(recorded), event.user_id)

    def _complete(self, recorded: Recorded, event: JobCompleted) -> None:
        job_id = _job_of(recorded)
        self._end_run(job_id, event.user_id, event.kind, completed=1)
        self._of(event.kind).completed += 1
        self._put_job(job_id, None)

    def _requeue(self, recorded: Recorded, event: JobRequeued) -> None:
        job_id = _job_of(recorded)
        self._of(event.kind).requeued += 1
        if event.reason is not RequeueReason.RETRIED:
            self._leave_worker(job_id, event.user_id)
        self._enter(job_id, event.user_id)

    def _cancel(self, recorded: Recorded, event: JobCancelled) -> None:
        job_id = _job_of(recorded)
        self._of(event.kind).cancelled += 1
        if event.was == "running":
            self._leave_worker(job_id, event.user_id)
        elif event.was == "queued":
            self._user(event.user_id).waiting -= 1
        self._put_job(job_id, None)

    def _extend(self, _: Recorded, event: LeasesExtended) -> None:
        self._worker(event.worker)

    def _submit(self, recorded: Recorded, event: JobSubmitted) -> None:
        job_id = JobId(recorded.position)
        self._of(event.kind).submitted += 1
        self._board.submitted.count(event.user_id)
        if is_due(event, recorded.recorded_at):
            self._enter(job_id, event.user_id)
        else:
            self._put_job(job_id, OpenJob())

    def _start(self, recorded: Recorded, event: JobStarted) -> None:
        job_id = _job_of(recorded)
        figures = self._of(event.kind)
        figures.started += 1
        job = self._rows.jobs.get(job_id)
        if job is not None and job.ready_at is not None:
            put(figures.waits, (self._at - job.ready_at) / _SECOND)
        self._board.served.count(event.user_id)
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
        figures = self._of(event.kind)
        figures.failed += 1
        figures.reasons[event.reason] = figures.reasons.get(event.reason, 0) + 1
        key = failure_key(event.kind, event.reason, event.error_sha256)
        self._board.count_failure(key, recorded.position)
        if event.retry_at is None:
            figures.given_up += 1
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
            put(self._of(kind).runs, (self._at - job.started_at) / _SECOND)
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

    def _of(self, kind: Kind) -> ActivityMetrics:
        """The new figures of the slot that it is; no kind: of what has none."""
        figures = self._slot.get(kind)
        if figures is None:
            figures = self._slot[kind] = ActivityMetrics()
        return figures

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
        if load is None or load.is_forgotten(at):
            load = self._rows.workers[worker] = WorkerLoad(first_seen=at, last_seen=at)
        elif is_seen:
            load.last_seen = at
        return load


def _job_of(recorded: Recorded) -> JobId:
    return recorded.job_id or JobId(0)


def seconds_of(moment: datetime) -> int:
    return to_micros(moment) // _SECOND
