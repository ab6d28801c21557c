"""Immediate notification of workers about the cancellation of their attempts.

Cancellations that this process writes are reported at once, those of other processes after the next
poll of the log.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct

from adapters.supervision import Part
from domain.language.events import JobCancelled
from domain.language.identifiers import JobId, WorkerId
from entrypoints.feeds.log_watcher import LogWatcher

_IDLE_SECONDS: Final = 1.0  # between two checks whether a worker still listens

AttemptKey = tuple[JobId, int]  # the job and the number of its attempt


class Cancelled(Struct, frozen=True):
    """The running attempts that were cancelled after one position and up to another."""

    up_to: int  # position, inclusive
    attempts: Sequence[tuple[WorkerId, AttemptKey]]


class Listener:
    """A call of a worker that waits for cancellations."""

    def __init__(self) -> None:
        self.cancelled: list[AttemptKey] = []
        self.news = asyncio.Event()  # set when the call must be answered

    async def wait(
        self, seconds: float, unwanted: asyncio.Event | None = None
    ) -> Sequence[AttemptKey]:
        """Wait for a cancellation, and return the attempts that were cancelled.

        Returns none after `seconds`, when the server stops, or when `unwanted` is set because the
        caller has gone.
        """
        awaited = [
            asyncio.ensure_future(one.wait()) for one in (self.news, unwanted) if one is not None
        ]
        try:
            await asyncio.wait(awaited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in awaited:
                one.cancel()
        return self.cancelled


class Cancellations:
    """The listeners of all workers of a process. `find` reads cancellations after a position."""

    def __init__(
        self,
        watcher: LogWatcher,
        find: Callable[[int], Awaitable[Cancelled]],
        part: Part | None = None,
    ) -> None:
        self._watcher = watcher
        self._find = find
        self._cancelled = watcher.subscribe({JobCancelled.__name__})
        self._loop = watcher.loop(Part("cancellations") if part is None else part, self._run)
        self._listeners: dict[WorkerId, set[Listener]] = {}
        self._seen = 0  # position up to which cancellations have been reported
        self._starting = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def listening(self, worker: WorkerId) -> AsyncIterator[Listener]:
        """Listen for the block, in which no cancellation is missed. Raises `LogUnavailable`."""
        listener = Listener()
        of_worker = self._listeners.setdefault(worker, set())
        of_worker.add(listener)
        try:
            async with self._starting:
                if not self._loop.is_running:
                    self._seen = await self._watcher.read_position()
            with self._loop.needed():
                if self._watcher.is_stopping:
                    listener.news.set()
                yield listener
        finally:
            of_worker.discard(listener)
            if not of_worker and self._listeners.get(worker) is of_worker:
                del self._listeners[worker]

    def release(self) -> None:
        """Answer all listeners, after the watcher has stopped."""
        for listener in [one for listeners in self._listeners.values() for one in listeners]:
            listener.news.set()

    async def _run(self) -> None:
        while self._loop.is_needed:
            if await self._cancelled.wait_beyond(self._seen, _IDLE_SECONDS):
                self._loop.part.begins()
                self._report(await self._find(self._seen))
                self._loop.part.works()

    def _report(self, cancelled: Cancelled) -> None:
        self._seen = cancelled.up_to
        for worker, key in cancelled.attempts:
            for listener in self._listeners.get(worker, ()):
                listener.cancelled.append(key)
                listener.news.set()
