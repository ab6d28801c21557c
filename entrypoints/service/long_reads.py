"""Reads that may take long (the past, a search, an explanation) or give much (pages of bodies or of
very many entries) have threads of their own.

A claim, the clock and a look at whether the server is ready read little and must not wait behind
them. They fold, decode and copy in Python, so a few at once are as fast as many; and of what they
give, no more is in memory than of a few, before it is handed to its clients.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sqlalchemy.engine import Connection

from domain.language.errors import QueueFull

LONG_READS_AT_ONCE: Final = 2
WAITING_MAX: Final = 64  # reads that have no thread yet
WAIT_SECONDS_MAX: Final = 5.0  # for a thread
_BUSY: Final = "Too many long reads are under way; try again shortly."
LARGE_BYTES: Final = 256 * 1024  # of bodies: more of them take some milliseconds
LARGE_ENTRIES: Final = 200  # of a page: likewise

T = TypeVar("T")


class LongReads:
    """`read` is asked in one of its threads, which have the name. Use it on one event loop at a
    time.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(LONG_READS_AT_ONCE, thread_name_prefix=f"fairlog-{name}")
        self._free = asyncio.Semaphore(LONG_READS_AT_ONCE)
        self._waiting = 0

    async def ask(
        self, read: Callable[[Callable[[Connection], T]], T], query: Callable[[Connection], T]
    ) -> T:
        """Raises `QueueFull` when there is no thread for it in time, and what `read` raises."""
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
        reply.add_done_callback(self._is_done)
        try:
            # A caller that goes away frees nothing: the thread goes on until it has the answer.
            return await asyncio.shield(reply)
        finally:
            del reply  # it has the error that is raised here

    def stop(self) -> None:
        """Wait for those under way."""
        self._pool.shutdown()

    def _is_done(self, reply: "asyncio.Future[T]") -> None:
        self._free.release()
        if not reply.cancelled():
            reply.exception()  # looked at, whether anybody waits for it or not
