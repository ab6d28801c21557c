"""The route that returns the events of the log in pages."""

from litestar import get
from litestar.di import NamedDependency

from adapters.log.audit_log import EventFilter, limited_to
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.events import EVENT_TYPES
from entrypoints.http import parameters
from entrypoints.http.access import key_of
from entrypoints.http.paging import limit_of, position_of
from entrypoints.http.strict_request import StrictRequest
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import EventPage


@get("/v1/audit", tags=["audit"])
async def audit(  # noqa: PLR0913, PLR0917 (a parameter each)
    request: StrictRequest,
    fairlog: NamedDependency[Fairlog],
    user_id: parameters.UserId = None,
    job_id: parameters.JobId = None,
    event_type: parameters.EventTypes = None,
    by: parameters.By = None,
    since: parameters.Since = None,
    until: parameters.Until = None,
    after: parameters.After = 0,
    limit: parameters.Limit = 100,
) -> EventPage:
    """Return events in log order. `since` is inclusive, `until` exclusive."""
    wanted = EventFilter(
        user_id=None if user_id is None else validation.user_id(user_id),
        job_id=None if job_id is None else validation.job_id(job_id),
        types=known_types(event_type or []),
        by=None if by is None else validation.key_name(by),
        since=None if since is None else validation.moment(since, "since"),
        until=None if until is None else validation.moment(until, "until"),
    )
    own = limited_to(wanted, key_of(request))
    return await fairlog.events(own, position_of(after), limit_of(limit))


def known_types(names: list[str]) -> list[str]:
    """Return the names. Raises `InvalidInput` if one is not a type of event."""
    for name in names:
        if name not in EVENT_TYPES:
            raise InvalidInput(
                f"There is no event type {name!r}; the types are {', '.join(EVENT_TYPES)}."
            )
    return names
