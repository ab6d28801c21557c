"""The outbox: a table into which any program inserts submissions, in a transaction of its own.

The writer takes committed rows into the log and deletes them in one transaction, so no row is lost
or taken twice. Rows that cannot be jobs move to `outbox_rejected` with a reason. Both tables are no
part of the log, and are created when missing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import DBAPIError

from adapters.database.faults import error_code
from domain.decisions.answers import OutboxTaken
from domain.language.commands import SubmitRows, TakeOutbox
from domain.language.errors import FairlogError, InvalidInput
from domain.language.identifiers import UserId
from domain.language.outbox import OutboxRow, submission_of

USERS_PER_READ_MAX: Final = 50
BYTES_PER_READ_MAX: Final = 2 * 1024 * 1024  # of payloads; at least one row is read
COUNTED_ROWS_MAX: Final = 10_000  # in each table, for metrics
# NOWAIT: MySQL's own number, and a lock wait time-out in MariaDB.
_LOCKED: Final = frozenset({1205, 3572})

metadata = sa.MetaData()
# Text, which the server converts from the character set of the program's connection.
_name = sa.String(255).with_variant(
    mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)
_json = sa.Text().with_variant(
    mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)
_time = sa.String(40)
_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite generates no other type
_UTC: Final = "RFC 3339, or YYYY-MM-DD HH:MM:SS in UTC"


def _columns() -> Iterator[sa.Column[Any]]:
    yield sa.Column("user_id", _name, nullable=False)
    yield sa.Column("kind", _name, nullable=False)
    yield sa.Column("payload", _json, nullable=False, comment="JSON")
    yield sa.Column("idempotency_key", _name, comment="NULL: each row is a job of its own")
    yield sa.Column("run_at", _time, comment=_UTC)
    yield sa.Column("expires_at", _time, comment=_UTC)
    yield sa.Column("priority", sa.Integer)
    yield sa.Column("max_attempts", sa.Integer)
    yield sa.Column("timeout_seconds", sa.Double)
    yield sa.Column("options", _json, comment="JSON object: other fields of a submission")


outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", _id, primary_key=True, autoincrement=True),
    *_columns(),
    sa.Index("outbox_by_user", "user_id", "id"),
    sqlite_autoincrement=True,  # no id is used again
)

outbox_rejected = sa.Table(
    "outbox_rejected",
    metadata,
    sa.Column("id", _id, primary_key=True, autoincrement=False, comment="that it had in outbox"),
    *_columns(),
    sa.Column("reason", sa.String(2000), nullable=False),
    # Part of the key, since a dropped outbox begins with 1 again.
    sa.Column("rejected_at", _time, primary_key=True, comment="RFC 3339, the log's time"),
)
_COPIED: Final = [column.name for column in outbox.columns]
_REASON_MAX: Final = 2000  # characters


class RejectedRow(Struct, frozen=True):
    """A row of the outbox that could not be a job."""

    id: int
    user_id: str
    kind: str
    reason: str
    rejected_at: datetime  # UTC, the log's time


class OutboxLocked(FairlogError):
    """Another transaction holds one of the rows."""


class SqlOutbox:
    """The outbox on a connection of the caller."""

    def __init__(self, *, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite

    def users(self, connection: Connection, after: str | None, users_max: int) -> list[UserId]:
        """Return the next users with rows, in the database's order; the first for None."""
        query = sa.select(outbox.c.user_id).distinct().order_by(outbox.c.user_id).limit(users_max)
        if after is not None:
            query = query.where(outbox.c.user_id > after)
        return [UserId(str(user_id)) for user_id in connection.execute(query).scalars()]

    def counts(self, connection: Connection) -> tuple[int, int]:
        """Return the numbers of rows that wait and that were rejected, each at most
        COUNTED_ROWS_MAX.
        """
        waiting, rejected = (
            sa.select(sa.func.count())
            .select_from(sa.select(table.c.id).limit(COUNTED_ROWS_MAX).subquery())
            .scalar_subquery()
            for table in (outbox, outbox_rejected)
        )
        found = connection.execute(sa.select(waiting, rejected)).one()
        return int(found[0]), int(found[1])

    def newest_rejected(self, connection: Connection, rows_max: int) -> list[RejectedRow]:
        columns = outbox_rejected.c
        query = (
            sa.select(
                columns.id, columns.user_id, columns.kind, columns.reason, columns.rejected_at
            )
            .order_by(columns.id.desc())
            .limit(rows_max)
        )
        return [
            RejectedRow(
                row.id,
                str(row.user_id),
                str(row.kind),
                row.reason,
                datetime.fromisoformat(row.rejected_at),
            )
            for row in connection.execute(query)
        ]

    def read(self, connection: Connection, command: TakeOutbox) -> SubmitRows | TakeOutbox:
        """Read and lock rows of the users, in rounds. Returns the command if there is none.

        Needs the head lock. Raises `OutboxLocked`.
        """
        chosen = self._choose(connection, command)
        if not chosen:
            return command
        stored = {row["id"]: row for row in self._lock(connection, sorted(chosen))}
        rows, invalid = [], []
        for row_id in chosen:
            if row_id not in stored:  # deleted meanwhile by its program
                continue
            if command.rejection is not None:
                invalid.append((row_id, command.rejection))
                continue
            try:
                rows.append((row_id, submission_of(OutboxRow(**stored[row_id]))))
            except InvalidInput as error:
                invalid.append((row_id, str(error)))
        return SubmitRows(rows, invalid)

    def _choose(self, connection: Connection, command: TakeOutbox) -> list[int]:
        """Return the ids of the rows to take, in the order in which they become jobs."""
        share = max(1, command.rows_max // len(command.users))
        of_users = [
            sa.select(outbox.c.id, outbox.c.user_id, sa.func.length(outbox.c.payload).label("size"))
            .where(outbox.c.user_id == user_id)
            .order_by(outbox.c.id)
            .limit(share)
            .subquery()
            for user_id in command.users[: command.rows_max]
        ]
        found = connection.execute(sa.union_all(*(sa.select(one) for one in of_users))).all()
        rounds: Counter[str] = Counter()
        in_rounds: list[tuple[int, int, int]] = []  # (round, id, size)
        for row_id, user_id, size in sorted(found, key=lambda row: int(row[0])):
            rounds[user_id] += 1
            in_rounds.append((rounds[user_id], row_id, size))
        chosen: list[int] = []
        total = 0
        for _, row_id, size in sorted(in_rounds):
            total += size
            if chosen and total > BYTES_PER_READ_MAX:
                break
            chosen.append(row_id)
        return chosen

    def _lock(self, connection: Connection, ids: Sequence[int]) -> Sequence[RowMapping]:
        query = sa.select(outbox).where(outbox.c.id.in_(ids))
        if self._is_sqlite:  # the transaction has locked the whole file
            return connection.execute(query).mappings().all()
        # By the primary key alone: a scan would meet rows that are not committed yet, and wait.
        hinted = query.with_hint(outbox, "FORCE INDEX (PRIMARY)").with_for_update(nowait=True)
        try:
            return connection.execute(hinted).mappings().all()
        except DBAPIError as error:
            if error_code(error) in _LOCKED:
                raise OutboxLocked from error
            raise

    def remove(self, connection: Connection, taken: OutboxTaken, now: datetime) -> bool:
        """Delete the rows that became jobs, and move the rejected ones. Needs what `read` locked.

        Returns True if there were any.
        """
        rejected_at = now.isoformat().replace("+00:00", "Z")
        for row_id, reason in taken.rejected:
            copied = sa.select(
                *(outbox.c[name] for name in _COPIED),
                sa.literal(reason[:_REASON_MAX]),
                sa.literal(rejected_at),
            ).where(outbox.c.id == row_id)
            connection.execute(
                outbox_rejected.insert().from_select([*_COPIED, "reason", "rejected_at"], copied)
            )
        ids = [*taken.submitted, *(row_id for row_id, _ in taken.rejected)]
        if ids:
            self._delete(connection, ids)
        return bool(ids)

    def _delete(self, connection: Connection, ids: Sequence[int]) -> None:
        # One statement a row: for a list of ids MariaDB may scan the table, see `_lock`.
        mark = "?" if self._is_sqlite else "%s"
        connection.exec_driver_sql(
            f"DELETE FROM outbox WHERE id = {mark}", [(row_id,) for row_id in ids]
        )
