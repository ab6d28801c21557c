"""The event log on SQL: one head row that orders all writers, and the rows behind it.

Whoever holds the head row's lock is the only one who may append. So positions are contiguous,
commit order is position order, and a reader that goes by position never skips an event.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.clock import SystemClock
from adapters.database import Database
from adapters.mysql_pipeline import PipelinedConnection
from adapters.tables import FORMAT, HEAD_ID, bodies, events, log_head
from domain import chain
from domain.errors import LogCorrupt, LogTooNew, LogUnavailable
from domain.events import Event, Recorded, encode, type_of
from domain.identifiers import JobId, UserId
from domain.moments import from_micros, to_micros
from domain.ports import Clock, Head
from domain.stored_log import Leaf
from domain.upcasting import is_current, read, version_of

BODIES_SEARCHED_MAX: Final = 50  # in one statement; each may have 1 MiB
# Microseconds since the epoch; each connection's time zone is set to UTC.
_DATABASE_NOW: Final = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', SYSDATE(6))"


class StoredEvent(Struct, frozen=True, gc=False):
    """A row of the log as it stands, for those who want the record and not its meaning."""

    position: int
    type: str
    version: int
    user_id: UserId | None
    job_id: JobId | None
    recorded_at: datetime  # UTC
    data: bytes  # compact JSON
    hash: bytes


class EventFilter(Struct, frozen=True, kw_only=True):
    """Which events an audit asks for; every condition that is set must hold."""

    user_id: UserId | None = None
    job_id: JobId | None = None
    types: Sequence[str] = ()  # any of them; none: all
    since: datetime | None = None  # UTC, inclusive
    until: datetime | None = None  # UTC, exclusive


# What `recorded` makes events of.
RECORDED: Final = (
    events.c.position, events.c.recorded_at, events.c.job_id, events.c.version, events.c.data,
)  # fmt: skip


class Appended(NamedTuple):
    """A batch behind the head."""

    head: Head  # as it will be
    leaves: Sequence[Leaf]  # of its events, see `domain.chain`


class SqlEventLog:
    """Appends under the head lock; reads without it.

    `clock` replaces the log's own (the database server's, read under the lock; on SQLite the
    machine's): for tests.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        # None: the database server's, read under the lock
        self.clock = clock or (SystemClock() if database.is_sqlite else None)
        self._is_sqlite = database.is_sqlite
        mark = "?" if database.is_sqlite else "%s"
        self._lock_head = (
            "SELECT position, hash, recorded_at, format, epoch, "
            # SYSDATE is the time after the lock was had, NOW the time before; and no account can
            # move it by SET timestamp.
            + ("0" if self.clock else _DATABASE_NOW)
            + f" FROM log_head WHERE id = {HEAD_ID}"
            + ("" if database.is_sqlite else " FOR UPDATE")
        )
        self._insert_events = _insert(events, mark)
        self._insert_bodies = _insert(bodies, mark)
        self._move_head = (
            f"UPDATE log_head SET position = {mark}, hash = {mark}, recorded_at = {mark}"
            f" WHERE id = {HEAD_ID} AND position = {mark}"
        )

    def lock_head(self, connection: Connection) -> Head:
        """Raises `LogTooNew` for a format that this release does not know."""
        row = connection.exec_driver_sql(self._lock_head).one_or_none()
        if row is None:
            raise LogCorrupt("The log has no head row; run `fairlog migrate`.")
        position, head_hash, recorded_at, log_format, epoch, database_now = row
        if log_format > FORMAT:
            raise LogTooNew(
                f"The log has format {log_format}, and this release knows up to {FORMAT}; "
                "install the newer release here too."
            )
        now = to_micros(self.clock.now()) if self.clock else database_now
        return Head(position, bytes(head_hash), from_micros(max(now, recorded_at)), epoch)

    def foresee_lock(self, connection: Connection) -> None:
        """Have the commit of this transaction take the lock for the next one, which must follow."""
        driver = connection.connection.driver_connection
        if isinstance(driver, PipelinedConnection):
            driver.foresee(self._lock_head)

    def append(
        self,
        connection: Connection,
        head: Head,
        recorded: Sequence[Recorded],
        new_bodies: Sequence[tuple[int, bytes]],
    ) -> Appended:
        """Write a batch behind the head. Needs the head lock, and `move_head` in the same
        transaction; all in `recorded` carry the head's `now`.
        """
        at = to_micros(head.now)
        rows = []
        leaves = []
        tail = head.hash
        for event in recorded:
            row = _row(event, at)
            position, type_name, version, user_id, job_id, _, data = row
            leaf = chain.leaf(position, version, type_name.encode(), user_id, job_id, at, data)
            tail = chain.link(tail, leaf)
            leaves.append(Leaf(position, leaf))
            rows.append((*row, tail))
        connection.exec_driver_sql(self._insert_events, rows)
        if new_bodies:
            connection.exec_driver_sql(self._insert_bodies, list(new_bodies))
        return Appended(Head(recorded[-1].position, tail, head.now, head.epoch), leaves)

    def move_head(self, connection: Connection, head: Head, new: Head) -> None:
        """Needs the head lock. Raises `LogUnavailable` when somebody else has moved it."""
        moved = connection.exec_driver_sql(
            self._move_head, (new.position, new.hash, to_micros(new.now), head.position)
        )
        # On a cluster, certification sees only written rows: the lock alone proves nothing there.
        if moved.rowcount != 1:
            raise LogUnavailable("Another writer moved the log's head; the batch was not written.")

    def erase_bodies(self, connection: Connection, positions: Sequence[int]) -> None:
        """Remove bodies for good, in the transaction of the events that record it."""
        if connection.dialect.name == "sqlite":
            # Else their bytes would stay in the file until something else needs the room.
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        for start in range(0, len(positions), 500):
            connection.execute(
                bodies.delete().where(bodies.c.position.in_(positions[start : start + 500]))
            )

    def raise_epoch(self, connection: Connection) -> None:
        connection.execute(
            log_head.update().where(log_head.c.id == HEAD_ID).values(epoch=log_head.c.epoch + 1)
        )

    def position(self, connection: Connection) -> int:
        return int(connection.execute(sa.select(log_head.c.position)).scalar_one())

    def now(self, connection: Connection) -> datetime:
        """UTC, by the log's clock, without the lock; a writer may already be a little ahead."""
        if self.clock:
            return self.clock.now()
        micros = connection.exec_driver_sql(f"SELECT {_DATABASE_NOW}").scalar_one()
        return from_micros(micros)

    def latest(self, connection: Connection, type_name: str) -> int:
        """The position of the latest event of a type; 0 when there is none."""
        found = connection.execute(
            sa.select(sa.func.max(events.c.position)).where(events.c.type == type_name)
        ).scalar()
        return 0 if found is None else int(found)

    def hash_at(self, connection: Connection, position: int) -> bytes | None:
        """The chain up to a position, None beyond the end."""
        found = connection.execute(
            sa.select(events.c.hash).where(events.c.position == position)
        ).scalar_one_or_none()
        return None if found is None else bytes(found)

    def read(self, connection: Connection, after: int, limit: int) -> list[Recorded]:
        if not self._is_sqlite and (together := _read_together(connection, after, limit)):
            return together
        return recorded(
            connection,
            sa.select(*RECORDED).where(events.c.position > after)
            .order_by(events.c.position).limit(limit),
        )  # fmt: skip

    def read_stored(self, connection: Connection, after: int, limit: int) -> list[StoredEvent]:
        return self.find(connection, EventFilter(), after, limit)

    def find(
        self, connection: Connection, wanted: EventFilter, after: int, limit: int
    ) -> list[StoredEvent]:
        """Up to `limit` events behind `after` that the filter lets through, in log order."""
        query = self._matching(connection, wanted).where(events.c.position > after)
        return _all(connection, query.order_by(events.c.position).limit(limit))

    def find_newest(
        self, connection: Connection, wanted: EventFilter, below: int | None, limit: int
    ) -> list[StoredEvent]:
        """Up to `limit` events before `below`, or the latest, the newest first."""
        query = self._matching(connection, wanted)
        if below is not None:
            query = query.where(events.c.position < below)
        return _all(connection, query.order_by(events.c.position.desc()).limit(limit))

    def times_at(self, connection: Connection, positions: Sequence[int]) -> dict[int, datetime]:
        """When the events at those positions were recorded, UTC."""
        rows = connection.execute(
            sa.select(events.c.position, events.c.recorded_at)
            .where(events.c.position.in_(positions))
        )  # fmt: skip
        return {position: from_micros(recorded_at) for position, recorded_at in rows}

    def jobs_at(self, connection: Connection, positions: Sequence[int]) -> dict[int, JobId]:
        """Which jobs the events at those positions are about."""
        rows = connection.execute(
            sa.select(events.c.position, events.c.job_id)
            .where(events.c.position.in_(positions), events.c.job_id.is_not(None))
        )  # fmt: skip
        return {position: JobId(job_id) for position, job_id in rows}

    def _matching(
        self, connection: Connection, wanted: EventFilter
    ) -> "sa.Select[*tuple[Any, ...]]":
        query = sa.select(events)
        if wanted.user_id is not None:
            query = query.where(events.c.user_id == wanted.user_id.encode())
        if wanted.job_id is not None:
            query = query.where(events.c.job_id == wanted.job_id)
        if wanted.types:
            # The column is ASCII; MySQL will not even compare it with anything else.
            named = [name for name in wanted.types if name.isascii()]
            query = query.where(events.c.type.in_(named))
        if wanted.since is not None:
            query = query.where(events.c.position >= self.first_at(connection, wanted.since))
        if wanted.until is not None:
            query = query.where(events.c.position < self.first_at(connection, wanted.until))
        return query

    def first_at(self, connection: Connection, moment: datetime) -> int:
        """The position of the first event at or after a moment; one past the end if there is none.

        A binary search: recorded times never go back.
        """
        micros = to_micros(moment)
        low, high = 1, self.position(connection) + 1
        while low < high:
            middle = (low + high) // 2
            found = connection.execute(
                sa.select(events.c.recorded_at).where(events.c.position == middle)
            ).scalar_one_or_none()
            if found is None:
                raise LogCorrupt(f"The log has no event at position {middle}.")
            if found < micros:
                low = middle + 1
            else:
                high = middle
        return low

    def bodies_at(self, connection: Connection, positions: Sequence[int]) -> dict[int, bytes]:
        """The bodies at those positions, as far as there are any."""
        found: dict[int, bytes] = {}
        for start in range(0, len(positions), 500):
            rows = connection.execute(
                sa.select(bodies.c.position, bodies.c.body)
                .where(bodies.c.position.in_(positions[start : start + 500]))
            )  # fmt: skip
            found.update((position, bytes(body)) for position, body in rows)
        return found

    def bodies_with(
        self, connection: Connection, positions: Sequence[int], text: str
    ) -> dict[int, bytes]:
        """Those of the bodies at these positions that have a text in one of their values.

        The database looks for it, so that only what has it is sent; in the names of fields too,
        which is then left out here.
        """
        written = msgspec.json.encode(text)[1:-1]  # as it stands in canonical JSON
        found: dict[int, bytes] = {}
        for start in range(0, len(positions), BODIES_SEARCHED_MAX):
            rows = connection.execute(
                sa.select(bodies.c.position, bodies.c.body).where(
                    bodies.c.position.in_(positions[start : start + BODIES_SEARCHED_MAX]),
                    sa.func.instr(bodies.c.body, sa.literal(written, sa.LargeBinary)) > 0,
                )
            )
            found.update(
                (position, bytes(body))
                for position, body in rows
                if _has_text(msgspec.json.decode(body), text)
            )
        return found


