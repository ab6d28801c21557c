"""Routes for schedules."""

from urllib.parse import unquote

from litestar import Controller, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK, HTTP_202_ACCEPTED, HTTP_204_NO_CONTENT

from adapters.clock import SystemClock
from domain.language import validation
from domain.language.commands import DeleteSchedule, ScheduleCommand, TriggerSchedule
from domain.language.errors import UnknownSchedule
from entrypoints.http.access import key_of, sent_by
from entrypoints.http.paging import limit_of
from entrypoints.http.parameters import Cursor, Limit, ScheduleInPath
from entrypoints.http.schedule_requests import BackfillSpan, ScheduleChange
from entrypoints.http.strict_request import StrictRequest
from entrypoints.service import schedules
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.schedule_views import SchedulePage, ScheduleView


class ScheduleController(Controller):
    """Routes for schedules: jobs that are submitted again and again."""

    path = "/v1/schedules"
    tags = ("schedules",)

    @get()
    async def list_schedules(
        self,
        request: StrictRequest,
        fairlog: NamedDependency[Fairlog],
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> SchedulePage:
        """List schedules by name, with their next and latest runs."""
        return await schedules.schedule_page(
            fairlog, cursor or "", limit_of(limit), key_of(request)
        )

    @get("/{name:str}")
    async def get_schedule(
        self, name: ScheduleInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> ScheduleView:
        """Return a schedule, with its next and latest runs."""
        named = validation.schedule_name(unquote(name))
        return await schedules.schedule(fairlog, named, key_of(request))

    @put("/{name:str}")
    async def set_schedule(
        self,
        name: ScheduleInPath,
        request: StrictRequest,
        data: JSONBody[ScheduleChange],
        fairlog: NamedDependency[Fairlog],
    ) -> ScheduleView:
        """Make a schedule, or replace it. A time that has come stays due unless cron, interval,
        zone or jitter change.
        """
        named = validation.schedule_name(unquote(name))
        return await _changed(request, fairlog, data.to_command(named, SystemClock().now()))

    @delete("/{name:str}", status_code=HTTP_204_NO_CONTENT)
    async def remove(
        self, name: ScheduleInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> None:
        """Delete a schedule. Its jobs are left alone."""
        command = DeleteSchedule(name=validation.schedule_name(unquote(name)))
        await schedules.change_schedule(fairlog, sent_by(request, command))

    @post("/{name:str}/trigger", status_code=HTTP_200_OK)
    async def trigger(
        self, name: ScheduleInPath, request: StrictRequest, fairlog: NamedDependency[Fairlog]
    ) -> ScheduleView:
        """Run a schedule now, by its overlap policy, whether it is paused or not. `run` says what
        came of it.
        """
        command = TriggerSchedule(name=validation.schedule_name(unquote(name)))
        return await _changed(request, fairlog, command)

    @post("/{name:str}/backfill", status_code=HTTP_202_ACCEPTED)
    async def backfill(
        self,
        name: ScheduleInPath,
        request: StrictRequest,
        data: JSONBody[BackfillSpan],
        fairlog: NamedDependency[Fairlog],
    ) -> ScheduleView:
        """Run each due time of a span of the past once, oldest first, whatever came of it then and
        whatever the overlap policy says. The user's limits hold: it goes on when they allow.
        """
        command = data.to_command(validation.schedule_name(unquote(name)))
        return await _changed(request, fairlog, command)


async def _changed(
    request: StrictRequest, fairlog: Fairlog, command: ScheduleCommand
) -> ScheduleView:
    view = await schedules.change_schedule(fairlog, sent_by(request, command))
    if view is None:  # it was deleted in the same batch
        raise UnknownSchedule(command.name)
    return view
