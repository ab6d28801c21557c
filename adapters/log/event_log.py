"""The event log on SQL: one head row that orders all writers, and the events.

Only the holder of the head row's lock may append. So positions are contiguous, commit order is
position order, and a reader that goes by position never skips an event.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.clock import SystemClock
from adapters.database.database import Database
from adapters.database.mysql_pipeline import PipelinedConnection
from adapters.log import archived
from adapters.log.event_pages import latest_position, read_page
from adapters.log.key_events import keys_after, latest_key_event
from adapters.log.lost_events import clear_reports
from adapters.log.tables import (
    FORMAT,
    HEAD_ID,
    bodies,
    events,
    log_head,
)
from domain.access.keys import ApiKeys
from domain.decisions.ports import Clock, Cut, Head
from domain.jobs.archive import ARCHIVE_EVENTS
from domain.language.errors import EventsArchived, LogCorrupt, LogTooNew, LogUnavailable
from domain.language.events import (
    ClockCorrected,
    LossAccepted,
    Recorded,
    encode,
    type_of,
    user_of,
)
from domain.language.moments import from_micros, to_micros
from domain.log import chain
from domain.log.log_time import ClockReading, Correction, correction_of
from domain.log.stored_log import Leaf
from domain.log.upcasting import read, version_of

# Event type of a row that is written as a test and rolled back.
_REHEARSAL: Final = "Rehearsal"  # never committed
_REHEARSAL_BYTES: Final = 16 * 1024
# Unix time in microseconds; each connection's time zone is set to UTC.
_DATABASE_NOW: Final = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', SYSDATE(6))"
# The same at the start of a statement; unlike SYSDATE, statements with it can be replicated.
_STATEMENT_NOW: Final = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', NOW(6))"

_SAVED: Final = f"SELECT position, saved FROM log_head WHERE id = {HEAD_ID}"
_UNKNOWN_VERSION: Final = -1


class Appended(NamedTuple):
    """Events that were appended."""

    head: Head  # after the events; `move_head` stores it
    leaves: Sequence[Leaf]  # of its events, see `domain.log.chain`


class HeadReading(NamedTuple):
    """The head row without its lock, and the clock."""

    position: int  # of the latest event; 0 for an empty log
    version: int  # see `Head.version`
    saved: int  # see `Head.saved`
    clock: ClockReading


class SqlEventLog:
    """Appends under the head lock; reads without it.

    `clock`, for tests, replaces the database server's clock (on SQLite the machine's).
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        # None: the database server's clock, read with the head
        self.clock = clock or (SystemClock() if database.is_sqlite else None)
        self._corrected = _UNKNOWN_VERSION, Correction()
        self._keys = _UNKNOWN_VERSION, ApiKeys()
        mark = "?" if database.is_sqlite else "%s"
        self._lock_head = (
            "SELECT position, hash, recorded_at, format, epoch, saved, archived, archive_begun,"
            " closed_at, "
            # SYSDATE is the time after the lock was acquired, NOW the time before; and no account
            # can change it by SET timestamp.
            + ("0" if self.clock else _DATABASE_NOW)
            + (", 0" if database.is_sqlite else ", @@GLOBAL.read_only")
            + f" FROM log_head WHERE id = {HEAD_ID}"
            + ("" if database.is_sqlite else " FOR UPDATE")
        )
        self._read_head = (
            f"SELECT position, recorded_at, epoch, saved, {'0' if self.clock else _DATABASE_NOW}"
            f" FROM log_head WHERE id = {HEAD_ID}"
        )
        self._insert_events = _insert(events, mark)
        self._insert_bodies = _insert(bodies, mark)
        self._set_saved = f"UPDATE log_head SET saved = {mark} WHERE id = {HEAD_ID}"
        self._move_head = (
            f"UPDATE log_head SET position = {mark}, hash = {mark}, recorded_at = {mark},"
            f" saved = {mark} WHERE id = {HEAD_ID} AND position = {mark}"
        )

    def lock_head(self, connection: Connection) -> Head:
        """Lock the head row until the end of the transaction, and return it with the time.

        Raises `LogTooNew` for a format that this release does not know, and `LogUnavailable` if the
        server is read-only: after a switch-over it is no longer the primary.
        """
        row = connection.exec_driver_sql(self._lock_head).one_or_none()
        if row is None:
            raise LogCorrupt(archived.NO_HEAD)
        (
            position,
            head_hash,
            recorded_at,
            log_format,
            version,
            saved,
            cut,
            begun,
            closed_at,
            database_now,
            read_only,
        ) = row
        if read_only:
            raise LogUnavailable(
                "The database server is read-only, as after a switch-over to another.",
                nothing_was_recorded=True,
            )
        if log_format > FORMAT:
            raise LogTooNew(
                f"The log has format {log_format}, and this release knows up to {FORMAT}; "
                "install the newer release here too."
            )
        clock = to_micros(self.clock.now()) if self.clock else database_now
        reading = ClockReading(clock, recorded_at, self._correction(connection, version))
        now = from_micros(reading.now)
        closed = from_micros(closed_at)
        return Head(position, bytes(head_hash), now, version, saved, cut, begun, closed, reading)

    def _correction(self, connection: Connection, version: int) -> Correction:
        """Return the latest correction of the clock; each changes the head's version."""
        known_version, correction = self._corrected
        if version != known_version:
            correction = _latest_correction(connection)
            self._corrected = version, correction
        return correction

    def keys(self, connection: Connection, head: Head) -> ApiKeys:
        """Return the API keys at the head. Needs the head lock; each change of a key changes the
        head's version, so that mostly nothing is read.
        """
        known_version, keys = self._keys
        if head.version != known_version:
            keys = keys_after(connection, keys)
            self._keys = head.version, keys
        return keys

    def forget(self) -> None:
        """Forget what was read of a log whose end is lost."""
        self._corrected = _UNKNOWN_VERSION, Correction()
        self._keys = _UNKNOWN_VERSION, ApiKeys()

    def prefetch_head_lock(self, connection: Connection) -> None:
        """Take the head lock for the next transaction together with this one's commit.

        On SQLite this does nothing. The next transaction must follow at once.
        """
        driver = connection.connection.driver_connection
        if isinstance(driver, PipelinedConnection):
            driver.prefetch(self._lock_head)

    def append(
        self,
        connection: Connection,
        head: Head,
        recorded: Sequence[Recorded],
        new_bodies: Sequence[tuple[int, bytes]],
    ) -> Appended:
        """Write events after the head, which may be the one that `append` returned before. Needs
        the head lock, and `move_head` in the same transaction; all events have the head's `now`.
        """
        at = to_micros(head.now)
        rows = []
        leaves = []
        last_hash = head.hash
        for event in recorded:
            row = _row(event, at)
            position, type_name, version, user_id, job_id, _, data = row
            leaf = chain.leaf(position, version, type_name.encode(), user_id, job_id, at, data)
            last_hash = chain.link(last_hash, leaf)
            leaves.append(Leaf(position, leaf))
            rows.append((*row, last_hash))
        connection.exec_driver_sql(self._insert_events, rows)
        if new_bodies:
            connection.exec_driver_sql(self._insert_bodies, list(new_bodies))
        new = replace(head, position=recorded[-1].position, hash=last_hash, reading=None)
        return Appended(new, leaves)

    def move_head(self, connection: Connection, head: Head, new: Head) -> None:
        """Store a new head. Needs the head lock. Raises `LogUnavailable` if another moved it."""
        moved = connection.exec_driver_sql(
            self._move_head,
            (new.position, new.hash, to_micros(new.now), new.saved, head.position),
        )
        # A cluster certifies only written rows, so the lock alone proves nothing there.
        if moved.rowcount != 1:
            raise LogUnavailable("Another writer moved the log's head; the batch was not written.")

    def set_saved(self, connection: Connection, position: int) -> None:
        """Note the position that the rows of the inline projections stand at. Needs the lock."""
        connection.exec_driver_sql(self._set_saved, [(position,)])  # is not waited for

    def saved(self, connection: Connection) -> tuple[int, int]:
        """Return the head position, and the one that the rows of the inline projections stand at.

        Raises `LogCorrupt`.
        """
        found = connection.exec_driver_sql(_SAVED).one_or_none()
        if found is None:
            raise LogCorrupt(archived.NO_HEAD)
        return found.position, found.saved

    def erase_bodies(self, connection: Connection, positions: Sequence[int]) -> None:
        """Remove bodies for good, in the transaction of the events that record it."""
        if connection.dialect.name == "sqlite":
            # Else their bytes would stay in the file until SQLite reuses the pages.
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        for start in range(0, len(positions), 500):
            connection.execute(
                bodies.delete().where(bodies.c.position.in_(positions[start : start + 500]))
            )

    def note_correction(self, connection: Connection) -> None:
        """Change the head's version, by which every process reads the correction.

        Call it after `append` of a `ClockCorrected`, in the same transaction. Needs the head lock.
        """
        _, before = self._corrected
        by = _latest_correction(connection).position - before.position
        _raise_version(connection, by)

    def note_archive_and_losses(self, connection: Connection, recorded: Sequence[Recorded]) -> None:
        """Note in the head row what events say of the archive and of lost events.

        Call it after `append` of the events, in the same transaction. Needs the head lock.
        """
        for one in recorded:
            if isinstance(one.event, ARCHIVE_EVENTS):
                archived.note(connection, one)
            elif isinstance(one.event, LossAccepted):
                before = latest_position(connection, LossAccepted.__name__, one.position - 1)
                _raise_version(connection, one.position - before)
                clear_reports(connection)

    def note_keys(self, connection: Connection, keys: ApiKeys) -> None:
        """Do the same after `append` of events that gave these keys, if they changed any."""
        _, before = self._keys
        if keys.position > before.position:
            _raise_version(connection, keys.position - before.position)

    def set_registry_digest(self, connection: Connection, registry_digest: int) -> None:
        """Store the registry's digest, as part of the head's version. Needs the head lock.

        The version is the digest plus the positions of the latest clock correction, of the latest
        change of an API key, of the archive and of the latest loss that was accepted, so that each
        of them gives another version.
        """
        changes = _latest_correction(connection).position + latest_key_event(connection)
        changes += archived.latest_archive_event(connection)
        changes += latest_position(connection, LossAccepted.__name__)
        version = registry_digest + changes
        connection.execute(log_head.update().where(log_head.c.id == HEAD_ID).values(epoch=version))

    def rehearse(self, connection: Connection, head: Head) -> None:
        """Write what an append would, as a test. Needs the head lock; the caller rolls back."""
        position, at = head.position + 1, to_micros(head.now)
        row = (position, _REHEARSAL, 1, None, None, at, b"{}", head.hash)
        connection.exec_driver_sql(self._insert_events, [row])
        connection.exec_driver_sql(self._insert_bodies, [(position, bytes(_REHEARSAL_BYTES))])
        new = Head(position, head.hash, head.now, head.version, head.saved)
        self.move_head(connection, head, new)

    def rehearse_commit(self, connection: Connection) -> None:
        """Test a commit, without a change: on SQLite only a commit writes pages to the disk."""
        with connection.begin():
            position = self.position(connection) + 1
            connection.exec_driver_sql(self._insert_bodies, (position, bytes(_REHEARSAL_BYTES)))
            connection.execute(bodies.delete().where(bodies.c.position == position))
            connection.execute(log_head.update().values(epoch=log_head.c.epoch))

    def row_beyond_head(self, connection: Connection, head: Head) -> str | None:
        """Return a sentence about a row beyond the head, where nothing may be stored; None if there
        is none. Needs the head lock.
        """
        for table in (events, bodies):
            found = connection.execute(
                sa.select(sa.func.min(table.c.position)).where(table.c.position > head.position)
            ).scalar_one()
            if found is not None:
                return (
                    f"The table {table.name} holds a row at position {found}, and the log ends at "
                    f"{head.position}: something else than Fairlog wrote it, and nothing can be "
                    "written before it is removed. Find out who did, remove it with the owner's "
                    "account (without the triggers on events, which `fairlog migrate` makes "
                    "again), and run `fairlog verify`."
                )
        return None

    def position(self, connection: Connection) -> int:
        """Return the head position; 0 for an empty log. Raises `LogCorrupt`."""
        return head_position(connection)

    def now(self, connection: Connection) -> datetime:
        """Return the log's time, UTC, without the lock; a writer may already be a little ahead."""
        return from_micros(self.reading(connection).now)

    def reading(self, connection: Connection) -> ClockReading:
        """Return the database's clock and the log's time, without the lock."""
        return self.head_reading(connection).clock

    def head_reading(self, connection: Connection) -> HeadReading:
        """Return the head and what `reading` returns, without the lock, in one statement."""
        found = connection.exec_driver_sql(self._read_head).one_or_none()
        if found is None:
            raise LogCorrupt(archived.NO_HEAD)
        position, recorded_at, version, saved, database_now = found
        clock = to_micros(self.clock.now()) if self.clock else database_now
        correction = self._correction(connection, version)
        return HeadReading(position, version, saved, ClockReading(clock, recorded_at, correction))

    def clock_expression(self) -> sa.ColumnElement[int]:
        """Return the database's clock as a part of a statement, Unix time in microseconds."""
        if self.clock is not None:
            return sa.literal(to_micros(self.clock.now()))
        return sa.literal_column(_STATEMENT_NOW, sa.BigInteger)

    def version_and_now(self, connection: Connection) -> tuple[int, datetime]:
        """Return the head's version, which each change of an API key changes, and the log's time;
        without the lock.
        """
        head = self.head_reading(connection)
        return head.version, from_micros(head.clock.now)

    def hash_at(self, connection: Connection, position: int) -> bytes | None:
        """Return the hash of the chain at a position; None beyond the head, and before the cut."""
        found = connection.execute(
            sa.select(events.c.hash).where(events.c.position == position)
        ).scalar_one_or_none()
        if found is None and (cut := self.cut(connection)).position == position > 0:
            return cut.hash
        return None if found is None else bytes(found)

    def cut(self, connection: Connection) -> Cut:
        """Return the end of the archived part. Raises `LogCorrupt`."""
        return archived.cut(connection)

    def snapshot_parts(self, connection: Connection, snapshot: int) -> Iterator[bytes]:
        """Yield the parts of a snapshot where the log was cut; see `Cut`."""
        return archived.snapshot_parts(connection, snapshot)

    def read(self, connection: Connection, after: int, limit: int) -> list[Recorded]:
        """Return up to `limit` events after a position, in log order.

        Raises `EventsArchived` if the event after it is in the archived part.
        """
        found = read_page(connection, after, limit)
        if (not found or found[0].position != after + 1) and limit > 0:
            cut = self.cut(connection)
            if after < cut.position:
                raise EventsArchived(cut.position)
        return found


