"""The jobs that a batch is about, with what is needed to find them: keys and claims."""

from hashlib import sha256

from msgspec.structs import replace

from domain.events import JobStarted, JobSubmitted, LeasesExtended, Recorded
from domain.idempotency import key_hash
from domain.identifiers import JobId, UserId, WorkerId
from domain.life_cycle import Job, State, evolve, submitted


class Jobs:
    """Jobs, as far as they are known: those that somebody asked for."""

    def __init__(self) -> None:
        self.rows: dict[JobId, Job] = {}
        self.key_holders: dict[bytes, JobId] = {}  # by key_hash
        self.claims: dict[bytes, set[JobId]] = {}  # by claim_hash
        self.changed: set[JobId] = set()
        self.count_changes: dict[State, int] = {}

    def put(self, job: Job) -> None:
        """Make a stored job known."""
        self.rows[job.id] = job
        holder = job.key_hash
        if holder is not None:
            self.key_holders[holder] = job.id
        if job.claim_id is not None and job.worker is not None:
            self.claims.setdefault(claim_hash(job.worker, job.claim_id), set()).add(job.id)

    def evolve(self, recorded: Recorded) -> None:
        match recorded.event:
            case JobSubmitted() as event:
                self._submit(submitted(recorded, event))
            case LeasesExtended() as event:
                for job_id, _ in event.jobs:
                    self._advance(job_id, recorded)
            case JobStarted(worker=worker, claim_id=claim_id) if claim_id is not None:
                self._advance(recorded.job_id, recorded)
                assert recorded.job_id is not None
                self.claims.setdefault(claim_hash(worker, claim_id), set()).add(recorded.job_id)
            case _:
                self._advance(recorded.job_id, recorded)

    def _submit(self, job: Job) -> None:
        key = key_hash(job.user_id, job.idempotency_key, is_explicit=job.key_is_explicit)
        earlier = self.rows.get(self.key_holders.get(key, JobId(0)))
        if earlier is not None:
            self.rows[earlier.id] = replace(earlier, holds_key=False)
            self.changed.add(earlier.id)
        self.key_holders[key] = job.id
        self.rows[job.id] = job
        self.changed.add(job.id)
        self._count(job.state, 1)

    def _advance(self, job_id: JobId | None, recorded: Recorded) -> None:
        before = None if job_id is None else self.rows.get(job_id)
        if before is None:
            return
        after = evolve(before, recorded)
        if after is before:
            return
        self.rows[after.id] = after
        self.changed.add(after.id)
        if after.state is not before.state:
            self._count(before.state, -1)
            self._count(after.state, 1)

    def _count(self, state: State, change: int) -> None:
        self.count_changes[state] = self.count_changes.get(state, 0) + change

    def key_holder(self, user_id: UserId, key: str, *, is_explicit: bool) -> Job | None:
        job_id = self.key_holders.get(key_hash(user_id, key, is_explicit=is_explicit))
        return None if job_id is None else self.rows.get(job_id)


def claim_hash(worker: WorkerId, claim_id: str) -> bytes:
    """16 bytes that stand for one claim request of one worker."""
    return sha256(worker.encode() + b"\x00" + claim_id.encode()).digest()[:16]
