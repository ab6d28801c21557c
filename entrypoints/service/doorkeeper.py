"""Keeps the door of this process: who is refused without asking the log, and what is reported.

Reports of very many refused users take turns (ADR 16), so that the log grows by fewer than 200 of
them in any second. What a process refused and had not reported when it died is not in the log: a
second of each user's refusals, or as long as a turn takes, and never an admission.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from adapters.writer.writer import BatchWritten
from domain.decisions.decide import Answer
from domain.decisions.ports import Clock
from domain.language.commands import ReportRefusals, RetryJob, SubmitJob
from domain.language.errors import FairlogError, RateLimited, fresh_copy
from domain.language.events import LimitChanged
from domain.language.identifiers import UserId
from domain.language.moments import to_micros
from domain.limits.refusal_cache import RefusalCache

_OPENS: Final = {LimitChanged.__name__}
# Between two rounds, give or take a fifth. A refusal waits so long at most, then for the writer,
# which takes reports before all else that waits; not for the round before.
REPORT_SECONDS: Final = 0.45
REPORTS_PER_ROUND_MAX: Final = 60
REPORTS_PER_SECOND_MAX: Final = 190  # of which the log tells, however many rounds end at once
WATCH_SECONDS: Final = 0.2  # between two looks for limits that others changed, give or take a fifth
_LAST_REPORTS_AT_ONCE: Final = 2_000  # when the server stops; the queue takes ten times as many

_log = structlog.get_logger()


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
        self._cache = RefusalCache()
        self._changes = 0  # limit changes seen
        self._latest_seen = 0  # position of one made by any process
        self._rounds: set[asyncio.Future[None]] = set()  # under way
        self._under_way = 0  # reports, of these rounds
        self._recent: list[tuple[float, int]] = []  # tick and reports of rounds that have ended

    async def submit(self, command: SubmitJob) -> Answer:
        """Ask the log, unless it is known what it would say. Raises `RateLimited`."""
        return await self.ask(command.user_id, command)

    async def ask(self, user_id: UserId, command: SubmitJob | RetryJob) -> Answer:
        """`submit` for whatever uses up this user's window."""
        tick, changes = self._tick(), self._changes
        refused = self._cache.refuse(user_id, tick)
        if refused is not None:
            raise fresh_copy(refused)
        try:
            return await self._execute(command)
        except RateLimited as refused_by_log:
            if changes == self._changes:
                self._cache.add(refused_by_log, tick, self._tick())
            raise

    def refuse(self, user_id: UserId) -> RateLimited | None:
        """The refusal of a submission of this user, counted; None when the log has to decide."""
        return self._cache.refuse(user_id, self._tick()) if self._cache.has_any else None

    def batch_written(self, batch: BatchWritten) -> None:
        """Observes the writer: before anybody hears of a new limit, the door is open."""
        if batch.has_any(_OPENS):
            self._changes += 1
            self._cache.clear()

    async def begin_report(self) -> None:
        """`report` without waiting for the log: the next round would come late."""
        self._begin_round().add_done_callback(_log_failure)

    async def report(self) -> None:
        """Have the counts that wait longest recorded. When it is cancelled, that goes on."""
        await asyncio.shield(self._begin_round())

    def _begin_round(self) -> asyncio.Future[None]:
        self._recent = [one for one in self._recent if 0 <= self._tick() - one[0] < 1]
        # An event's time lies between the begin and the end of its round, so no second has more.
        room = REPORTS_PER_SECOND_MAX - self._under_way - sum(count for _, count in self._recent)
        reports = self._cache.take_reports(max(0, min(REPORTS_PER_ROUND_MAX, room)))
        round_ = asyncio.ensure_future(self._record(reports))
        self._rounds.add(round_)
        self._under_way += len(reports)
        round_.add_done_callback(lambda _: self._end_round(round_, len(reports)))
        return round_

    def _end_round(self, round_: asyncio.Future[None], reports: int) -> None:
        self._rounds.discard(round_)
        self._under_way -= reports
        self._recent.append((self._tick(), reports))

    async def watch_limits(self) -> None:
        """Look whether another process changed a limit, while anybody is refused here."""
        if self._cache.has_any:
            latest = await self._latest_limit_change()
            if latest > self._latest_seen:
                self._latest_seen = latest
                self._changes += 1
                self._cache.clear()

    async def report_all(self) -> None:
        """Have every count recorded, however many: the process is about to end."""
        if self._rounds:
            await asyncio.wait(self._rounds)
        while reports := self._cache.take_reports(_LAST_REPORTS_AT_ONCE):
            await self._record(reports)

    async def _record(self, reports: Sequence[ReportRefusals]) -> None:
        """Raises the first of the errors, once all reports have had their answers."""
        # Together, so that one batch takes them: those of a hundred users are no hundred commits.
        answers = await asyncio.gather(*map(self._execute, reports), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        self._cache.put_back(
            report
            for report, answer in zip(reports, answers, strict=True)
            if isinstance(answer, FairlogError) and answer.nothing_was_recorded
        )
        for error in errors:
            raise fresh_copy(error) if isinstance(error, Exception) else error

    def _tick(self) -> float:
        if self._clock is not None:
            return to_micros(self._clock.now()) / 1e6
        return time.monotonic()


def _log_failure(round_: asyncio.Future[None]) -> None:
    error = None if round_.cancelled() else round_.exception()
    if error is not None:
        _log.warning("report_failed", reason=str(error) or type(error).__name__)
