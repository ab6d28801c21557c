"""The activity projection: metrics by time bucket, open jobs, users with open jobs, and workers.

It is asynchronous, so the writer does no work for it. The dashboard never has to count rows.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.language.events import Recorded
from domain.language.identifiers import JobId, Kind, UserId, WorkerId
from domain.language.moments import to_micros
from projections.activity import tables
from projections.activity.fold import (
    FINEST_SECONDS,
    MINUTE_SECONDS,
    WORKER_KEPT_SECONDS,
    ActivityFold,
    ActivityKeys,
    ActivityRows,
    OpenJob,
    UserLoad,
    WorkerLoad,
    seconds_of,
)
from projections.activity.metrics import ActivityMetrics, TopCounts
from projections.following.state_cache import StateCache
from projections.storage.rows import Query, Row, delete, fetch, upsert

# How long buckets are kept, by their length; both in seconds.
KEPT_SECONDS: Final = {FINEST_SECONDS: 3_600, MINUTE_SECONDS: 6 * 3_600, 600: 3 * 86_400}
KINDS_PER_BUCKET_MAX: Final = 100  # with metrics of their own: the first ones of the bucket
ROWS_CACHED_MAX: Final = 40_000  # between batches, some 10 MB
_WITHOUT_KINDS: Final = frozenset({FINEST_SECONDS})  # lengths without metrics by kind

_Bucket = tuple[int, int]  # length, start (Unix time); both in seconds


class ActivityProjection:
    """Keeps the rows that the dashboard reads. Any thread may apply events."""

    name = "activity"
    version = tables.VERSION
    tables = tables.TABLES

    def __init__(self) -> None:
        self._cache: StateCache[ActivityRows] = StateCache()

    def apply(self, connection: Connection, generation: int, events: Sequence[Recorded]) -> None:
        rows = self._cache.take(connection, generation, events[0].position - 1)
        if rows is None:
            rows = ActivityRows()
        _load(connection, generation, ActivityKeys(events), rows)
        fold = ActivityFold(rows)
        stored = _load_buckets(connection, generation, events, fold)
        fold.apply(events)
        _save_buckets(connection, generation, fold, stored)
        _save_jobs(connection, generation, fold.changed_jobs, rows, events[0].position)
        _save_users(connection, generation, fold.changed_users, rows)
        _save_workers(connection, generation, fold.changed_workers, rows)
        _delete_expired(connection, generation, events[-1])
        if rows.count() <= ROWS_CACHED_MAX:
            self._cache.put(connection, generation, events[-1].position, rows)


_Stored = dict[_Bucket, dict[bytes, ActivityMetrics]]


def _load(connection: Connection, generation: int, keys: ActivityKeys, rows: ActivityRows) -> None:
    """Load the rows with these keys that are not cached."""
    jobs = keys.jobs - rows.jobs.keys()
    rows.jobs.update(dict.fromkeys(jobs))
    for job_id, ready_at, started_at, worker in _fetch(
        connection, generation, tables.jobs_by_id, jobs
    ):
        rows.jobs[JobId(job_id)] = OpenJob(
            ready_at, started_at, None if worker is None else WorkerId(worker.decode())
        )
    users = keys.users - rows.users.keys()
    for user, waiting, running in _fetch(
        connection, generation, tables.users_by_id, [user_id.encode() for user_id in users]
    ):
        rows.users[UserId(user.decode())] = UserLoad(waiting, running, is_stored=True)
    running_jobs = map(rows.jobs.get, keys.jobs)
    workers = keys.workers | {job.worker for job in running_jobs if job and job.worker}
    for worker, server, running, completed, failed, first_seen, last_seen in _fetch(
        connection,
        generation,
        tables.workers_by_id,
        [worker.encode() for worker in workers - rows.workers.keys()],
    ):
        rows.workers[WorkerId(worker.decode())] = WorkerLoad(
            first_seen,
            last_seen,
            None if server is None else server.decode(),
            running,
            completed,
            failed,
        )


def _fetch(connection: Connection, generation: int, query: Query, keys: Iterable[Any]) -> list[Row]:
    return fetch(connection, generation, (query, list(keys)))


def _load_buckets(
    connection: Connection, generation: int, events: Sequence[Recorded], fold: ActivityFold
) -> _Stored:
    """Load the buckets of the first event; buckets that begin later have no rows yet."""
    at = seconds_of(events[0].recorded_at)
    buckets = tables.buckets
    stored: _Stored = {}
    rows = connection.execute(
        sa.select(
            buckets.c.seconds, buckets.c.start, buckets.c.kind, buckets.c.figures, buckets.c.leaders
        ).where(
            buckets.c.generation == generation,
            sa.or_(
                *(
                    sa.and_(
                        buckets.c.seconds == seconds, buckets.c.start == at // seconds * seconds
                    )
                    for seconds in KEPT_SECONDS
                )
            ),
        )
    )
    for seconds, start, kind, metrics, top in rows:
        stored.setdefault((seconds, start), {})[bytes(kind)] = tables.decode_metrics(metrics)
        if top is not None:
            fold.top_counts[start] = tables.decode_top_counts(top)
    return stored


def _save_buckets(
    connection: Connection, generation: int, fold: ActivityFold, stored: _Stored
) -> None:
    changed: dict[tuple[_Bucket, bytes], ActivityMetrics] = {}
    for finest, of_kinds in fold.metrics.items():
        for kind, new in of_kinds.items():
            for seconds in KEPT_SECONDS:
                bucket = (seconds, finest // seconds * seconds)
                for key in _keys(kind, seconds, stored.setdefault(bucket, {})):
                    metrics = stored[bucket].setdefault(key, ActivityMetrics())
                    metrics.add(new)
                    changed[bucket, key] = metrics
    minutes = {start: tables.encode(top) for start, top in fold.top_counts.items()}
    upsert(
        connection,
        tables.buckets,
        [
            (
                generation,
                seconds,
                start,
                key,
                tables.encode(metrics),
                minutes.get(start, tables.encode(TopCounts()))
                if key == tables.ALL_KINDS and seconds == MINUTE_SECONDS
                else None,
            )
            for ((seconds, start), key), metrics in changed.items()
        ],
    )


def _keys(kind: Kind, seconds: int, known: dict[bytes, ActivityMetrics]) -> list[bytes]:
    """Return the keys of a bucket's rows that count a kind: of all kinds, and maybe its own."""
    key = kind.encode()
    has_own = bool(key) and seconds not in _WITHOUT_KINDS
    if has_own and (key in known or len(known) <= KINDS_PER_BUCKET_MAX):
        return [tables.ALL_KINDS, key]
    return [tables.ALL_KINDS]


