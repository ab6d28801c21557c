"""Reads of single jobs for many callers at once, by one query at a time.

Jobs that are asked for while a query is under way are read together by the next one. So thousands
of callers that are woken in the same moment cost a few queries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from domain.language.errors import BodyMissing, FairlogError, UnknownJob, fresh_copy
from domain.language.identifiers import JobId
from entrypoints.service.views import JobView

JOBS_PER_READ_MAX: Final = 500

# Reads the first jobs of a list, at least one. In the answer, a job that does not exist has None,
# and a job that was not read is missing.
ReadJobs = Callable[[Sequence[JobId]], Awaitable[Mapping[JobId, JobView | None]]]


class JobReads:
    """One per process, used on its event loop."""

    def __init__(self, read: ReadJobs, absence: Callable[[JobId], Awaitable[UnknownJob]]) -> None:
        self._read = read
        self._absence = absence
        self._requested: dict[JobId, asyncio.Future[JobView | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def view(self, job_id: JobId) -> JobView:
        """Return a job as it stands after the call. The view is shared: do not change it.

        Raises `UnknownJob` and `LogUnavailable`.
        """
        requested = self._requested.get(job_id)
        if requested is None:
            requested = asyncio.get_running_loop().create_future()
            self._requested[job_id] = requested
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_requested(), name="job_reads")
        try:
            view = await asyncio.shield(requested)
        except FairlogError as error:
            raise fresh_copy(error) from None
        if view is None:
            raise await self._absence(job_id)
        return view

    async def _read_requested(self) -> None:
        while self._requested:
            job_ids = list(self._requested)[:JOBS_PER_READ_MAX]
            # A caller that comes from now on may have seen later events: it gets the next read.
            await self._answer({job_id: self._requested.pop(job_id) for job_id in job_ids})

    async def _answer(self, batch: "dict[JobId, asyncio.Future[JobView | None]]") -> None:
        try:
            views = await self._read(list(batch))
        except BodyMissing as error:
            if len(batch) > 1:  # it concerns one of them
                for job_id, requested in batch.items():
                    await self._answer({job_id: requested})
                return
            self._fail(batch, error)
            return
        except Exception as error:  # noqa: BLE001 (each caller raises it)
            self._fail(batch, error)
            return
        for job_id, requested in batch.items():
            if job_id in views:
                requested.set_result(views[job_id])
            else:  # its bodies did not fit in
                self._request_again(job_id, requested)

    @staticmethod
    def _fail(batch: "dict[JobId, asyncio.Future[JobView | None]]", error: Exception) -> None:
        for requested in batch.values():
            requested.set_exception(error)

    def _request_again(self, job_id: JobId, requested: "asyncio.Future[JobView | None]") -> None:
        later = self._requested.setdefault(job_id, requested)
        if later is not requested:
            later.add_done_callback(lambda done: _copy_outcome(done, requested))


def _copy_outcome(
    done: "asyncio.Future[JobView | None]", requested: "asyncio.Future[JobView | None]"
) -> None:
    error = done.exception()
    if error is not None:
        requested.set_exception(error)
    else:
        requested.set_result(done.result())
