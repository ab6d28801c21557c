"""Cancel and retry: one job, a selection, or all that match the conditions of the jobs page."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final

from litestar import Response, post
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.exceptions import PermissionDeniedException
from litestar.params import Body
from litestar.status_codes import HTTP_200_OK

from domain.jobs.job import Job, State
from domain.language import validation
from domain.language.commands import CancelJob
from domain.language.errors import InvalidInput
from domain.language.identifiers import POSITION_MAX, JobId
from entrypoints.dashboard.context import DashboardContext
from entrypoints.dashboard.job_conditions import asked_of
from entrypoints.dashboard.rendering import html, is_from_page, render
from entrypoints.http.access import access_of, count_change, sent_by
from entrypoints.http.strict_request import StrictRequest
from entrypoints.use_cases.bulk_retry import RetryFilter, retry_jobs
from entrypoints.use_cases.retries import retry_all

SELECTED_MAX: Final = 200
MATCHING_MAX: Final = 1000
Selection = Annotated[dict[str, Any], Body(media_type=RequestEncodingType.URL_ENCODED)]


@post("/jobs/cancel", status_code=HTTP_200_OK)
async def cancel(
    request: StrictRequest, data: Selection, context: NamedDependency[DashboardContext]
) -> Response[str]:
    async def cancel_all(jobs: Sequence[JobId]) -> Sequence[Job | Exception]:
        return await context.fairlog.advance_all(
            [sent_by(request, CancelJob(job_id=job_id)) for job_id in jobs]
        )

    return await _act(request, data, context, "cancelled", cancel_all)


@post("/jobs/retry", status_code=HTTP_200_OK)
async def retry(
    request: StrictRequest, data: Selection, context: NamedDependency[DashboardContext]
) -> Response[str]:
    async def retry_selected(jobs: Sequence[JobId]) -> Sequence[Job | Exception]:
        return await retry_all(context.fairlog, jobs, access_of(request))

    return await _act(request, data, context, "queued again", retry_selected)


@post("/jobs/retry-matching", status_code=HTTP_200_OK)
async def retry_matching(
    request: StrictRequest, data: Selection, context: NamedDependency[DashboardContext]
) -> Response[str]:
    """Retry the failed or cancelled jobs that match, at most MATCHING_MAX.

    The answer says whether more match, and when a limit allows them.
    """
    require_own_page(request)
    now = await context.fairlog.read(context.fairlog.log.now)
    wanted = asked_of(data).parse(now)
    if wanted.state not in {State.FAILED, State.CANCELLED}:
        raise InvalidInput("Only failed or cancelled jobs can be retried: choose one of both.")
    retried = await retry_jobs(
        context.fairlog,
        RetryFilter(
            user_id=wanted.user_id,
            kind=wanted.kind,
            error_contains=wanted.error_contains,
            state=wanted.state,
            since=wanted.since,
            until=wanted.until,
            jobs_max=MATCHING_MAX,
        ),
        None,
        access_of(request),
    )
    return await _outcome(
        request,
        context,
        done="queued again",
        count=retried.retried,
        refused=[],
        has_more=retried.next is not None,
        retry_after=retried.retry_after_seconds,
    )


async def _act(
    request: StrictRequest,
    data: dict[str, Any],
    context: DashboardContext,
    done: str,
    act: Callable[[Sequence[JobId]], Awaitable[Sequence[Job | Exception]]],
) -> Response[str]:
    """Report the outcome of each job. The page then asks for its live part anew."""
    require_own_page(request)
    jobs = _selected(data.get("id"))
    for job_id in jobs:
        count_change(request, context.fairlog, job_id)
    outcomes = await act(jobs)
    refused = [
        (job_id, str(outcome))
        for job_id, outcome in zip(jobs, outcomes, strict=True)
        if not isinstance(outcome, Job)
    ]
    return await _outcome(
        request, context, done=done, count=len(jobs) - len(refused), refused=refused
    )


def require_own_page(request: StrictRequest) -> None:
    """Raise `PermissionDeniedException` unless our script sends the request."""
    if not is_from_page(request):
        raise PermissionDeniedException("This is for the dashboard's own pages; use /v1/jobs.")


async def _outcome(
    request: StrictRequest, context: DashboardContext, **shown: object
) -> Response[str]:
    """Render the notice, with the position that the page's live part has to have reached."""
    position = await context.fairlog.log_watcher.read_position()
    return html(
        render(request, "outcome.html", **{"has_more": False, "retry_after": None, **shown}),
        headers={"X-Fairlog-Position": str(position)},
    )


def _selected(ids: str | Sequence[str] | None) -> list[JobId]:
    """Parse the ids of the selected jobs, without repeats. Raises `InvalidInput`."""
    given = [ids] if isinstance(ids, str) else list(ids or [])
    if not 1 <= len(given) <= SELECTED_MAX:
        raise InvalidInput(f"Select 1 to {SELECTED_MAX} jobs; these are {len(given)}.")
    return [
        JobId(validation.whole_number(one, "A job id", 1, POSITION_MAX))
        for one in dict.fromkeys(given)
    ]