# The server makes one JSON text of each column of a page: PyMySQL takes a quarter of the time of
# rows for it, and nothing is made for a row but its event. Positions have no gaps, so a range of
# them is a page. The order is what the primary key gives.
COLUMNS_TOGETHER: Final = (
    "GROUP_CONCAT(position), GROUP_CONCAT(recorded_at), GROUP_CONCAT(COALESCE(job_id, 'null')),"
    " GROUP_CONCAT(version), GROUP_CONCAT(data)"
)
_TOGETHER: Final = f"SELECT {COLUMNS_TOGETHER} FROM events WHERE position > %s AND position <= %s"
_decode_numbers: Final = msgspec.json.Decoder(list[int]).decode
_decode_job_ids: Final = msgspec.json.Decoder(list[JobId | None]).decode
_decode_events: Final = msgspec.json.Decoder(list[Event]).decode


def _read_together(connection: Connection, after: int, limit: int) -> list[Recorded] | None:
    """A page of events; None where there is none, or it has to be read row by row."""
    return page_of(after, *connection.exec_driver_sql(_TOGETHER, (after, after + limit)).one())


def page_of(
    after: int, positions: str | None, times: str, job_ids: str, versions: str, data: bytes
) -> list[Recorded] | None:
    """The events behind `after` of COLUMNS_TOGETHER; None where there is none, or they have to be
    read row by row.

    That is when positions are missing, or events have older versions, or one is no event (the rows
    will tell which), or a text is longer than the server lets it be: that of the data is the
    longest.
    """
    if positions is None:
        return None
    try:
        found = _decode_events(b"[" + data + b"]")
        numbers, recorded_at, of_versions = (
            _decode_numbers(f"[{column}]") for column in (positions, times, versions)
        )
        of_jobs = _decode_job_ids(f"[{job_ids}]")
    except msgspec.DecodeError:
        return None
    expected = range(after + 1, after + 1 + len(found))
    if numbers != list(expected) or not all(map(is_current, set(of_versions))):
        return None
    moments = {micros: from_micros(micros) for micros in set(recorded_at)}  # one for each batch
    return list(map(Recorded, expected, map(moments.__getitem__, recorded_at), of_jobs, found))


