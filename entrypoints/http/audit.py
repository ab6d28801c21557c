"""The log itself, for those who ask what happened."""

from datetime import datetime
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter

from adapters.log.audit_log import EventFilter
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.events import EVENT_TYPES
from entrypoints.http.paging import limit_of, position_of
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import EventPage


@get("/v1/audit", tags=["audit"])
async def audit(
    fairlog: NamedDependency[Fairlog],
    user_id: FromQuery[str | None] = None,
    job_id: FromQuery[int | None] = None,
    event_type: Annotated[list[str] | None, QueryParameter(name="type")] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    after: FromQuery[int] = 0,
    limit: FromQuery[int] = 100,
) -> EventPage:
    """Events in log order. `since` is inclusive, `until` exclusive, `type` may come repeatedly."""
    wanted = EventFilter(
        user_id=None if user_id is None else validation.user_id(user_id),
        job_id=None if job_id is None else validation.job_id(job_id),
        types=known_types(event_type or []),
        since=None if since is None else validation.moment(since, "since"),
        until=None if until is None else validation.moment(until, "until"),
    )
    return await fairlog.events(wanted, position_of(after), limit_of(limit))


def known_types(names: list[str]) -> list[str]:
    """Raises `InvalidInput` for a name that is no type of event."""
    for name in names:
        if name not in EVENT_TYPES:
            raise InvalidInput(
                f"There is no event type {name!r}; there are {', '.join(EVENT_TYPES)}."
            )
    return names
