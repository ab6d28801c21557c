"""The log as it is stored, seen at one moment: for `fairlog verify`, which trusts nothing of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Final

from sqlalchemy.engine import Connection

from adapters.database import Database, translated
from adapters.tables import HEAD_ID
from domain.stored_log import Leaf, StoredHead, StoredRow, leaf_of

_HEAD: Final = "SELECT position, hash, recorded_at FROM log_head WHERE id = {0}"
_ROWS: Final = (
    "SELECT position, type, version, user_id, job_id, recorded_at, data, hash FROM events"
    " WHERE position > {0} ORDER BY position LIMIT {0}"
)
_BODIES: Final = (
    "SELECT position, {columns} FROM bodies"
    " WHERE position > {0} AND position <= {0} ORDER BY position LIMIT {0}"
)


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """A connection on which every query sees the database as it is at the first moment.

    Nobody waits for it, but while it lasts the database keeps what is overwritten meanwhile. Raises
    `LogUnavailable` when the database is away.
    """
    with translated(), database.engine.connect() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("SELECT 1 FROM sqlite_master").first()  # fixes the moment
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
            connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        yield connection


class SqlStoredLog:
    """Rows as the driver gives them: nothing is decoded here, so that nothing can fail here."""

    def __init__(self, *, is_sqlite: bool) -> None:
        placeholder = "?" if is_sqlite else "%s"
        self._is_sqlite = is_sqlite
        self._head = _HEAD.format(placeholder)
        self._rows = _ROWS.format(placeholder)
        # The server hashes where it can: bodies are far larger than all the rest of the log.
        columns = "body" if is_sqlite else "SHA2(body, 256), LENGTH(body)"
        self._bodies = _BODIES.format(placeholder, columns=columns)

    def head(self, connection: Connection) -> StoredHead | None:
        row = connection.exec_driver_sql(self._head, (HEAD_ID,)).one_or_none()
        return None if row is None else StoredHead(row.position, bytes(row.hash), row.recorded_at)

    def rows(self, connection: Connection, after: int, limit: int) -> Sequence[StoredRow]:
        return list(map(tuple, connection.exec_driver_sql(self._rows, (after, limit)).all()))

    def leaves(self, connection: Connection, after: int, limit: int) -> Sequence[Leaf]:
        """What stands for each of these rows in the chain and in the Merkle tree."""
        return [leaf_of(row) for row in self.rows(connection, after, limit)]

    def body_digests(
        self, connection: Connection, after: int, up_to: int, limit: int
    ) -> list[tuple[int, str, int]]:
        found = connection.exec_driver_sql(self._bodies, (after, up_to, limit))
        if self._is_sqlite:  # row by row: one body in memory at a time
            return [(position, _digest(body), len(body)) for position, body in found]
        return list(map(tuple, found.all()))


def _digest(body: Any) -> str:  # noqa: ANN401 (SQLite keeps a text as a text)
    return sha256(body.encode() if isinstance(body, str) else body).hexdigest()
