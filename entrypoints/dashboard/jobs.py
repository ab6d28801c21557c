"""Jobs: found by id, user, state, kind, error and time, in pages read by key and not by offset."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter
from litestar.response import Redirect
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.access.keys import ApiKey
from domain.jobs.failure import unreported_error
from domain.jobs.job import Job, State
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import POSITION_MAX, Kind
from entrypoints.dashboard import formatting
from entrypoints.dashboard.actions import MATCHING_MAX
from entrypoints.dashboard.context import DashboardContext, ShownMoment
from entrypoints.dashboard.job_conditions import AskedJobs
from entrypoints.dashboard.rendering import is_from_page
from entrypoints.http.access import key_of
from entrypoints.http.forwarding import prefix_of
from entrypoints.http.strict_request import StrictRequest
from entrypoints.runtime.text import message_of, visible
from entrypoints.use_cases.find_jobs import JobConditions, find_jobs
from projections.queries.job_search import JobFilter, JobSearchPage

JOBS_PER_PAGE: Final = 50
PAYLOAD_BYTES_SHOWN: Final = 160
ERRORS_BYTES_MAX: Final = 256 * 1024  # read for a page; a traceback has some thousands
_RETRIED_STATES: Final = frozenset({"failed", "cancelled"})
_KINDS_OFFERED: Final = 200


class ListedJob(Struct, frozen=True):
    """A job with the beginnings of its payload and its error."""

    job: Job
    payload: str
    error: str  # of its latest attempt, if that failed


@get("/jobs")
async def jobs(  # noqa: PLR0913 (a parameter for each condition)
    request: StrictRequest,
    context: NamedDependency[DashboardContext],
    *,
    user: FromQuery[str] = "",
    job_state: Annotated[str, QueryParameter(name="state")] = "",
    kind: FromQuery[str] = "",
    error: FromQuery[str] = "",
    since: FromQuery[str] = "",
    until: FromQuery[str] = "",
    before: FromQuery[str] = "",
    after: FromQuery[str] = "",
) -> Response[str]:
    """List jobs. `before` and `after` are exclusive ids between which a page is read."""
    seen_by = key_of(request)
    asked = AskedJobs(user=user, state=job_state, kind=kind, error=error, since=since, until=until)

    def read(connection: Connection, at: ShownMoment) -> dict[str, object]:
        problem = None
        try:
            wanted = asked.parse(at.now)
            below, above = _bound(before, "before"), _bound(after, "after")
        except InvalidInput as invalid:
            problem = str(invalid)
            wanted, below, above = JobConditions(), None, None
        found = _page(context, connection, wanted, seen_by, below, above)
        return {
            "found": found,
            "listed": _listed(connection, found.jobs),
            "problem": problem,
            "asked": asked,
            "is_first": not (before or after),
            "asked_json": msgspec.json.encode(asked).decode(),
            "matching_max": MATCHING_MAX,
            "retries_all": problem is None and job_state in _RETRIED_STATES,
        }

    kinds = [] if is_from_page(request) else await _kinds(context, seen_by)
    return await context.show(
        request,
        "jobs",
        "Jobs",
        read,
        is_long=bool(kind or error or since or until or (user and job_state))
        or seen_by is not None,
        asked=asked,
        states=list(State),
        kinds=kinds,
    )


def _page(
    context: DashboardContext,
    connection: Connection,
    wanted: JobConditions,
    seen_by: ApiKey | None,
    below: int | None,
    above: int | None,
) -> JobSearchPage:
    """Read a page. One by time or error has no link to newer jobs, but to the newest."""
    if wanted.error_contains is not None or wanted.since is not None or wanted.until is not None:
        some = find_jobs(connection, wanted, below, JOBS_PER_PAGE, seen_by)
        is_full = len(some.jobs) == JOBS_PER_PAGE
        return JobSearchPage(
            some.jobs,
            has_newer=False,
            has_older=some.next is not None,
            searched_down_to=None if is_full else some.next,
        )
    conditions = JobFilter(
        user_id=wanted.user_id, state=wanted.state, kind=wanted.kind, seen_by=seen_by
    )
    if above is None:
        return context.search.older(connection, conditions, below, JOBS_PER_PAGE)
    return context.search.newer(connection, conditions, above, JOBS_PER_PAGE)


def _listed(connection: Connection, jobs: Sequence[Job]) -> list[ListedJob]:
    """Read the beginnings of payloads, and errors as far as ERRORS_BYTES_MAX allows."""
    payloads = audit_log.body_beginnings(connection, [job.id for job in jobs], PAYLOAD_BYTES_SHOWN)
    failed = [
        job.error_position
        for job in jobs
        if job.error_position is not None and job.state is not State.DONE
    ]
    sizes = audit_log.body_sizes(connection, failed)
    read: list[int] = []
    for position in failed:
        if sum(sizes.get(one, 0) for one in (*read, position)) <= ERRORS_BYTES_MAX:
            read.append(position)
    errors = audit_log.bodies_at(connection, read)
    return [
        ListedJob(
            job,
            formatting.excerpt(payloads.get(job.id, b""), PAYLOAD_BYTES_SHOWN),
            _error_of(job, errors),
        )
        for job in jobs
    ]


def _error_of(job: Job, errors: Mapping[int, bytes]) -> str:
    if job.state is State.DONE or job.failure is None:
        return ""
    if (error := unreported_error(job)) is not None:
        return visible(f"{error.type}: {error.message}")
    body = errors.get(job.error_position or 0)
    if body is None and job.erased_at is None:
        return "A large error: the page of the job shows it."
    return message_of(body)


@get("/find")
async def find(
    request: Request[Any, Any, Any], job_id: Annotated[str, QueryParameter(name="id")] = ""
) -> Redirect:
    """Redirect to a job by its id; `#42` and `42` are the same."""
    jobs_path = f"{prefix_of(request.scope)}/jobs"
    number = job_id.strip().removeprefix("#")
    if not number:
        return Redirect(jobs_path)
    return Redirect(f"{jobs_path}/{validation.whole_number(number, 'A job id', 1, POSITION_MAX)}")


async def _kinds(context: DashboardContext, seen_by: ApiKey | None) -> Sequence[Kind]:
    """Return the kinds for the filter form. A page that refreshes its live part has it already."""
    if seen_by is not None:
        return seen_by.created.kinds
    found = await context.fairlog.read(
        lambda connection: context.fairlog.line.kinds(connection, _KINDS_OFFERED)
    )
    return [kind for kind, _ in found]


def _bound(text: str, what: str) -> int | None:
    if not text:
        return None
    return validation.whole_number(text, what, 0, POSITION_MAX)
