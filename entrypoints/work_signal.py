"""Waking those who wait for work: at once by this process, soon by any other.

A commit of this process that puts a job into the line wakes them directly. Those of other processes
are seen by one small query, asked a few times a second for all who wait, and by nobody when nobody
does.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from adapters.supervision import Part, keep_running
from adapters.writer import BatchWritten
from domain.events import (
    AttemptEnded,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobSubmitted,
    LimitChanged,
)

POLL_SECONDS: Final = 0.25
# What may put somebody into the line; an end frees a place under a cap.
_MAY_BRING_WORK: Final = {
    event.__name__ for event in (
        JobSubmitted, JobReleased, JobRequeued, LimitChanged, JobCompleted, JobFailed, JobCancelled,
        AttemptEnded,
    )
}  # fmt: skip


class WorkSignal:
    """One a process. `read_position` asks the log for its latest position."""

    def __init__(
        self, read_position: Callable[[], Awaitable[int]], part: Part | None = None
    ) -> None:
        self._part = Part("work_news") if part is None else part
        self._read_position = read_position
        self._loop: asyncio.AbstractEventLoop | None = None
        self._seen = 0  # the latest position that waiters were woken for
        self._news: asyncio.Event | None = None
        self._waiting = 0
        self._is_stopping = False
        self._poll: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Call it on the loop on which others will wait."""
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()

    def batch_written(self, batch: BatchWritten) -> None:
        """Observes the writer; called in its thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop closed just now
                loop.call_soon_threadsafe(
                    self._advance, batch.position, batch.has_any(_MAY_BRING_WORK)
                )

    def mark(self) -> asyncio.Event:
        """Take it before looking for work: it is set as soon as there may be some after that."""
        assert self._news is not None, "start the signal first"
        return self._news

    async def wait(
        self, mark: asyncio.Event, seconds: float, unwanted: asyncio.Event | None = None
    ) -> bool:
        """Whether there may be work; False when the time went by without, when the server stops,
        and when `unwanted` is set: nobody waits for the answer any more.
        """
        if self._is_stopping:
            return False
        self._waiting += 1
        if self._poll is None or self._poll.done():
            self._poll = asyncio.create_task(
                keep_running(self._part, self._poll_others), name="work-signal"
            )
        awaited = [asyncio.ensure_future(one.wait()) for one in (mark, unwanted) if one is not None]
        try:
            await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting -= 1
            for one in awaited:
                one.cancel()
        return (
            mark.is_set() and not self._is_stopping and (unwanted is None or not unwanted.is_set())
        )

    def release(self) -> None:
        """The server stops: whoever waits has their answer now, and nobody waits from here on."""
        self._is_stopping = True
        self.wake_all()

    def wake_all(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = asyncio.Event()

    async def stop(self) -> None:
        self.release()
        if self._poll is not None:
            self._poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll

    def _advance(self, position: int, brings_work: bool) -> None:  # noqa: FBT001 (call_soon)
        self._seen = max(self._seen, position)
        if brings_work:
            self.wake_all()

    async def _poll_others(self) -> None:
        while self._waiting:
            await asyncio.sleep(POLL_SECONDS)
            self._part.begins()
            position = await self._read_position()
            self._part.works()
            if position > self._seen:
                self._seen = position
                self.wake_all()
        self._part.works()  # nobody waits
