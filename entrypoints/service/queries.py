"""Queries of the projections and the log."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from msgspec import UNSET, Struct
from sqlalchemy.engine import Connection

from adapters.database.database import Database
from adapters.log import audit_log
from adapters.log.archived import absence
from adapters.log.audit_log import EventFilter, StoredEvent, limited_to
from adapters.log.event_log import SqlEventLog
from adapters.log.histories import changes_of
from adapters.log.log_history import LiveHistory, LogHistory
from adapters.supervision import Supervisor
from adapters.writer.write_path import BatchWritten, WritePath
from domain.access.keys import ApiKey
from domain.fairness.line import Load, UserInLine
from domain.jobs.history import jobs_of
from domain.jobs.job import Job, State
from domain.language.commands import SaveProjections
from domain.language.errors import (
    BodyMissing,
    InvalidInput,
    LogCorrupt,
    LogIsBehind,
    LogUnavailable,
    UnknownJob,
    fresh_copy,
)
from domain.language.identifiers import JobId, Kind, UserId
from domain.language.policy import Policy
from domain.limits.limits import LimitSettings
from entrypoints.runtime.page_bytes import PAGE_BYTES_MAX, fitting
from entrypoints.service.long_reads import LARGE_BYTES, LARGE_ENTRIES, LongReads
from entrypoints.service.pages import (
    EVERYTHING,
    SHORTENED_ERRORS,
    Included,
    fitting_jobs,
    shortened_error,
)
from entrypoints.service.views import (
    EventPage,
    JobPage,
    JobView,
    KindView,
    LineView,
    RatesView,
    StatsView,
    TurnView,
    WindowView,
    event_view,
    job_view,
    window_view,
)
from projections.inline.callbacks import CallbackQueries
from projections.inline.jobs import JobQueries
from projections.inline.schedules import ScheduleQueries
from projections.inline.windows import WindowQueries
from projections.queries.line_queries import LineQueries
from projections.queries.visible_jobs import VisibleJobs, conditions_of
from projections.storage import registry

READ_THREADS: Final = 8
READ_SECONDS_MAX: Final = 4.5  # to get a thread and a connection
_NO_ANSWER: Final = "The database does not answer."
FRONT_OF_LINE: Final = 20  # users shown
KINDS_SHOWN_MAX: Final = 200
_NO_KIND: Final = Kind("")

T = TypeVar("T")


class Queries:
    """The queries of one process. Each reads the database in a thread, not on the event loop."""

    def __init__(
        self,
        database: Database,
        log: SqlEventLog,
        writer: WritePath,
        policy: Policy,
        supervisor: Supervisor,
    ) -> None:
        self.writer = writer
        self._written = 0  # position of the latest event that this process has written
        writer.observe(self._note_written)
        self.supervisor = supervisor
        self._reads = supervisor.part("reads")
        self.database = database
        self.log = log
        # The past as commands read it: of the database, or with an archive of the whole log.
        self.past: LogHistory = LiveHistory(log)
        self.policy = policy
        self.jobs = JobQueries(registry.current("jobs"))
        self.visible_jobs = VisibleJobs(registry.current("jobs"))
        self.line = LineQueries(registry.current("line"))
        self.windows = WindowQueries(registry.current("windows"))
        self.schedules = ScheduleQueries(registry.current("schedules"))
        self.callbacks = CallbackQueries(registry.current("callbacks"))
        self._long_reads = LongReads("long-read")
        self._large_reads = LongReads("large-read")
        self._large_claims = LongReads("large-claim")  # so that workers do not wait for pages
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="fairlog-read")

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run a query in a thread.

        Raises `LogUnavailable`, after READ_SECONDS_MAX at the latest if the query has not begun.
        """
        loop = asyncio.get_running_loop()
        progress = _ReadProgress()
        reply = loop.run_in_executor(self._readers, self._read, query, progress)
        timer = loop.call_later(READ_SECONDS_MAX, progress.give_up, reply)
        try:
            return await reply
        except asyncio.CancelledError:
            if not progress.is_given_up:
                raise
            self._reads.fails(_NO_ANSWER)
            raise LogUnavailable(f"{_NO_ANSWER} The request can be sent again.") from None
        finally:
            timer.cancel()

    async def read_long(self, query: Callable[[Connection], T]) -> T:
        """Run a query that may take long, without delaying others (see `read`).

        Raises `QueueFull`, too.
        """
        return await self._long_reads.run(self.read_now, query)

    async def read_large(self, query: Callable[[Connection], T]) -> T:
        """Run a query whose result may be large (see `read`). Raises `QueueFull`, too."""
        return await self._large_reads.run(self.read_now, query)

    async def read_bodies(self, bytes_: int, query: Callable[[Connection], T]) -> T:
        """Run a query for the payloads of a claim, `bytes_` together (see `read`).

        Raises `QueueFull`, too.
        """
        if bytes_ <= LARGE_BYTES:
            return await self.read(query)
        return await self._large_claims.run(self.read_now, query)

    def with_saved_rows(self, query: Callable[[Connection], T]) -> Callable[[Connection], T]:
        """Return a query on inline projections that sees all that was written before it runs.

        Their rows are written behind the log. So it asks the writer to save them, which takes some
        milliseconds, whichever process has appended the events. While nothing can be written, the
        rows are read as they stand. Raises `LogIsBehind` for another server than was written to.
        """

        def run(connection: Connection) -> T:
            self.require_rows(connection)
            return query(connection)

        return run

    def require_rows(self, connection: Connection) -> range:
        """Have the rows of the inline projections saved, and return the positions of the events
        that rows lack all the same, since nothing can be written. Raises `LogIsBehind`.
        """
        written = self._written  # before the query: the writer goes on meanwhile
        position, saved = self.log.saved(connection)
        if position < written:
            raise LogIsBehind(position, written)
        if saved == position:
            return range(0)
        if not self.save_rows(connection):
            return range(saved + 1, position + 1)
        _, saved = self.log.saved(connection)
        if saved < position:
            raise LogIsBehind(saved, position)
        return range(0)

    def current_jobs(self, connection: Connection, job_ids: Sequence[JobId]) -> dict[JobId, Job]:
        """Return those of the jobs that exist, as they are after all that was written before.

        While no rows can be saved, their rows are folded further by their own events. Raises
        `LogIsBehind`.
        """
        without_rows = self.require_rows(connection)
        found = self.jobs.find(connection, list(job_ids))
        if not without_rows:
            return found
        first, last = without_rows[0], without_rows[-1]
        if self.log.saved(connection)[1] >= first:  # they were saved while they were read
            return self.jobs.find(connection, list(job_ids))
        return jobs_of(changes_of(connection, list(job_ids), last, first - 1), found)

    def save_rows(self, connection: Connection) -> bool:
        """Have the rows of the inline projections saved, for the next query; return False if
        nothing can be written. Blocks.
        """
        connection.rollback()
        [outcome] = self.writer.execute_all([SaveProjections()])
        if isinstance(outcome, LogUnavailable):
            return False
        if isinstance(outcome, Exception):
            raise fresh_copy(outcome)
        return True

    def _note_written(self, batch: BatchWritten) -> None:
        self._written = batch.position

    def read_now(self, query: Callable[[Connection], T]) -> T:
        """Run a query in the calling thread (see `read`). Blocks."""
        return self._read(query, _ReadProgress())

    def _read(self, query: Callable[[Connection], T], progress: "_ReadProgress") -> T:
        try:
            try:
                found = self._read_once(query, progress)
            except (BodyMissing, LogIsBehind) as error:
                # The database server may lag or have been replaced, so use new connections.
                self.database.drop_readers(leaves_host=isinstance(error, LogIsBehind))
                found = self._read_once(query, progress)
        except BodyMissing:
            raise
        except LogUnavailable as error:
            self._reads.fails(error)
            raise
        except LogCorrupt as error:  # it may concern one row, and be repaired
            raise LogUnavailable(f"{error} The request can be sent again.") from error
        self._reads.works()
        return found

    def _read_once(self, query: Callable[[Connection], T], progress: "_ReadProgress") -> T:
        with self.database.read() as connection:
            progress.has_begun = True
            return query(connection)

    async def job(self, job_id: JobId, seen_by: ApiKey | None = None) -> JobView:
        """Return a job with its bodies. Raises `UnknownJob`, also if the key may not see it."""

        def query(connection: Connection) -> list[JobView] | Job:
            found = [
                job
                for job in self.current_jobs(connection, [job_id]).values()
                if seen_by is None or seen_by.is_for(job.user_id, job.kind)
            ]
            if found and found[0].payload_bytes > LARGE_BYTES:
                return found[0]
            return self.views(connection, found)

        found = await self.read(query)
        if isinstance(found, Job):
            job = found
            found = await self.read_large(lambda connection: self.views(connection, [job]))
        if not found:
            raise await self.absence(job_id)
        return found[0]

    async def absence(self, job_id: JobId) -> UnknownJob:
        """Return the error for a job that has no row: it is archived, or it never existed."""
        return await self.read(lambda connection: absence(connection, job_id))

    async def counts(self, seen_by: ApiKey | None = None) -> dict[State, int]:
        """Return the number of jobs by state, of those that the key may see."""
        if seen_by is None:
            return await self.read(self.with_saved_rows(self.jobs.counts))
        key = seen_by
        return await self.read_long(
            self.with_saved_rows(lambda connection: self.visible_jobs.counts(connection, key))
        )

    async def newest_jobs(
        self,
        user_id: UserId | None,
        state: State | None,
        below: int | None,
        limit: int,
        included: Included = SHORTENED_ERRORS,
        seen_by: ApiKey | None = None,
    ) -> JobPage:
        """Return up to `limit` jobs with ids below `below`, newest first; None: no condition.

        `seen_by` is the key that may see only its own.

        A page ends early if its bodies would have more than PAGE_BYTES_MAX bytes together.
        """

        def query(connection: Connection) -> JobPage | _Fitting:
            of_key = () if seen_by is None else conditions_of(seen_by)
            found = self.jobs.newest(connection, user_id, state, below, limit + 1, of_key)
            shown, size = fitting_jobs(connection, found[:limit], included, PAGE_BYTES_MAX)
            following = str(shown[-1].id) if len(found) > len(shown) else None
            if size > LARGE_BYTES:
                return _Fitting(shown, following)
            return JobPage(self.views(connection, shown, included=included), following)

        if seen_by is not None:
            read = self.read_long
        else:
            read = self.read_large if limit > LARGE_ENTRIES else self.read
        found = await read(self.with_saved_rows(query))
        if isinstance(found, JobPage):
            return found
        large = found
        views = await self.read_large(
            lambda connection: self.views(connection, large.jobs, included=included)
        )
        return JobPage(views, large.next)

    def views(
        self,
        connection: Connection,
        jobs: Sequence[Job],
        erased: Collection[JobId] = (),
        included: Included = EVERYTHING,
    ) -> list[JobView]:
        """Return views of the jobs with the included bodies, in the same order.

        `erased` are the jobs of a past state whose bodies were erased later: a segment that is not
        written anew yet may still have them. Raises `BodyMissing`.
        """
        positions = [
            position
            for job in jobs
            if job.erased_at is None and job.id not in erased
            for position in included.places(job)
        ]
        found = self.past.bodies_at(connection, positions)
        audit_log.require_bodies(found, positions)
        views = [
            job_view(
                job,
                found.get(job.id, b"null") if included.payload else UNSET,
                found.get(job.result_position or 0) if included.result else UNSET,
                found.get(job.error_position or 0),
                progress_message=found.get(job.progress_position or 0),
            )
            for job in jobs
        ]
        if not included.error:
            for view in views:
                if view.error is not UNSET:
                    view.error = shortened_error(view.error)
        return views

    async def events(self, wanted: EventFilter, after: int, limit: int) -> EventPage:
        """Return up to `limit` matching events after a position, in log order.

        A page ends early if its events would have more than PAGE_BYTES_MAX bytes together. Raises
        `InvalidInput` if `after` is beyond the head position, and `QueueFull`.
        """

        def query(connection: Connection) -> list[StoredEvent]:
            found = audit_log.find(connection, wanted, after, limit + 1)
            if not found and after > (end := self.log.position(connection)):
                raise InvalidInput(f"after: the log ends at position {end}.")
            return found

        if wanted.may_match_little:
            found = await self.read_long(query)
        elif limit > LARGE_ENTRIES:
            found = await self.read_large(query)
        else:
            found = await self.read(query)
        sizes = (len(event.data) for event in found[:limit])
        shown = fitting(found[:limit], sizes, PAGE_BYTES_MAX)
        following = shown[-1].position if len(found) > len(shown) else None
        return EventPage([event_view(event) for event in shown], following)

    async def history(
        self, job_id: JobId, after: int, limit: int, seen_by: ApiKey | None = None
    ) -> EventPage:
        """Return a page of the job's events that the key may see. Raises `UnknownJob`."""
        page = await self.events(limited_to(EventFilter(job_id=job_id), seen_by), after, limit)
        if not page.events and after == 0:
            raise await self.absence(job_id)
        return page

    def _global_window(self, connection: Connection) -> WindowView:
        now = self.log.now(connection)
        windows, limits = self.windows.load(connection, [], now)
        window = windows.global_window(limits, self.policy, now)
        return window_view(window, limits.everyone.running)

    def own_stats_view(
        self, connection: Connection, rates: RatesView, seen_by: ApiKey
    ) -> StatsView:
        """Return what a key may see of the statistics: its jobs, and the turns of its users."""
        users = [
            (user_id, user)
            for user_id in seen_by.created.users[:FRONT_OF_LINE]
            if (user := self.line.user(connection, user_id)) is not None and user.waiting
        ]
        counts = self.visible_jobs.counts(connection, seen_by)
        return self._stats_view(connection, rates, counts, [], users)

    def stats_view(self, connection: Connection, rates: RatesView) -> StatsView:
        """Return counts by state, the line and the global window, from stored counts."""
        counts = self.jobs.counts(connection)
        kinds = self.line.kinds(connection, KINDS_SHOWN_MAX)
        users = self.line.next_users(connection, FRONT_OF_LINE)
        return self._stats_view(connection, rates, counts, kinds, users)

    def _stats_view(
        self,
        connection: Connection,
        rates: RatesView,
        counts: dict[State, int],
        kinds: Sequence[tuple[Kind, Load]],
        users: Sequence[tuple[UserId, UserInLine]],
    ) -> StatsView:
        limits = self.windows.limits_of(connection, [])
        return StatsView(
            position=self.log.position(connection),
            jobs=counts,
            total=sum(counts.values()),
            line=LineView(
                counts[State.QUEUED],
                [_kind_view(kind, load, limits) for kind, load in kinds],
                [
                    TurnView(user_id, user.turn or 0, user.last_served, user.waiting, user.running)
                    for user_id, user in users
                ],
            ),
            global_=self._global_window(connection),
            rates=rates,
        )


def _kind_view(kind: Kind, load: Load, limits: LimitSettings) -> KindView:
    return KindView(kind, load.waiting, load.running, limits.of_kind(kind).running)


class _Fitting(Struct, frozen=True):
    """The jobs of a page whose bodies are large and have not been read."""

    jobs: Sequence[Job]
    next: str | None  # the cursor of the next page


class _ReadProgress:
    """The progress of one read: it waits, has begun, or was given up."""

    def __init__(self) -> None:
        self.has_begun = False  # it has a connection, whose statements have time-outs
        self.is_given_up = False

    def give_up(self, reply: "asyncio.Future[Any]") -> None:
        """Cancel the reply unless the read has begun."""
        if not self.has_begun and not reply.done():
            self.is_given_up = True
            reply.cancel()
