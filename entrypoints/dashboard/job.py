"""One job: its explanation, time-line, attempts, bodies and events."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.audit_log import EventFilter, StoredEvent, limited_to
from domain.access.keys import ApiKey
from domain.audit.explanation import explain
from domain.jobs.failure import unreported_error
from domain.jobs.job import ENDED, Job, State
from domain.language import validation
from domain.language.errors import UnknownJob
from domain.language.events import Recorded, caused_by
from domain.language.identifiers import JobId
from domain.log.upcasting import read
from entrypoints.dashboard import formatting
from entrypoints.dashboard.context import DashboardContext, ShownMoment
from entrypoints.dashboard.timeline import WIDTH, bars, timeline, totals
from entrypoints.http.access import key_of
from entrypoints.http.strict_request import StrictRequest
from entrypoints.runtime.page_bytes import PAGE_BYTES_MAX, fitting
from entrypoints.runtime.text import is_plain_error, message_of, text_of, traceback_of, visible
from entrypoints.use_cases.explain import input_of
from entrypoints.use_cases.time_travel import TimeTravel
from projections.queries.waiting_children import waiting_children

EVENTS_SHOWN_MAX: Final = 500
RELATED_MAX: Final = 20  # jobs that a job comes after, and that wait for it


class ShownBody(Struct, frozen=True):
    """A JSON value as it is shown."""

    name: str
    text: str
    size: int  # bytes
    is_clipped: bool


class ShownError(Struct, frozen=True):
    """The error of an attempt."""

    message: str  # on one line: "type: message"
    traceback: str  # without the message; empty if there is none
    is_plain: bool  # False: it has more than these


@get("/jobs/{job_id:int}")
async def job(
    request: StrictRequest,
    context: NamedDependency[DashboardContext],
    job_id: FromPath[int],
    as_of: FromQuery[str] = "",
) -> Response[str]:
    """Show a job, now or as of a position or time.

    Raises `InvalidInput`, and `UnknownJob`, also if the job did not exist then.
    """
    wanted, seen_by = validation.job_id(job_id), key_of(request)
    then = validation.as_of(as_of.strip()) if as_of.strip() else None
    return await context.show(
        request,
        "job",
        f"Job {wanted}",
        lambda connection, at: _read(context, connection, at, wanted, then, seen_by),
        is_long=True,
        job_id=wanted,
        as_of=as_of,
    )


@get("/jobs/{job_id:int}/whole/{name:str}")
async def body(
    request: StrictRequest,
    context: NamedDependency[DashboardContext],
    job_id: FromPath[int],
    name: FromPath[str],
) -> Response[str]:
    """Return a whole payload, result or error as text."""
    wanted = validation.job_id(job_id)

    def query(connection: Connection) -> bytes | None:
        found = _job(context, connection, wanted, key_of(request))
        return _bodies(connection, found, is_erased=found.erased_at is not None).get(name)

    data = await context.fairlog.read_long(context.fairlog.with_saved_rows(query))
    return Response(
        (data or b"null").decode(),
        media_type="text/plain",
        headers={"Content-Disposition": "inline"},
        status_code=200 if data is not None else 404,
    )


def _read(
    context: DashboardContext,
    connection: Connection,
    at: ShownMoment,
    job_id: JobId,
    then: int | datetime | None,
    seen_by: ApiKey | None,
) -> dict[str, object]:
    today = _job(context, connection, job_id, seen_by)
    past = None if then is None else _past(context, connection, job_id, then)
    found = today if past is None else past.job
    is_erased = today.erased_at is not None
    now = at.now if past is None else past.now
    until = at.position if past is None else past.position
    history = audit_log.find(
        connection, limited_to(EventFilter(job_id=job_id), seen_by), 0, EVENTS_SHOWN_MAX
    )
    events = [event for event in history if event.position <= until]
    line = timeline([_recorded(event) for event in events])
    failed_at = [one.error_position for one in line.attempts if one.error_position]
    sizes = audit_log.body_sizes(connection, failed_at)
    latest = failed_at[::-1]
    shown = fitting(latest, (sizes.get(position, 0) for position in latest), PAGE_BYTES_MAX)
    errors = audit_log.bodies_at(connection, shown)
    if not is_erased:
        audit_log.require_bodies(errors, shown)
    bodies = _bodies(connection, found, is_erased=is_erased)
    return {
        "job": found,
        "now": now,
        "past": past,
        "explanation": explain(input_of(context.fairlog, connection, job_id)) if not past else None,
        "events": [
            (event, formatting.pretty_json(event.data)[0], caused_by(event.data))
            for event in events
        ],
        "progress_message": _progress_message(connection, found, is_erased=is_erased),
        "line": line,
        "bars": bars(line.stretches, now),
        "totals": totals(line.stretches, now),
        "width": WIDTH,
        "errors": {position: _error(body) for position, body in errors.items()},
        "error": _latest_error(found, bodies.get("error")),
        "error_text": _search_text(found, bodies.get("error")),
        "bodies": [
            _shown(name, data)
            for name, data in bodies.items()
            if name != "error" or not is_plain_error(data)
        ],
        "parents": _shown_jobs(context, connection, found.after, seen_by),
        "children": _shown_jobs(context, connection, _children(connection, today), seen_by),
        "deliveries": _shown_deliveries(context, connection, today) if not past else [],
        "may_cancel": past is None and found.state not in ENDED,
        "may_retry": past is None and found.state in {State.FAILED, State.CANCELLED},
    }


def _children(connection: Connection, today: Job) -> Sequence[JobId]:
    return waiting_children(connection, today.id, RELATED_MAX) if today.children else ()


def _shown_deliveries(context: DashboardContext, connection: Connection, today: Job) -> list[Job]:
    """Return the latest jobs that tell its end. Who may see a job may see how these stand."""
    return _shown_jobs(context, connection, today.deliveries[-RELATED_MAX:], None)


def _shown_jobs(
    context: DashboardContext,
    connection: Connection,
    job_ids: Sequence[JobId],
    seen_by: ApiKey | None,
) -> list[Job]:
    """Return the first of the jobs that there are, and that the key may see."""
    if not job_ids:
        return []
    found = context.fairlog.jobs.find(connection, list(job_ids[:RELATED_MAX]))
    return [
        one for one in found.values() if seen_by is None or seen_by.is_for(one.user_id, one.kind)
    ]


class _Past(Struct, frozen=True):
    """A job as it was at a moment of the past."""

    job: Job
    position: int
    now: datetime


def _past(
    context: DashboardContext, connection: Connection, job_id: JobId, then: int | datetime
) -> _Past:
    """Raises `UnknownJob` if it did not exist then."""
    travel = TimeTravel(context.fairlog)
    position = travel.position(connection, then)
    found = travel.job_at(connection, job_id, position)
    times = audit_log.times_at(connection, [position])
    return _Past(found, position, then if isinstance(then, datetime) else times[position])


def _job(
    context: DashboardContext, connection: Connection, job_id: JobId, seen_by: ApiKey | None
) -> Job:
    """Raises `UnknownJob`, also if the key may not see the job."""
    found = context.fairlog.jobs.find(connection, [job_id]).get(job_id)
    if found is None or not (seen_by is None or seen_by.is_for(found.user_id, found.kind)):
        raise UnknownJob(job_id)
    return found


def _bodies(connection: Connection, found: Job, *, is_erased: bool) -> dict[str, bytes]:
    """Read the bodies that the job has, by name. Raises `BodyMissing`.

    `is_erased`: the job's bodies have been erased by now, even if `found` is from before.
    """
    places = {"payload": found.id, "result": found.result_position, "error": found.error_position}
    positions = [position for position in places.values() if position is not None]
    stored = audit_log.bodies_at(connection, positions)
    if not is_erased:
        audit_log.require_bodies(stored, positions)
    return {
        name: stored[position]
        for name, position in places.items()
        if position is not None and position in stored
    }


def _latest_error(found: Job, body: bytes | None) -> ShownError | None:
    """Return the error of the latest failed attempt, unless the job succeeded after it."""
    if found.state is State.DONE:
        return None
    if (unreported := unreported_error(found)) is not None:
        return ShownError(visible(f"{unreported.type}: {unreported.message}"), "", is_plain=True)
    return None if body is None else _error(body)


def _search_text(found: Job, body: bytes | None) -> str:
    """Return a text by which the jobs page finds jobs with the same error."""
    if (unreported := unreported_error(found)) is not None:
        return unreported.type
    return "" if body is None else text_of(body)


def _error(body: bytes) -> ShownError:
    return ShownError(message_of(body), traceback_of(body), is_plain_error(body))


def _progress_message(connection: Connection, found: Job, *, is_erased: bool) -> str:
    """Read what the handler said with its latest progress. Raises `BodyMissing`."""
    position = found.progress_position
    if position is None:
        return ""
    stored = audit_log.bodies_at(connection, [position])
    if not is_erased:
        audit_log.require_bodies(stored, [position])
    return msgspec.json.decode(stored[position], type=str) if position in stored else ""


def _shown(name: str, data: bytes) -> ShownBody:
    text, is_clipped = formatting.pretty_json(data)
    return ShownBody(name, text, len(data), is_clipped)


def _recorded(event: StoredEvent) -> Recorded:
    return Recorded(
        event.position, event.recorded_at, event.job_id, read(event.version, event.data)
    )
