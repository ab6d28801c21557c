"""Keeps the door of this process: who is refused without asking the log, and what is reported.

What a process refused and had not reported when it died is not in the log; it is at most a second
of refusals, and never an admission.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from adapters.writer import BatchWritten
from domain.commands import ReportRefusals, SubmitJob
from domain.decide import Answer
from domain.door import Door
from domain.errors import RateLimited
from domain.events import LimitChanged
from domain.identifiers import UserId
from domain.moments import to_micros
from domain.ports import Clock

_OPENS: Final = {LimitChanged.__name__}
REPORT_SECONDS: Final = 0.8  # refusals put together are at most a second apart


class Doorkeeper:
    """Used on the event loop; `batch_written` alone is called by the writer's thread."""

    def __init__(
        self,
        execute: Callable[[SubmitJob | ReportRefusals], Awaitable[Answer]],
        latest_limit_change: Callable[[], Awaitable[int]],
        clock: Clock | None,
    ) -> None:
        """`clock` is the log's where it is this machine's; None where it is the database's."""
        self._execute = execute
        self._latest_limit_change = latest_limit_change
        self._clock = clock
        self._door = Door()
        self._changes = 0  # limit changes seen
        self._latest_seen = 0  # position of one made by any process

    async def submit(self, command: SubmitJob) -> Answer:
        """Ask the log, unless it is known what it would say. Raises `RateLimited`."""
        tick, changes = self._tick(), self._changes
        refused = self._door.refuse(command.user_id, tick)
        if refused is not None:
            raise refused
        try:
            return await self._execute(command)
        except RateLimited as refused_by_log:
            if changes == self._changes:
                self._door.close(refused_by_log, tick)
            raise

    def refuse(self, user_id: UserId) -> RateLimited | None:
        """The refusal of a submission of this user, counted; None when the log has to decide."""
        return self._door.refuse(user_id, self._tick()) if self._door.is_closed_to_any else None

    def batch_written(self, batch: BatchWritten) -> None:
        """Observes the writer: before anybody hears of a new limit, the door is open."""
        if batch.has_any(_OPENS):
            self._changes += 1
            self._door.open_all()

    async def report(self) -> None:
        """Have the counts recorded, and look whether another process changed a limit."""
        # Together, so that one batch takes them: those of a thousand users are no thousand commits.
        await asyncio.gather(*map(self._execute, self._door.take_reports()))
        if self._door.is_closed_to_any:
            latest = await self._latest_limit_change()
            if latest > self._latest_seen:
                self._latest_seen = latest
                self._changes += 1
                self._door.open_all()

    def _tick(self) -> float:
        if self._clock is not None:
            return to_micros(self._clock.now()) / 1e6
        return time.monotonic()
