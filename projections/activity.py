"""What goes on: figures a minute, latencies, workers, and who waits, leads or is refused.

It follows the log at its own pace, so that it costs the writer nothing and no page counts rows.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.events import JobSubmitted, Recorded
from domain.identifiers import JobId, Kind, UserId, WorkerId
from domain.moments import to_micros
from projections import activity_tables as tables
from projections.activity_figures import Figures, Leading
from projections.activity_fold import (
    FINEST_SECONDS,
    MINUTE_SECONDS,
    WORKER_KEPT_SECONDS,
    Fold,
    OpenJob,
    UserLoad,
    WorkerLoad,
    seconds_of,
)
from projections.rows import Query, Row, delete, fetch, upsert

# The lengths of slots, each with how far back they are kept; seconds.
KEPT_SECONDS: Final = {FINEST_SECONDS: 3_600, MINUTE_SECONDS: 6 * 3_600, 600: 3 * 86_400}
KINDS_A_SLOT_MAX: Final = 100  # that have figures of their own; the first that came
_KINDLESS: Final = frozenset({FINEST_SECONDS})  # lengths with figures of all kinds together only

_Slot = tuple[int, int]  # seconds, start


class ActivityProjection:
    name = "activity"
    version = tables.VERSION
    tables = tables.TABLES

    def apply(self, connection: Connection, generation: int, events: Sequence[Recorded]) -> None:
        fold = Fold()
        stored = _load(connection, generation, events, fold)
        fold.apply(events)
        _save_slots(connection, generation, fold, stored)
        _save_jobs(connection, generation, fold)
        _save_users(connection, generation, fold)
        _save_workers(connection, generation, fold)
        _forget(connection, generation, events[-1])


_Stored = dict[_Slot, dict[bytes, Figures]]


def _load(
    connection: Connection, generation: int, events: Sequence[Recorded], fold: Fold
) -> _Stored:
    """The rows that the events may change."""
    known = _fetch(
        connection, generation, tables.jobs_by_id,
        {recorded.job_id for recorded in events
         if recorded.job_id is not None and not isinstance(recorded.event, JobSubmitted)},
    )  # fmt: skip
    named_workers: set[bytes] = set()
    for job_id, ready_at, started_at, worker in known:
        named_workers.update([] if worker is None else [worker])
        fold.jobs[JobId(job_id)] = OpenJob(
            ready_at, started_at, None if worker is None else WorkerId(worker.decode())
        )
    named_users: set[bytes] = set()
    for recorded in events:
        user_id: str | None = getattr(recorded.event, "user_id", None)
        worker_id: str | None = getattr(recorded.event, "worker", None)
        if user_id is not None:
            named_users.add(user_id.encode())
        if worker_id is not None:
            named_workers.add(worker_id.encode())
    for user, waiting, running in _fetch(connection, generation, tables.users_by_id, named_users):
        fold.users[UserId(user.decode())] = UserLoad(waiting, running)
    for worker, server, running, completed, failed, first_seen, last_seen in _fetch(
        connection, generation, tables.workers_by_id, named_workers
    ):
        fold.workers[WorkerId(worker.decode())] = WorkerLoad(
            first_seen, last_seen, None if server is None else server.decode(),
            running, completed, failed,
        )  # fmt: skip
    return _load_slots(connection, generation, events, fold)


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
        sa.select(slots.c.seconds, slots.c.start, slots.c.kind, slots.c.figures, slots.c.leaders)
        .where(
            slots.c.generation == generation,
            sa.or_(*(
                sa.and_(slots.c.seconds == seconds, slots.c.start == at // seconds * seconds)
                for seconds in KEPT_SECONDS
            )),
        )
    )  # fmt: skip
    for seconds, start, kind, figures, leading in rows:
        stored.setdefault((seconds, start), {})[bytes(kind)] = tables.decode_figures(figures)
        if leading is not None:
            fold.leading[start] = tables.decode_leading(leading)
    return stored


def _save_slots(connection: Connection, generation: int, fold: Fold, stored: _Stored) -> None:
    changed: dict[tuple[_Slot, bytes], Figures] = {}
    for (finest, kind), new in fold.figures.items():
        for seconds in KEPT_SECONDS:
            slot = (seconds, finest // seconds * seconds)
            for key in _keys(kind, seconds, stored.setdefault(slot, {})):
                figures = stored[slot].setdefault(key, Figures())
                figures.add(new)
                changed[slot, key] = figures
    minutes = {start: tables.encode(leading) for start, leading in fold.leading.items()}
    upsert(
        connection, tables.slots,
        [
            (generation, seconds, start, key, tables.encode(figures),
             minutes.get(start, tables.encode(Leading()))
             if key == tables.ALL_KINDS and seconds == MINUTE_SECONDS else None)
            for ((seconds, start), key), figures in changed.items()
        ],
    )  # fmt: skip


def _keys(kind: Kind, seconds: int, known: dict[bytes, Figures]) -> list[bytes]:
    """The rows of a slot that figures of a kind go into."""
    key = kind.encode()
    has_own = bool(key) and seconds not in _KINDLESS
    if has_own and (key in known or len(known) <= KINDS_A_SLOT_MAX):
        return [tables.ALL_KINDS, key]
    return [tables.ALL_KINDS]


def _save_jobs(connection: Connection, generation: int, fold: Fold) -> None:
    delete(
        connection, tables.open_jobs, generation,
        [(job_id,) for job_id, job in fold.jobs.items() if job is None],
    )  # fmt: skip
    upsert(
        connection, tables.open_jobs,
        [
            (generation, job_id, job.ready_at, job.started_at,
             None if job.worker is None else job.worker.encode())
            for job_id, job in fold.jobs.items() if job is not None
        ],
    )  # fmt: skip


def _save_users(connection: Connection, generation: int, fold: Fold) -> None:
    idle = {user_id for user_id, user in fold.users.items() if not (user.waiting or user.running)}
    delete(connection, tables.users, generation, [(user_id.encode(),) for user_id in idle])
    upsert(
        connection, tables.users,
        [
            (generation, user_id.encode(), user.waiting, user.running)
            for user_id, user in fold.users.items() if user_id not in idle
        ],
    )  # fmt: skip


def _save_workers(connection: Connection, generation: int, fold: Fold) -> None:
    upsert(
        connection, tables.workers,
        [
            (generation, worker.encode(), None if load.server is None else load.server.encode(),
             load.running, load.completed, load.failed, load.first_seen, load.last_seen)
            for worker, load in fold.workers.items()
        ],
    )  # fmt: skip


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
