"""The end of the log, read once a process however many listen.

Recent events are kept in a ring. A listener asks for what is behind its position, at its own pace:
it has no queue that could grow, and one that fell behind the ring reads the log in pages until it
has caught up. Without listeners nothing is read.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from msgspec import Struct

from adapters.log.audit_log import EventFilter, StoredEvent
from adapters.supervision import Part, keep_running
from adapters.writer.writer import BatchWritten
from entrypoints.runtime.page_bytes import fitting

POLL_SECONDS: Final = 0.25  # between two looks for what other processes wrote
EVENTS_PER_PAGE: Final = 500
BYTES_PER_PAGE: Final = 256 * 1024  # of their data
EVENTS_KEPT_MAX: Final = 5_000
# Listeners that read the log; the others wait, or they would have all threads that read, and the
# event loop would make pages for nobody but them.
CATCHING_UP_AT_ONCE: Final = 2
BYTES_KEPT_MAX: Final = 16 * 1024 * 1024

ReadEvents = Callable[[EventFilter, int, int], Awaitable[Sequence[StoredEvent]]]


class Page(Struct, frozen=True):
    events: Sequence[StoredEvent]
    position: int  # everything up to it has been looked at


class LogWatcher:
    """`read_events` gives up to so many events behind a position; both ask the database."""

    def __init__(
        self,
        read_events: ReadEvents,
        read_position: Callable[[], Awaitable[int]],
        part: Part | None = None,
    ) -> None:
        self._part = Part("log_news") if part is None else part
        self._read_events = read_events
        self._read_position = read_position
        self._ring: deque[StoredEvent] = deque()
        self._ring_bytes = 0  # of its events' data
        self._end = 0  # position of the latest event read
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None
        self._written = asyncio.Event()  # this process wrote something
        self._news = asyncio.Event()  # replaced each time: set for all who hold the old one
        self._catching_up = asyncio.Semaphore(CATCHING_UP_AT_ONCE)
        self._listeners = 0
        self._stopping = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def start(self) -> None:
        """Call it on the loop on which others will listen."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Let every listener end."""
        self._stopping.set()
        self._wake()

    async def stop_reading(self) -> None:
        self.stop()
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader

    def batch_written(self, _: BatchWritten) -> None:
        """Observes the writer; called in its thread."""
        loop = self._loop
        if loop is not None and self._listeners and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop closed just now
                loop.call_soon_threadsafe(self._written.set)

    async def pause(self, seconds: float) -> None:
        """For so long, or until the server stops."""
        await _comes(self._stopping, seconds)

    async def position(self) -> int:
        """Of the latest event that there is. Raises `LogUnavailable`."""
        return await self._read_position()

    async def beyond(self, position: int, idle_seconds: float) -> AsyncGenerator[int, None]:
        """Where the log ends, whenever that is beyond the last said; again after so long without.

        For who wants to know that there is news and not which. Until the server stops.
        """
        with self._listening():
            while not self.is_stopping:
                news = self._news
                if self._end > position:
                    position = self._end
                    yield position
                elif not await _comes(news, idle_seconds):
                    yield position

    async def listen(
        self, wanted: EventFilter, after: int, idle_seconds: float
    ) -> AsyncIterator[Page]:
        """Pages of events behind a position, as they come, until the server stops; an empty one
        whenever there was nothing for so long.

        Raises `LogUnavailable` when the log has to be read and does not answer.
        """
        position = after
        with self._listening():
            while not self.is_stopping:
                news = self._news
                page = [await self._page(wanted, position)]
                end = page[0].position
                if page[0].events:
                    yield page.pop()  # nor kept here while a client does not read
                if end > position:
                    position = end
                elif not await _comes(news, idle_seconds):
                    yield Page([], end)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Somebody listens: the log is read."""
        self._listeners += 1
        if self._reader is None or self._reader.done():
            self._ring.clear()  # there is a gap behind it
            self._ring_bytes = 0
            self._end = 0
            self._reader = asyncio.create_task(keep_running(self._part, self._read), name="tail")
        try:
            yield
        finally:
            self._listeners -= 1

    async def _page(self, wanted: EventFilter, after: int) -> Page:
        page = await self._found(wanted, after)
        sizes = (len(event.data) for event in page.events)
        shown = fitting(page.events, sizes, BYTES_PER_PAGE)
        return page if len(shown) == len(page.events) else Page(shown, shown[-1].position)

    async def _found(self, wanted: EventFilter, after: int) -> Page:
        if self._ring and after >= self._ring[0].position - 1:
            # Positions have no gaps, so the place in the ring is known.
            skipped = max(0, after - self._ring[0].position + 1)
            behind = list(islice(self._ring, skipped, skipped + EVENTS_PER_PAGE))
            return Page(
                [event for event in behind if lets_through(wanted, event)],
                behind[-1].position if behind else after,
            )
        end = self._end  # read before: what is found up to there is all there is
        if end <= after:
            return Page([], after)
        async with self._catching_up:
            found = await self._read_events(wanted, after, EVENTS_PER_PAGE)
        if len(found) == EVENTS_PER_PAGE:
            return Page(found, found[-1].position)
        return Page(found, max(end, found[-1].position if found else 0))

    async def _read(self) -> None:
        while self._listeners and not self.is_stopping:
            self._part.begins()
            await self._read_on()
            self._part.works()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._written.wait()
            self._written.clear()
        self._part.works()  # nobody listens

    async def _read_on(self) -> None:
        if not self._end:
            self._end = await self._read_position()
            self._wake()
        while found := await self._read_events(EventFilter(), self._end, EVENTS_PER_PAGE):
            self._keep(found)
            self._end = found[-1].position
            self._wake()

    def _keep(self, found: Sequence[StoredEvent]) -> None:
        self._ring.extend(found)
        self._ring_bytes += sum(len(event.data) for event in found)
        while len(self._ring) > EVENTS_KEPT_MAX or self._ring_bytes > BYTES_KEPT_MAX:
            self._ring_bytes -= len(self._ring.popleft().data)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _comes(news: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return False
    return True


def lets_through(wanted: EventFilter, event: StoredEvent) -> bool:
    """As the log's own query; times are not looked at, since what comes is newer than all."""
    return (
        (wanted.user_id is None or event.user_id == wanted.user_id)
        and (wanted.job_id is None or event.job_id == wanted.job_id)
        and (not wanted.types or event.type in wanted.types)
    )
