"""The jobs projection: one row per job, found by id, user, state, key, claim, due time or place.

A row holds the job as a document, besides the columns that it is found by: one column is written
and read instead of forty. An index gives the waiting jobs of a lane in their order, so that they
need no table of their own.

Most rows are of jobs that ended long ago. So a key or claim is found by a few bytes of its hash:
whatever else has the same bytes is read, too, and is told apart in memory. And the columns that
only an open job has are NULL when it has ended, each in an index that begins with it: so an ended
job's entry there is short, and next to the one before.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.due import DueJob
from domain.fairness.queues import queue_of
from domain.jobs.claims import Claims, claim_of
from domain.jobs.job import Job, State
from domain.language.identifiers import ClaimHash, JobId, ServerId, UserId
from domain.language.moments import to_micros
from projections.inline.empty_claims import empty_claims
from projections.inline.job_documents import decode_job, encode_job, shown_fields
from projections.storage.rows import (
    FIELDS,
    FOUND_BY_FOLDS,
    Document,
    Identifier,
    Lane,
    Query,
    Row,
    delete,
    digest,
    fetch,
    generation,
    placeholder,
    send_rows,
    upserting,
)

VERSION: Final = 6
PREFIX: Final = 8  # bytes of a hash that are stored
metadata = sa.MetaData()

jobs = sa.Table(
    f"jobs_v{VERSION}",
    metadata,
    generation(sa.Integer),
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("user_id", Identifier, nullable=False),
    sa.Column("kind", Identifier, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("key_hash", digest(PREFIX), comment="its start, while the key means this job"),
    sa.Column("claim_hash", digest(PREFIX), comment="its start, of the latest named claim"),
    sa.Column("due_at", sa.BigInteger, comment="UTC, microseconds: when the clock changes it"),
    sa.Column("server", Identifier, comment="that runs it inside itself, while it does"),
    sa.Column("worker", Identifier, comment="that holds it, while one does"),
    sa.Column("lane", Lane, comment="that it waits in, while it does: user, NUL, queue"),
    sa.Column("place", sa.Integer, comment="in its lane while it waits: lower is sooner"),
    sa.Column("job", Document, nullable=False, info={FIELDS: shown_fields}),
    sa.Index(f"jobs_v{VERSION}_by_user", "generation", "user_id", "id"),
    sa.Index(f"jobs_v{VERSION}_by_state", "generation", "state", "id"),
    sa.Index(f"jobs_v{VERSION}_by_key", "generation", "key_hash", info={FOUND_BY_FOLDS: True}),
    sa.Index(f"jobs_v{VERSION}_by_claim", "generation", "claim_hash", info={FOUND_BY_FOLDS: True}),
    sa.Index(f"jobs_v{VERSION}_by_due", "generation", "due_at", "id"),
    sa.Index(f"jobs_v{VERSION}_by_place", "generation", "lane", "place", "id"),
)

job_counts = sa.Table(
    f"job_counts_v{VERSION}",
    metadata,
    generation(),
    sa.Column("state", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("jobs", sa.BigInteger, nullable=False),
)

noted_claims = sa.Table(
    f"noted_claims_v{VERSION}",
    metadata,
    generation(),
    sa.Column("claim_hash", digest(16), primary_key=True, comment="of one that no job stands for"),
    sa.Column("made_at", sa.BigInteger, nullable=False, comment="UTC, microseconds"),
    sa.Index(
        f"noted_claims_v{VERSION}_by_time", "generation", "made_at", info={FOUND_BY_FOLDS: True}
    ),
)

# Stored, as long as this version of the tables is used: append, never renumber.
STATE_NUMBERS: Final = {
    State.SCHEDULED: 0,
    State.QUEUED: 1,
    State.RUNNING: 2,
    State.DONE: 3,
    State.FAILED: 4,
    State.CANCELLED: 5,
}
STATES: Final = {number: state for state, number in STATE_NUMBERS.items()}

_NOTHING: sa.ColumnClause[Any] = sa.literal_column("NULL")
# All have the same columns, so that one statement reads them.
_by_id = Query(jobs, [jobs.c.job, _NOTHING], by=jobs.c.id)
_by_key = Query(jobs, [jobs.c.job, _NOTHING], by=jobs.c.key_hash)
_by_claim = Query(jobs, [jobs.c.job, _NOTHING], by=jobs.c.claim_hash)
_notes = Query(
    noted_claims, [noted_claims.c.claim_hash, noted_claims.c.made_at], by=noted_claims.c.claim_hash
)
_empty = Query(
    empty_claims, [empty_claims.c.claim_hash, empty_claims.c.made_at], by=empty_claims.c.claim_hash
)


class JobsProjection:
    """Loads and writes jobs, their counts by state, and the claims that no job names any more."""

    name = "jobs"
    version = VERSION
    is_lasting = False
    tables = (jobs, job_counts, noted_claims)

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        found = fetch(
            connection,
            generation,
            (_by_id, _unknown(required, model)),
            (_by_key, prefixes(required.keys)),
            (_by_claim, prefixes(required.claims)),
            (_notes, required.claims),
            (_empty, required.http_claims),
        )
        _put(found, required, model)
        for job_id, window_seconds in required.retries.items():
            if job_id in model.jobs.rows:
                required.windows.add((model.jobs.rows[job_id].user_id, window_seconds))

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        # A count of zero is written too: which states have a row must not depend on the batches.
        counts = [
            (generation, STATE_NUMBERS[state], by) for state, by in model.jobs.count_changes.items()
        ]
        known, keys = model.jobs.rows, model.jobs.keys
        # In the order of the primary key, so that each page of the table is written once.
        changed = [(known[job_id], keys.get(job_id)) for job_id in sorted(model.jobs.changed)]
        model.jobs.changed.clear()
        model.jobs.count_changes.clear()
        claims = model.jobs.claims
        return [
            *upserting(jobs, changed, partial(row_of, generation)),
            lambda connection: _count(connection, counts),
            *upserting(noted_claims, claims.take_changed_notes(), lambda one: (generation, *one)),
            *_removing_expired(generation, claims),
        ]


def _unknown(required: RequiredRows, model: WriteModel) -> list[JobId]:
    return [job_id for job_id in required.jobs if job_id not in model.jobs.rows]


def _put(found: Iterable[Row], required: RequiredRows, model: WriteModel) -> None:
    for stored, made_at in found:
        if made_at is None:
            take_job(stored, required, model)
        else:
            model.jobs.claims.know(ClaimHash(bytes(stored)), made_at)


def row_of(generation: int, changed: tuple[Job, bytes | None]) -> Row:
    """Return the row of a job and of the hash of its key; None: the key has expired."""
    job, key = changed
    user_id = job.user_id.encode()
    state, due_at = job.state, job.due_at
    runs_in, holder = (job.server, job.worker) if state is State.RUNNING else (None, None)
    lane, place = None, None
    if state is State.QUEUED:
        lane = lane_key(user_id, queue_of(job.kind, job.resources).encode())
        place = -job.priority
    claim = claim_of(job)
    return (
        generation,
        job.id,
        user_id,
        job.kind.encode(),
        STATE_NUMBERS[state],
        None if key is None else key[:PREFIX],
        None if claim is None else claim[:PREFIX],
        None if due_at is None else to_micros(due_at),
        None if runs_in is None else runs_in.encode(),
        None if holder is None else holder.encode(),
        lane,
        place,
        encode_job(job),
    )


def _removing_expired(generation: int, claims: Claims) -> list[Write[Connection]]:
    """Return the removal of expired notes, if some have expired since the latest one."""
    expired = claims.notes_from
    if expired <= claims.notes_removed:
        return []
    claims.notes_removed = expired

    def remove(connection: Connection) -> None:
        found = connection.execute(
            sa.select(noted_claims.c.claim_hash).where(
                noted_claims.c.generation == generation, noted_claims.c.made_at <= expired
            )
        )
        delete(connection, noted_claims, generation, [tuple(row) for row in found])

    return [remove]


def take_job(document: bytes, required: RequiredRows, model: WriteModel) -> Job:
    """Take a job from its row unless it is in memory, and require what a change of it changes."""
    job = decode_job(document)
    model.jobs.put_unless_known(job)
    required.jobs.add(job.id)
    required.users.add(job.user_id)
    required.kinds.add(job.kind)
    required.resources.update(job.resources)
    if job.callback is not None:
        required.add_deliveries_to(job.callback)
    return job


def lane_key(user_id: bytes, queue: bytes) -> bytes:
    """Return the value of the column `lane` for a user and a queue as they are stored."""
    return user_id + b"\0" + queue


def prefixes(hashes: Iterable[bytes]) -> list[bytes]:
    """Return what is stored of hashes, to find rows that may have one of them."""
    return [one[:PREFIX] for one in hashes]


def _count(connection: Connection, changes: Sequence[Row]) -> None:
    """Add to the counts without reading them first."""
    mark = placeholder(connection)
    insert = (
        f"INSERT INTO {job_counts.name} (generation, state, jobs) VALUES ({mark}, {mark}, {mark})"
    )
    if connection.dialect.name == "sqlite":
        add = "ON CONFLICT (generation, state) DO UPDATE SET jobs = jobs + excluded.jobs"
    else:
        add = "ON DUPLICATE KEY UPDATE jobs = jobs + VALUES(jobs)"
    send_rows(connection, f"{insert} {add}", changes)


class JobQueries:
    """Queries one generation of the jobs: the current one, or an expression for it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def find(self, connection: Connection, job_ids: list[JobId]) -> dict[JobId, Job]:
        """Return the jobs with these ids that exist."""
        rows = connection.execute(
            sa.select(jobs.c.job).where(
                jobs.c.generation == self._generation, jobs.c.id.in_(job_ids)
            )
        )
        return {job.id: job for job in (decode_job(document) for (document,) in rows)}

    def newest(
        self,
        connection: Connection,
        user_id: UserId | None,
        state: State | None,
        below: int | None,
        limit: int,
        further: Iterable[sa.ColumnElement[bool]] = (),
    ) -> list[Job]:
        """Return up to `limit` jobs, newest first; `below` is the last id of the page before.

        `further` are conditions that no index may serve.
        """
        query = sa.select(jobs.c.job).where(jobs.c.generation == self._generation, *further)
        if user_id is not None:
            query = query.where(jobs.c.user_id == user_id.encode())
        if state is not None:
            query = query.where(jobs.c.state == STATE_NUMBERS[state])
        if below is not None:
            query = query.where(jobs.c.id < below)
        rows = connection.execute(query.order_by(jobs.c.id.desc()).limit(limit))
        return [decode_job(document) for (document,) in rows]

    def counts(self, connection: Connection) -> dict[State, int]:
        """Return the number of jobs by state, which is updated with each change."""
        rows = connection.execute(
            sa.select(job_counts.c.state, job_counts.c.jobs).where(
                job_counts.c.generation == self._generation
            )
        )
        return dict.fromkeys(State, 0) | {STATES[state]: count for state, count in rows}

    def due(
        self, connection: Connection, now_micros: int, after: tuple[int, JobId] | None, limit: int
    ) -> list[DueJob]:
        """Return jobs due by now, the longest overdue first, after the (due_at, id) of `after`.

        Times are Unix time in microseconds. A job is due when the clock alone changes its state.
        """
        is_due = jobs.c.due_at <= now_micros
        if after is None:
            return self._due(connection, is_due, limit)
        due_at, job_id = after
        # Two index ranges: with one condition all jobs of the same moment would be read.
        found = self._due(connection, sa.and_(jobs.c.due_at == due_at, jobs.c.id > job_id), limit)
        left = limit - len(found)
        if not left:
            return found
        return found + self._due(connection, sa.and_(jobs.c.due_at > due_at, is_due), left)

    def latest_due(self, connection: Connection, now_micros: int, limit: int) -> list[DueJob]:
        """Return jobs due by now, the shortest overdue first."""
        return self._due(connection, jobs.c.due_at <= now_micros, limit, is_latest_first=True)

    def still_due(
        self, connection: Connection, now_micros: int, job_ids: Sequence[JobId]
    ) -> list[JobId]:
        """Return those of the jobs that are still due by now, in their order."""
        rows = connection.execute(
            sa.select(jobs.c.id).where(
                jobs.c.generation == self._generation,
                jobs.c.id.in_(job_ids),
                jobs.c.due_at <= now_micros,
            )
        )
        found = {job_id for (job_id,) in rows}
        return [job_id for job_id in job_ids if job_id in found]

    def _due(
        self,
        connection: Connection,
        condition: sa.ColumnElement[bool],
        limit: int,
        *,
        is_latest_first: bool = False,
    ) -> list[DueJob]:
        order = [jobs.c.due_at, jobs.c.id]
        rows = connection.execute(
            sa.select(jobs.c.due_at, jobs.c.id, jobs.c.user_id)
            .where(jobs.c.generation == self._generation, condition)
            .order_by(*([column.desc() for column in order] if is_latest_first else order))
            .limit(limit)
        )
        return [
            DueJob(due_at, JobId(job_id), UserId(bytes(user).decode()))
            for due_at, job_id, user in rows
        ]

    def running_on_same_workers(
        self, connection: Connection, job_ids: Sequence[JobId], limit: int
    ) -> list[JobId]:
        """Return the running jobs of the workers that run any of these, oldest first."""
        is_running = sa.and_(
            jobs.c.generation == self._generation, jobs.c.state == STATE_NUMBERS[State.RUNNING]
        )
        workers = connection.execute(
            sa.select(jobs.c.worker).where(is_running, jobs.c.id.in_(job_ids)).distinct()
        ).scalars()
        named = [worker for worker in workers if worker is not None]
        if not named:
            return []
        rows = connection.execute(
            sa.select(jobs.c.id)
            .where(is_running, jobs.c.worker.in_(named))
            .order_by(jobs.c.id)
            .limit(limit)
        )
        return [JobId(job_id) for (job_id,) in rows]

    def running_in(self, connection: Connection, server: ServerId, limit: int) -> list[JobId]:
        """Return the jobs that a server's embedded worker runs, oldest first."""
        rows = connection.execute(
            sa.select(jobs.c.id)
            .where(
                jobs.c.generation == self._generation,
                jobs.c.state == STATE_NUMBERS[State.RUNNING],
                jobs.c.server == server.encode(),
            )
            .order_by(jobs.c.id)
            .limit(limit)
        )
        return [JobId(job_id) for (job_id,) in rows]
