"""What goes on: figures a minute, latencies, workers, and who waits, leads or is refused.

It follows the log at its own pace, so that it costs the writer nothing and no page counts rows.
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
    Fold,
    Needed,
    OpenJob,
    Rows,
    UserLoad,
    WorkerLoad,
    seconds_of,
)
from projections.activity.metrics import ActivityMetrics, Leading
from projections.following.state_cache import StateCache
from projections.storage.rows import Query, Row, delete, fetch, upsert

# The lengths of slots, each with how far back they are kept; seconds.
KEPT_SECONDS: Final = {FINEST_SECONDS: 3_600, MINUTE_SECONDS: 6 * 3_600, 600: 3 * 86_400}
KINDS_PER_SLOT_MAX: Final = 100  # that have figures of their own; the first that came
ROWS_REMEMBERED_MAX: Final = 40_000  # between batches, some 10 MB
_KINDLESS: Final = frozenset({FINEST_SECONDS})  # lengths with figures of all kinds together only

_Slot = tuple[int, int]  # seconds, start


class ActivityProjection:
    name = "activity"
    version = tables.VERSION
    tables = tables.TABLES

    def __init__(self) -> None:
        self._remembered: StateCache[Rows] = StateCache()

    def apply(self, connection: Connection, generation: int, events: Sequence[Recorded]) -> None:
        rows = self._remembered.take(connection, generation, events[0].position - 1)
        if rows is None:
            rows = Rows()
        _load(connection, generation, Needed(events), rows)
        fold = Fold(rows)
        stored = _load_slots(connection, generation, events, fold)
        fold.apply(events)
        _save_slots(connection, generation, fold, stored)
        _save_jobs(connection, generation, fold.changed_jobs, rows, events[0].position)
        _save_users(connection, generation, fold.changed_users, rows)
        _save_workers(connection, generation, fold.changed_workers, rows)
        _forget(connection, generation, events[-1])
        if rows.count() <= ROWS_REMEMBERED_MAX:
            self._remembered.put(connection, generation, events[-1].position, rows)


_Stored = dict[_Slot, dict[bytes, ActivityMetrics]]


def _load(connection: Connection, generation: int, needed: Needed, rows: Rows) -> None:
    """The rows that events may change, as far as they are not known."""
    jobs = needed.jobs - rows.jobs.keys()
    rows.jobs.update(dict.fromkeys(jobs))
    for job_id, ready_at, started_at, worker in _fetch(
        connection, generation, tables.jobs_by_id, jobs
    ):
        rows.jobs[JobId(job_id)] = OpenJob(
            ready_at, started_at, None if worker is None else WorkerId(worker.decode())
        )
    users = needed.users - rows.users.keys()
    for user, waiting, running in _fetch(
        connection, generation, tables.users_by_id, [user_id.encode() for user_id in users]
    ):
        rows.users[UserId(user.decode())] = UserLoad(waiting, running, is_stored=True)
    running_jobs = map(rows.jobs.get, needed.jobs)
    workers = needed.workers | {job.worker for job in running_jobs if job and job.worker}
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


def _load_slots(
    connection: Connection, generation: int, events: Sequence[Recorded], fold: Fold
) -> _Stored:
    """The slots that the first event is in; those that begin later have no rows yet."""
    at = seconds_of(events[0].recorded_at)
    slots = tables.slots
    stored: _Stored = {}
    rows = connection.execute(
        sa.select(
            slots.c.seconds, slots.c.start, slots.c.kind, slots.c.figures, slots.c.leaders
        ).where(
            slots.c.generation == generation,
            sa.or_(
                *(
                    sa.and_(slots.c.seconds == seconds, slots.c.start == at // seconds * seconds)
                    for seconds in KEPT_SECONDS
                )
            ),
        )
    )
    for seconds, start, kind, figures, leading in rows:
        stored.setdefault((seconds, start), {})[bytes(kind)] = tables.decode_figures(figures)
        if leading is not None:
            fold.leading[start] = tables.decode_leading(leading)
    return stored


def _save_slots(connection: Connection, generation: int, fold: Fold, stored: _Stored) -> None:
    changed: dict[tuple[_Slot, bytes], ActivityMetrics] = {}
    for finest, of_kinds in fold.figures.items():
        for kind, new in of_kinds.items():
            for seconds in KEPT_SECONDS:
                slot = (seconds, finest // seconds * seconds)
                for key in _keys(kind, seconds, stored.setdefault(slot, {})):
                    figures = stored[slot].setdefault(key, ActivityMetrics())
                    figures.add(new)
                    changed[slot, key] = figures
    minutes = {start: tables.encode(leading) for start, leading in fold.leading.items()}
    upsert(
        connection,
        tables.slots,
        [
            (
                generation,
                seconds,
                start,
                key,
                tables.encode(figures),
                minutes.get(start, tables.encode(Leading()))
                if key == tables.ALL_KINDS and seconds == MINUTE_SECONDS
                else None,
            )
            for ((seconds, start), key), figures in changed.items()
        ],
    )


def _keys(kind: Kind, seconds: int, known: dict[bytes, ActivityMetrics]) -> list[bytes]:
    """The rows of a slot that figures of a kind go into."""
    key = kind.encode()
    has_own = bool(key) and seconds not in _KINDLESS
    if has_own and (key in known or len(known) <= KINDS_PER_SLOT_MAX):
        return [tables.ALL_KINDS, key]
    return [tables.ALL_KINDS]


def _save_jobs(
    connection: Connection, generation: int, changed: Iterable[JobId], rows: Rows, new: int
) -> None:
    """Those that have ended are let go of: hardly anything comes after that.

    From `new` on they have no rows yet.
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
    connection: Connection, generation: int, changed: Iterable[UserId], rows: Rows
) -> None:
    """Those of whom nothing waits or runs have no row."""
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
    connection: Connection, generation: int, changed: Iterable[WorkerId], rows: Rows
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


def _forget(connection: Connection, generation: int, latest: Recorded) -> None:
    """What is older than is kept, at the time of the latest event."""
    now = seconds_of(latest.recorded_at)
    slots, workers = tables.slots, tables.workers
    for seconds, kept in KEPT_SECONDS.items():
        connection.execute(
            slots.delete().where(
                slots.c.generation == generation,
                slots.c.seconds == seconds,
                slots.c.start < (now - kept) // seconds * seconds,
            )
        )
    connection.execute(
        workers.delete().where(
            workers.c.generation == generation,
            workers.c.last_seen < to_micros(latest.recorded_at) - WORKER_KEPT_SECONDS * 1_000_000,
            workers.c.running <= 0,
        )
    )
