"""Claims that named themselves: asked again, one gives what it gave, or less, and nothing else.

A claim is known by the jobs that it started last. Where those have gone to others, and where it
gave none, a note says that it was made. The log tells the former; the latter changes nothing about
any job, so it is no event, and is kept beside the log for as long as it is good. Both are good for
`CLAIM_SECONDS`, and a claim for as long as one of its jobs runs: a worker that asks again does so
within seconds, and one that was started anew may count its claims from 1 again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final

from domain.jobs.job import Job, State
from domain.language.identifiers import ClaimHash, JobId, WorkerId
from domain.language.moments import to_micros

CLAIM_SECONDS: Final = 600
CLAIM_MICROS: Final = CLAIM_SECONDS * 1_000_000
_MINUTE_MICROS: Final = 60_000_000


@lru_cache(maxsize=256)  # the jobs of one claim start one after the other
def claim_hash(worker: WorkerId, claim_id: str) -> ClaimHash:
    """16 bytes that stand for one claim request of one worker."""
    return ClaimHash(sha256(worker.encode() + b"\x00" + claim_id.encode()).digest()[:16])


def claim_of(job: Job) -> ClaimHash | None:
    """The claim that started it last; None for one that did not name itself."""
    if job.claim_id is None or job.worker is None:
        return None
    return claim_hash(job.worker, job.claim_id)


class Claims:
    """The claims that somebody asked for, by `claim_hash`."""

    def __init__(self) -> None:
        self.jobs: dict[ClaimHash, set[JobId]] = {}  # that it started, and nobody else since
        self.notes: dict[ClaimHash, int] = {}  # when it was made; UTC, microseconds
        self.changed_notes: set[ClaimHash] = set()
        self.notes_from = 0  # those made at this time or before are over; UTC, microseconds
        self.notes_removed = 0  # the same of those that are stored

    def started(self, claim: ClaimHash, job_id: JobId) -> None:
        self.jobs.setdefault(claim, set()).add(job_id)

    def leave(self, job: Job, now: datetime) -> None:
        """The job is started by another claim."""
        claim = claim_of(job)
        if claim is None or job.started_at is None:
            return
        jobs = self.jobs.get(claim, set())
        jobs.discard(job.id)
        if not jobs:
            self.jobs.pop(claim, None)
        self.note(claim, job.started_at, now)

    def know(self, claim: ClaimHash, made_at: int) -> None:
        """Make a note known that is stored, or kept beside the log; UTC, microseconds."""
        self.notes[claim] = max(made_at, self.notes.get(claim, 0))

    def note(self, claim: ClaimHash, made_at: datetime, now: datetime) -> None:
        """Which notes there are depends on the log alone, however it is cut into batches: each new
        one lets go of those that are over, by whole minutes.
        """
        made, at = to_micros(made_at), to_micros(now)
        if made + CLAIM_MICROS <= at:
            return
        self.notes[claim] = made
        self.changed_notes.add(claim)
        over = (at - CLAIM_MICROS) // _MINUTE_MICROS * _MINUTE_MICROS
        self.notes_from = max(self.notes_from, over)

    def take_changed_notes(self) -> list[tuple[ClaimHash, int]]:
        """Those that are to be stored: (claim, when it was made); lets go of what is over."""
        over = self.notes_from
        if over > self.notes_removed:
            self.notes = {claim: made for claim, made in self.notes.items() if made > over}
        changed = [(one, self.notes[one]) for one in self.changed_notes if one in self.notes]
        self.changed_notes.clear()
        return changed

    def given(
        self, claim: ClaimHash, rows: Mapping[JobId, Job], now: datetime
    ) -> Sequence[Job] | None:
        """The jobs of an earlier request that nobody else was given, in the order in which it gave
        them; None where there was none lately.
        """
        jobs = [rows[job_id] for job_id in self.jobs.get(claim, ())]
        made = [self.notes[claim]] if claim in self.notes else []
        made += [to_micros(job.started_at) for job in jobs if job.started_at is not None]
        is_known = any(job.state is State.RUNNING for job in jobs) or (
            to_micros(now) < max(made, default=0) + CLAIM_MICROS
        )
        return sorted(jobs, key=lambda job: job.started_position) if is_known else None
