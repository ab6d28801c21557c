"""Audit: the log itself, newest first, live at its end or as of a moment."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, QueryParameter
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.event_log import EventFilter
from domain import validation
from domain.errors import InvalidInput
from domain.events import EVENT_TYPES
from domain.identifiers import POSITION_MAX, JobId
from entrypoints.dashboard.desk import Desk, Moment
from entrypoints.dashboard.words import pretty_json
from entrypoints.http.audit import known_types

EVENTS_A_PAGE: Final = 100


class Asked(Struct, frozen=True, kw_only=True):
    """As it stands in the address."""

    user: str = ""
    job: str = ""
    types: list[str] = []
    as_of: str = ""  # a position or a time, inclusive
    before: str = ""  # a position

    @property
    def is_live(self) -> bool:
        return not (self.as_of or self.before)


@get("/audit")
async def audit(
    request: Request[Any, Any, Any],
    desk: NamedDependency[Desk],
    user: FromQuery[str] = "",
    job: FromQuery[str] = "",
    event_type: Annotated[list[str] | None, QueryParameter(name="type")] = None,
    as_of: FromQuery[str] = "",
    before: FromQuery[str] = "",
) -> Response[str]:
    types = [one for one in event_type or [] if one]
    asked = Asked(user=user, job=job, types=types, as_of=as_of.strip(), before=before)
    problem = None
    wanted, below = EventFilter(), None
    try:
        wanted, below = _meant(asked)
    except InvalidInput as error:
        problem, asked = str(error), replace(asked, before="0")

    def read(connection: Connection, _: Moment) -> dict[str, object]:
        log = desk.fairlog.log
        found = log.find_newest(connection, wanted, below, EVENTS_A_PAGE + 1) if not problem else []
        shown = found[:EVENTS_A_PAGE]
        return {
            "events": [(event, pretty_json(event.data)[0]) for event in shown],
            "older": shown[-1].position if len(found) > EVENTS_A_PAGE else None,
            "asked": asked,
            "problem": problem,
        }

    return await desk.show(request, "audit", "Audit", read, asked=asked, types=list(EVENT_TYPES))


def _meant(asked: Asked) -> tuple[EventFilter, int | None]:
    """The filter, and the position below which to look. Raises `InvalidInput`."""
    wanted = EventFilter(
        user_id=validation.user_id(asked.user) if asked.user else None,
        job_id=validation.job_id(_number(asked.job.removeprefix("#"), "job"))
        if asked.job
        else None,
        types=known_types(asked.types),
    )
    below = _number(asked.before, "before") if asked.before else None
    if asked.as_of.isdigit():
        end = _number(asked.as_of, "as of") + 1
        below = end if below is None else min(below, end)
    elif asked.as_of:
        wanted = replace(wanted, until=_moment(asked.as_of))
    return wanted, below


def _job_id(text: str) -> JobId:
    return validation.job_id(_number(text.strip().removeprefix("#"), "job"))


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < POSITION_MAX):
        raise InvalidInput(f"{what} is a whole number.")
    return int(text)


def _moment(text: str) -> datetime:
    """A time without a zone is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("as of is a position, or a time like 2026-01-31T12:00:00Z.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