def recorded(
    connection: Connection, query: "sa.Select[int, int, int | None, int, bytes]"
) -> list[Recorded]:
    """The events that a query of the columns RECORDED gives, in its order."""
    return [
        Recorded(
            position,
            from_micros(at),
            None if job_id is None else JobId(job_id),
            read(version, data),
        )
        for position, at, job_id, version, data in connection.execute(query)
    ]


def _has_text(value: Any, text: str) -> bool:  # noqa: ANN401 (any JSON value)
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return any(_has_text(one, text) for one in inner)
    return isinstance(value, str) and text in value


def _row(recorded: Recorded, at: int) -> tuple[int, str, int, bytes | None, int | None, int, bytes]:
    user_id: str | None = getattr(recorded.event, "user_id", None)
    type_name = type_of(recorded.event)
    return (
        recorded.position, type_name, version_of(type_name),
        None if user_id is None else user_id.encode(), recorded.job_id, at, encode(recorded.event),
    )  # fmt: skip


def _all(connection: Connection, query: "sa.Select[*tuple[Any, ...]]") -> list[StoredEvent]:
    return [_stored(row) for row in connection.execute(query)]


def _stored(row: Any) -> StoredEvent:  # noqa: ANN401 (a row of the events table)
    return StoredEvent(
        row.position, row.type, row.version,
        None if row.user_id is None else UserId(bytes(row.user_id).decode()),
        row.job_id, from_micros(row.recorded_at),
        bytes(row.data), bytes(row.hash),
    )  # fmt: skip


def _insert(table: sa.Table, mark: str) -> str:
    """Nothing but placeholders behind VALUES: else PyMySQL would send the rows one by one."""
    names = ", ".join(column.name for column in table.columns)
    marks = ", ".join([mark] * len(table.columns))
    return f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
