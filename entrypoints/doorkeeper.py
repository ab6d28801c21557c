"""Keeps the door of this process: who is refused without asking the log, and what is reported.

Reports of very many refused users take turns (ADR 16), so that the log grows by fewer than 200 of
them in any second. What a process refused and had not reported when it died is not in the log: a
second of each user's refusals, or as long as a turn takes, and never an admission.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from adapters.writer import BatchWritten
from domain.commands import ReportRefusals, RetryJob, SubmitJob
from domain.decide import Answer
from domain.door import Door
from domain.errors import FairlogError, RateLimited, again
from domain.events import LimitChanged
from domain.identifiers import UserId
from domain.moments import to_micros
from domain.ports import Clock

_OPENS: Final = {LimitChanged.__name__}
# From the end of a round to the begin of the next, give or take a fifth. A refusal waits so long
# and for the round under way, then for the writer, which takes reports before all that waits.
REPORT_SECONDS: Final = 0.45
# Three rounds at most fall into any one second, and on average 120 users are reported in it.
REPORTS_A_ROUND_MAX: Final = 60
WATCH_SECONDS: Final = 0.2  # between two looks for limits that others changed, give or take a fifth
_LAST_REPORTS_AT_ONCE: Final = 2_000  # when the server stops; the queue takes ten times as many


class Doorkeeper:
    """Used on the event loop; `batch_written` alone is called by the writer's thread."""

    def __init__(
        self,
        execute: Callable[[SubmitJob | RetryJob | ReportRefusals], Awaitable[Answer]],
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
        self._round: asyncio.Future[None] | None = None  # the latest

    async def submit(self, command: SubmitJob) -> Answer:
        """Ask the log, unless it is known what it would say. Raises `RateLimited`."""
        return await self.ask(command.user_id, command)

    async def ask(self, user_id: UserId, command: SubmitJob | RetryJob) -> Answer:
        """`submit` for whatever uses up this user's window."""
        tick, changes = self._tick(), self._changes
        refused = self._door.refuse(user_id, tick)
        if refused is not None:
            raise again(refused)
        try:
            return await self._execute(command)
        except RateLimited as refused_by_log:
            if changes == self._changes:
                self._door.close(refused_by_log, tick, self._tick())
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
        """Have the counts that wait longest recorded.

        For use by one caller at a time. When that is cancelled, the round goes on without it.
        """
        reports = self._door.take_reports(REPORTS_A_ROUND_MAX)
        self._round = asyncio.ensure_future(self._record(reports))
        await asyncio.shield(self._round)

    async def watch_limits(self) -> None:
        """Look whether another process changed a limit, while anybody is refused here."""
        if self._door.is_closed_to_any:
            latest = await self._latest_limit_change()
            if latest > self._latest_seen:
                self._latest_seen = latest
                self._changes += 1
                self._door.open_all()

    async def report_all(self) -> None:
        """Have every count recorded, however many: the process is about to end."""
        if self._round is not None:  # its caller may have been cancelled
            await asyncio.wait([self._round])
        while reports := self._door.take_reports(_LAST_REPORTS_AT_ONCE):
            await self._record(reports)

    async def _record(self, reports: Sequence[ReportRefusals]) -> None:
        """Raises the first of the errors, once all reports have had their answers."""
        # Together, so that one batch takes them: those of a hundred users are no hundred commits.
        answers = await asyncio.gather(*map(self._execute, reports), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        self._door.put_back(
            report
            for report, answer in zip(reports, answers, strict=True)
            if isinstance(answer, FairlogError) and answer.nothing_was_recorded
        )
        for error in errors:
            raise again(error) if isinstance(error, Exception) else error

    def _tick(self) -> float:
        if self._clock is not None:
            return to_micros(self._clock.now()) / 1e6
        return time.monotonic()
