"""The payloads of claimed jobs: from memory if this process accepted the job, else by one query.

A job's payload never changes, and it can only be erased after the job has ended, which drops it
here. Jobs that were accepted first are served first, so a full memory takes no more payloads: one
that dropped the oldest would drop those that are needed next.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.jobs.job import Job
from domain.language.bodies import Body
from domain.language.errors import BodyMissing, without_traceback
from domain.language.identifiers import JobId

KEPT_BYTES_MAX: Final = 16 * 1024 * 1024  # of all, with ENTRY_BYTES for each
KEPT_PAYLOAD_BYTES_MAX: Final = 16 * 1024  # of one; a larger one is read
KEPT_SECONDS: Final = 600.0  # another process may have ended the job
ENTRY_BYTES: Final = 400  # of an entry without its payload, about

_Query = Callable[[Connection], None]


class _StoredPayload(Struct, frozen=True, gc=False):
    payload: Body
    since: float  # monotonic seconds


class Payloads:
    """The payloads of one process. Use it on one event loop.

    `read_bodies` runs a query for bodies of so many bytes together; `now` returns monotonic
    seconds.
    """

    def __init__(
        self,
        read_bodies: Callable[[int, _Query], Awaitable[None]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_bodies = read_bodies
        self._now = now
        self._kept: OrderedDict[JobId, _StoredPayload] = OrderedDict()  # oldest first
        self._bytes = 0

    def keep(self, job_id: JobId, payload: Body) -> None:
        """Keep the payload of an accepted job, if there is room for it."""
        now = self._now()
        while self._kept and now - next(iter(self._kept.values())).since > KEPT_SECONDS:
            self.drop(next(iter(self._kept)))
        size = payload.size + ENTRY_BYTES
        if payload.size <= KEPT_PAYLOAD_BYTES_MAX and self._bytes + size <= KEPT_BYTES_MAX:
            self.drop(job_id)
            self._kept[job_id] = _StoredPayload(payload, now)
            self._bytes += size

    def drop(self, job_id: JobId) -> None:
        """Drop the payload of a job, if it is kept: the job has ended."""
        kept = self._kept.pop(job_id, None)
        if kept is not None:
            self._bytes -= kept.payload.size + ENTRY_BYTES

    def clear(self) -> None:
        """Drop all payloads."""
        self._kept.clear()
        self._bytes = 0

    def kept(self, job: Job) -> bytes | None:
        """Return the payload of a job if it is kept; the digest proves that it is the job's."""
        kept = self._kept.get(job.id)
        if kept is None or kept.payload.sha256 != job.payload_sha256 or job.erased_at is not None:
            return None
        return kept.payload.data

    async def find(self, jobs: Sequence[Job]) -> tuple[dict[JobId, bytes], BodyMissing | None]:
        """Return the payloads that were found, and an error if any is missing.

        Raises `LogUnavailable` and `QueueFull`.
        """
        found = {job.id: kept for job in jobs if (kept := self.kept(job)) is not None}
        others = [job for job in jobs if job.id not in found]
        if not others:
            return found, None
        ids = [job.id for job in others]

        def query(connection: Connection) -> None:
            bodies = audit_log.bodies_at(connection, ids)
            found.update((JobId(position), body) for position, body in bodies.items())
            audit_log.require_bodies(bodies, ids)

        try:
            await self._read_bodies(sum(job.payload_bytes for job in others), query)
        except BodyMissing as error:
            return found, without_traceback(error)
        return found, None
