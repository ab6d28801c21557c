"""For those who run the service: is it alive, is it ready, and what does it do."""

from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE
from msgspec import Struct

from adapters.schema import is_current
from domain import validation
from domain.errors import FairlogError
from entrypoints.clock import clock_note
from entrypoints.service import Fairlog
from entrypoints.time_travel import TimeTravel
from entrypoints.views import PastStateView, StatsView


class Readiness(Struct, frozen=True):
    ready: bool
    reason: str | None = None  # why not
    note: str | None = None  # what to know of all the same


@get(["/livez", "/healthz"], media_type=MediaType.TEXT, tags=["operations"], sync_to_thread=False)
def livez() -> str:
    """The process answers. It says nothing about the database."""
    return "ok"


@get("/readyz", tags=["operations"])
async def readyz(fairlog: NamedDependency[Fairlog]) -> Response[Readiness]:
    """The schema is current, the log can be reached, and recovery is done."""
    readiness = await _readiness(fairlog)
    return Response(
        readiness,
        status_code=HTTP_200_OK if readiness.ready else HTTP_503_SERVICE_UNAVAILABLE,
    )


async def _readiness(fairlog: Fairlog) -> Readiness:
    if fairlog.writer.fatal is not None:
        return Readiness(ready=False, reason=str(fairlog.writer.fatal))
    if not fairlog.is_recovered:
        return Readiness(ready=False, reason="Recovery is not done yet.")
    try:
        current = await fairlog.read(lambda _: is_current(fairlog.database))
        reading = await fairlog.read(fairlog.log.reading) if current else None
    except FairlogError as error:
        return Readiness(ready=False, reason=str(error))
    if not current:
        return Readiness(ready=False, reason="The schema is not current; run `fairlog migrate`.")
    return Readiness(ready=True, note=None if reading is None else clock_note(reading))


@get("/v1/stats", tags=["operations"])
async def stats(
    fairlog: NamedDependency[Fairlog], as_of: FromQuery[str | None] = None
) -> StatsView | PastStateView:
    """Counts by state, the line, the global window, and what this process did.

    With `as_of`, a position or a time: how the service stood then, and all limits that were set.
    """
    if as_of is None:
        return await fairlog.stats()
    then, past = validation.as_of(as_of), TimeTravel(fairlog)
    return await fairlog.read(lambda connection: past.state(connection, then))
