"""The attempts that a batch ends, for metrics by kind."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct

from domain.jobs.job import Job
from domain.language.events import (
    FailureReason,
    JobCompleted,
    JobFailed,
    JobRequeued,
    Recorded,
    RequeueReason,
)
from domain.language.identifiers import JobId, Kind

DONE: Final = "done"
_LOST: Final = frozenset({RequeueReason.LEASE_LOST, RequeueReason.SERVER_RESTARTED})
_SEEN: Final = frozenset({FailureReason.ERROR, FailureReason.TIMED_OUT})


class EndedAttempt(Struct, frozen=True, array_like=True):
    """An attempt that has completed, failed or was lost."""

    kind: Kind
    outcome: str  # DONE, or the reason of the failure or loss
    seconds: float | None = None  # that its handler ran; None: it was lost
    is_last: bool = False  # True if its job has failed with it


def ended_attempts(
    recorded: Iterable[Recorded], jobs: Mapping[JobId, Job]
) -> Iterator[EndedAttempt]:
    """Yield the attempts that the events end; `jobs` have the events folded in.

    Attempts that were returned or cancelled are left out: they have no outcome.
    """
    for one in recorded:
        match one.event:
            case JobCompleted() as event:
                yield EndedAttempt(event.kind, DONE, _seconds(one, event.attempt, jobs))
            case JobFailed() as event if event.ran:
                is_seen = event.reason in _SEEN
                seconds = _seconds(one, event.attempt, jobs) if is_seen else None
                yield EndedAttempt(event.kind, event.reason.value, seconds, event.retry_at is None)
            case JobRequeued() as event if event.reason in _LOST:
                yield EndedAttempt(event.kind, event.reason.value)
            case _:
                pass


def _seconds(recorded: Recorded, attempt: int, jobs: Mapping[JobId, Job]) -> float | None:
    """Return the time from the begin of the handler, or from the claim if no begin was reported."""
    job = jobs.get(recorded.job_id or JobId(0))
    if job is None or job.attempt != attempt:  # the same batch has started the next attempt
        return None
    began = job.begun_at or job.started_at
    return None if began is None else (recorded.recorded_at - began).total_seconds()
