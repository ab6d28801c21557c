"""The schedules projection: one row per schedule, found by name, user, due time, or the job that a
buffered run waits for.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.decisions.ports import Write
from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.due import DueSchedule
from domain.jobs.job import ENDED
from domain.language.identifiers import ScheduleName, UserId
from domain.language.moments import to_micros
from domain.schedules.schedule import Schedule
from projections.inline.jobs import STATE_NUMBERS, jobs
from projections.storage import registry
from projections.storage.rows import (
    Document,
    Identifier,
    Query,
    Row,
    deleting,
    fetch,
    generation,
    limited,
    placeholder,
    union,
    upserting,
)

VERSION: Final = 1
metadata = sa.MetaData()

schedules = sa.Table(
    f"schedules_v{VERSION}",
    metadata,
    generation(),
    sa.Column("name", Identifier, primary_key=True),
    sa.Column("user_id", Identifier, nullable=False),
    sa.Column("kind", Identifier, nullable=False),
    sa.Column("wakes_at", sa.BigInteger, comment="UTC, microseconds: when a run is decided"),
    sa.Column("waits_for", sa.BigInteger, comment="the job whose end has a run decided"),
    sa.Column("document", Document, nullable=False, comment="JSON of the schedule"),
    sa.Index(f"schedules_v{VERSION}_by_time", "generation", "wakes_at", "name"),
    sa.Index(f"schedules_v{VERSION}_by_job", "generation", "waits_for"),
    sa.Index(f"schedules_v{VERSION}_by_user", "generation", "user_id", "name"),
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Schedule).decode
_by_name = Query(schedules, [schedules.c.document], by=schedules.c.name)
_ENDED: Final = ", ".join(str(STATE_NUMBERS[state]) for state in sorted(ENDED))


class SchedulesProjection:
    """Loads and writes schedules. It comes before the projections whose rows their runs need."""

    name = "schedules"
    version = VERSION
    is_lasting = True
    tables = (schedules,)

    def load(
        self, connection: Connection, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        """Load schedules, and require what the runs of some need: user, kind, windows and job."""
        rows = model.schedules.rows
        missing = [name.encode() for name in required.schedules if name not in rows]
        for (document,) in fetch(connection, generation, (_by_name, missing)):
            schedule = _decode(document)
            rows[schedule.name] = schedule
        for name, window_seconds in required.runs.items():
            found = rows.get(name)
            if found is not None:
                required.users.add(found.set.user_id)
                required.kinds.add(found.set.kind)
                required.windows.add((found.set.user_id, window_seconds))
                if found.job is not None:
                    required.jobs.add(found.job)

    def take_changes(self, generation: int, model: WriteModel) -> list[Write[Connection]]:
        changed = [(name, model.schedules.rows[name]) for name in sorted(model.schedules.changed)]
        model.schedules.changed.clear()
        stored = [schedule for _, schedule in changed if schedule is not None]
        removed = [(name.encode(),) for name, schedule in changed if schedule is None]
        return [
            *([deleting(schedules, generation, removed)] if removed else []),
            *upserting(schedules, stored, partial(_row, generation)),
        ]


def _row(generation: int, schedule: Schedule) -> Row:
    wakes_at = schedule.wakes_at
    return (
        generation,
        schedule.name.encode(),
        schedule.set.user_id.encode(),
        schedule.set.kind.encode(),
        None if wakes_at is None else to_micros(wakes_at),
        schedule.waits_for,
        _encode(schedule),
    )


class ScheduleQueries:
    """Queries one generation of the schedules: the current one, or an expression for it."""

    def __init__(self, generation: sa.ColumnElement[int]) -> None:
        self._generation = generation

    def find(self, connection: Connection, name: ScheduleName) -> Schedule | None:
        """Return a schedule; None: there is none of this name."""
        rows = connection.execute(self._select().where(schedules.c.name == name.encode()))
        return next((_decode(document) for (document,) in rows), None)

    def after(
        self,
        connection: Connection,
        name: str,
        limit: int,
        conditions: Sequence[sa.ColumnElement[bool]] = (),
    ) -> list[Schedule]:
        """Return the next `limit` schedules by the bytes of their names."""
        query = self._select().where(schedules.c.name > name.encode(), *conditions)
        rows = connection.execute(query.order_by(schedules.c.name).limit(limit))
        return [_decode(document) for (document,) in rows]

    def waking(self, connection: Connection, now: int, limit: int) -> list[DueSchedule]:
        """Return schedules that have a run to be decided, `now` in Unix time in microseconds: up to
        `limit` whose time has come, earliest first, and the next one after them; and as many whose
        buffered run waits no longer, since its job has ended. These have the due time 0. One
        statement.
        """
        mark = placeholder(connection)
        current, of_jobs = registry.current_text("schedules"), registry.current_text("jobs")
        buffered = limited(
            connection,
            f"SELECT 0 AS wakes_at, s.name, s.user_id FROM {schedules.name} s"
            f" LEFT JOIN {jobs.name} j ON j.generation = {of_jobs} AND j.id = s.waits_for"
            f" WHERE s.generation = {current} AND s.waits_for IS NOT NULL"
            f" AND (j.state IS NULL OR j.state IN ({_ENDED})) LIMIT {mark}",
        )
        come, later = (
            limited(
                connection,
                f"SELECT wakes_at, name, user_id FROM {schedules.name} WHERE generation = {current}"
                f" AND wakes_at {compared} {mark} ORDER BY wakes_at, name LIMIT {mark}",
            )
            for compared in ("<=", ">")
        )
        found = union(
            connection,
            [(buffered, [limit]), (come, [now, limit]), (later, [now, 1])],
        )
        return [
            DueSchedule(wakes_at, ScheduleName(bytes(name).decode()), UserId(bytes(user).decode()))
            for wakes_at, name, user in found
        ]

    def _select(self) -> sa.Select[Any]:
        return sa.select(schedules.c.document).where(schedules.c.generation == self._generation)
