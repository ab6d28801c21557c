"""Pages of the log's events as they come, read once per process however many listen.

A listener asks for the events beyond its position, at its own pace: it has no queue that could
grow. One that is behind the events in memory reads the log in pages until it has caught up.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct

from adapters.log.audit_log import EventFilter, StoredEvent
from adapters.supervision import Part
from domain.language.events import LossAccepted
from entrypoints.feeds.log_watcher import LogWatcher
from entrypoints.feeds.recent_events import RecentEvents
from entrypoints.runtime.page_bytes import fitting

EVENTS_PER_PAGE: Final = 500
BYTES_PER_PAGE: Final = 256 * 1024  # of the events' data
EVENTS_KEPT_MAX: Final = 5_000
BYTES_KEPT_MAX: Final = 16 * 1024 * 1024
# Listeners that read the log; the others wait. Else they would occupy all reading threads, and the
# event loop would make pages for nobody but them.
CATCHING_UP_AT_ONCE: Final = 2
_IDLE_SECONDS: Final = 1.0  # between two checks of whether anybody still listens

ReadEvents = Callable[[EventFilter, int, int], Awaitable[Sequence[StoredEvent]]]


class Page(Struct, frozen=True):
    events: Sequence[StoredEvent]
    position: int  # every event up to it was looked at


class EventFeed:
    """One per process. `read_events` reads the events beyond a position, up to a number of them."""

    def __init__(
        self,
        watcher: LogWatcher,
        read_events: ReadEvents,
        part: Part | None = None,
        *,
        events_per_page: int = EVENTS_PER_PAGE,
        bytes_per_page: int = BYTES_PER_PAGE,
        events_kept_max: int = EVENTS_KEPT_MAX,
        bytes_kept_max: int = BYTES_KEPT_MAX,
    ) -> None:
        self._watcher = watcher
        self._read_events = read_events
        self._events_per_page = events_per_page
        self._bytes_per_page = bytes_per_page
        self._events_kept_max = events_kept_max
        self._end = watcher.rising_number()  # position of the latest event read
        self._recent = RecentEvents[StoredEvent](events_kept_max, bytes_kept_max, size_of=_size)
        self._reading = watcher.loop(Part("event_feed") if part is None else part, self._read)
        self._catching_up = asyncio.Semaphore(CATCHING_UP_AT_ONCE)

    @property
    def listeners(self) -> int:
        return self._reading.users

    async def listen(
        self, wanted: EventFilter, after: int, idle_seconds: float
    ) -> AsyncGenerator[Page]:
        """Yield pages of events beyond `after` as they come, and an empty page whenever nothing
        came for `idle_seconds`. Ends when the server stops.

        Raises `LogUnavailable` when the log has to be read and does not answer.
        """
        position = after
        with self._reading.needed():
            while not self._watcher.is_stopping:
                page = [await self._page(wanted, position)]
                end = page[0].position
                if page[0].events:
                    yield page.pop()  # not kept here while a client does not read
                if end > position:
                    position = end
                elif not await self._end.wait_beyond(position, idle_seconds):
                    yield Page([], end)

    async def _page(self, wanted: EventFilter, after: int) -> Page:
        page = await self._find(wanted, after)
        shown = fitting(page.events, map(_size, page.events), self._bytes_per_page)
        return page if len(shown) == len(page.events) else Page(shown, shown[-1].position)

    async def _find(self, wanted: EventFilter, after: int) -> Page:
        if recent := self._recent.beyond(after, self._events_per_page):
            return Page([one for one in recent if wanted.matches(one)], recent[-1].position)
        end = self._end.value  # read before: what is found up to there is complete
        if end <= after:
            return Page([], after)
        async with self._catching_up:
            found = await self._read_events(wanted, after, self._events_per_page)
        if len(found) == self._events_per_page:
            return Page(found, found[-1].position)
        return Page(found, max(end, found[-1].position if found else 0))

    async def _read(self) -> None:
        head = await self._watcher.read_position()
        if not self._end.value or head - self._end.value > self._events_kept_max:
            self._end.rise_to(head)  # whoever asks for the events before reads them
            self._recent.clear()
        while self._reading.is_needed:
            if not await self._watcher.head.wait_beyond(self._end.value, _IDLE_SECONDS):
                continue
            self._reading.part.begins()
            while found := await self._read_events(
                EventFilter(), self._end.value, self._events_per_page
            ):
                if any(one.type == LossAccepted.__name__ for one in found):
                    self._recent.clear()  # what was lost
                self._recent.add(found)
                self._end.rise_to(found[-1].position)
                if self._end.value >= self._watcher.head.value:
                    break
            else:  # a replica that is behind
                await self._watcher.pause(self._watcher.poll_seconds)
            self._reading.part.works()


def _size(event: StoredEvent) -> int:
    return len(event.data)
