"""The log as Server-Sent Events: each event once, in order, resumable by position."""

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Annotated, Final

import msgspec
import structlog
from litestar import get
from litestar.di import NamedDependency
from litestar.params import HeaderParameter
from litestar.response import Stream

from adapters.log.audit_log import EventFilter, StoredEvent, limited_to
from domain.language import validation
from domain.language.errors import FairlogError, InvalidInput
from domain.language.identifiers import POSITION_MAX
from entrypoints.feeds.event_feed import Page
from entrypoints.feeds.log_watcher import LogWatcher
from entrypoints.http import parameters
from entrypoints.http.access import access_of, key_of, until_ended
from entrypoints.http.audit import known_types
from entrypoints.http.paging import position_of
from entrypoints.http.strict_request import StrictRequest
from entrypoints.http.waiting import mark_waiting
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.key_ring import Access
from entrypoints.service.views import event_view

HEARTBEAT_SECONDS: Final = 10.0  # proxies and browsers close silent connections
ENCODED_BYTES_MAX: Final = 8 * 1024 * 1024  # of encoded events kept for other clients
RETRY_MILLISECONDS: Final = 1000  # before a client connects again
_CATCHING_UP_SECONDS: Final = (0.25, 0.75, 0.0)  # the pauses after each read of the position
_MEDIA_TYPE: Final = "text/event-stream"
HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # otherwise nginx buffers events
}
LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID",
        description="The position of the last event that the client received; browsers send it.",
    ),
]
_log = structlog.get_logger()


class EncodedEvents:
    """A cache of the latest events as encoded frames, which all clients share.

    Joining such frames sends about thirty times as many events per second to a client as one
    `ServerSentEventMessage` per event. `bytes_max` limits the size of the cached frames.
    """

    def __init__(self, bytes_max: int = ENCODED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._encoded: OrderedDict[int, bytes] = OrderedDict()  # by position, the latest last

    def frame(self, event: StoredEvent) -> bytes:
        """Return an event as a frame of the stream."""
        encoded = self._encoded.get(event.position)
        if encoded is None:
            data = msgspec.json.encode(event_view(event))
            encoded = b"id: %d\ndata: %s\n\n" % (event.position, data)
            self._encoded[event.position] = encoded
            self._bytes += len(encoded)
            while self._bytes > self._bytes_max:
                self._bytes -= len(self._encoded.popitem(last=False)[1])
        return encoded


@get("/v1/stream", media_type=_MEDIA_TYPE, tags=["audit"])
async def stream(  # noqa: PLR0913, PLR0917 (a parameter each)
    request: StrictRequest,
    fairlog: NamedDependency[Fairlog],
    encoded: NamedDependency[EncodedEvents],
    user_id: parameters.UserId = None,
    job_id: parameters.JobId = None,
    event_type: parameters.EventTypes = None,
    by: parameters.By = None,
    after: parameters.AfterOrNow = None,
    last_event_id: LastEventId = None,
) -> Stream:
    """Send every event after `Last-Event-ID`, else after `after`, else every new event.

    An event's `id` is its position, and its data is the same as in `/v1/audit`. A client that
    reconnects with the last position it received misses no event and receives none twice.
    """
    wanted = EventFilter(
        user_id=None if user_id is None else validation.user_id(user_id),
        job_id=None if job_id is None else validation.job_id(job_id),
        types=known_types(event_type or []),
        by=None if by is None else validation.key_name(by),
    )
    wanted = limited_to(wanted, key_of(request))
    position = last_event_position(last_event_id)
    if position is None and after is not None:
        position = position_of(after)
    if position is None:
        position = await fairlog.log_watcher.read_position()
    else:
        await wait_for_position(fairlog.log_watcher, position)
    mark_waiting(request)
    return Stream(
        _frames(fairlog, encoded, wanted, position, access_of(request)),
        media_type=_MEDIA_TYPE,
        headers=HEADERS,
    )


async def _frames(
    fairlog: Fairlog,
    encoded: EncodedEvents,
    wanted: EventFilter,
    position: int,
    access: Access | None,
) -> AsyncIterator[bytes]:
    """Yield frames until the server stops or the caller's key ends."""
    # A client that is disconnected before its first event resumes at this position.
    yield b"retry: %d\nid: %d\n\n" % (RETRY_MILLISECONDS, position)
    try:
        async with contextlib.aclosing(
            until_ended(
                fairlog, access, fairlog.event_feed.listen(wanted, position, HEARTBEAT_SECONDS)
            )
        ) as pages:
            async for page in pages:
                frame = _frame(page, encoded)
                del page  # while a client does not read, only its frame stays in memory
                yield frame
    except FairlogError as error:  # the client reconnects
        _log.warning("stream_ended", reason=str(error))


def _frame(page: Page, encoded: EncodedEvents) -> bytes:
    """Encode the events of a page, and the position up to which all events were checked."""
    frames = [encoded.frame(event) for event in page.events]
    if not page.events or page.events[-1].position != page.position:
        frames.append(b": still here\nid: %d\n\n" % page.position)
    return b"".join(frames)


def last_event_position(header: str | None) -> int | None:
    """Parse a `Last-Event-ID` header; return None if it is absent. Raises `InvalidInput`."""
    if not header:
        return None
    try:
        return validation.whole_number(header, "Last-Event-ID", 0, POSITION_MAX)
    except InvalidInput:
        raise InvalidInput(
            "Last-Event-ID must be the position of the last event received."
        ) from None


async def wait_for_position(watcher: LogWatcher, position: int) -> int:
    """Return `position`, at which a client resumes, as soon as the log reaches it.

    Raises `InvalidInput` if it does not within a second, in which a server that is behind others
    can catch up. Such a client read another log, and would receive nothing until this one is as
    long.
    """
    for seconds in _CATCHING_UP_SECONDS:
        if position <= (end := await watcher.read_position()):
            return position
        await watcher.pause(seconds)
    raise InvalidInput(
        f"The log ends at position {end}, before {position}: it is not the log that was seen. "
        "Start again without Last-Event-ID and after."
    )
