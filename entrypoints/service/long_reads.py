"""Separate threads for reads that take long or return much.

Examples are the state at a past position, a search, an explanation, and pages of bodies or of very
many entries. Claims, the check of deadlines and `/readyz` read little and must not wait for them.
Long reads fold, decode and copy in Python, so a few at once are as fast as many, and only the
results of a few are in memory.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sqlalchemy.engine import Connection

from domain.language.errors import QueueFull

LONG_READS_AT_ONCE: Final = 2
WAITING_MAX: Final = 64  # reads without a thread
WAIT_SECONDS_MAX: Final = 5.0  # for a thread
_BUSY: Final = "Too many long reads are under way; try again shortly."
LARGE_BYTES: Final = 256 * 1024  # of bodies; reading more takes some milliseconds
LARGE_ENTRIES: Final = 200  # of a page; reading more takes some milliseconds

T = TypeVar("T")


class LongReads:
    """A pool of LONG_READS_AT_ONCE threads called `name`. Use it on one event loop at a time."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(LONG_READS_AT_ONCE, thread_name_prefix=f"fairlog-{name}")
        self._free = asyncio.Semaphore(LONG_READS_AT_ONCE)
        self._waiting = 0

    async def run(
        self, read: Callable[[Callable[[Connection], T]], T], query: Callable[[Connection], T]
    ) -> T:
        """Run a query by `read` in one of the threads.

        Raises `QueueFull` if no thread is free within WAIT_SECONDS_MAX, and what `read` raises.
        """
        if self._waiting >= WAITING_MAX:
            raise QueueFull(_BUSY)
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await self._free.acquire()
        except TimeoutError:
            raise QueueFull(_BUSY) from None
        finally:
            self._waiting -= 1
        reply = asyncio.get_running_loop().run_in_executor(self._pool, read, query)
        reply.add_done_callback(self._note_done)
        try:
            # If the caller is cancelled, the thread still runs the query to its end.
            return await asyncio.shield(reply)
        finally:
            del reply  # it holds the error that is raised here

    def stop(self) -> None:
        """Wait for the reads that are running, and end the threads."""
        self._pool.shutdown()

    def _note_done(self, reply: "asyncio.Future[T]") -> None:
        self._free.release()
        if not reply.cancelled():
            reply.exception()  # marks the error as retrieved, even if the caller was cancelled
