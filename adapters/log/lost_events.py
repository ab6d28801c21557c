"""Reports of events that the database lacks, for the operator who accepts the loss.

A writer that finds the log shorter than it knew it reports here what was in the missing part. The
table is no part of the log: `fairlog migrate` makes it, and it may be dropped while no server runs;
with it goes only what is known of the lost events. While it names an event beyond the end of the
log, nothing is written: writers that have a connection look into it every second.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection

from domain.language.events import EventLost, Recorded, type_of, user_of
from domain.language.identifiers import JobId, UserId
from domain.language.moments import from_micros, to_micros

ROWS_PER_INSERT: Final = 500

metadata = sa.MetaData()
_identifier = sa.LargeBinary().with_variant(mysql.VARBINARY(255), "mysql", "mariadb")

lost_events = sa.Table(
    "lost_events",
    metadata,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("type", sa.String(64), comment="NULL: only the position is known"),
    sa.Column("user_id", _identifier),
    sa.Column("job_id", sa.BigInteger),
    sa.Column("recorded_at", sa.BigInteger, comment="UTC, microseconds"),
)


class LostEvents(Struct, frozen=True):
    """The lost end of the log, as far as it was reported."""

    at: int  # position of the latest event that is there
    known: int  # position of the latest event that is known to be lost; `at`: none is
    by_position: dict[int, EventLost]  # those of which more than the position is known

    def in_order(self, up_to: int) -> tuple[EventLost, ...]:
        """Return an event for each position from the one after `at` up to another."""
        nothing = EventLost()
        return tuple(
            self.by_position.get(position, nothing) for position in range(self.at + 1, up_to + 1)
        )


def latest_lost(connection: Connection, at: int) -> int:
    """Return the position of the latest event that is reported as lost, and `at`, the end of the
    log, if none is beyond it.
    """
    found = connection.execute(sa.select(sa.func.max(lost_events.c.position))).scalar_one()
    return at if found is None else max(at, int(found))


def report(connection: Connection, at: int, known: int, kept: Sequence[Recorded]) -> None:
    """Report the events after `at`, the end of the log, up to `known`.

    `kept` are those of them, and earlier ones, that this writer has in memory.
    What others have reported stays, unless more is known here. The caller holds the head lock.
    """
    outdated = lost_events.c.position <= at  # of an earlier loss, which did not last
    connection.execute(lost_events.delete().where(outdated))
    known_here = [one.position for one in kept if one.position > at]
    for start in range(0, len(known_here), ROWS_PER_INSERT):
        some = known_here[start : start + ROWS_PER_INSERT]
        connection.execute(
            lost_events.delete().where(
                lost_events.c.position.in_(some), lost_events.c.type.is_(None)
            )
        )
    reported = set(connection.execute(sa.select(lost_events.c.position)).scalars())
    rows = {one.position: _row(one) for one in kept if one.position > at}
    rows.setdefault(known, {"position": known})
    new = [row for position, row in sorted(rows.items()) if position not in reported]
    for start in range(0, len(new), ROWS_PER_INSERT):
        connection.execute(
            lost_events.insert(),
            [
                dict.fromkeys(lost_events.c.keys()) | row
                for row in new[start : start + ROWS_PER_INSERT]
            ],
        )


def reported(connection: Connection, at: int) -> LostEvents:
    """Return what was reported of the events after `at`, the end of the log."""
    rows = connection.execute(sa.select(lost_events).where(lost_events.c.position > at)).all()
    return LostEvents(
        at,
        max((row.position for row in rows), default=at),
        {
            row.position: EventLost(
                lost_type=row.type,
                user_id=None if row.user_id is None else UserId(bytes(row.user_id).decode()),
                lost_job_id=None if row.job_id is None else JobId(row.job_id),
                lost_at=_moment(row.recorded_at),
            )
            for row in rows
            if row.type is not None
        },
    )


def clear_reports(connection: Connection) -> None:
    """Delete all that was reported, once the loss is accepted."""
    connection.execute(lost_events.delete())


def _row(recorded: Recorded) -> dict[str, object]:
    return {
        "position": recorded.position,
        "type": type_of(recorded.event),
        "user_id": user_of(recorded.event),
        "job_id": recorded.job_id,
        "recorded_at": to_micros(recorded.recorded_at),
    }


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)
