"""Refusals of submissions without database work, and the reports that record them in the log.

If very many users are refused, their reports take turns (ADR 16), so that the log grows by fewer
than 200 reports in any second. A process that dies loses the refusals that it had not reported: a
second of each user's, or as many as one turn takes. It never loses an admission.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from adapters.writer.write_path import BatchWritten
from domain.decisions.answers import Answer
from domain.decisions.batch import Outcome
from domain.decisions.ports import Clock
from domain.language.commands import Caller, ReportRefusals, RetryJob, SubmitJob
from domain.language.errors import FairlogError, RateLimited, fresh_copy
from domain.language.events import LimitChanged, LossAccepted, PlanDeleted
from domain.language.identifiers import UserId
from domain.language.moments import to_micros
from domain.limits.refusal_cache import RefusalCache
from entrypoints.feeds.log_watcher import LogWatcher

# Events after which a window that was used up may have room: other limits hold, or submissions that
# had used it are lost.
MAKE_ROOM: Final = frozenset({LimitChanged.__name__, PlanDeleted.__name__, LossAccepted.__name__})
# Between two rounds of reports, give or take a fifth. A refusal waits at most this long, and then
# for the writer, which takes reports before all other commands. It never waits for another round.
REPORT_SECONDS: Final = 0.45
REPORTS_PER_ROUND_MAX: Final = 60
REPORTS_PER_SECOND_MAX: Final = 190  # recorded in the log, however many rounds end at once
WATCH_SECONDS: Final = 0.2  # between two calls of `watch_limits`, give or take a fifth
RECHECK_SECONDS: Final = 2.0  # between two reads of limit changes while no other process writes
_LAST_REPORTS_AT_ONCE: Final = 2_000  # at shutdown; the command queue takes ten times as many

_log = structlog.get_logger()


class SubmissionLimiter:
    """The limiter of one process. Use it on the event loop; the writer calls `batch_written`."""

    def __init__(
        self,
        execute: Callable[[SubmitJob | RetryJob | ReportRefusals], Awaitable[Answer]],
        watcher: LogWatcher,
        latest_limit_change: Callable[[], Awaitable[int]],
        clock: Clock | None,
        execute_each: Callable[[Sequence[SubmitJob]], Awaitable[list[Outcome]]],
    ) -> None:
        """`clock` is the log's clock if this machine keeps it; None if the database does."""
        self._execute = execute
        self._execute_each = execute_each
        self._others = watcher.subscribe()
        self._read_up_to = 0  # position up to which limit changes of others are known
        self._latest_limit_change = latest_limit_change
        self._clock = clock
        self._cache = RefusalCache()
        self._changes = 0  # limit changes seen so far
        self._latest_change_seen = 0  # position of the latest one, made by any process
        self._rounds: set[asyncio.Future[None]] = set()  # not ended yet
        self._reports_under_way = 0  # in these rounds
        self._recent: list[tuple[float, int]] = []  # tick and reports of rounds that have ended
        # Called for submissions that were refused, by user: one by one or in sum.
        self.on_refused: Callable[[UserId, int], None] = lambda _user, _count: None

    def refuse(self, user_id: UserId, by: Caller | None = None) -> RateLimited | None:
        """Return the refusal of a submission by this user and count it; None: the log decides.

        After None, the caller sends the submission with `decide`.
        """
        return self._cache.refuse(user_id, self._tick(), by) if self._cache.has_any else None

    async def decide(self, command: SubmitJob | RetryJob) -> Answer:
        """Have the log decide a command that `refuse` let through. Raises `RateLimited`."""
        tick, changes = self._tick(), self._changes
        try:
            return await self._execute(command)
        except RateLimited as refused:
            self._note_refused(refused, tick, changes)
            raise

    async def submit_each(self, commands: Sequence[SubmitJob]) -> list[Outcome]:
        """Submit many jobs, and return one outcome for each, in order."""
        outcomes: list[Outcome | None] = [
            self.refuse(command.user_id, command.by) for command in commands
        ]
        undecided = [place for place, known in enumerate(outcomes) if known is None]
        tick, changes = self._tick(), self._changes
        decided = await self._execute_each([commands[place] for place in undecided])
        for place, outcome in zip(undecided, decided, strict=True):
            outcomes[place] = outcome
            if isinstance(outcome, RateLimited):
                self._note_refused(outcome, tick, changes)
        return [outcome for outcome in outcomes if outcome is not None]

    def _note_refused(self, refused: RateLimited, tick: float, changes: int) -> None:
        """Cache a refusal by the log of a command that was sent at `tick`."""
        self.on_refused(refused.user_id, 1)
        if changes == self._changes:
            self._cache.add(refused, tick, self._tick())

    async def submit(self, user_id: UserId, command: SubmitJob | RetryJob) -> Answer:
        """Refuse a command that uses up this user's window, or have the log decide it.

        Raises `RateLimited`.
        """
        refused = self.refuse(user_id, command.by)
        if refused is not None:
            raise fresh_copy(refused)
        return await self.decide(command)

    def batch_written(self, batch: BatchWritten) -> None:
        """Clear the cache after a change of limits, before its caller has the answer.

        Called in the writer's thread.
        """
        if batch.has_any(MAKE_ROOM):
            self._changes += 1
            self._cache.clear()

    async def begin_report(self) -> None:
        """Start a round of reports without waiting for it, so that the next one is not late."""
        self._begin_round().add_done_callback(_log_failure)

    async def report(self) -> None:
        """Have the oldest counts recorded. The round goes on if the caller is cancelled."""
        await asyncio.shield(self._begin_round())

    def _begin_round(self) -> asyncio.Future[None]:
        self._recent = [one for one in self._recent if 0 <= self._tick() - one[0] < 1]
        # An event's time lies between the start and the end of its round, so no second has more.
        recent = sum(count for _, count in self._recent)
        remaining = REPORTS_PER_SECOND_MAX - self._reports_under_way - recent
        reports = self._cache.take_reports(max(0, min(REPORTS_PER_ROUND_MAX, remaining)))
        round_ = asyncio.ensure_future(self._record(reports))
        self._rounds.add(round_)
        self._reports_under_way += len(reports)
        round_.add_done_callback(lambda _: self._end_round(round_, len(reports)))
        return round_

    def _end_round(self, round_: asyncio.Future[None], reports: int) -> None:
        self._rounds.discard(round_)
        self._reports_under_way -= reports
        self._recent.append((self._tick(), reports))

    async def watch_limits(self) -> None:
        """Clear the cache if another process changed a limit, or accepted a loss. Reads nothing
        while it is empty.
        """
        if self._cache.has_any:
            await self._others.wait_beyond(self._read_up_to, RECHECK_SECONDS)
            others = self._others.value
            latest = await self._latest_limit_change()
            self._read_up_to = others
            if latest > self._latest_change_seen:
                self._latest_change_seen = latest
                self._changes += 1
                self._cache.clear()

    async def report_all(self) -> None:
        """Have every count recorded, however many there are, before the process ends."""
        if self._rounds:
            await asyncio.wait(self._rounds)
        while reports := self._cache.take_reports(_LAST_REPORTS_AT_ONCE):
            await self._record(reports)

    async def _record(self, reports: Sequence[ReportRefusals]) -> None:
        """Send reports to the log. Raises the first error, once every report has its answer."""
        # All at once, so that the writer commits them in one batch instead of one by one.
        answers = await asyncio.gather(*map(self._execute, reports), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        self._cache.put_back(
            report
            for report, answer in zip(reports, answers, strict=True)
            if isinstance(answer, FairlogError) and answer.nothing_was_recorded
        )
        for report, answer in zip(reports, answers, strict=True):
            if not isinstance(answer, BaseException):
                self.on_refused(report.user_id, report.count)
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
