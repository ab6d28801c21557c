"""Fairlog as its doors see it: wishes go to the writer, questions (see there) to what is stored.

No decision is made here. Every wish is a command that the writer decides; every answer is either
what the writer said or what a projection holds.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import structlog
from msgspec import UNSET, Raw
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.database.database import Database
from adapters.log import audit_log
from adapters.log.audit_log import EventFilter, StoredEvent
from adapters.log.event_log import SqlEventLog
from adapters.log.histories import of_types
from adapters.supervision import Supervisor
from adapters.writer.writer import WritePath
from domain.decisions.decide import Answer, Claimed, JobsUpdated, JobUpdated, LeasesHeld, Submitted
from domain.jobs.job import Job
from domain.language.commands import (
    AcceptClock,
    ChangeLimit,
    ClaimJobs,
    EnforceDeadlines,
    ExtendLeases,
    JobCommand,
    RecoverJobs,
    ReturnJob,
    SubmitJob,
)
from domain.language.errors import (
    BodyMissing,
    FairlogError,
    LogUnavailable,
    QueueFull,
    fresh_copy,
    without_traceback,
)
from domain.language.events import JobCancelled
from domain.language.identifiers import JobId, Kind, ServerId
from domain.language.moments import to_micros
from domain.language.policy import Policy
from entrypoints.feeds.event_feed import EventFeed
from entrypoints.feeds.log_watcher import LogWatcher
from entrypoints.feeds.projector_runner import ProjectorRunner
from entrypoints.feeds.work_signal import JOBS_PER_LOOK_MAX, Work, WorkSignal
from entrypoints.runtime.page_bytes import PAGE_BYTES_MAX
from entrypoints.service.cancellations import Cancellations, Cancelled
from entrypoints.service.claiming import Claiming
from entrypoints.service.due_jobs import JOBS_PER_PAGE, DueJobs
from entrypoints.service.long_reads import LARGE_BYTES
from entrypoints.service.pages import EVERYTHING, fitting_jobs
from entrypoints.service.queries import Queries
from entrypoints.service.slices import Slices
from entrypoints.service.submission_limiter import SubmissionLimiter
from entrypoints.service.views import ClaimedJob, JobView, RatesView, StatsView, job_view

JOBS_BESIDE_MAX = 2000  # of the workers whose leases were lost

A = TypeVar("A", bound=Answer)

_log = structlog.get_logger()


class Fairlog(Queries):
    """One a process; made by `entrypoints.composition`."""

    def __init__(
        self,
        database: Database,
        log: SqlEventLog,
        writer: WritePath,
        policy: Policy,
        following: ProjectorRunner,
        supervisor: Supervisor,
    ) -> None:
        super().__init__(database, log, policy, supervisor)
        self.writer = writer
        self.log_watcher = watcher = LogWatcher(self._position, supervisor.part("log_news"))
        self.limiter = SubmissionLimiter(
            writer.execute, watcher, self._latest_limit_change, log.clock
        )
        writer.observe(self.limiter.batch_written)
        writer.observe(watcher.batch_written)
        self.work = WorkSignal(watcher, self._work_in_line, supervisor.part("work_news"))
        self.cancellations = Cancellations(
            watcher, self._cancelled, supervisor.part("cancellations")
        )
        self.event_feed = EventFeed(watcher, self._read_events, supervisor.part("event_feed"))
        self.claiming = Claiming(self._ask, self.work)
        self._slices = Slices()
        self._due_jobs = DueJobs(self.jobs)
        self.following = following
        self._started = time.monotonic()
        # What the worker inside this server knows of a job's handler; see `HandlerPool.note`.
        self.handler_note: Callable[[JobId], str | None] = lambda _: None
        self.is_recovered = False  # whether what an earlier process left has been queued again

    def end_with(self, error: FairlogError) -> None:
        """Write nothing any more, and have the server end with the error."""
        self.writer.fatal = error

    def close(self) -> None:
        """Write what is waiting, then let go of the database."""
        self.writer.stop()
        self.following.stop()
        self._readers.shutdown()
        for reads in (self._long_reads, self._large_reads, self._large_claims):
            reads.stop()
        self.database.close()

    def release_listeners(self) -> None:
        """The server stops: end what would otherwise stay open. On the event loop."""
        self.log_watcher.stop()
        self.work.release()
        self.cancellations.release()

    async def _position(self) -> int:
        return await self.read(self.log.position)

    async def _work_in_line(self, kinds: Collection[Kind | None]) -> Work:
        named = [kind for kind in kinds if kind is not None]

        def query(connection: Connection) -> Work:
            waiting = self.line.waiting_of(connection, named)
            found: dict[Kind | None, int] = dict(waiting)
            if None in kinds:  # users at their caps are not in the line
                found[None] = len(self.line.next_users(connection, JOBS_PER_LOOK_MAX))
            return found

        return await self.read(query)

    async def _latest_limit_change(self) -> int:
        return await self.read(lambda connection: audit_log.latest(connection, "LimitChanged"))

    async def _read_events(self, wanted: EventFilter, after: int, limit: int) -> list[StoredEvent]:
        read = self.read_long if wanted.may_match_little else self.read
        return await read(lambda connection: audit_log.find(connection, wanted, after, limit))

    async def submit(self, command: SubmitJob) -> tuple[Submitted, JobView]:
        """Submit a job. Raises `RateLimited`, `KeyReusedWithOtherPayload` and other refusals."""
        refused = self.limiter.refuse(command.user_id)
        if refused is not None:
            raise fresh_copy(refused)
        return await self.submit_to_log(command)

    async def submit_to_log(self, command: SubmitJob) -> tuple[Submitted, JobView]:
        """`submit` for a caller that has asked `limiter.refuse` itself."""
        submitted = await self.limiter.decide(command)
        assert isinstance(submitted, Submitted), submitted
        if submitted.is_duplicate:
            [view] = await self.read(lambda connection: self.views(connection, [submitted.job]))
            view.is_duplicate = True
            return submitted, view
        view = job_view(submitted.job, command.payload.data, is_duplicate=False)
        return submitted, view

    async def submit_all(
        self, commands: Sequence[SubmitJob | Exception]
    ) -> list[tuple[Submitted, JobView] | Exception]:
        """`submit` for many at once, with one outcome for each, in order.

        What was found wrong at the door already takes a place as the exception it is. Where the
        bodies of jobs that were known already are more than an answer can carry, the later ones
        come without them.
        """
        answers = await self._slices.run(commands, self._submitted)
        known = [
            answer.job
            for answer in answers
            if isinstance(answer, Submitted) and answer.is_duplicate
        ]
        views: Mapping[JobId, JobView] | FairlogError = {}
        if known:
            try:
                read = self.read_large if _may_be_large(known) else self.read
                views = await read(lambda connection: self._known(connection, known))
            except FairlogError as error:
                views = without_traceback(error)
        return [
            _outcome(answer, command, views)
            for answer, command in zip(answers, commands, strict=True)
        ]

    async def _submitted(self, command: SubmitJob) -> Submitted:
        submitted = await self.limiter.submit(command.user_id, command)
        assert isinstance(submitted, Submitted), submitted
        return submitted

    def _known(self, connection: Connection, jobs: Sequence[Job]) -> dict[JobId, JobView]:
        """Jobs that a batch has submitted again."""
        distinct = list({job.id: job for job in jobs}.values())
        told, _ = fitting_jobs(connection, distinct, EVERYTHING, PAGE_BYTES_MAX)
        views = self.views(connection, told)
        views += [job_view(job, UNSET, UNSET, UNSET) for job in distinct[len(told) :]]
        for view in views:
            view.is_duplicate = True
        return {view.id: view for view in views}

    async def claim(
        self, command: ClaimJobs, wait_seconds: float = 0.0, unwanted: asyncio.Event | None = None
    ) -> list[ClaimedJob]:
        """Jobs in fair order; with `wait_seconds`, waits that long for the first.

        `unwanted` is set when the caller has gone: jobs that nobody can ask for again go back.
        """
        claimed = await self.claiming.claim(command, wait_seconds, unwanted)
        if unwanted is not None and unwanted.is_set() and command.claim_id is None:
            await self.advance_all(
                [ReturnJob(job_id=job.id, attempt=job.attempt) for job in claimed.jobs]
            )
            return []
        try:
            return await self._claimed(claimed.jobs)
        except (LogUnavailable, QueueFull):
            if command.claim_id is None:  # else the caller asks for them again
                await self.advance_all(
                    [ReturnJob(job_id=job.id, attempt=job.attempt) for job in claimed.jobs]
                )
            raise

    async def _ask(self, command: ClaimJobs) -> Claimed:
        return await self._execute(command, Claimed)

    async def _claimed(self, jobs: Sequence[Job]) -> list[ClaimedJob]:
        """The jobs whose payload is there; the others are given back, so that nobody works on
        nothing. Raises `BodyMissing` where none is left.
        """
        if not jobs:
            return []
        payloads, missing = await self._payloads(jobs)
        if missing is not None:
            without = [job for job in jobs if job.id not in payloads]
            _log.error("payloads_missing", jobs=[job.id for job in without], reason=str(missing))
            await self.advance_all(
                [ReturnJob(job_id=job.id, attempt=job.attempt) for job in without]
            )
            if not payloads:
                raise fresh_copy(missing)
        return [
            ClaimedJob(
                job.id,
                job.user_id,
                job.kind,
                Raw(payloads[job.id]),
                job.attempt,
                job.lease_expires_at,
                job.timeout_seconds,
                started=job.begun_at is not None,
                alone=job.is_suspect,
            )
            for job in jobs
            if job.id in payloads
        ]

    async def _payloads(
        self, jobs: Sequence[Job]
    ) -> tuple[Mapping[int, bytes], BodyMissing | None]:
        """What was found of them, and the error where that is not all."""
        ids = [job.id for job in jobs]
        found: dict[int, bytes] = {}

        def query(connection: Connection) -> None:
            found.update(audit_log.bodies_at(connection, ids))
            audit_log.require_bodies(found, ids)

        try:
            await self.read_bodies(sum(job.payload_bytes for job in jobs), query)
        except BodyMissing as error:
            return found, without_traceback(error)
        return found, None

    async def extend(
        self,
        command: ExtendLeases,
        wait_seconds: float = 0.0,
        unwanted: asyncio.Event | None = None,
    ) -> LeasesHeld:
        """Keep the leases; with `wait_seconds`, wait that long for a job of the worker to be
        cancelled, unless `unwanted` is set before: the caller has gone.
        """
        if wait_seconds <= 0:
            return await self._execute(command, LeasesHeld)
        async with self.cancellations.listening(command.worker) as listener:
            held = await self._execute(command, LeasesHeld)
            if held.lost:
                return held
            return replace(held, lost=await listener.wait(wait_seconds, unwanted))

    async def _cancelled(self, after: int) -> Cancelled:
        return await self.read(lambda connection: self._cancelled_behind(connection, after))

    def _cancelled_behind(self, connection: Connection, after: int) -> Cancelled:
        up_to = self.log.position(connection)
        return Cancelled(
            up_to,
            [
                (event.worker, (recorded.job_id, event.attempt))
                for recorded in of_types(connection, [JobCancelled.__name__], after, up_to)
                if isinstance(event := recorded.event, JobCancelled)
                and recorded.job_id is not None
                and event.worker is not None
                and event.attempt is not None
            ],
        )

    async def advance(self, command: JobCommand) -> JobView:
        """Complete, fail, give back or cancel one job; the job as it then stands."""
        return await self.view_of((await self._execute(command, JobUpdated)).job)

    async def view_of(self, job: Job) -> JobView:
        [view] = await self.read(lambda connection: self.views(connection, [job]))
        return view

    async def advance_all(
        self, commands: Sequence[JobCommand | Exception]
    ) -> list[Job | Exception]:
        """`advance` for many at once, with one outcome for each, in order.

        What was found wrong at the door already takes a place as the exception it is.
        """

        async def one(command: JobCommand) -> Job:
            return (await self._execute(command, JobUpdated)).job

        return await self._slices.run(commands, one)

    async def change_limit(self, command: ChangeLimit) -> None:
        await self.writer.execute(command)

    def accept_clock(self) -> None:
        """Have the log's time go by the database's clock, as an event. Blocks."""
        [outcome] = self.writer.execute_all([AcceptClock()])
        if isinstance(outcome, Exception):
            raise outcome

    async def wake_due_jobs(self) -> int:
        """Let the clock act: lost leases, time-outs, schedules and expiries; how many changed.

        By user in turns, and at once again where a page was full.
        """
        changed = 0
        while due := await self.read(self._due):
            try:
                woken = await self._execute(EnforceDeadlines(jobs=due), JobsUpdated)
            except BaseException:
                self._due_jobs.forget()
                raise
            changed += len(woken.jobs)
            if not self._due_jobs.has_more or not woken.jobs:
                break
        return changed

    def recover(self, server: ServerId | None) -> list[Job]:
        """Queue again every job whose run nobody can still finish.

        What ran inside `server`, whose earlier process is certainly dead, at once; what is overdue
        by the log's clock as well. Blocks; for use before the doors open.
        """
        recovered: list[Job] = []
        while server is not None:
            running = self.read_now(
                lambda connection: self.jobs.running_in(connection, server, JOBS_PER_PAGE)
            )
            if not running:
                break
            recovered += self._execute_now(RecoverJobs(server=server, jobs=running)).jobs
        while due := self.read_now(self._due):
            woken = self._execute_now(EnforceDeadlines(jobs=due)).jobs
            recovered += woken
            if not woken:  # a clock that another server read a moment later
                break
        self.is_recovered = True
        return recovered

    def _due(self, connection: Connection) -> list[JobId]:
        """Those whose time has come, and behind them what else their workers hold: whether a lost
        lease counts depends on it.
        """
        due = self._due_jobs.next_page(connection, to_micros(self.log.now(connection)))
        if not due:
            return due
        beside = self.jobs.running_on_same_workers(connection, due, JOBS_BESIDE_MAX)
        return list(dict.fromkeys([*due, *beside]))

    async def _execute(
        self,
        command: SubmitJob | ClaimJobs | ExtendLeases | JobCommand | EnforceDeadlines,
        expected: type[A],
    ) -> A:
        answer = await self.writer.execute(command)
        assert isinstance(answer, expected), answer
        return answer

    def _execute_now(self, command: EnforceDeadlines | RecoverJobs) -> JobsUpdated:
        [outcome] = self.writer.execute_all([command])
        if isinstance(outcome, Exception):
            raise fresh_copy(outcome)
        assert isinstance(outcome, JobsUpdated), outcome
        return outcome

    async def stats(self) -> StatsView:
        return await self.read(lambda connection: self.standing(connection, self.rates()))

    def rates(self) -> RatesView:
        done = self.writer.stats
        return RatesView(
            done.batches,
            done.commands,
            done.events,
            done.retries,
            self.writer.waiting(),
            time.monotonic() - self._started,
        )


def _may_be_large(jobs: Sequence[Job]) -> bool:
    """Their bodies together: how large results are is not known before they are read."""
    ended = sum(job.result_position is not None for job in jobs)
    return ended > 1 or sum(job.payload_bytes for job in jobs) > LARGE_BYTES


def _outcome(
    answer: Submitted | Exception,
    command: SubmitJob | Exception,
    known: Mapping[JobId, JobView] | FairlogError,
) -> tuple[Submitted, JobView] | Exception:
    if isinstance(answer, Exception):
        return answer
    assert isinstance(command, SubmitJob), command
    if not answer.is_duplicate:
        return answer, job_view(answer.job, command.payload.data, is_duplicate=False)
    return known if isinstance(known, FairlogError) else (answer, known[answer.job.id])
