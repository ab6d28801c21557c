"""Schedules: when each is due next, and what came of its latest run."""

from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from msgspec import Struct
from sqlalchemy.engine import Connection

from domain.access.keys import ApiKey
from domain.schedules.schedule import Schedule
from entrypoints.dashboard.context import DashboardContext
from entrypoints.http.access import key_of
from entrypoints.http.strict_request import StrictRequest
from entrypoints.service.schedules import read_schedules

SCHEDULES_PER_PAGE: Final = 100


class ListedSchedule(Struct, frozen=True):
    """A schedule, and its timing as text."""

    schedule: Schedule
    timing: str


@get("/schedules")
async def schedules(
    request: StrictRequest, context: NamedDependency[DashboardContext], after: FromQuery[str] = ""
) -> Response[str]:
    """List schedules by name. `after` is the last name of the page before."""
    key = key_of(request)
    return await context.show(
        request,
        "schedules",
        "Schedules",
        lambda connection, _: _read(context, connection, after, key),
        is_long=key is not None,
    )


def _read(
    context: DashboardContext, connection: Connection, after: str, seen_by: ApiKey | None
) -> dict[str, Any]:
    shown, following = read_schedules(
        context.fairlog, connection, after, SCHEDULES_PER_PAGE, seen_by
    )
    return {
        "listed": [ListedSchedule(one, timing_text(one)) for one in shown],
        "after": after,
        "following": following,
    }


def timing_text(schedule: Schedule) -> str:
    """Return when a schedule is due, as text."""
    timing = schedule.set.timing
    if timing.every_seconds is not None:
        text = f"every {timing.every_seconds:,} s"
    else:
        text = f"{timing.cron} {timing.time_zone}"
    return f"{text}, up to {timing.jitter_seconds:,} s later" if timing.jitter_seconds else text
