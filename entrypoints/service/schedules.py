"""Changes of schedules, and reads of them."""

from sqlalchemy.engine import Connection

from domain.access.keys import ApiKey
from domain.decisions.answers import ScheduleDecided
from domain.language.commands import ScheduleCommand
from domain.language.errors import UnknownSchedule
from domain.language.identifiers import ScheduleName
from domain.schedules.schedule import Schedule
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.queries import Queries
from entrypoints.service.schedule_views import SchedulePage, ScheduleView, schedule_view
from projections.inline.schedules import schedules
from projections.queries.visible_jobs import conditions_of


async def change_schedule(fairlog: Fairlog, command: ScheduleCommand) -> ScheduleView | None:
    """Decide a command, and return the schedule after it, with the run that was decided; None: it
    is deleted. Raises the refusals of the command.
    """
    decided = await fairlog.writer.execute(command)
    assert isinstance(decided, ScheduleDecided), decided
    return None if decided.schedule is None else schedule_view(decided.schedule, decided.run)


async def schedule(
    queries: Queries, name: ScheduleName, seen_by: ApiKey | None = None
) -> ScheduleView:
    """Return a schedule. Raises `UnknownSchedule`, also if the key may not see it."""
    found = await queries.read(
        queries.with_saved_rows(lambda connection: queries.schedules.find(connection, name))
    )
    if found is None or (
        seen_by is not None and not seen_by.is_for(found.set.user_id, found.set.kind)
    ):
        raise UnknownSchedule(name)
    return schedule_view(found)


async def schedule_page(
    queries: Queries, after: str, limit: int, seen_by: ApiKey | None = None
) -> SchedulePage:
    """Return the next schedules by name; `seen_by` is the key that may see only its own."""
    read = queries.read if seen_by is None else queries.read_long
    shown, following = await read(
        queries.with_saved_rows(
            lambda connection: read_schedules(queries, connection, after, limit, seen_by)
        )
    )
    return SchedulePage([schedule_view(one) for one in shown], following)


def read_schedules(
    queries: Queries, connection: Connection, after: str, limit: int, seen_by: ApiKey | None
) -> tuple[list[Schedule], ScheduleName | None]:
    """Return the next schedules by name that a key may see, and the name after which those of the
    next page come; None: there are no more.
    """
    conditions = () if seen_by is None else tuple(conditions_of(seen_by, schedules))
    found = queries.schedules.after(connection, after, limit + 1, conditions)
    shown = found[:limit]
    return shown, shown[-1].name if len(found) > limit else None
