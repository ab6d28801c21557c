"""A stream that only says when to look again, for views that ask for their figures anew.

The events themselves are on `/v1/stream`.
"""

from collections.abc import AsyncIterator

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.response import Stream

from entrypoints.dashboard.context import DashboardContext
from entrypoints.http.paging import position_of
from entrypoints.http.stream import HEADERS, LastEventId, last_seen, reached
from entrypoints.http.strict_json import StrictRequest
from entrypoints.http.waiting import waits_for_news


@get("/pulse")
async def pulse(
    request: StrictRequest,
    desk: NamedDependency[DashboardContext],
    after: FromQuery[int] = 0,
    last_event_id: LastEventId = None,
) -> Stream:
    """At each beat: `data` and `id` are the position of the latest event."""
    seen = last_seen(last_event_id)
    position = await reached(desk.fairlog.log_watcher, position_of(after) if seen is None else seen)
    waits_for_news(request)
    return Stream(_frames(desk, position), media_type="text/event-stream", headers=HEADERS)


async def _frames(desk: DashboardContext, position: int) -> AsyncIterator[bytes]:
    yield b"retry: 1000\nid: %d\n\n" % position
    async for end in desk.beat.listen(position):
        yield b"id: %d\ndata: %d\n\n" % (end, end)
