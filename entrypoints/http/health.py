"""Health checks and statistics: whether a server is alive, whether it is ready, what it does."""

from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from domain.language import validation
from entrypoints.http.parameters import AsOf
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import PastStateView, StatsView
from entrypoints.use_cases.readiness import Readiness, readiness_of
from entrypoints.use_cases.time_travel import TimeTravel


@get(["/livez", "/healthz"], media_type=MediaType.TEXT, tags=["health"], sync_to_thread=False)
def livez() -> str:
    """Answer `ok` while the process runs. The database is not asked."""
    return "ok"


@get("/readyz", tags=["health"])
async def readyz(fairlog: NamedDependency[Fairlog]) -> Response[Readiness]:
    """Say whether the server can be sent requests; the status is 503 if it cannot.

    It can if the schema is current, recovery is done, and writes, reads, the clock and the news of
    the log work. All parts that fail are named, with the reason.
    """
    readiness = await readiness_of(fairlog)
    return Response(
        readiness,
        status_code=HTTP_200_OK if readiness.ready else HTTP_503_SERVICE_UNAVAILABLE,
    )


@get("/v1/stats", tags=["health"])
async def stats(fairlog: NamedDependency[Fairlog], as_of: AsOf = None) -> StatsView | PastStateView:
    """Return the jobs by state, the line, the global window and what this server has done.

    With `as_of`: the same at that position or time, with the first 1,000 limits that were set.
    """
    if as_of is None:
        return await fairlog.stats()
    then, past = validation.as_of(as_of), TimeTravel(fairlog)
    return await fairlog.read_long(lambda connection: past.state(connection, then))
