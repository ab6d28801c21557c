"""Audit: the log itself, newest first, live or as of a moment."""

from datetime import datetime
from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.audit_log import EventFilter, limited_to
from domain.access.keys import ApiKey
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.events import EVENT_TYPES
from domain.language.identifiers import POSITION_MAX, KeyName, UserId
from entrypoints.dashboard.context import DashboardContext, ShownMoment
from entrypoints.dashboard.formatting import brief_json, pretty_json
from entrypoints.http.access import key_of
from entrypoints.http.audit import known_types
from entrypoints.http.strict_request import StrictRequest
from entrypoints.use_cases.time_travel import TimeTravel

EVENTS_PER_PAGE: Final = 100


class AuditQuery(Struct, frozen=True, kw_only=True):
    """The filter in the page's address, as it was typed."""

    user: str = ""
    job: str = ""
    types: list[str] = []
    by: str = ""  # the name of an API key
    as_of: str = ""  # a position or a time, inclusive
    before: str = ""  # a position

    @property
    def is_live(self) -> bool:
        return not (self.as_of or self.before)

    @property
    def may_take_long(self) -> bool:
        """Return True if no index finds the matching events."""
        wanted = EventFilter(
            user_id=UserId(self.user) if self.user else None,
            types=self.types,
            by=KeyName(self.by) if self.by else None,
        )
        return not self.job and wanted.may_match_little


class PastMoment(Struct, frozen=True):
    """The moment of the past that is shown."""

    position: int
    recorded_at: datetime | None  # UTC; None: before the first event


@get("/audit")
async def audit(
    request: StrictRequest,
    context: NamedDependency[DashboardContext],
    user: FromQuery[str] = "",
    job: FromQuery[str] = "",
    event_type: Annotated[list[str] | None, QueryParameter(name="type")] = None,
    by: FromQuery[str] = "",
    as_of: FromQuery[str] = "",
    before: FromQuery[str] = "",
) -> Response[str]:
    seen_by = key_of(request)
    types = [one for one in event_type or [] if one]
    asked = AuditQuery(user=user, job=job, types=types, by=by, as_of=as_of.strip(), before=before)

    def read(connection: Connection, _: ShownMoment) -> dict[str, object]:
        try:
            found = _read(context, connection, asked, seen_by)
            return {**found, "asked": asked, "problem": None}
        except InvalidInput as error:
            still = replace(asked, before="0")
            return {**_NOTHING, "asked": still, "problem": str(error)}

    return await context.show(
        request,
        "audit",
        "Audit",
        read,
        is_long=asked.may_take_long or seen_by is not None,
        asked=asked,
        types=list(EVENT_TYPES),
    )


@get("/audit/state")
async def system_state(
    request: Request[Any, Any, Any],
    context: NamedDependency[DashboardContext],
    as_of: FromQuery[str],
) -> Response[str]:
    """Show the system's state at a moment; the page of events loads it after itself.

    It is folded from the last snapshot before. Raises `InvalidInput`.
    """
    moment = validation.as_of(as_of.strip())
    return await context.show(
        request,
        "system_state",
        "System state",
        lambda connection, _: {"then": TimeTravel(context.fairlog).state(connection, moment)},
        is_long=True,
    )


_NOTHING: Final[dict[str, object]] = {
    "events": [],
    "older": None,
    "then": None,
    "has_system_state": False,
}


def _read(
    context: DashboardContext, connection: Connection, asked: AuditQuery, seen_by: ApiKey | None
) -> dict[str, object]:
    """Raises `InvalidInput`."""
    wanted = EventFilter(
        user_id=validation.user_id(asked.user) if asked.user else None,
        job_id=validation.job_id(_number(asked.job.removeprefix("#"), "job"))
        if asked.job
        else None,
        types=known_types(asked.types),
        by=validation.key_name(asked.by) if asked.by else None,
    )
    below = _number(asked.before, "before") if asked.before else None
    then = None
    if asked.as_of:
        then = _then(context, connection, validation.as_of(asked.as_of))
        below = min(then.position + 1, below or POSITION_MAX)
    own = limited_to(wanted, seen_by)
    found = audit_log.find_newest(connection, own, below, EVENTS_PER_PAGE + 1)
    shown = found[:EVENTS_PER_PAGE]
    return {
        "events": [(event, brief_json(event.data), pretty_json(event.data)[0]) for event in shown],
        "older": shown[-1].position if len(found) > EVENTS_PER_PAGE else None,
        "then": then,
        "has_system_state": then is not None and seen_by is None,
    }


def _then(context: DashboardContext, connection: Connection, as_of: int | datetime) -> PastMoment:
    """Raises `InvalidInput`."""
    position = TimeTravel(context.fairlog).position(connection, as_of)
    return PastMoment(position, audit_log.times_at(connection, [position]).get(position))


def _number(text: str, what: str) -> int:
    return validation.whole_number(text, what, 0, POSITION_MAX - 1)
