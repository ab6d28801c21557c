"""Repeatable claims: a claim with a known `claim_id` gets the same jobs or fewer, never others.

A claim is known by the jobs that it started and no later claim has. If there are none, a note
says that it was made. A note about a claim whose jobs have other claims follows from the log. A
note about a claim that was answered empty does not: it changes no job, so it is no event, and is
stored beside the log. A claim is known for `CLAIM_SECONDS` and while one of its jobs runs: a worker
repeats a claim within seconds, and one that restarts may count its claims from 1 again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Final

from domain.jobs.job import Job, State
from domain.language.identifiers import ClaimHash, JobId, KeyName, WorkerId
from domain.language.moments import to_micros

CLAIM_SECONDS: Final = 600  # how long a claim can be repeated
CLAIM_MICROS: Final = CLAIM_SECONDS * 1_000_000
_MINUTE_MICROS: Final = 60_000_000


@lru_cache(maxsize=256)  # called for each job of a claim
def claim_hash(worker: WorkerId, claim_id: str, holder: KeyName | None = None) -> ClaimHash:
    """Return 16 bytes that identify one claim of one worker, of one API key if it has one."""
    named = worker.encode() + b"\x00" + claim_id.encode()
    if holder is not None:
        named += b"\x00" + holder.encode()
    return ClaimHash(sha256(named).digest()[:16])


def claim_of(job: Job) -> ClaimHash | None:
    """Return the claim that started the job last; None if it had no `claim_id`."""
    if job.claim_id is None or job.worker is None:
        return None
    return claim_hash(job.worker, job.claim_id, job.holder)


class Claims:
    """The claims that are in memory, and the notes about them."""

    def __init__(self) -> None:
        self.jobs: dict[ClaimHash, set[JobId]] = {}  # that no later claim started
        self.notes: dict[ClaimHash, int] = {}  # when it was made, Unix time in microseconds
        self.changed_notes: set[ClaimHash] = set()
        self.notes_from = 0  # notes made at or before are over; Unix time in microseconds
        self.notes_removed = 0  # likewise, of the stored notes

    def started(self, claim: ClaimHash, job_id: JobId) -> None:
        self.jobs.setdefault(claim, set()).add(job_id)

    def leave(self, job: Job, now: datetime) -> None:
        """Note the claim that had a job which another claim starts, and remove the job from it."""
        claim = claim_of(job)
        if claim is None or job.started_at is None:
            return
        jobs = self.jobs.get(claim, set())
        jobs.discard(job.id)
        if not jobs:
            self.jobs.pop(claim, None)
        self.note(claim, job.started_at, now)

    def know(self, claim: ClaimHash, made_at: int) -> None:
        """Add a note that is stored already, made at a Unix time in microseconds."""
        self.notes[claim] = max(made_at, self.notes.get(claim, 0))

    def note(self, claim: ClaimHash, made_at: datetime, now: datetime) -> None:
        """Add a note. Notes that are over expire by whole minutes, whenever one is added.

        So the stored notes depend on the log alone, not on how it was cut into batches.
        """
        made, at = to_micros(made_at), to_micros(now)
        if made + CLAIM_MICROS <= at:
            return
        self.notes[claim] = made
        self.changed_notes.add(claim)
        over = (at - CLAIM_MICROS) // _MINUTE_MICROS * _MINUTE_MICROS
        self.notes_from = max(self.notes_from, over)

    def take_changed_notes(self) -> list[tuple[ClaimHash, int]]:
        """Return the notes to be stored as (claim, when it was made), and forget those over."""
        over = self.notes_from
        if over > self.notes_removed:
            self.notes = {claim: made for claim, made in self.notes.items() if made > over}
        changed = [(one, self.notes[one]) for one in self.changed_notes if one in self.notes]
        self.changed_notes.clear()
        return changed

    def given(
        self, claim: ClaimHash, rows: Mapping[JobId, Job], now: datetime
    ) -> Sequence[Job] | None:
        """Return the jobs of an earlier request of the claim, in the order in which it gave them.

        Jobs that a later claim has started are left out. None: the claim is not known, since there
        was no such request, or not lately.
        """
        jobs = [rows[job_id] for job_id in self.jobs.get(claim, ())]
        made = [self.notes[claim]] if claim in self.notes else []
        made += [to_micros(job.started_at) for job in jobs if job.started_at is not None]
        is_known = any(job.state is State.RUNNING for job in jobs) or (
            to_micros(now) < max(made, default=0) + CLAIM_MICROS
        )
        return sorted(jobs, key=lambda job: job.started_position) if is_known else None
