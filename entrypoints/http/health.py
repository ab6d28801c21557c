"""For those who run the service: is it alive, is it ready, and what does it do."""

from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from domain.language import validation
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import PastStateView, StatsView
from entrypoints.use_cases.readiness import Readiness, readiness_of
from entrypoints.use_cases.time_travel import TimeTravel


@get(["/livez", "/healthz"], media_type=MediaType.TEXT, tags=["operations"], sync_to_thread=False)
def livez() -> str:
    """The process answers. It says nothing about the database."""
    return "ok"


@get("/readyz", tags=["operations"])
async def readyz(fairlog: NamedDependency[Fairlog]) -> Response[Readiness]:
    """The schema is current, recovery is done, and writes, reads, the clock and the news of the log
    work. Whatever fails is named, with the reason.
    """
    readiness = await readiness_of(fairlog)
    return Response(
        readiness,
        status_code=HTTP_200_OK if readiness.ready else HTTP_503_SERVICE_UNAVAILABLE,
    )


@get("/v1/stats", tags=["operations"])
async def stats(
    fairlog: NamedDependency[Fairlog], as_of: FromQuery[str | None] = None
) -> StatsView | PastStateView:
    """Counts by state, the line, the global window, and what this process did.

    With `as_of`, a position or a time: how the service stood then, and the limits that were set,
    the first thousand by user and kind.
    """
    if as_of is None:
        return await fairlog.stats()
    then, past = validation.as_of(as_of), TimeTravel(fairlog)
    return await fairlog.read_long(lambda connection: past.state(connection, then))
