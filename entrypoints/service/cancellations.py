"""Telling workers at once which of their attempts were cancelled.

One a process, for all workers that listen here. What is cancelled through this process is looked up
at once, what is cancelled through another within POLL_SECONDS; nobody looks while nobody listens.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct

from adapters.supervision import Part, keep_running
from adapters.writer.writer import BatchWritten
from domain.language.events import JobCancelled
from domain.language.identifiers import JobId, WorkerId

POLL_SECONDS: Final = 0.25

AttemptKey = tuple[JobId, int]


class Cancelled(Struct, frozen=True):
    """Running attempts that were cancelled behind a position, up to another one."""

    up_to: int
    attempts: Sequence[tuple[WorkerId, AttemptKey]]


class Listener:
    """One call of a worker that waits."""

    def __init__(self) -> None:
        self.heard: list[AttemptKey] = []
        self.news = asyncio.Event()

    async def wait(
        self, seconds: float, unwanted: asyncio.Event | None = None
    ) -> Sequence[AttemptKey]:
        """What was cancelled; nothing when the time is over, the server stops, or `unwanted` is
        set: nobody waits for the answer any more.
        """
        awaited = [
            asyncio.ensure_future(one.wait()) for one in (self.news, unwanted) if one is not None
        ]
        try:
            await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in awaited:
                one.cancel()
        return self.heard


class Cancellations:
    """`position` asks the log for its latest position, `find` for what follows one."""

    def __init__(
        self,
        position: Callable[[], Awaitable[int]],
        find: Callable[[int], Awaitable[Cancelled]],
        part: Part | None = None,
    ) -> None:
        self._part = Part("cancellations") if part is None else part
        self._position = position
        self._find = find
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: dict[WorkerId, set[Listener]] = {}
        self._seen = 0  # up to here all who listen know
        self._news = asyncio.Event()
        self._starting = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        self._is_stopping = False

    def batch_written(self, batch: BatchWritten) -> None:
        """Observes the writer; called in its thread."""
        loop = self._loop
        if loop is not None and batch.has_any({JobCancelled.__name__}):
            with contextlib.suppress(RuntimeError):  # the loop closed just now
                loop.call_soon_threadsafe(self._news.set)

    @contextlib.asynccontextmanager
    async def listening(self, worker: WorkerId) -> AsyncIterator[Listener]:
        """From here on nothing is missed. Raises `LogUnavailable`."""
        listener = Listener()
        of_worker = self._listeners.setdefault(worker, set())
        of_worker.add(listener)
        try:
            await self._follow_from_here()
            if self._is_stopping:
                listener.news.set()
            yield listener
        finally:
            of_worker.discard(listener)
            if not of_worker and self._listeners.get(worker) is of_worker:
                del self._listeners[worker]

    def release(self) -> None:
        """The server stops: whoever listens has their answer now."""
        self._is_stopping = True
        for listener in [one for listeners in self._listeners.values() for one in listeners]:
            listener.news.set()

    async def _follow_from_here(self) -> None:
        async with self._starting:
            if self._following is None or self._following.done():
                self._loop = asyncio.get_running_loop()
                self._seen = await self._position()
                self._following = asyncio.create_task(
                    keep_running(self._part, self._follow), name="cancellations"
                )

    async def _follow(self) -> None:
        while self._listeners:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), POLL_SECONDS)
            self._news.clear()
            self._part.begins()
            self._tell(await self._find(self._seen))
            self._part.works()
        self._part.works()  # nobody listens

    def _tell(self, cancelled: Cancelled) -> None:
        self._seen = cancelled.up_to
        for worker, key in cancelled.attempts:
            for listener in self._listeners.get(worker, ()):
                listener.heard.append(key)
                listener.news.set()
