"""The service: it sends commands to the writer and answers queries from the projections.

No decision is made here: the writer decides every command.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import structlog
from msgspec import UNSET, Raw
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.database.database import Database
from adapters.log import audit_log
from adapters.log.audit_log import EventFilter, StoredEvent
from adapters.log.event_log import HeadReading, SqlEventLog
from adapters.log.event_pages import latest_of
from adapters.log.histories import of_types
from adapters.log.key_events import keys_after
from adapters.log.outbox import SqlOutbox
from adapters.servers.dashboard_sessions import DashboardSessions
from adapters.supervision import Supervisor
from adapters.writer.write_path import WritePath
from domain.access.keys import ApiKey
from domain.decisions.answers import (
    Answer,
    Claimed,
    JobsUpdated,
    JobUpdated,
    LeasesHeld,
    LineWasUpdated,
    ScheduleDecided,
    Submitted,
)
from domain.decisions.batch import Outcome
from domain.jobs.job import ENDED, Job
from domain.language.commands import (
    AcceptClock,
    Caller,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteJob,
    EnforceDeadlines,
    ExtendLeases,
    FireSchedule,
    JobCommand,
    RecoverJobs,
    ReturnJob,
    SubmitJob,
    UpdateLine,
)
from domain.language.errors import (
    FairlogError,
    LogUnavailable,
    QueueFull,
    fresh_copy,
    without_traceback,
)
from domain.language.events import JobCancelled
from domain.language.identifiers import JobId, Kind, ScheduleName, ServerId, UserId
from domain.language.policy import Policy
from entrypoints.feeds.event_feed import EventFeed
from entrypoints.feeds.log_watcher import LogWatcher
from entrypoints.feeds.projector_runner import ProjectorRunner
from entrypoints.feeds.work_signal import JOBS_PER_LOOK_MAX, Work, WorkSignal
from entrypoints.runtime.page_bytes import PAGE_BYTES_MAX
from entrypoints.service.cancellations import Cancellations, Cancelled
from entrypoints.service.change_limits import ChangeLimits
from entrypoints.service.claiming import Claiming
from entrypoints.service.due_jobs import JOBS_PER_PAGE, DueJobs
from entrypoints.service.due_schedules import DueSchedules
from entrypoints.service.entries_in_order import submit_in_order
from entrypoints.service.held_users import HeldUsers
from entrypoints.service.job_ends import JobEnds
from entrypoints.service.key_ring import KeyRing, KeysRead
from entrypoints.service.log_sizes import LogSizes
from entrypoints.service.long_reads import LARGE_BYTES
from entrypoints.service.outbox_taking import OutboxTaking
from entrypoints.service.pages import EVERYTHING, fitting_jobs
from entrypoints.service.payloads import Payloads
from entrypoints.service.queries import Queries
from entrypoints.service.sessions import Sessions
from entrypoints.service.slices import Slices
from entrypoints.service.submission_limiter import MAKE_ROOM, SubmissionLimiter
from entrypoints.service.views import (
    ClaimedJob,
    JobView,
    RatesView,
    StatsView,
    as_duplicate,
    job_view,
)
from entrypoints.service.worker_polls import WorkerPolls

JOBS_OF_SAME_WORKERS_MAX = 2000  # other jobs of workers whose leases have ended
QUIET_SECONDS = 1.5  # that a check for due jobs is delayed while nothing happens

A = TypeVar("A", bound=Answer)

_log = structlog.get_logger()


class Fairlog(Queries):
    """The service of one process. `entrypoints.composition` creates it."""

    def __init__(
        self,
        database: Database,
        log: SqlEventLog,
        writer: WritePath,
        policy: Policy,
        projector_runner: ProjectorRunner,
        supervisor: Supervisor,
        *,
        requires_keys: bool = False,
        size_limit_bytes: int | None = None,
    ) -> None:
        """`requires_keys`: every request needs an API key, even if there is none yet.

        `size_limit_bytes`: see the setting of this name; None: no limit.
        """
        super().__init__(database, log, writer, policy, supervisor)
        self.log_watcher = watcher = LogWatcher(self._position, supervisor.part("log_news"))
        self.limiter = SubmissionLimiter(
            writer.execute, watcher, self._latest_limit_change, log.clock, writer.execute_each
        )
        writer.observe(self.limiter.batch_written)
        writer.observe(watcher.batch_written)
        self.key_ring = KeyRing(self._read_keys, requires_keys=requires_keys)
        writer.observe(self.key_ring.batch_written)
        self.sessions = Sessions(DashboardSessions(database, log), self.key_ring, self.read)
        self.outbox = OutboxTaking(self._outbox_users, self._outbox_row, writer.execute)
        writer.observe(self.outbox.batch_written)
        self.work = WorkSignal(watcher, self._work_in_line, supervisor.part("work_news"))
        self.cancellations = Cancellations(
            watcher, self._cancelled, supervisor.part("cancellations")
        )
        self.job_ends = JobEnds(self, watcher, supervisor.part("job_ends"))
        self.event_feed = EventFeed(watcher, self._read_events, supervisor.part("event_feed"))
        self.worker_polls = WorkerPolls()
        self.claiming = Claiming(self._decide_claim, self.work, self.worker_polls)
        self.payloads = Payloads(self.read_bodies)
        self.change_limits = ChangeLimits(policy.window_seconds)
        self.sizes = LogSizes(log.now, size_limit_bytes)
        self.outbox_table = SqlOutbox(is_sqlite=database.is_sqlite)
        self._slices = Slices()
        self._due_jobs = DueJobs(self.jobs)
        self._held_users = HeldUsers(self.line, self.windows)
        self._due_schedules = DueSchedules(self.schedules)
        self._own_batches = watcher.rising_number()  # position of the latest batch of this process
        watcher.observe(lambda batch: self._own_batches.rise_to(batch.position))
        self._enforced_up_to = 0  # the position of `_own_batches` at the latest `watch_deadlines`
        self.projector_runner = projector_runner
        self._started = time.monotonic()
        # Returns a note about the handler of a job in this server, see `HandlerPool.note`.
        self.handler_note: Callable[[JobId], str | None] = lambda _: None
        self.is_recovered = False  # jobs of an earlier process have been queued again

    def end_with(self, error: FairlogError) -> None:
        """Stop all writes, and let the server end with the error."""
        self.writer.fatal = error

    def note_peers(self, servers: int) -> None:
        """Note the number of other servers that run on the database."""
        self.log_watcher.has_peers = servers > 0

    def close(self) -> None:
        """Write the waiting commands, end all threads and close the database. Blocks."""
        self.writer.stop()
        self.projector_runner.stop()
        self._readers.shutdown()
        for reads in (self._long_reads, self._large_reads, self._large_claims):
            reads.stop()
        self.database.close()

    def release_listeners(self) -> None:
        """Answer all waiting calls and end streams at a stop. Call it on the event loop."""
        self.log_watcher.stop()
        self.work.release()
        self.cancellations.release()
        self.job_ends.release()

    async def _position(self) -> int:
        return await self.read(self.log.position)

    async def _read_keys(self, known: KeysRead) -> KeysRead:
        def query(connection: Connection) -> KeysRead:
            version, now = self.log.version_and_now(connection)
            changed = version != known.version
            keys = keys_after(connection, known.keys) if changed else known.keys
            return KeysRead(keys, version, now)

        return await self.read(query)

    async def _outbox_users(self, after: UserId | None, users_max: int) -> list[UserId]:
        return await self.read(
            lambda connection: self.outbox_table.users(connection, after, users_max)
        )

    async def _outbox_row(self, user_id: UserId) -> int | None:
        return await self.read(lambda connection: self.outbox_table.first_row(connection, user_id))

    async def _work_in_line(self, kinds: Collection[Kind | None]) -> Work:
        named = [kind for kind in kinds if kind is not None]

        def query(connection: Connection) -> Work:
            waiting = self.line.waiting_of(connection, named)
            found: dict[Kind | None, int] = dict(waiting)
            if None in kinds:  # users at their caps are not in the line
                found[None] = len(self.line.next_users(connection, JOBS_PER_LOOK_MAX))
            return found

        return await self.read(self.with_saved_rows(query))

    async def _latest_limit_change(self) -> int:
        """Return the position of the latest event by which a used up window may have room again."""
        return await self.read(lambda connection: latest_of(connection, MAKE_ROOM))

    async def _read_events(self, wanted: EventFilter, after: int, limit: int) -> list[StoredEvent]:
        read = self.read_long if wanted.may_match_little else self.read
        return await read(lambda connection: audit_log.find(connection, wanted, after, limit))

    async def submit(self, command: SubmitJob) -> tuple[Submitted, JobView]:
        """Submit a job, and return the answer and the job.

        Raises `RateLimited`, `KeyReusedWithOtherPayload` and other refusals.
        """
        return await self._with_view(command, await self._submitted(command))

    async def submit_to_log(self, command: SubmitJob) -> tuple[Submitted, JobView]:
        """Submit a job after `limiter.refuse` has returned None. Raises the same as `submit`."""
        submitted = await self.limiter.decide(command)
        assert isinstance(submitted, Submitted), submitted
        return await self._with_view(command, submitted)

    async def _with_view(
        self, command: SubmitJob, submitted: Submitted
    ) -> tuple[Submitted, JobView]:
        if submitted.is_duplicate:
            [view] = await self.read(lambda connection: self.views(connection, [submitted.job]))
            return submitted, as_duplicate(view, submitted.job)
        self.payloads.keep(submitted.job.id, command.payload)
        view = job_view(submitted.job, command.payload.data, is_duplicate=False)
        return submitted, view

    async def submit_all(
        self,
        commands: Sequence[SubmitJob | Exception],
        after: Mapping[int, Sequence[int]] = MappingProxyType({}),
    ) -> list[tuple[Submitted, JobView] | Exception]:
        """Submit many jobs, and return one outcome for each, in order.

        `after` has the numbers of the earlier ones that a job comes after. An error among the
        commands is its own outcome. The bodies of duplicates have at most PAGE_BYTES_MAX bytes
        together: later duplicates are returned without their bodies.
        """
        commands, answers = await submit_in_order(
            commands, after, lambda some: self._slices.run(some, self.limiter.submit_each)
        )
        known = [
            answer.job
            for answer in answers
            if isinstance(answer, Submitted) and answer.is_duplicate
        ]
        views: Mapping[JobId, JobView] | FairlogError = {}
        if known:
            try:
                read = self.read_large if _may_be_large(known) else self.read
                views = await read(lambda connection: self._duplicates(connection, known))
            except FairlogError as error:
                views = without_traceback(error)
        for answer, command in zip(answers, commands, strict=True):
            if (
                isinstance(answer, Submitted)
                and isinstance(command, SubmitJob)
                and not answer.is_duplicate
            ):
                self.payloads.keep(answer.job.id, command.payload)
        return [
            _outcome(answer, command, views)
            for answer, command in zip(answers, commands, strict=True)
        ]

    async def _submitted(self, command: SubmitJob) -> Submitted:
        submitted = await self.limiter.submit(command.user_id, command)
        assert isinstance(submitted, Submitted), submitted
        return submitted

    def _duplicates(self, connection: Connection, jobs: Sequence[Job]) -> dict[JobId, JobView]:
        """Return views of the duplicates among the submitted jobs."""
        distinct = list({job.id: job for job in jobs}.values())
        whole, _ = fitting_jobs(connection, distinct, EVERYTHING, PAGE_BYTES_MAX)
        views = self.views(connection, whole)
        views += [job_view(job, UNSET, UNSET, UNSET) for job in distinct[len(whole) :]]
        by_id = {job.id: job for job in jobs}
        return {view.id: as_duplicate(view, by_id[view.id]) for view in views}

    async def claim(
        self, command: ClaimJobs, wait_seconds: float = 0.0, unwanted: asyncio.Event | None = None
    ) -> list[ClaimedJob]:
        """Return jobs in fair order, and wait up to `wait_seconds` for the first one.

        `unwanted` is set when the caller has gone. Jobs of a claim without a `claim_id` are then
        returned to the line, since the caller cannot request them again. Raises `BodyMissing`.
        """
        claimed = await self.claiming.claim(command, wait_seconds, unwanted)
        if unwanted is not None and unwanted.is_set() and command.claim_id is None:
            await self.advance_all(
                [
                    ReturnJob(job_id=job.id, attempt=job.attempt, by=command.by)
                    for job in claimed.jobs
                ]
            )
            return []
        try:
            return await self._claimed(claimed.jobs, command.by)
        except (LogUnavailable, QueueFull):
            if command.claim_id is None:  # otherwise the caller requests them again
                await self.advance_all(
                    [
                        ReturnJob(job_id=job.id, attempt=job.attempt, by=command.by)
                        for job in claimed.jobs
                    ]
                )
            raise

    async def _decide_claim(self, command: ClaimJobs) -> Claimed:
        return await self._execute(command, Claimed)

    async def _claimed(self, jobs: Sequence[Job], by: Caller | None) -> list[ClaimedJob]:
        """Return the jobs whose payloads exist, and return the others to the line.

        Raises `BodyMissing` if no job is left.
        """
        if not jobs:
            return []
        payloads, missing = await self.payloads.find(jobs)
        if missing is not None:
            without = [job for job in jobs if job.id not in payloads]
            _log.error("payloads_missing", jobs=[job.id for job in without], reason=str(missing))
            await self.advance_all(
                [ReturnJob(job_id=job.id, attempt=job.attempt, by=by) for job in without]
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

    async def extend(
        self,
        command: ExtendLeases,
        wait_seconds: float = 0.0,
        unwanted: asyncio.Event | None = None,
    ) -> LeasesHeld:
        """Extend the leases, and return those that the worker has lost.

        If it has lost none, wait up to `wait_seconds` for the cancellation of one of its jobs, or
        until `unwanted` is set because the caller has gone.
        """
        self.worker_polls.note(command.worker)
        if wait_seconds <= 0:
            return await self._execute(command, LeasesHeld)
        async with self.cancellations.listening(command.worker) as listener:
            held = await self._execute(command, LeasesHeld)
            if held.lost:
                return held
            own = set(command.jobs)  # another key's worker may have the same name
            lost = await listener.wait(wait_seconds, unwanted)
            return replace(held, lost=[one for one in lost if one in own])

    async def _cancelled(self, after: int) -> Cancelled:
        return await self.read(lambda connection: self._cancelled_after(connection, after))

    def _cancelled_after(self, connection: Connection, after: int) -> Cancelled:
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
        """Complete, fail, return or cancel one job, and return the job afterwards.

        Raises the refusals of the command.
        """
        job = (await self._execute(command, JobUpdated)).job
        payload = self.payloads.kept(job)
        if job.state in ENDED:
            self.payloads.drop(job.id)
        if payload is not None and isinstance(command, CompleteJob) and not _has_stored_texts(job):
            result = command.result
            return job_view(job, payload, None if result is None else result.data)
        return await self.view_of(job)

    async def view_of(self, job: Job) -> JobView:
        """Return the job with its bodies. Raises `BodyMissing`."""
        [view] = await self.read(lambda connection: self.views(connection, [job]))
        return view

    async def advance_all(
        self, commands: Sequence[JobCommand | Exception]
    ) -> list[Job | Exception]:
        """Complete, fail, return or cancel many jobs, and return one outcome for each, in order.

        An error among the commands is its own outcome.
        """
        outcomes = await self._slices.run(commands, self.writer.execute_each)
        for one in outcomes:
            if isinstance(one, JobUpdated) and one.job.state in ENDED:
                self.payloads.drop(one.job.id)
        return [one.job if isinstance(one, JobUpdated) else _error(one) for one in outcomes]

    async def change_limit(self, command: ChangeLimit) -> None:
        """Set limits of a user, of a kind or of all users together."""
        await self.writer.execute(command)

    def accept_clock(self) -> None:
        """Record that the log's time follows the database's clock again. Blocks."""
        self.execute_now(AcceptClock())

    async def watch_deadlines(self) -> None:
        """Call `enforce_deadlines`, but first wait while nothing is due soon and nobody writes."""
        timers = (self._due_jobs, self._held_users, self._due_schedules)
        if all(one.is_quiet for one in timers):
            await self._own_batches.wait_beyond(self._enforced_up_to, QUIET_SECONDS)
        self._enforced_up_to = self._own_batches.value
        await self.enforce_deadlines()

    async def enforce_deadlines(self) -> int:
        """Update the jobs whose leases, time-outs, schedules or expiry times have passed, and the
        users whose throttles have new windows, and decide the runs of schedules that are due.

        Users take turns. Returns the number of jobs that changed.
        """
        changed = 0
        while True:
            due, held, schedules = await self._read_due()
            try:  # at once, so that they are in one batch: timers wait for no other one
                is_line_updated, (updated, has_more), has_more_runs = await asyncio.gather(
                    self._update_line(held), self._update_due(due), self._fire(schedules)
                )
            except BaseException:
                self._due_jobs.clear()
                self._due_schedules.clear()
                raise
            changed += updated
            if not (has_more or is_line_updated or has_more_runs):
                return changed

    async def _fire(self, schedules: Sequence[ScheduleName]) -> bool:
        """Return True if further runs may be due."""
        if not schedules:
            return False
        outcomes = await self.writer.execute_each([FireSchedule(name=one) for one in schedules])
        for outcome in outcomes:
            if isinstance(outcome, FairlogError):
                raise fresh_copy(outcome)
        has_run = any(isinstance(one, ScheduleDecided) and one.run for one in outcomes)
        return has_run or self._due_schedules.has_more

    async def _update_line(self, users: Sequence[UserId]) -> bool:
        """Return True if further users may have to be updated."""
        if not users:
            return False
        line = await self._execute(UpdateLine(users=users), LineWasUpdated)
        return bool(line.users) or self._held_users.has_more

    async def _update_due(self, jobs: Sequence[JobId]) -> tuple[int, bool]:
        """Return the number of jobs that changed, and True if further ones are due."""
        if not jobs:
            return 0, False
        done = await self._execute(EnforceDeadlines(jobs=jobs), JobsUpdated)
        return len(done.jobs), done.has_more or bool(done.jobs and self._due_jobs.has_more)

    def recover(self, server: ServerId | None) -> list[Job]:
        """Queue the jobs again that no worker can still finish, and return the jobs that changed.

        These are jobs that ran inside `server`, whose earlier process is certainly dead, and jobs
        whose deadlines have passed by the log's clock. Blocks. Call it before the server listens.
        """
        recovered: list[Job] = []
        while server is not None:
            query = self.with_saved_rows(partial(self._running_in, server))
            running = self.read_now(query)
            if not running:
                break
            recovered += self._update_jobs(RecoverJobs(server=server, jobs=running)).jobs
        while due := self.read_now(self._due):
            done = self._update_jobs(EnforceDeadlines(jobs=due))
            recovered += done.jobs
            if not (done.jobs or done.has_more):  # the writer found none of them due
                break
        self.is_recovered = True
        return recovered

    async def _read_due(self) -> tuple[list[JobId], list[UserId], list[ScheduleName]]:
        """Return due jobs, users whose places in the line have to be worked out again, and
        schedules with a due run.
        """
        found = await self.read(self._due_and_held)
        self.log_watcher.note_position(self._due_jobs.position)
        return found

    def _running_in(self, server: ServerId, connection: Connection) -> list[JobId]:
        return self.jobs.running_in(connection, server, JOBS_PER_PAGE)

    def _due_and_held(
        self, connection: Connection
    ) -> tuple[list[JobId], list[UserId], list[ScheduleName]]:
        head = self._saved_head(connection)
        return (
            self._due_at(connection, head),
            self._held_users.next_page(connection, head),
            self._due_schedules.next_page(connection, head),
        )

    def _due(self, connection: Connection) -> list[JobId]:
        return self._due_at(connection, self._saved_head(connection))

    def _saved_head(self, connection: Connection) -> HeadReading:
        """Return the head after all rows behind the log have been saved."""
        head = self.log.head_reading(connection)
        if head.saved < head.position:
            self.save_rows(connection)
        return head

    def _due_at(self, connection: Connection, head: HeadReading) -> list[JobId]:
        """Return due jobs, followed by the other running jobs of their workers.

        An ended lease counts as a failure or not depending on those (ADR 27).
        """
        due = self._due_jobs.next_page(connection, head)
        if not due:
            return due
        others = self.jobs.running_on_same_workers(connection, due, JOBS_OF_SAME_WORKERS_MAX)
        return list(dict.fromkeys([*due, *others]))

    async def _execute(
        self,
        command: SubmitJob | ClaimJobs | ExtendLeases | JobCommand | EnforceDeadlines | UpdateLine,
        expected: type[A],
    ) -> A:
        answer = await self.writer.execute(command)
        assert isinstance(answer, expected), answer
        return answer

    def execute_now(self, command: Command) -> Answer:
        """Return the answer to a command. Blocks. Raises the refusal, and `LogUnavailable`."""
        [outcome] = self.writer.execute_all([command])
        if isinstance(outcome, Exception):
            raise fresh_copy(outcome)
        return outcome

    def _update_jobs(self, command: EnforceDeadlines | RecoverJobs) -> JobsUpdated:
        answer = self.execute_now(command)
        assert isinstance(answer, JobsUpdated), answer
        return answer

    async def stats(self, seen_by: ApiKey | None = None) -> StatsView:
        """Return counts, the line, the global window and the totals of this server."""
        if seen_by is not None:
            key = seen_by
            return await self.read_long(
                self.with_saved_rows(
                    lambda connection: self.own_stats_view(connection, self.rates(), key)
                )
            )
        query = self.with_saved_rows(lambda connection: self.stats_view(connection, self.rates()))
        return await self.read(query)

    def rates(self) -> RatesView:
        """Return the totals of this server's writer since its start."""
        done = self.writer.stats
        return RatesView(
            done.batches,
            done.commands,
            done.events,
            done.retries,
            self.writer.waiting(),
            time.monotonic() - self._started,
        )


def _has_stored_texts(job: Job) -> bool:
    """Return True if its view needs bodies besides payload and result."""
    return job.error_position is not None or job.progress_position is not None


def _may_be_large(jobs: Sequence[Job]) -> bool:
    """Return True if the bodies may be large; the sizes of results are not known before."""
    ended = sum(job.result_position is not None for job in jobs)
    return ended > 1 or sum(job.payload_bytes for job in jobs) > LARGE_BYTES


def _error(outcome: Outcome) -> Exception:
    assert isinstance(outcome, Exception), outcome
    return outcome


def _outcome(
    answer: Outcome,
    command: SubmitJob | Exception,
    known: Mapping[JobId, JobView] | FairlogError,
) -> tuple[Submitted, JobView] | Exception:
    if isinstance(answer, Exception):
        return answer
    assert isinstance(command, SubmitJob), command
    assert isinstance(answer, Submitted), answer
    if not answer.is_duplicate:
        return answer, job_view(answer.job, command.payload.data, is_duplicate=False)
    return known if isinstance(known, FairlogError) else (answer, known[answer.job.id])
