"""Submits the jobs that deliver callbacks: one for each address that is told the end of a job.

The message is complete when the job ends, and is the payload of the delivery. So it is the same
bytes however often it is sent, whatever becomes of the job later.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

from domain.callbacks.callbacks import Callbacks
from domain.decisions.decision import NewEvent
from domain.jobs.job import Job
from domain.language.bodies import body_of
from domain.language.callbacks import CALLBACK_KIND, Delivery, delivery_user
from domain.language.events import (
    Event,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobSubmitted,
    Recorded,
)
from domain.language.identifiers import CallbackName, JobId
from domain.language.limits import RetryPolicy
from domain.language.moments import later, to_text

# About a day: 5, 10, 20 s and so on up to an hour, and then every hour.
ATTEMPTS: Final = 34
RETRY: Final = RetryPolicy(
    backoff="exponential", base_seconds=5.0, factor=2.0, maximum_seconds=3_600.0, jitter=0.2
)
UNSENT_SECONDS_MAX: Final = 3 * 86_400  # a delivery that no server begins in this time is cancelled
ENDS: Final = (JobCompleted, JobFailed, JobCancelled)
SOURCE: Final = "/v1/jobs"  # of the CloudEvents

End = JobCompleted | JobFailed | JobCancelled


def is_end(event: Event) -> bool:
    """Return True if a job has ended by this event. It is asked of every event."""
    if type(event) is JobFailed:
        return event.retry_at is None
    return type(event) is JobCompleted or type(event) is JobCancelled


def addresses(callbacks: Callbacks, job: Job) -> Sequence[tuple[str, CallbackName | None]]:
    """Return what is told the end of a job: URLs, each with its endpoint; None: it is the job's."""
    if (job.callback is None and not callbacks.endpoints) or job.kind == CALLBACK_KIND:
        return ()
    own = [] if job.callback is None else [(job.callback, None)]
    return own + [
        (endpoint.url, endpoint.name)
        for endpoint in callbacks.endpoints
        if endpoint.url is not None and endpoint.is_told_of(job.user_id, job.kind)
    ]


def delivering(
    job: Job, end: Recorded, url: str, callback: CallbackName | None, job_id: JobId
) -> NewEvent:
    """Return the submission of a delivery, as the job `job_id`, in the batch of the end."""
    now = end.recorded_at
    message = {"url": url, "callback": callback, "event": _cloud_event(job, end, job_id)}
    payload = body_of(message, "message of a callback")
    return NewEvent(
        JobSubmitted(
            user_id=delivery_user(url),
            kind=CALLBACK_KIND,
            payload_sha256=payload.sha256,
            payload_bytes=payload.size,
            max_attempts=ATTEMPTS,
            idempotency_key=sha256(f"{CALLBACK_KIND}/{job_id}".encode()).hexdigest(),
            key_expires_at=now,
            expires_at=later(now, UNSENT_SECONDS_MAX),
            retry=RETRY,
            delivery=Delivery(job.id, end.position, callback),
        ),
        job_id,
        payload,
    )


def _cloud_event(job: Job, end: Recorded, job_id: JobId) -> dict[str, Any]:
    """Return what tells the end of a job, as the delivery `job_id`."""
    event, state = end.event, job.state.value
    assert isinstance(event, ENDS), event
    return {
        "specversion": "1.0",
        "id": f"{job_id}",
        "source": SOURCE,
        "type": f"fairlog.job.{state}",
        "subject": f"{job.id}",
        "time": to_text(end.recorded_at),
        "datacontenttype": "application/json",
        "data": {
            "id": job.id,
            "user_id": job.user_id,
            "kind": job.kind,
            "state": state,
            "attempt": job.attempt,
            "submitted_at": to_text(job.submitted_at),
            "finished_at": to_text(end.recorded_at),
            "position": end.position,
            **_outcome(event),
        },
    }


def _outcome(event: End) -> dict[str, Any]:
    """Return what came of the job: of its bodies, which can be erased, the digests."""
    match event:
        case JobCompleted():
            return {"result_sha256": event.result_sha256, "result_bytes": event.result_bytes}
        case JobFailed():
            return {
                "reason": event.reason.value,
                "error_sha256": event.error_sha256,
                "error_bytes": event.error_bytes,
            }
        case JobCancelled():
            return {"reason": event.reason.value if event.reason else None}
