"""Requests that wait until a job has ended.

Nobody polls a job. One loop per process follows the log while somebody waits, and wakes those whose
jobs have ended: at once for events of this process, after the next poll for those of others. The
jobs of all who are woken are then read together.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log.histories import of_types
from adapters.supervision import Part
from domain.access.keys import ApiKey
from domain.decisions.deliveries import ENDS, is_end
from domain.jobs.job import ENDED
from domain.language.errors import UnknownJob
from domain.language.identifiers import JobId
from entrypoints.feeds.log_watcher import LogWatcher
from entrypoints.runtime.page_bytes import PAGE_BYTES_MAX
from entrypoints.service.job_reads import JobReads
from entrypoints.service.pages import EVERYTHING, fitting_jobs
from entrypoints.service.queries import Queries
from entrypoints.service.views import JobView

PAUSE_SECONDS: Final = 0.02  # between two queries for ended jobs, which then find more each
_IDLE_SECONDS: Final = 1.0  # between two checks whether somebody still waits
_TYPES: Final = tuple(one.__name__ for one in ENDS)


class EndedJobs(Struct, frozen=True):
    """The jobs that ended after one position and up to another."""

    up_to: int  # position, inclusive
    jobs: Collection[JobId]


class JobEnds:
    """One per process, used on its event loop."""

    def __init__(self, queries: Queries, watcher: LogWatcher, part: Part | None = None) -> None:
        self._queries = queries
        self._watcher = watcher
        self._reads = JobReads(self._read_jobs, queries.absence)
        self._news = watcher.subscribe(_TYPES)
        self._loop = watcher.loop(Part("job_ends") if part is None else part, self._run)
        self._waiting: dict[JobId, set[asyncio.Event]] = {}
        self._seen = 0  # position up to which ended jobs have been reported
        self._starting = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self._loop.users

    async def wait(
        self, job_id: JobId, seconds: float, woken: asyncio.Event, seen_by: ApiKey | None
    ) -> JobView:
        """Return the job when it has ended; after `seconds`, when `woken` is set by somebody else,
        or when the server stops, as it stands then. Do not change the view.

        Raises `UnknownJob`, also if the key may not see the job, and `LogUnavailable`.
        """
        with self._registered(job_id, woken):
            async with self._starting:
                if not self._loop.is_running:
                    self._seen = await self._watcher.read_position()
            with self._loop.needed():
                # Read after the registration, so that an end between the two is not missed.
                view = await self._reads.view(job_id)
                if seen_by is not None and not seen_by.is_for(view.user_id, view.kind):
                    raise UnknownJob(job_id)
                if view.state in ENDED or self._watcher.is_stopping:
                    return view
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await woken.wait()
        return await self._reads.view(job_id)

    def release(self) -> None:
        """Answer all who wait, after the watcher has stopped."""
        for events in self._waiting.values():
            for woken in events:
                woken.set()

    @contextlib.contextmanager
    def _registered(self, job_id: JobId, woken: asyncio.Event) -> Iterator[None]:
        events = self._waiting.setdefault(job_id, set())
        events.add(woken)
        try:
            yield
        finally:
            events.discard(woken)
            if not events and self._waiting.get(job_id) is events:
                del self._waiting[job_id]

    async def _run(self) -> None:
        while self._loop.is_needed:
            if not await self._news.wait_beyond(self._seen, _IDLE_SECONDS):
                continue
            self._loop.part.begins()
            ended = await self._queries.read(self._ended_after_seen)
            self._seen = ended.up_to
            for job_id in ended.jobs:
                for woken in self._waiting.get(job_id, ()):
                    woken.set()
            self._loop.part.works()
            await self._watcher.pause(PAUSE_SECONDS)

    def _ended_after_seen(self, connection: Connection) -> EndedJobs:
        after = self._seen
        up_to = self._queries.log.position(connection)
        found = of_types(connection, _TYPES, after, up_to)
        return EndedJobs(
            max(after, up_to),
            {one.job_id for one in found if one.job_id is not None and is_end(one.event)},
        )

    async def _read_jobs(self, job_ids: Sequence[JobId]) -> Mapping[JobId, JobView | None]:
        return await self._queries.read(lambda connection: self._fitting(connection, job_ids))

    def _fitting(
        self, connection: Connection, job_ids: Sequence[JobId]
    ) -> Mapping[JobId, JobView | None]:
        """Return views of the first jobs, with bodies of at most PAGE_BYTES_MAX bytes together."""
        jobs = self._queries.current_jobs(connection, job_ids)
        found: dict[JobId, JobView | None] = {
            job_id: None for job_id in job_ids if job_id not in jobs
        }
        shown, _ = fitting_jobs(connection, list(jobs.values()), EVERYTHING, PAGE_BYTES_MAX)
        for view in self._queries.views(connection, shown):
            found[view.id] = view
        return found
