"""The stored log at one moment, for `fairlog verify`, which trusts no part of it."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Final

import msgspec
from sqlalchemy.engine import Connection

from adapters.database.database import Database, translated
from adapters.log.archived import ARCHIVE_EVENT_NAMES, archived_tile, kept_rows, snapshot_parts
from adapters.log.event_pages import COLUMNS_TOGETHER, decode_numbers, page_of
from adapters.log.key_events import KEY_EVENT_NAMES
from adapters.log.tables import FORMAT, HEAD_ID
from domain.language.events import ClockCorrected, LossAccepted, Recorded
from domain.log.chain import GENESIS
from domain.log.stored_log import UNREADABLE, Leaf, StoredHead, StoredRow, leaf_of

_HEAD: Final = (
    "SELECT position, hash, recorded_at, epoch, format, saved, archived, archived_hash,"
    " archived_snapshot, archive_begun, closed_at FROM log_head WHERE id = {0}"
)
_LATEST: Final = "SELECT MAX(position) FROM events WHERE type = '{0}'"
_OTHER_HEADS: Final = "SELECT id FROM log_head WHERE id <> {0} OR id IS NULL ORDER BY id LIMIT 10"
_ROWS: Final = (
    "SELECT position, type, version, user_id, job_id, recorded_at, data, hash FROM events"
    " WHERE position > {0} ORDER BY position LIMIT {0}"
)
_BODIES: Final = (
    "SELECT position, {columns} FROM bodies"
    " WHERE position > {0} AND position <= {0} ORDER BY position LIMIT {0}"
)

# MySQL builds one JSON text of a page, as in `adapters.log.event_pages`, which takes a third of the
# time of rows. Columns that may hold any bytes are in base64. The data have their length with them:
# if what is decoded has another length, it is not what is stored.
_ROWS_TOGETHER: Final = (
    "SELECT GROUP_CONCAT('[', position, ',\"', TO_BASE64(type), '\",', version, ',',"
    " IF(user_id IS NULL, 'null', CONCAT('\"', REPLACE(TO_BASE64(user_id), '\\n', ''), '\"')), ',',"
    " COALESCE(job_id, 'null'), ',', recorded_at, ',\"', TO_BASE64(hash), '\",',"
    " IF(LEFT(data, 1) = '{', LENGTH(data), -1), ',', data, ']' SEPARATOR ',')"
    " FROM events WHERE position > %s AND position <= %s"
)
_EVENTS_TOGETHER: Final = (
    f"SELECT {COLUMNS_TOGETHER}, GROUP_CONCAT(IF(LEFT(data, 1) = '{{', LENGTH(data), -1))"
    " FROM events WHERE position > %s AND position <= %s"
)
_BODIES_TOGETHER: Final = (
    "SELECT COUNT(*), GROUP_CONCAT('[', position, ',\"', SHA2(body, 256), '\",', LENGTH(body), ']'"
    " SEPARATOR ',') FROM bodies WHERE position > %s AND position <= %s"
)
_AS_BYTES: Final = "surrogateescape"
_TextRow = tuple[int, bytes, int, bytes | None, int | None, int, bytes, int, msgspec.Raw]
_decode_rows: Final = msgspec.json.Decoder(list[_TextRow]).decode
_split: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_digests: Final = msgspec.json.Decoder(list[tuple[int, str, int]]).decode


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """Yield a connection whose queries all see the database as it is now.

    It blocks nobody, but until its end the database keeps all rows that are overwritten. Raises
    `LogUnavailable` if the database is away.
    """
    with translated(), database.engine.connect() as connection:
        if database.is_sqlite:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.text_factory = _any_text
            connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first()  # takes the snapshot
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
            connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        yield connection


class SqlStoredLog:
    """A `StoredLog` of rows as the driver returns them: no content can cause an error."""

    def __init__(self, *, is_sqlite: bool) -> None:
        placeholder = "?" if is_sqlite else "%s"
        self._is_sqlite = is_sqlite
        self._head = _HEAD.format(placeholder)
        self._other_heads = _OTHER_HEADS.format(placeholder)
        self._rows = _ROWS.format(placeholder)
        # A server hashes bodies itself: they are far larger than the rest of the log.
        columns = "body" if is_sqlite else "SHA2(body, 256), LENGTH(body)"
        self._bodies = _BODIES.format(placeholder, columns=columns)

    def head(self, connection: Connection) -> StoredHead | None:
        row = connection.exec_driver_sql(self._head, (HEAD_ID,)).one_or_none()
        if row is None:
            return None
        wrong = [
            f"log_head has a second row, with the id {other}, that nothing of Fairlog's wrote"
            for (other,) in connection.exec_driver_sql(self._other_heads, (HEAD_ID,))
        ]
        corrected_at = _latest(connection, ClockCorrected.__name__)
        key_changed_at = max(_latest(connection, name) for name in KEY_EVENT_NAMES)
        if row.format != FORMAT:
            wrong.append(f"the head's format is {row.format!r}, and this log has {FORMAT}")
        archive_changed_at = max(_latest(connection, name) for name in ARCHIVE_EVENT_NAMES)
        registry_digest = row.epoch
        if isinstance(registry_digest, int):
            registry_digest -= corrected_at + key_changed_at + archive_changed_at
            registry_digest -= _latest(connection, LossAccepted.__name__)
        if not (isinstance(row.saved, int) and isinstance(row.position, int)):
            wrong.append(
                f"the head's position of the projections' rows is {row.saved!r}, no number"
            )
        elif not 0 <= row.saved <= row.position:
            wrong.append(
                f"the head row says that the projections' rows stand at {row.saved}, and the log "
                f"ends at {row.position}"
            )
        cut, cut_hash = row.archived, row.archived_hash
        if not cut:
            if cut_hash is not None or row.archived_snapshot:
                wrong.append("the head row names a hash or a snapshot, and nothing is archived")
            cut, cut_hash = 0, GENESIS
        elif not (isinstance(cut, int) and isinstance(cut_hash, bytes)):
            wrong.append(f"the head's position of the archived part is {cut!r}, no number")
            cut, cut_hash = 0, GENESIS
        return StoredHead(
            row.position,
            row.hash,
            row.recorded_at,
            registry_digest,
            row.saved,
            cut,
            cut_hash,
            row.archived_snapshot,
            row.archive_begun,
            row.closed_at,
            wrong,
        )

    def kept_rows(self, connection: Connection, up_to: int) -> Sequence[StoredRow]:
        return kept_rows(connection, up_to)

    def archived_tile(self, connection: Connection, level: int, tile: int) -> bytes:
        return archived_tile(connection, level, tile)

    def snapshot_parts(self, connection: Connection, snapshot: int) -> Iterator[bytes]:
        return snapshot_parts(connection, snapshot)

    def rows(self, connection: Connection, after: int, limit: int) -> Sequence[StoredRow]:
        if not self._is_sqlite and (together := _rows_together(connection, after, limit)):
            return together
        return list(map(tuple, connection.exec_driver_sql(self._rows, (after, limit)).all()))

    def events(self, connection: Connection, after: int, limit: int) -> list[Recorded] | None:
        return None if self._is_sqlite else _events_together(connection, after, limit)

    def leaves(self, connection: Connection, after: int, limit: int) -> Sequence[Leaf]:
        """Return the leaf of each row, for the chain and the Merkle tree."""
        return [leaf_of(row) for row in self.rows(connection, after, limit)]

    def body_digests(
        self, connection: Connection, after: int, up_to: int, limit: int
    ) -> list[tuple[int, str, int]]:
        if not self._is_sqlite and up_to - after <= limit:
            together = _digests_together(connection, after, up_to)
            if together is not None:
                return together
        found = connection.exec_driver_sql(self._bodies, (after, up_to, limit))
        if self._is_sqlite:  # row by row: one body in memory at a time
            return [(position, _digest(body), len(body)) for position, body in found]
        return list(map(tuple, found.all()))


def _latest(connection: Connection, type_name: str) -> int:
    """Return the position of the latest event of a type; 0 if there is none."""
    found = connection.exec_driver_sql(_LATEST.format(type_name)).scalar_one()
    return found if isinstance(found, int) else 0  # SQLite stores values of any type


def _rows_together(connection: Connection, after: int, limit: int) -> list[StoredRow] | None:
    """Return a page of rows; None if it is empty, or must be read row by row.

    That is the case if positions are missing, data are no JSON, or the text is longer than the
    server allows. Data that would end the JSON of their row early, or reach beyond it, do not have
    the length in front of them. So the first row is what is stored, and hence each one after it.
    """
    text = connection.exec_driver_sql(_ROWS_TOGETHER, (after, after + limit)).scalar_one()
    if text is None:
        return None
    try:
        found = _decode_rows(b"[" + text + b"]")
    except UNREADABLE:
        return None
    rows: list[StoredRow] = []
    names: dict[bytes, str] = {}
    expected = after
    for position, type_name, version, user_id, job_id, recorded_at, stored, length, data in found:
        expected += 1
        if position != expected or len(event := bytes(data)) != length:
            return None
        name = names.get(type_name) or names.setdefault(type_name, type_name.decode())
        rows.append((position, name, version, user_id, job_id, recorded_at, event, stored))
    return rows


def _events_together(connection: Connection, after: int, limit: int) -> list[Recorded] | None:
    """Return a page of events, decoded together if their lengths are right; else None."""
    *columns, lengths = connection.exec_driver_sql(_EVENTS_TOGETHER, (after, after + limit)).one()
    if lengths is None:
        return None
    try:
        data = _split(b"[" + columns[-1] + b"]")
        if list(map(len, data)) != decode_numbers(f"[{lengths}]"):
            return None
    except UNREADABLE:
        return None
    return page_of(after, *columns)


def _digests_together(
    connection: Connection, after: int, up_to: int
) -> list[tuple[int, str, int]] | None:
    """Return all digests in the range; None if the text is longer than the server allows."""
    [(count, text)] = connection.exec_driver_sql(_BODIES_TOGETHER, (after, up_to))
    try:
        found = _decode_digests(f"[{text or ''}]")
    except msgspec.DecodeError:
        return None
    return found if len(found) == count else None


def _digest(body: Any) -> str:  # noqa: ANN401 (SQLite may return a str)
    return sha256(body.encode(errors=_AS_BYTES) if isinstance(body, str) else body).hexdigest()


def _any_text(stored: bytes) -> str:
    """Decode a text of SQLite, which may hold any bytes: invalid UTF-8 must not end a check."""
    return stored.decode(errors=_AS_BYTES)