def head_position(connection: Connection) -> int:
    """Return the position of the last event; 0 for an empty log. Raises `LogCorrupt`."""
    head = sa.select(log_head.c.position).where(log_head.c.id == HEAD_ID)
    position = connection.execute(head).scalar_one_or_none()
    if position is None:
        raise LogCorrupt(archived.NO_HEAD)
    return int(position)


def _raise_version(connection: Connection, by: int) -> None:
    head = log_head.update().where(log_head.c.id == HEAD_ID)
    connection.execute(head.values(epoch=log_head.c.epoch + by))


def _latest_correction(connection: Connection) -> Correction:
    latest = latest_position(connection, ClockCorrected.__name__)
    found = connection.execute(
        sa.select(events.c.position, events.c.version, events.c.data).where(
            events.c.position == latest
        )
    ).one_or_none()
    if found is None:
        return Correction()
    event = read(found.version, bytes(found.data))
    assert isinstance(event, ClockCorrected), event
    return correction_of(found.position, event)


def _row(recorded: Recorded, at: int) -> tuple[int, str, int, bytes | None, int | None, int, bytes]:
    type_name = type_of(recorded.event)
    return (
        recorded.position,
        type_name,
        version_of(type_name),
        user_of(recorded.event),
        recorded.job_id,
        at,
        encode(recorded.event),
    )


def _insert(table: sa.Table, mark: str) -> str:
    """Return an INSERT. Only placeholders follow VALUES, else PyMySQL sends rows one by one."""
    names = ", ".join(column.name for column in table.columns)
    marks = ", ".join([mark] * len(table.columns))
    return f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
