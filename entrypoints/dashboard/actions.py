"""Cancel and retry, for one job or for a selection."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final

from litestar import Response, post
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.exceptions import PermissionDeniedException
from litestar.params import Body
from litestar.status_codes import HTTP_200_OK

from domain.jobs.job import Job
from domain.language import validation
from domain.language.commands import CancelJob
from domain.language.errors import InvalidInput
from domain.language.identifiers import POSITION_MAX, JobId
from entrypoints.dashboard.context import DashboardContext
from entrypoints.dashboard.rendering import html, is_from_page, render
from entrypoints.http.access import access_of, count_change, sent_by
from entrypoints.http.strict_json import StrictRequest
from entrypoints.use_cases.retries import retry_all

SELECTED_MAX: Final = 200
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


async def _act(
    request: StrictRequest,
    data: dict[str, Any],
    context: DashboardContext,
    done: str,
    act: Callable[[Sequence[JobId]], Awaitable[Sequence[Job | Exception]]],
) -> Response[str]:
    """Report the outcome of each job. The page then asks for its live part anew."""
    if not is_from_page(request):
        raise PermissionDeniedException("This is for the dashboard's own pages; use /v1/jobs.")
    jobs = _selected(data.get("id"))
    for job_id in jobs:
        count_change(request, context.fairlog, job_id)
    outcomes = await act(jobs)
    refused = [
        (job_id, str(outcome))
        for job_id, outcome in zip(jobs, outcomes, strict=True)
        if not isinstance(outcome, Job)
    ]
    position = await context.fairlog.log_watcher.read_position()
    return html(
        render(request, "outcome.html", done=done, count=len(jobs) - len(refused), refused=refused),
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
