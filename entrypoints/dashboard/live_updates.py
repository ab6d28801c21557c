"""A stream of ticks for views that ask for their live part anew. The URL path stays `/pulse`.

The events themselves are on `/v1/stream`.
"""

import contextlib
from collections.abc import AsyncIterator

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromQuery
from litestar.response import ServerSentEvent, ServerSentEventMessage

from entrypoints.dashboard.context import DashboardContext
from entrypoints.http.access import access_of, until_ended
from entrypoints.http.paging import position_of
from entrypoints.http.stream import (
    HEADERS,
    RETRY_MILLISECONDS,
    LastEventId,
    last_event_position,
    wait_for_position,
)
from entrypoints.http.strict_request import StrictRequest
from entrypoints.http.waiting import mark_waiting
from entrypoints.service.key_ring import Access


@get("/pulse")
async def live_updates(
    request: StrictRequest,
    context: NamedDependency[DashboardContext],
    after: FromQuery[int] = 0,
    last_event_id: LastEventId = None,
) -> ServerSentEvent:
    """Send a message at each tick; its `data` and `id` are the position of the latest event. End
    with the caller's session.

    Raises `InvalidInput` for a position that the log does not reach.
    """
    seen = last_event_position(last_event_id)
    position = await wait_for_position(
        context.fairlog.log_watcher, position_of(after) if seen is None else seen
    )
    mark_waiting(request)
    return ServerSentEvent(_messages(context, position, access_of(request)), headers=HEADERS)


async def _messages(
    context: DashboardContext, position: int, access: Access | None
) -> AsyncIterator[ServerSentEventMessage]:
    yield ServerSentEventMessage(data=None, id=position, retry=RETRY_MILLISECONDS)
    ticks = until_ended(context.fairlog, access, context.ticker.listen(position))
    async with contextlib.aclosing(ticks):
        async for end in ticks:
            yield ServerSentEventMessage(data=end, id=end)
