"""Routes for health checks and statistics."""

from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from domain.access.rights import Right
from domain.language import validation
from domain.language.errors import MissingRight
from entrypoints.http.access import key_of
from entrypoints.http.parameters import AsOf
from entrypoints.http.strict_request import StrictRequest
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.past_views import PastStateView
from entrypoints.service.views import StatsView
from entrypoints.use_cases.readiness import Readiness, readiness_of
from entrypoints.use_cases.time_travel import TimeTravel


@get(["/livez", "/healthz"], media_type=MediaType.TEXT, tags=["health"], sync_to_thread=False)
def livez() -> str:
    """Return `ok` while the process runs, without using the database."""
    return "ok"


@get(
    "/readyz",
    tags=["health"],
    responses={
        HTTP_503_SERVICE_UNAVAILABLE: ResponseSpec(
            Readiness, description="The server is not ready.", generate_examples=False
        )
    },
)
async def readyz(fairlog: NamedDependency[Fairlog]) -> Response[Readiness]:
    """Report if the server is ready to process requests; the status is 503 if it is not.

    It is ready if the schema is current, recovery is complete, and writes, reads, the clock and the
    log watcher work. Each failing part is named with its reason.
    """
    readiness = await readiness_of(fairlog)
    return Response(
        readiness,
        status_code=HTTP_200_OK if readiness.ready else HTTP_503_SERVICE_UNAVAILABLE,
    )


@get("/v1/stats", tags=["health"])
async def stats(
    request: StrictRequest, fairlog: NamedDependency[Fairlog], as_of: AsOf = None
) -> StatsView | PastStateView:
    """Return the jobs by state, the line, the global window and this server's counts.

    With `as_of`, return the state at that position or time, with the first 1,000 limits and
    schedules set then, and the endpoints of callbacks.
    """
    key = key_of(request)
    if as_of is None:
        return await fairlog.stats(key)
    if key is not None:
        raise MissingRight(key.name, key.role.value, [Right.READ_ALL])
    then, past = validation.as_of(as_of), TimeTravel(fairlog)
    return await fairlog.read_long(lambda connection: past.state(connection, then))
