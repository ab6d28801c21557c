"""Audit: the log itself, newest first, live at its end or as of a moment."""

from datetime import datetime
from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.audit_log import EventFilter
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.events import EVENT_TYPES
from domain.language.identifiers import POSITION_MAX, UserId
from entrypoints.dashboard.context import DashboardContext, ShownMoment
from entrypoints.dashboard.formatting import brief_json, pretty_json
from entrypoints.http.audit import known_types
from entrypoints.use_cases.time_travel import TimeTravel

EVENTS_PER_PAGE: Final = 100


class AuditQuery(Struct, frozen=True, kw_only=True):
    """As it stands in the address."""

    user: str = ""
    job: str = ""
    types: list[str] = []
    as_of: str = ""  # a position or a time, inclusive
    before: str = ""  # a position

    @property
    def is_live(self) -> bool:
        return not (self.as_of or self.before)

    @property
    def may_take_long(self) -> bool:
        """True where no index gives what it lets through."""
        wanted = EventFilter(user_id=UserId(self.user) if self.user else None, types=self.types)
        return not self.job and wanted.may_match_little


class Then(Struct, frozen=True):
    """The moment that is shown."""

    position: int
    recorded_at: datetime | None  # UTC; None: before the first event


@get("/audit")
async def audit(
    request: Request[Any, Any, Any],
    desk: NamedDependency[DashboardContext],
    user: FromQuery[str] = "",
    job: FromQuery[str] = "",
    event_type: Annotated[list[str] | None, QueryParameter(name="type")] = None,
    as_of: FromQuery[str] = "",
    before: FromQuery[str] = "",
) -> Response[str]:
    types = [one for one in event_type or [] if one]
    asked = AuditQuery(user=user, job=job, types=types, as_of=as_of.strip(), before=before)

    def read(connection: Connection, _: ShownMoment) -> dict[str, object]:
        try:
            return {**_read(desk, connection, asked), "asked": asked, "problem": None}
        except InvalidInput as error:
            still = replace(asked, before="0")
            return {**_NOTHING, "asked": still, "problem": str(error)}

    return await desk.show(
        request,
        "audit",
        "Audit",
        read,
        is_long=asked.may_take_long,
        asked=asked,
        types=list(EVENT_TYPES),
    )


@get("/audit/standing")
async def standing(
    request: Request[Any, Any, Any], desk: NamedDependency[DashboardContext], as_of: FromQuery[str]
) -> Response[str]:
    """How all stood at a moment; the page of its events asks for it when it is there already.

    It is folded from the last snapshot before. Raises `InvalidInput`.
    """
    moment = validation.as_of(as_of.strip())
    return await desk.show(
        request,
        "standing",
        "Standing",
        lambda connection, _: {"then": TimeTravel(desk.fairlog).state(connection, moment)},
        is_long=True,
    )


_NOTHING: Final[dict[str, object]] = {"events": [], "older": None, "then": None}


def _read(desk: DashboardContext, connection: Connection, asked: AuditQuery) -> dict[str, object]:
    """Raises `InvalidInput`."""
    wanted = EventFilter(
        user_id=validation.user_id(asked.user) if asked.user else None,
        job_id=validation.job_id(_number(asked.job.removeprefix("#"), "job"))
        if asked.job
        else None,
        types=known_types(asked.types),
    )
    below = _number(asked.before, "before") if asked.before else None
    then = None
    if asked.as_of:
        then = _then(desk, connection, validation.as_of(asked.as_of))
        below = min(then.position + 1, below or POSITION_MAX)
    found = audit_log.find_newest(connection, wanted, below, EVENTS_PER_PAGE + 1)
    shown = found[:EVENTS_PER_PAGE]
    return {
        "events": [(event, brief_json(event.data), pretty_json(event.data)[0]) for event in shown],
        "older": shown[-1].position if len(found) > EVENTS_PER_PAGE else None,
        "then": then,
    }


def _then(desk: DashboardContext, connection: Connection, as_of: int | datetime) -> Then:
    """Raises `InvalidInput`."""
    position = TimeTravel(desk.fairlog).position(connection, as_of)
    return Then(position, audit_log.times_at(connection, [position]).get(position))


def _number(text: str, what: str) -> int:
    return validation.whole_number(text, what, 0, POSITION_MAX - 1)
