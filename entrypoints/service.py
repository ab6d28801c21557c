"""Fairlog as its doors see it: wishes go to the writer, questions to the projections and the log.

No decision is made here. Every wish is a command that the writer decides; every answer is either
what the writer said or what a projection holds.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from msgspec import Raw
from sqlalchemy.engine import Connection

from adapters.database import Database
from adapters.event_log import EventFilter, SqlEventLog, StoredEvent
from adapters.writer import Writer
from domain.commands import (
    ChangeLimit,
    ClaimJobs,
    ExtendLeases,
    JobCommand,
    RecoverJobs,
    ReturnJob,
    SubmitJob,
    WakeJobs,
)
from domain.decide import Answer, Claimed, JobStands, JobsWoken, LeasesHeld, Submitted
from domain.errors import FairlogError, UnknownJob
from domain.identifiers import GLOBAL, JobId, Kind, ServerId, UserId
from domain.life_cycle import Job, State
from domain.moments import to_micros
from domain.policy import Policy
from entrypoints.claiming import Claiming
from entrypoints.doorkeeper import Doorkeeper
from entrypoints.following import Following
from entrypoints.tail import Tail
from entrypoints.views import (
    ClaimedJob,
    EventPage,
    JobPage,
    JobView,
    KindView,
    LineView,
    RatesView,
    StatsView,
    TurnView,
    UserLimitsView,
    WindowView,
    event_view,
    job_view,
    window_view,
    without_traceback,
)
from entrypoints.work_signal import WorkSignal
from projections import registry
from projections.jobs import JobQueries
from projections.line import LineQueries
from projections.windows import WindowQueries

JOBS_A_WAKE_MAX: Final = 500
READ_THREADS: Final = 8
_FRONT_OF_LINE: Final = 20
_KINDS_SHOWN_MAX: Final = 200
_NO_KIND: Final = Kind("")

T = TypeVar("T")
A = TypeVar("A", bound=Answer)


class Fairlog:
    """One a process; made by `entrypoints.composition`."""

    def __init__(
        self, database: Database, log: SqlEventLog, writer: Writer, policy: Policy,
        following: Following,
    ) -> None:  # fmt: skip
        self.database = database
        self.log = log
        self.writer = writer
        self.policy = policy
        self.jobs = JobQueries(registry.current("jobs"))
        self.line = LineQueries(registry.current("line"))
        self.windows = WindowQueries(registry.current("windows"))
        self.door = Doorkeeper(writer.execute, self._latest_limit_change, log.clock)
        writer.subscribe(self.door.published)
        self.work = WorkSignal(self._position)
        writer.subscribe(self.work.published)
        self.claiming = Claiming(self._ask, self.work)
        self.following = following
        writer.subscribe(following.published)
        self.tail = Tail(self._read_events, self._position)
        writer.subscribe(self.tail.published)
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="fairlog-read")
        self._started = time.monotonic()
        self.is_recovered = False  # whether what an earlier process left has been queued again

    def close(self) -> None:
        """Write what is waiting, then let go of the database."""
        self.writer.stop()
        self.following.stop()
        self._readers.shutdown()
        self.database.close()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query beside the event loop. Raises `LogUnavailable`."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, query)

    def read_now(self, query: Callable[[Connection], T]) -> T:
        with self.database.read() as connection:
            return query(connection)

    def release_listeners(self) -> None:
        """The server stops: end what would otherwise stay open. On the event loop."""
        self.tail.stop()
        self.work.release()

    async def _position(self) -> int:
        return await self.read(self.log.position)

    async def _latest_limit_change(self) -> int:
        return await self.read(lambda connection: self.log.latest(connection, "LimitChanged"))

    async def _read_events(self, wanted: EventFilter, after: int, limit: int) -> list[StoredEvent]:
        return await self.read(lambda connection: self.log.find(connection, wanted, after, limit))

    # Wishes

    async def submit(self, command: SubmitJob) -> tuple[Submitted, JobView]:
        """Raises `RateLimited`, `KeyReusedWithOtherPayload` and their like."""
        submitted = await self.door.submit(command)
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

        What was found wrong at the door already takes a place as the exception it is.
        """

        async def one(command: SubmitJob | Exception) -> tuple[Submitted, JobView] | Exception:
            if isinstance(command, Exception):
                return command
            try:
                return await self.submit(command)
            except FairlogError as error:
                return error

        return await asyncio.gather(*(one(command) for command in commands))

    async def claim(
        self, command: ClaimJobs, wait_seconds: float = 0.0, unwanted: asyncio.Event | None = None
    ) -> list[ClaimedJob]:
        """Jobs in fair order; with `wait_seconds`, waits that long for the first.

        `unwanted` is set when the caller has gone: jobs that nobody can ask for again go back.
        """
        claimed = await self.claiming.claim(command, wait_seconds, unwanted)
        if unwanted is not None and unwanted.is_set() and command.claim_id is None:
            await self.settle(
                [ReturnJob(job_id=job.id, attempt=job.attempt) for job in claimed.jobs]
            )
            return []
        return await self._claimed(claimed.jobs)

    async def _ask(self, command: ClaimJobs) -> Claimed:
        return await self._execute(command, Claimed)

    async def _claimed(self, jobs: Sequence[Job]) -> list[ClaimedJob]:
        if not jobs:
            return []
        ids = [job.id for job in jobs]
        payloads = await self.read(lambda connection: self.log.bodies_at(connection, ids))
        return [
            ClaimedJob(
                job.id, job.user_id, job.kind, Raw(payloads.get(job.id, b"null")), job.attempt,
                job.lease_expires_at, job.timeout_seconds,
            )
            for job in jobs
        ]  # fmt: skip

    async def extend(self, command: ExtendLeases) -> LeasesHeld:
        return await self._execute(command, LeasesHeld)

    async def advance(self, command: JobCommand) -> JobView:
        """Complete, fail, give back, cancel or retry one job; the job as it then stands."""
        stands = await self._execute(command, JobStands)
        [view] = await self.read(lambda connection: self.views(connection, [stands.job]))
        return view

    async def settle(self, commands: Sequence[JobCommand | Exception]) -> list[Job | Exception]:
        """`advance` for many at once, with one outcome for each, in order.

        What was found wrong at the door already takes a place as the exception it is.
        """

        async def one(command: JobCommand | Exception) -> Job:
            if isinstance(command, Exception):
                raise command
            return (await self._execute(command, JobStands)).job

        outcomes = await asyncio.gather(
            *(one(command) for command in commands), return_exceptions=True
        )
        settled: list[Job | Exception] = []
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
                raise outcome
            settled.append(outcome)
        return settled

    async def change_limit(self, command: ChangeLimit) -> None:
        await self.writer.execute(command)

    async def wake_due_jobs(self) -> int:
        """Let the clock act: lost leases, time-outs, schedules and expiries; how many changed."""
        due = await self.read(self._due)
        if not due:
            return 0
        woken = await self._execute(WakeJobs(jobs=due), JobsWoken)
        return len(woken.jobs)

    def recover(self, server: ServerId | None) -> list[Job]:
        """Queue again every job whose run nobody can still finish.

        What ran inside `server`, whose earlier process is certainly dead, at once; what is overdue
        by the log's clock as well. Blocks; for use before the doors open.
        """
        recovered: list[Job] = []
        while server is not None:
            running = self.read_now(
                lambda connection: self.jobs.running_in(connection, server, JOBS_A_WAKE_MAX)
            )
            if not running:
                break
            recovered += self._execute_now(RecoverJobs(server=server, jobs=running)).jobs
        while due := self.read_now(self._due):
            woken = self._execute_now(WakeJobs(jobs=due)).jobs
            recovered += woken
            if not woken:  # a clock that another server read a moment later
                break
        self.is_recovered = True
        return recovered

    def _due(self, connection: Connection) -> list[JobId]:
        now = to_micros(self.log.now(connection))
        return self.jobs.due(connection, now, JOBS_A_WAKE_MAX)

    async def _execute(
        self,
        command: SubmitJob | ClaimJobs | ExtendLeases | JobCommand | WakeJobs,
        expected: type[A],
    ) -> A:
        answer = await self.writer.execute(command)
        assert isinstance(answer, expected), answer
        return answer

    def _execute_now(self, command: WakeJobs | RecoverJobs) -> JobsWoken:
        answer = self.writer.execute_now(command)
        assert isinstance(answer, JobsWoken), answer
        return answer

    # Questions

    async def job(self, job_id: JobId) -> JobView:
        """Raises `UnknownJob`."""

        def query(connection: Connection) -> list[JobView]:
            return self.views(connection, list(self.jobs.find(connection, [job_id]).values()))

        found = await self.read(query)
        if not found:
            raise UnknownJob(job_id)
        return found[0]

    async def newest_jobs(
        self, user_id: UserId | None, state: State | None, below: int | None, limit: int
    ) -> JobPage:
        def query(connection: Connection) -> JobPage:
            found = self.jobs.newest(connection, user_id, state, below, limit + 1)
            following = str(found[limit - 1].id) if len(found) > limit else None
            views = self.views(connection, found[:limit])
            for view in views:
                view.error = without_traceback(view.error)
            return JobPage(views, following)

        return await self.read(query)

    def views(self, connection: Connection, jobs: Sequence[Job]) -> list[JobView]:
        """Jobs with their bodies, in the order given."""
        positions = [
            position
            for job in jobs
            for position in (job.id, job.result_position, job.error_position)
            if position is not None
        ]
        found = self.log.bodies_at(connection, positions)
        return [
            job_view(
                job,
                found.get(job.id, b"null"),
                found.get(job.result_position or 0),
                found.get(job.error_position or 0),
            )
            for job in jobs
        ]

    async def events(self, wanted: EventFilter, after: int, limit: int) -> EventPage:
        def query(connection: Connection) -> list[StoredEvent]:
            return self.log.find(connection, wanted, after, limit + 1)

        found = await self.read(query)
        following = found[limit - 1].position if len(found) > limit else None
        return EventPage([event_view(event) for event in found[:limit]], following)

    async def history(self, job_id: JobId, after: int, limit: int) -> EventPage:
        """A job's events. Raises `UnknownJob`."""
        page = await self.events(EventFilter(job_id=job_id), after, limit)
        if not page.events and after == 0:
            raise UnknownJob(job_id)
        return page

    async def user_limits(self, user_id: UserId) -> UserLimitsView:
        def query(connection: Connection) -> UserLimitsView:
            now = self.log.now(connection)
            windows = self.windows.load(connection, [user_id], self.policy, now)
            everyone = window_view(windows.global_window(self.policy, now), None)
            own = windows.user_window(user_id, self.policy, now)
            setting = windows.limits.get((user_id, _NO_KIND))
            return UserLimitsView(
                user_id=user_id, limit=own.limit, used=own.used, remaining=own.remaining,
                window_seconds=own.window_seconds, resets_at=own.resets_at,
                running=None if setting is None else setting.running, global_=everyone,
            )  # fmt: skip

        return await self.read(query)

    async def global_limits(self) -> WindowView:
        return await self.read(self._global_window)

    def _global_window(self, connection: Connection) -> WindowView:
        now = self.log.now(connection)
        windows = self.windows.load(connection, [], self.policy, now)
        setting = windows.limits.get((GLOBAL, _NO_KIND))
        return window_view(
            windows.global_window(self.policy, now), None if setting is None else setting.running
        )

    async def kind(self, kind: Kind) -> KindView:
        load = await self.read(lambda connection: self.line.kind(connection, kind))
        return KindView(kind, load.waiting, load.running, load.running_limit)

    async def stats(self) -> StatsView:
        return await self.read(self._stats)

    def _stats(self, connection: Connection) -> StatsView:
        counts = self.jobs.counts(connection)
        kinds = self.line.kinds(connection, _KINDS_SHOWN_MAX)
        return StatsView(
            position=self.log.position(connection),
            jobs=counts,
            total=sum(counts.values()),
            line=LineView(
                counts[State.QUEUED],
                [
                    KindView(kind, load.waiting, load.running, load.running_limit)
                    for kind, load in kinds
                ],
                [
                    TurnView(user_id, user.turn or 0, user.last_served, user.waiting, user.running)
                    for user_id, user in self.line.next_users(connection, _FRONT_OF_LINE)
                ],
            ),
            global_=self._global_window(connection),
            rates=self.rates(),
        )

    def rates(self) -> RatesView:
        done = self.writer.stats
        return RatesView(
            done.batches, done.commands, done.events, done.retries, len(self.writer.queue),
            time.monotonic() - self._started,
        )  # fmt: skip