def _save_jobs(
    connection: Connection, generation: int, changed: Iterable[JobId], rows: ActivityRows, new: int
) -> None:
    """Write changed jobs. Ended ones are deleted and evicted: hardly any event names them again.

    Jobs with ids from `new` on have no rows yet.
    """
    ended = [job_id for job_id in changed if rows.jobs[job_id] is None]
    delete(
        connection, tables.open_jobs, generation, [(job_id,) for job_id in ended if job_id < new]
    )
    for job_id in ended:
        del rows.jobs[job_id]
    upsert(
        connection,
        tables.open_jobs,
        [
            (
                generation,
                job_id,
                job.ready_at,
                job.started_at,
                None if job.worker is None else job.worker.encode(),
            )
            for job_id in changed
            if (job := rows.jobs.get(job_id)) is not None
        ],
    )


def _save_users(
    connection: Connection, generation: int, changed: Iterable[UserId], rows: ActivityRows
) -> None:
    """Write changed users; a user without open jobs has no row."""
    idle: list[Row] = []
    busy: list[Row] = []
    for user_id in changed:
        load = rows.users[user_id]
        is_busy = bool(load.waiting or load.running)
        if is_busy:
            busy.append((generation, user_id.encode(), load.waiting, load.running))
        elif load.is_stored:
            idle.append((user_id.encode(),))
        load.is_stored = is_busy
    delete(connection, tables.users, generation, idle)
    upsert(connection, tables.users, busy)


def _save_workers(
    connection: Connection, generation: int, changed: Iterable[WorkerId], rows: ActivityRows
) -> None:
    upsert(
        connection,
        tables.workers,
        [
            (
                generation,
                worker.encode(),
                None if load.server is None else load.server.encode(),
                load.running,
                load.completed,
                load.failed,
                load.first_seen,
                load.last_seen,
            )
            for worker in changed
            for load in [rows.workers[worker]]
        ],
    )


def _delete_expired(connection: Connection, generation: int, latest: Recorded) -> None:
    """Delete rows that have expired at the time of the latest event."""
    now = seconds_of(latest.recorded_at)
    buckets, workers = tables.buckets, tables.workers
    for seconds, kept in KEPT_SECONDS.items():
        connection.execute(
            buckets.delete().where(
                buckets.c.generation == generation,
                buckets.c.seconds == seconds,
                buckets.c.start < (now - kept) // seconds * seconds,
            )
        )
    connection.execute(
        workers.delete().where(
            workers.c.generation == generation,
            workers.c.last_seen < to_micros(latest.recorded_at) - WORKER_KEPT_SECONDS * 1_000_000,
            workers.c.running <= 0,
        )
    )
