"""The waits of jobs as recorded: when each joined the line, started and ended.

A job has a wait for each attempt. What it needs of the log is bounded by the jobs that wait or run
when a span of the log begins, and by those of the span.
"""

from typing import ClassVar

from msgspec import Struct

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
    Recorded,
    RequeueReason,
)
from domain.language.identifiers import JobId, Kind, ResourceName, UserId, WorkerId
from domain.language.moments import to_micros
from domain.log.folds import Folded, FoldMethods

Moment = tuple[int, int]  # Unix time in microseconds, and the position of the event


class Wait(Struct):
    """One wait of a job, and the run that followed."""

    job_id: JobId
    user_id: UserId
    kind: Kind
    priority: int
    resources: tuple[ResourceName, ...]
    joined: Moment
    before: "Wait | None" = None  # the job's earlier wait, if its run led to this one
    after: "Wait | None" = None
    started: Moment | None = None
    worker: WorkerId | None = None
    ended: Moment | None = None  # of the run: its place was free
    left: Moment | None = None  # cancelled while waiting

    @property
    def run_micros(self) -> int | None:
        """Return how long the run took; None: it never began, or has not ended."""
        if self.started is None or self.ended is None:
            return None
        return self.ended[0] - self.started[0]


class Waits(Folded):
    """The waits of a span of the log, after those that were open when it began."""

    def __init__(self) -> None:
        self.waits: list[Wait] = []  # in the order of joining
        self._is_in_span = False
        self._latest: dict[JobId, Wait] = {}  # of jobs with more to come

    def begin(self) -> None:
        """Begin the span after the events that were folded so far."""
        self._latest = {
            job_id: wait
            for job_id, wait in self._latest.items()
            if wait.started is None or wait.ended is None
        }
        self.waits = list(self._latest.values())
        self._is_in_span = True

    def _submitted(self, recorded: Recorded, event: JobSubmitted) -> None:
        if is_due(event, recorded.recorded_at):
            self._join(recorded, event)

    def _released(self, recorded: Recorded, event: JobReleased) -> None:
        self._join(recorded, event)

    def _requeued(self, recorded: Recorded, event: JobRequeued) -> None:
        if event.reason is not RequeueReason.RETRIED:
            self._end(recorded)
        if not event.waits:
            self._join(recorded, event)

    def _started(self, recorded: Recorded, event: JobStarted) -> None:
        wait = self._of(recorded)
        if wait is not None:
            wait.started, wait.worker = _moment(recorded), event.worker

    def _completed(self, recorded: Recorded, _: JobCompleted) -> None:
        self._end(recorded)
        self._forget(recorded)

    def _failed(self, recorded: Recorded, event: JobFailed) -> None:
        if event.holds_place or not event.ran:
            return
        self._end(recorded)
        if event.retry_at is None:
            self._forget(recorded)

    def _attempt_ended(self, recorded: Recorded, _: AttemptEnded) -> None:
        self._end(recorded)

    def _cancelled(self, recorded: Recorded, event: JobCancelled) -> None:
        if event.was == "running":
            if event.attempt is None:
                self._end(recorded)
            return
        wait = self._of(recorded)
        if wait is not None and event.was == "queued":
            wait.left = _moment(recorded)
        self._forget(recorded)

    def _join(self, recorded: Recorded, event: JobSubmitted | JobReleased | JobRequeued) -> None:
        job_id = recorded.job_id
        assert job_id is not None
        before = self._latest.get(job_id)
        wait = self._latest[job_id] = Wait(
            job_id,
            event.user_id,
            event.kind,
            event.priority,
            event.resources,
            _moment(recorded),
            before if before is not None and before.started is not None else None,
        )
        if wait.before is not None:
            wait.before.after = wait
        if self._is_in_span:
            self.waits.append(wait)

    def _end(self, recorded: Recorded) -> None:
        wait = self._of(recorded)
        if wait is not None and wait.started is None:
            wait = wait.before  # its time-out let the next attempt wait before it ended
        if wait is not None and wait.ended is None:
            wait.ended = _moment(recorded)
            if not self._is_in_span and self._latest.get(wait.job_id) is wait:
                self._forget(recorded)

    def _of(self, recorded: Recorded) -> Wait | None:
        assert recorded.job_id is not None
        return self._latest.get(recorded.job_id)

    def _forget(self, recorded: Recorded) -> None:
        assert recorded.job_id is not None
        self._latest.pop(recorded.job_id, None)

    FOLDS: ClassVar[FoldMethods] = {
        JobSubmitted: _submitted,
        JobReleased: _released,
        JobRequeued: _requeued,
        JobStarted: _started,
        JobCompleted: _completed,
        JobFailed: _failed,
        AttemptEnded: _attempt_ended,
        JobCancelled: _cancelled,
    }


def _moment(recorded: Recorded) -> Moment:
    return to_micros(recorded.recorded_at), recorded.position
