"""The log as it is stored, seen at one moment: for `fairlog verify`, which trusts nothing of it."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Final

import msgspec
from sqlalchemy.engine import Connection

from adapters.database.database import Database, translated
from adapters.log.event_pages import COLUMNS_TOGETHER, decode_numbers, page_of
from adapters.log.tables import FORMAT, FORMAT_UNCORRECTED, HEAD_ID
from domain.language.events import ClockCorrected, Recorded
from domain.log.stored_log import UNREADABLE, Leaf, StoredHead, StoredRow, leaf_of

_HEAD: Final = "SELECT position, hash, recorded_at, epoch, format FROM log_head WHERE id = {0}"
_CORRECTION: Final = f"SELECT MAX(position) FROM events WHERE type = '{ClockCorrected.__name__}'"
_OTHER_HEADS: Final = "SELECT id FROM log_head WHERE id <> {0} OR id IS NULL ORDER BY id LIMIT 10"
_ROWS: Final = (
    "SELECT position, type, version, user_id, job_id, recorded_at, data, hash FROM events"
    " WHERE position > {0} ORDER BY position LIMIT {0}"
)
_BODIES: Final = (
    "SELECT position, {columns} FROM bodies"
    " WHERE position > {0} AND position <= {0} ORDER BY position LIMIT {0}"
)

# MySQL makes one JSON text of a page, as in `adapters.log.event_log`: a third of the time of
# rows. What may hold any bytes is in base64,
# what is read with another length is not what is stored.
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
    """A connection on which every query sees the database as it is at the first moment.

    Nobody waits for it, but while it lasts the database keeps what is overwritten meanwhile. Raises
    `LogUnavailable` when the database is away.
    """
    with translated(), database.engine.connect() as connection:
        if database.is_sqlite:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.text_factory = _any_text
            connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first()  # fixes the moment
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
            connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        yield connection


class SqlStoredLog:
    """Rows as the driver gives them: whatever they hold, nothing can fail here."""

    def __init__(self, *, is_sqlite: bool) -> None:
        placeholder = "?" if is_sqlite else "%s"
        self._is_sqlite = is_sqlite
        self._head = _HEAD.format(placeholder)
        self._other_heads = _OTHER_HEADS.format(placeholder)
        self._rows = _ROWS.format(placeholder)
        # The server hashes where it can: bodies are far larger than all the rest of the log.
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
        found = connection.exec_driver_sql(_CORRECTION).scalar_one()
        corrected_at = found if isinstance(found, int) else 0  # SQLite keeps whatever it is given
        expected = FORMAT if corrected_at else FORMAT_UNCORRECTED
        if row.format != expected:
            wrong.append(f"the head's format is {row.format!r}, and this log has {expected}")
        registry_digest = row.epoch - corrected_at if isinstance(row.epoch, int) else row.epoch
        return StoredHead(row.position, row.hash, row.recorded_at, registry_digest, wrong)

    def rows(self, connection: Connection, after: int, limit: int) -> Sequence[StoredRow]:
        if not self._is_sqlite and (together := _rows_together(connection, after, limit)):
            return together
        return list(map(tuple, connection.exec_driver_sql(self._rows, (after, limit)).all()))

    def events(self, connection: Connection, after: int, limit: int) -> list[Recorded] | None:
        return None if self._is_sqlite else _events_together(connection, after, limit)

    def leaves(self, connection: Connection, after: int, limit: int) -> Sequence[Leaf]:
        """What stands for each of these rows in the chain and in the Merkle tree."""
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


def _rows_together(connection: Connection, after: int, limit: int) -> list[StoredRow] | None:
    """A page of rows; None where there is none, or it has to be read row by row.

    That is when positions are missing or the data are no JSON, and when the text is longer than the
    server lets it be. Data that reach out of their row, or end within it, do not have the length
    before them; so the first row of a page is what is stored, and each one behind it.
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
    """The same for the events alone, which are decoded all at once when their lengths are right."""
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
    """All in that range; None where the text is longer than the server lets it be."""
    [(count, text)] = connection.exec_driver_sql(_BODIES_TOGETHER, (after, up_to))
    try:
        found = _decode_digests(f"[{text or ''}]")
    except msgspec.DecodeError:
        return None
    return found if len(found) == count else None


def _digest(body: Any) -> str:  # noqa: ANN401 (SQLite keeps a text as a text)
    return sha256(body.encode(errors=_AS_BYTES) if isinstance(body, str) else body).hexdigest()


def _any_text(stored: bytes) -> str:
    """SQLite keeps whatever it is given as a text, too: what is no UTF-8 must not end a check."""
    return stored.decode(errors=_AS_BYTES)
