"""The activity projection: metrics by time bucket, open jobs, users with open jobs, and workers.

It is asynchronous, so the writer does no work for it. The dashboard never has to count rows. What
changes often is kept in memory between batches: a job that begins and ends within one batch is
never stored, and while this process alone applies events, it reads only jobs that have waited long.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
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
from projections.activity.metrics import ActivityMetrics, TopUsers
from projections.following.async_projection import Changes
from projections.following.state_cache import StateCache
from projections.storage.rows import Query, Row, delete, fetch, upsert

# How long buckets are kept, by their length; both in seconds.
KEPT_SECONDS: Final = {FINEST_SECONDS: 3_600, MINUTE_SECONDS: 6 * 3_600, 600: 3 * 86_400}
LOG_KEPT_SECONDS: Final = 4 * 86_400  # of the log: no bucket that is kept then begins before
KINDS_PER_BUCKET_MAX: Final = 100  # with metrics of their own: the first ones of the bucket
ROWS_CACHED_MAX: Final = 20_000  # between batches, of jobs, users and workers each; some 15 MB
_WITHOUT_KINDS: Final = frozenset({FINEST_SECONDS})  # lengths without metrics by kind

_Bucket = tuple[int, int]  # length, start (Unix time); both in seconds


class ActivityProjection:
    """Keeps the rows that the dashboard reads. Any thread may apply events."""

    name = "activity"
    version = tables.VERSION
    tables = tables.TABLES

    def __init__(self) -> None:
        self._cache: StateCache[ActivityRows] = StateCache()

    def fold(self, connection: Connection, generation: int, events: Sequence[Recorded]) -> Changes:
        first, last = events[0], events[-1]
        rows = self._cache.take(connection, generation, first.position - 1)
        if rows is None:
            rows = ActivityRows()
            _load_buckets(connection, generation, seconds_of(first.recorded_at), rows)
        keys = ActivityKeys(events)
        _load(connection, generation, keys, rows, first.position)
        fold = ActivityFold(rows)
        fold.apply(events)
        writes: list[Write[Connection]] = [
            *_bucket_changes(generation, fold, rows),
            *_job_changes(generation, keys.jobs, rows, first.position),
            *_user_changes(generation, keys.users, rows),
            _worker_changes(generation, keys.workers | fold.workers_left, rows),
            partial(_delete_expired, generation=generation, latest=last),
        ]
        rows.evict(ROWS_CACHED_MAX)
        return Changes(
            writes, partial(self._cache.put, connection, generation, last.position, rows)
        )


def _load(
    connection: Connection, generation: int, keys: ActivityKeys, rows: ActivityRows, new: int
) -> None:
    """Load the rows with these keys that are not in memory. Jobs from id `new` on have none."""
    jobs = [one for one in keys.jobs - rows.jobs.keys() if one < new]
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
    connection: Connection, generation: int, seconds_now: int, rows: ActivityRows
) -> None:
    """Load the buckets of the first event; buckets that begin later have no rows yet."""
    buckets = tables.buckets
    found = connection.execute(
        sa.select(
            buckets.c.seconds, buckets.c.start, buckets.c.kind, buckets.c.figures, buckets.c.leaders
        ).where(
            buckets.c.generation == generation,
            sa.or_(
                *(
                    sa.and_(buckets.c.seconds == seconds, buckets.c.start == start)
                    for seconds, start in _buckets_at(seconds_now)
                )
            ),
        )
    )
    for seconds, start, kind, metrics, top in found:
        of_bucket = rows.buckets.setdefault((seconds, start), {})
        of_bucket[bytes(kind)] = tables.decode_metrics(metrics)
        if top is not None:
            rows.tops[start] = TopUsers(tables.decode_top_counts(top))


def _buckets_at(seconds_now: int) -> list[_Bucket]:
    """Return the buckets that a Unix time in seconds belongs to."""
    return [(seconds, seconds_now // seconds * seconds) for seconds in KEPT_SECONDS]


def _bucket_changes(
    generation: int, fold: ActivityFold, rows: ActivityRows
) -> Sequence[Write[Connection]]:
    """Add what the batch counted to its buckets; forget the buckets that are over."""
    changed: dict[tuple[_Bucket, bytes], ActivityMetrics] = {}
    for finest, increments in fold.metrics.items():
        for kind, increment in increments.items():
            for bucket in _buckets_at(finest):
                stored = rows.buckets.setdefault(bucket, {})
                for key in _keys(kind, bucket[0], stored):
                    metrics = stored.get(key)
                    if metrics is None:
                        metrics = stored[key] = ActivityMetrics()
                    metrics.add(increment)
                    changed[bucket, key] = metrics
    written = [
        (
            generation,
            seconds,
            start,
            key,
            tables.encode(metrics),
            tables.encode(rows.tops[start].counts)
            if key == tables.ALL_KINDS and seconds == MINUTE_SECONDS
            else None,
        )
        for ((seconds, start), key), metrics in changed.items()
    ]
    if fold.metrics:
        current = _buckets_at(max(fold.metrics))
        rows.buckets = {one: rows.buckets[one] for one in current if one in rows.buckets}
        rows.tops = {
            start: top for start, top in rows.tops.items() if (MINUTE_SECONDS, start) in current
        }
    return [lambda connection: upsert(connection, tables.buckets, written)]


def _keys(kind: Kind, seconds: int, known: Collection[bytes]) -> list[bytes]:
    """Return the keys of a bucket's rows that count a kind: of all kinds, and maybe its own."""
    key = kind.encode()
    has_own = bool(key) and seconds not in _WITHOUT_KINDS
    if has_own and (key in known or len(known) <= KINDS_PER_BUCKET_MAX):
        return [tables.ALL_KINDS, key]
    return [tables.ALL_KINDS]


def _job_changes(
    generation: int, changed: Collection[JobId], rows: ActivityRows, new: int
) -> Sequence[Write[Connection]]:
    """Write open jobs, and delete ended ones, from memory too: hardly any event names them again.

    Jobs from id `new` on have no rows yet.
    """
    ended = [job_id for job_id in changed if rows.jobs.get(job_id) is None]
    for job_id in ended:
        rows.jobs.pop(job_id, None)
    stored = [(job_id,) for job_id in ended if job_id < new]
    written = [
        (
            generation,
            job_id,
            job.ready_at,
            job.started_at,
            None if job.worker is None else job.worker.encode(),
        )
        for job_id in changed
        if (job := rows.jobs.get(job_id)) is not None
    ]
    return [
        lambda connection: delete(connection, tables.open_jobs, generation, stored),
        lambda connection: upsert(connection, tables.open_jobs, written),
    ]


def _user_changes(
    generation: int, changed: Iterable[UserId], rows: ActivityRows
) -> Sequence[Write[Connection]]:
    """Write users with open jobs; a user without has no row."""
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
    return [
        lambda connection: delete(connection, tables.users, generation, idle),
        lambda connection: upsert(connection, tables.users, busy),
    ]


def _worker_changes(
    generation: int, changed: Iterable[WorkerId], rows: ActivityRows
) -> Write[Connection]:
    written = [
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
    ]
    return lambda connection: upsert(connection, tables.workers, written)


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
