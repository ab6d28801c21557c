"""Jobs: found by id, user, state and kind, in pages that are read by key and not by offset."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter
from litestar.response import Redirect
from sqlalchemy.engine import Connection

from domain.access.keys import ApiKey
from domain.jobs.job import State
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import POSITION_MAX, Kind
from entrypoints.dashboard.context import DashboardContext, ShownMoment
from entrypoints.dashboard.rendering import is_from_page
from entrypoints.http.access import key_of
from entrypoints.http.forwarding import prefix_of
from entrypoints.http.strict_json import StrictRequest
from projections.queries.job_search import JobFilter

JOBS_PER_PAGE: Final = 50
_KINDS_OFFERED: Final = 200


@get("/jobs")
async def jobs(
    request: StrictRequest,
    context: NamedDependency[DashboardContext],
    user: FromQuery[str] = "",
    job_state: Annotated[str, QueryParameter(name="state")] = "",
    kind: FromQuery[str] = "",
    before: FromQuery[str] = "",
    after: FromQuery[str] = "",
) -> Response[str]:
    """List jobs. `before` and `after` are exclusive ids between which a page is read."""
    problem = None
    seen_by = key_of(request)
    wanted, below, above = JobFilter(seen_by=seen_by), None, None
    try:
        wanted = JobFilter(
            user_id=validation.user_id(user) if user else None,
            state=_state(job_state) if job_state else None,
            kind=validation.kind(kind) if kind else None,
            seen_by=seen_by,
        )
        below, above = _bound(before, "before"), _bound(after, "after")
    except InvalidInput as error:
        problem = str(error)

    def read(connection: Connection, _: ShownMoment) -> dict[str, object]:
        found = (
            context.search.older(connection, wanted, below, JOBS_PER_PAGE)
            if above is None
            else context.search.newer(connection, wanted, above, JOBS_PER_PAGE)
        )
        return {
            "found": found,
            "problem": problem,
            "user": user,
            "state": job_state,
            "kind": kind,
            "is_filtered": bool(user or job_state or kind),
            "is_first": not (before or after),
        }

    kinds = [] if is_from_page(request) else await _kinds(context, seen_by)
    return await context.show(
        request,
        "jobs",
        "Jobs",
        read,
        is_long=wanted.filters_rows,
        user=user,
        state=job_state,
        kind=kind,
        states=list(State),
        kinds=kinds,
    )


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


def _state(name: str) -> State:
    try:
        return State(name)
    except ValueError:
        raise InvalidInput(f"There is no state {name!r}; there are {', '.join(State)}.") from None


def _bound(text: str, what: str) -> int | None:
    if not text:
        return None
    return validation.whole_number(text, what, 0, POSITION_MAX)
