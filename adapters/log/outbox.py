"""The outbox: a table into which any program inserts submissions, in a transaction of its own.

The writer takes committed rows into the log and deletes them in one transaction, so no row is lost
or taken twice. Rows that cannot be jobs move to `outbox_rejected` with a reason. Both tables are no
part of the log, and are created when missing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.exc import DBAPIError

from adapters.database.faults import Fault, error_code, explained, fault_of
from domain.decisions.answers import OutboxTaken
from domain.language.commands import SubmitJob, SubmitRows, TakeOutbox
from domain.language.errors import FairlogError, InvalidInput, OutboxUnavailable
from domain.language.identifiers import UserId
from domain.language.moments import to_text
from domain.language.outbox import OutboxRow, submission_of

USERS_PER_READ_MAX: Final = 500
BYTES_PER_READ_MAX: Final = 2 * 1024 * 1024  # of text; at least one row is read
ROW_BYTES_MAX: Final = 4 * 1024 * 1024  # a longer row is rejected unread
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
_reason = sa.String(2000).with_variant(
    mysql.VARCHAR(2000, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
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
    # SQLite stores any value in any column, and such a user could not be looked up.
    sa.CheckConstraint("typeof(user_id) = 'text'").ddl_if(dialect="sqlite"),
    sa.Index("outbox_by_user", "user_id", "id"),
    sqlite_autoincrement=True,  # no id is used again
)

outbox_rejected = sa.Table(
    "outbox_rejected",
    metadata,
    sa.Column("id", _id, primary_key=True, autoincrement=False, comment="that it had in outbox"),
    *_columns(),
    sa.Column("reason", _reason, nullable=False),
    # Part of the key, since a dropped outbox begins with 1 again.
    sa.Column("rejected_at", _time, primary_key=True, comment="RFC 3339, the log's time"),
)
_COPIED: Final = [column.name for column in outbox.columns]
_TEXTS: Final = ("user_id", "kind", "payload", "idempotency_key", "run_at", "expires_at", "options")
_TOO_LONG: Final = f"The row has more than {ROW_BYTES_MAX} bytes."
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


@contextmanager
def _guarded() -> Iterator[None]:
    """Turn errors of these tables into `OutboxUnavailable`, so that nobody else suffers from them.

    A lost connection says nothing about the tables.
    """
    try:
        yield
    except DBAPIError as error:
        if fault_of(error) is Fault.LOST:
            raise
        raise OutboxUnavailable(f"The outbox cannot be used: {explained(error)}") from error


class SqlOutbox:
    """The outbox on a connection of the caller."""

    def __init__(self, *, is_sqlite: bool) -> None:
        self._is_sqlite = is_sqlite

    @_guarded()
    def users(self, connection: Connection, after: UserId | None, users_max: int) -> list[UserId]:
        """Return the next users with rows, in the database's order; the first for None. Raises
        `OutboxUnavailable`.

        Each is looked up in the index: DISTINCT would read all rows of a user with very many.
        """
        first = sa.select(sa.func.min(outbox.c.user_id))
        if after is not None:
            first = first.where(outbox.c.user_id > after)
        found = sa.select(first.scalar_subquery().label("user_id"), sa.literal(1).label("number"))
        each = found.cte("each", recursive=True)
        following = sa.select(sa.func.min(outbox.c.user_id)).where(
            outbox.c.user_id > each.c.user_id
        )
        each = each.union_all(
            sa.select(following.correlate(each).scalar_subquery(), each.c.number + 1).where(
                each.c.user_id.is_not(None), each.c.number < users_max
            )
        )
        query = sa.select(each.c.user_id).where(each.c.user_id.is_not(None))
        return [UserId(str(user_id)) for user_id in connection.execute(query).scalars()]

    @_guarded()
    def first_row(self, connection: Connection, user_id: UserId) -> int | None:
        """Return the id of a user's oldest row. Raises `OutboxUnavailable`."""
        query = sa.select(sa.func.min(outbox.c.id)).where(outbox.c.user_id == user_id)
        found = connection.execute(query).scalar_one()
        return None if found is None else int(found)

    @_guarded()
    def counts(self, connection: Connection) -> tuple[int, int]:
        """Return the numbers of rows that wait and that were rejected, each at most
        COUNTED_ROWS_MAX. Raises `OutboxUnavailable`.
        """
        waiting, rejected = (
            sa.select(sa.func.count())
            .select_from(sa.select(table.c.id).limit(COUNTED_ROWS_MAX).subquery())
            .scalar_subquery()
            for table in (outbox, outbox_rejected)
        )
        found = connection.execute(sa.select(waiting, rejected)).one()
        return int(found[0]), int(found[1])

    @_guarded()
    def newest_rejected(self, connection: Connection, rows_max: int) -> list[RejectedRow]:
        """Return rejected rows, the newest first. Raises `OutboxUnavailable`."""
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

    @_guarded()
    def read(self, connection: Connection, command: TakeOutbox) -> SubmitRows | TakeOutbox:
        """Read and lock rows of the users, in rounds. Returns the command if there is none.

        Needs the head lock. Raises `OutboxLocked` and `OutboxUnavailable`.
        """
        chosen = self._choose(connection, command)
        if not chosen:
            return command
        whole = [row_id for row_id, is_read in chosen.items() if is_read]
        stored = {row["id"]: row for row in self._lock(connection, whole, outbox.columns)}
        unread = [row_id for row_id, is_read in chosen.items() if not is_read]
        locked = {row["id"] for row in self._lock(connection, unread, [outbox.c.id])}
        rows: list[tuple[int, SubmitJob]] = []
        invalid = [
            (row_id, command.rejection or _TOO_LONG) for row_id in unread if row_id in locked
        ]
        for row_id in whole:
            if row_id not in stored:  # deleted meanwhile by its program
                continue
            try:
                rows.append((row_id, submission_of(OutboxRow(**stored[row_id]))))
            except InvalidInput as error:
                invalid.append((row_id, str(error)[:_REASON_MAX]))
        return SubmitRows(rows, invalid)

    def _choose(self, connection: Connection, command: TakeOutbox) -> dict[int, bool]:
        """Return the ids of the rows to take, in the order in which they become jobs. False: it is
        rejected without being read.
        """
        if command.row_id is not None:
            return {command.row_id: command.rejection is None}
        share = max(1, command.rows_max // len(command.users))
        size = sum(
            (sa.func.coalesce(sa.func.length(outbox.c[name]), 0) for name in _TEXTS),
            start=sa.literal(0),
        )
        of_users = [
            sa.select(outbox.c.id, sa.literal(place).label("place"), size.label("size"))
            .where(outbox.c.user_id == user_id)
            .order_by(outbox.c.id)
            .limit(share)
            .subquery()
            for place, user_id in enumerate(command.users[: command.rows_max])
        ]
        found = connection.execute(sa.union_all(*(sa.select(one) for one in of_users))).all()
        rounds: Counter[int] = Counter()
        in_rounds: list[tuple[int, int, int, int]] = []  # (round, place of the user, id, size)
        for row_id, place, bytes_ in sorted(
            (int(row[0]), int(row[1]), int(row[2])) for row in found
        ):
            rounds[place] += 1
            in_rounds.append((rounds[place], place, row_id, bytes_))
        chosen: dict[int, bool] = {}
        total = 0
        for _, _, row_id, bytes_ in sorted(in_rounds):
            is_read = bytes_ <= ROW_BYTES_MAX
            total += bytes_ if is_read else 0
            if chosen and total > BYTES_PER_READ_MAX:
                break
            chosen[row_id] = is_read
        return chosen

    def _lock(
        self, connection: Connection, ids: Sequence[int], columns: Iterable[sa.Column[Any]]
    ) -> Sequence[RowMapping]:
        if not ids:
            return []
        query = sa.select(*columns).where(outbox.c.id.in_(sorted(ids)))
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

    @_guarded()
    def remove(self, connection: Connection, taken: OutboxTaken, now: datetime) -> bool:
        """Delete the rows that became jobs, and move the rejected ones. Needs what `read` locked.

        Returns True if there were any. Raises `OutboxUnavailable`.
        """
        rejected_at = to_text(now)
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
        connection.exec_driver_sql("SELECT 1")  # so that an error of theirs is raised here
