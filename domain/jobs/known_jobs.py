"""The jobs in memory, found by id, by idempotency key and by claim."""

import heapq
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import ClassVar

from msgspec.structs import replace

from domain.jobs.children import Children, Edge
from domain.jobs.claims import Claims, claim_hash, claim_of
from domain.jobs.job import ENDED, Job, State
from domain.jobs.job_fold import evolve, extended, submitted
from domain.language.callbacks import DELIVERIES_KEPT
from domain.language.events import (
    AttemptBegun,
    AttemptEnded,
    BodiesErased,
    Event,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    LeasesExtended,
    ParentEnded,
    ProgressReported,
    Recorded,
    WorkerMissed,
)
from domain.language.idempotency import key_hash
from domain.language.identifiers import JobId, KeyHash, UserId
from domain.log.folds import Folded, FoldMethods


class Jobs(Folded):
    """The jobs that are in memory of a writer or a rebuild.

    The writer has those that its batches required or submitted. It keeps them across batches, until
    its write model has more than about 80,000 rows.
    """

    def __init__(self, *, watches_expiry: bool = False) -> None:
        """`watches_expiry`: `expired` is used."""
        self.rows: dict[JobId, Job] = {}
        self.key_holders: dict[KeyHash, JobId] = {}
        self.keys: dict[JobId, KeyHash] = {}  # of the jobs that hold theirs
        self.claims = Claims()
        self.children = Children()
        self.ended_parents: dict[JobId, None] = {}  # whose children are still to be told
        self.changed: set[JobId] = set()
        self.count_changes: defaultdict[State, int] = defaultdict(int)
        # Waiting jobs by their expiry. A job that has left the line, too, until it would expire.
        self._expiries: list[tuple[datetime, JobId]] | None = [] if watches_expiry else None

    def put_unless_known(self, job: Job) -> None:
        """Add a stored job. One in memory is newer than its row."""
        if job.id not in self.rows:
            self.put(job)

    def put(self, job: Job) -> None:
        """Add a job that is stored already."""
        self.rows[job.id] = job
        holder = job.key_hash
        if holder is not None:
            self.key_holders[holder] = job.id
            self.keys[job.id] = holder
        claim = claim_of(job)
        if claim is not None:
            self.claims.started(claim, job.id)
        if job.children:
            self._watch_children(job)
        self._watch_expiry(job)

    def evict_ended(self) -> None:
        """Drop the jobs that have ended, whose rows are written: they hardly change again.

        A parent counts the children that are told of its end later, and they are told, too.
        """
        needed = [
            job
            for job in self.rows.values()
            if job.state not in ENDED or job.children or job.waits_for
        ]
        self.evict()
        for job in needed:
            self.put(job)

    def evict(self) -> None:
        """Drop all jobs, whose rows are written."""
        self.rows.clear()
        self.key_holders.clear()
        self.keys.clear()
        self.claims.jobs.clear()
        self.children.forget()
        self.ended_parents.clear()

    def _submitted(self, recorded: Recorded, event: JobSubmitted) -> None:
        job = submitted(recorded, event)
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
        for parent_id in job.waits_for:
            self.children.add(Edge(parent_id, job_id))
            self._count_child(parent_id, 1)
        if event.delivery is not None:
            self._add_delivery(event.delivery.job, job_id)
        self._watch_expiry(job)

    def _add_delivery(self, told_of: JobId, delivery: JobId) -> None:
        job = self.rows.get(told_of)
        if job is not None:
            deliveries = (*job.deliveries, delivery)[-DELIVERIES_KEPT:]
            self.rows[told_of] = replace(job, deliveries=deliveries)
            self.changed.add(told_of)

    def _started(self, recorded: Recorded, event: JobStarted) -> None:
        job_id = recorded.job_id
        assert job_id is not None
        before = self.rows.get(job_id)
        if before is not None:
            self.claims.leave(before, recorded.recorded_at)
        self._advance(job_id, recorded)
        if event.claim_id is not None:
            self.claims.started(claim_hash(event.worker, event.claim_id, event.by), job_id)

    def _extended(self, recorded: Recorded, event: LeasesExtended) -> None:
        for job_id, attempt in event.jobs:
            job = self.rows.get(job_id)
            if job is not None:
                self.rows[job_id] = extended(job, attempt, event, recorded)
                self.changed.add(job_id)

    def _parent_ended(self, recorded: Recorded, event: ParentEnded) -> None:
        job_id = recorded.job_id
        assert job_id is not None
        self._advance(job_id, recorded)
        self.children.remove(Edge(event.parent, job_id))
        self._count_child(event.parent, -1)

    def _count_child(self, parent_id: JobId, by: int) -> None:
        parent = self.rows.get(parent_id)
        if parent is not None:
            self.rows[parent_id] = parent = replace(parent, children=parent.children + by)
            self.changed.add(parent_id)
            self._watch_children(parent)

    def _watch_children(self, job: Job) -> None:
        if job.children and job.state in ENDED:
            self.ended_parents[job.id] = None
        else:
            self.ended_parents.pop(job.id, None)

    def _changed(self, recorded: Recorded, _: Event) -> None:
        self._advance(recorded.job_id, recorded)

    def _advance(self, job_id: JobId | None, recorded: Recorded) -> None:
        before = None if job_id is None else self.rows.get(job_id)
        if before is None:
            return
        after = evolve(before, recorded)
        job_id = before.id
        self.rows[job_id] = after
        self.changed.add(job_id)
        state_before, state = before.state, after.state
        if state is not state_before:
            self.count_changes[state_before] -= 1
            self.count_changes[state] += 1
            if after.children:
                self._watch_children(after)
            self._watch_expiry(after)

    FOLDS: ClassVar[FoldMethods] = {
        JobSubmitted: _submitted,
        JobStarted: _started,
        LeasesExtended: _extended,
        JobReleased: _changed,
        JobCompleted: _changed,
        JobFailed: _changed,
        JobRequeued: _changed,
        JobCancelled: _changed,
        BodiesErased: _changed,
        AttemptBegun: _changed,
        AttemptEnded: _changed,
        WorkerMissed: _changed,
        ProgressReported: _changed,
        ParentEnded: _parent_ended,
    }

    def _watch_expiry(self, job: Job) -> None:
        if self._expiries is None or job.expires_at is None or job.state is not State.QUEUED:
            return
        if (expires := job.expires) is not None:
            heapq.heappush(self._expiries, (expires, job.id))

    def expired(self, now: datetime) -> Iterator[Job]:
        """Yield waiting jobs that have expired, and forget their expiry."""
        expiries = self._expiries
        while expiries and expiries[0][0] <= now:
            _, job_id = heapq.heappop(expiries)
            job = self.rows.get(job_id)
            if job is not None and job.state is State.QUEUED:
                yield job

    def key_holder(self, user_id: UserId, key: str, *, is_explicit: bool) -> Job | None:
        job_id = self.key_holders.get(key_hash(user_id, key, is_explicit=is_explicit))
        return None if job_id is None else self.rows.get(job_id)
