"""The jobs that a batch is about, with what is needed to find them: keys and claims."""

from collections import defaultdict
from functools import lru_cache
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
        self.keys: dict[JobId, bytes] = {}  # the key_hash that each job holds, if it does
        self.claims: dict[bytes, set[JobId]] = {}  # by claim_hash
        self.changed: set[JobId] = set()
        self.count_changes: defaultdict[State, int] = defaultdict(int)

    def put(self, job: Job) -> None:
        """Make a stored job known."""
        self.rows[job.id] = job
        holder = job.key_hash
        if holder is not None:
            self.key_holders[holder] = job.id
            self.keys[job.id] = holder
        if job.claim_id is not None and job.worker is not None:
            self._claimed(job.worker, job.claim_id, job.id)

    def evolve(self, recorded: Recorded) -> None:
        event = recorded.event
        if isinstance(event, JobSubmitted):
            self._submit(submitted(recorded, event))
        elif isinstance(event, LeasesExtended):
            for job_id, _ in event.jobs:
                self._advance(job_id, recorded)
        else:
            self._advance(recorded.job_id, recorded)
            if isinstance(event, JobStarted) and event.claim_id is not None:
                assert recorded.job_id is not None
                self._claimed(event.worker, event.claim_id, recorded.job_id)

    def _submit(self, job: Job) -> None:
        key = key_hash(job.user_id, job.idempotency_key, is_explicit=job.key_is_explicit)
        job_id = job.id
        earlier_id = self.key_holders.get(key)
        if earlier_id is not None and earlier_id in self.rows:
            self.rows[earlier_id] = replace(self.rows[earlier_id], holds_key=False)
            self.keys.pop(earlier_id, None)
            self.changed.add(earlier_id)
        self.key_holders[key] = job_id
        self.keys[job_id] = key
        self.rows[job_id] = job
        self.changed.add(job_id)
        self.count_changes[job.state] += 1

    def _advance(self, job_id: JobId | None, recorded: Recorded) -> None:
        before = None if job_id is None else self.rows.get(job_id)
        if before is None:
            return
        after = evolve(before, recorded)
        if after is before:
            return
        job_id = after.id
        self.rows[job_id] = after
        self.changed.add(job_id)
        if after.state is not before.state:
            self.count_changes[before.state] -= 1
            self.count_changes[after.state] += 1

    def _claimed(self, worker: WorkerId, claim_id: str, job_id: JobId) -> None:
        claim = claim_hash(worker, claim_id)
        jobs = self.claims.get(claim)
        if jobs is None:
            jobs = self.claims[claim] = set()
        jobs.add(job_id)

    def key_holder(self, user_id: UserId, key: str, *, is_explicit: bool) -> Job | None:
        job_id = self.key_holders.get(key_hash(user_id, key, is_explicit=is_explicit))
        return None if job_id is None else self.rows.get(job_id)


@lru_cache(maxsize=256)  # the jobs of one claim start one after the other
def claim_hash(worker: WorkerId, claim_id: str) -> bytes:
    """16 bytes that stand for one claim request of one worker."""
    return sha256(worker.encode() + b"\x00" + claim_id.encode()).digest()[:16]
