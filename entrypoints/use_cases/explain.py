"""Explains a job's state by facts from the projections, the recent log, and the workers that this
process has seen.
"""

from typing import Any, Final

from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.audit_log import EventFilter, StoredEvent
from domain.access.keys import ApiKey
from domain.audit.explanation import Count, ExplanationInput, Workers, explain
from domain.jobs.job import Job, State
from domain.language.errors import UnknownJob
from domain.language.events import JobFailed, JobStarted
from domain.language.identifiers import JobId, Kind
from domain.language.moments import later
from domain.log.upcasting import read
from entrypoints.runtime.text import message_of
from entrypoints.service.claiming import LATELY_SECONDS
from entrypoints.service.fairlog import Fairlog
from projections.queries.counts_ahead import CountsAhead
from projections.storage import registry

STARTS_READ_MAX: Final = 200
_EXPLAINING_EVENTS: Final = (
    "JobStarted",
    "JobCompleted",
    "JobFailed",
    "JobRequeued",
    "JobReleased",
    "JobCancelled",
)
_NONE: Final = Count(0)

ExplanationView = dict[str, Any]


async def explain_job(
    fairlog: Fairlog, job_id: JobId, seen_by: ApiKey | None = None
) -> ExplanationView:
    """Return `{"job_id", "state", "summary", "reasons"}`. Raises `UnknownJob`,
    also if the key may not see the job.
    """
    query = fairlog.with_saved_rows(lambda connection: input_of(fairlog, connection, job_id))
    facts = await fairlog.read_long(query)
    if seen_by is not None and not seen_by.is_for(facts.job.user_id, facts.job.kind):
        raise UnknownJob(job_id)
    explained = explain(facts)
    return {
        "job_id": job_id,
        "state": facts.job.state,
        "summary": explained.summary,
        "reasons": [
            {"code": one.code, "text": one.text, **one.numbers} for one in explained.reasons
        ],
    }


def input_of(fairlog: Fairlog, connection: Connection, job_id: JobId) -> ExplanationInput:
    """Collect the input from which a job's state is explained. Raises `UnknownJob`."""
    found = fairlog.jobs.find(connection, [job_id])
    if job_id not in found:
        raise UnknownJob(job_id)
    job = found[job_id]
    user = fairlog.line.user(connection, job.user_id)
    is_queued = job.state is State.QUEUED
    ahead = CountsAhead(registry.current("line"), registry.current("jobs"))
    explaining = EventFilter(job_id=job_id, types=_EXPLAINING_EVENTS)
    latest = audit_log.find_newest(connection, explaining, None, 1)
    return ExplanationInput(
        job=job,
        now=fairlog.log.now(connection),
        latest=read(latest[0].version, latest[0].data) if latest else None,
        user=user,
        kind=fairlog.line.kind(connection, job.kind),
        jobs_ahead=ahead.jobs(connection, job) if is_queued else _NONE,
        users_ahead=ahead.users(connection, user.turn) if is_queued else _NONE,
        workers=_workers(fairlog, connection, job, is_queued=is_queued),
        error=_error(connection, latest[0] if latest else None) or None,
        handler=fairlog.handler_note(job.id),
    )


def _error(connection: Connection, latest: StoredEvent | None) -> str | None:
    """Return the message of the latest event's error, unless it has none or was erased."""
    if latest is None:
        return None
    event = read(latest.version, latest.data)
    if not isinstance(event, JobFailed) or event.error_sha256 is None:
        return None
    return message_of(audit_log.bodies_at(connection, [latest.position]).get(latest.position))


def _workers(fairlog: Fairlog, connection: Connection, job: Job, *, is_queued: bool) -> Workers:
    return Workers(
        asked_seconds_ago=fairlog.claiming.demand.seconds_since(job.kind),
        started_seconds_ago=_seconds_since_start(fairlog, connection, job.kind)
        if is_queued
        else None,
        lately_seconds=LATELY_SECONDS,
    )


def _seconds_since_start(fairlog: Fairlog, connection: Connection, kind: Kind) -> float | None:
    """Return the seconds since a job of the kind was last started; None if not lately."""
    now = fairlog.log.now(connection)
    newest = audit_log.find_newest(
        connection, EventFilter(types=("JobStarted",)), None, STARTS_READ_MAX
    )
    for stored in newest:
        if stored.recorded_at < later(now, -LATELY_SECONDS):
            break
        if _kind_of(stored) == kind:
            return max(0.0, (now - stored.recorded_at).total_seconds())
    return None


def _kind_of(stored: StoredEvent) -> Kind | None:
    event = read(stored.version, stored.data)
    return event.kind if isinstance(event, JobStarted) else None
