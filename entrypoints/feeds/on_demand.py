"""Supervised loops that run only while somebody needs them."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from adapters.supervision import Part, keep_running


class OnDemandLoop:
    """A loop of one event loop. No error ends it (see `adapters.supervision`).

    `run` returns when `is_needed` is false, and is called again at the next need.
    """

    def __init__(self, part: Part, run: Callable[[], Awaitable[object]]) -> None:
        self.part = part
        self.users = 0
        self._run = run
        self._task: asyncio.Task[None] | None = None
        self.is_stopped = False

    @property
    def is_needed(self) -> bool:
        return self.users > 0 and not self.is_stopped

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    @contextlib.contextmanager
    def needed(self) -> Iterator[None]:
        """Keep the loop running within the block."""
        self.users += 1
        if not (self.is_running or self.is_stopped):
            self._task = asyncio.create_task(self._keep_running(), name=self.part.name)
        try:
            yield
        finally:
            self.users -= 1

    def stop(self) -> None:
        """Start it no more."""
        self.is_stopped = True

    async def close(self) -> None:
        self.stop()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep_running(self) -> None:
        await keep_running(self.part, self._run)
        self.part.works()  # a loop that nobody needs does not fail
