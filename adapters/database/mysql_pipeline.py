"""A PyMySQL connection that sends a transaction's multi-row inserts without waiting for each.

Two costs made a batch slow, and neither was the database's: PyMySQL escapes each value in Python,
and the writer waits for the answer to each statement. So values are sent as hexadecimal literals,
which need no escaping, cannot be broken out of, and are made by C code; and inserts are sent a few
together while the next rows are made. Their answers are read when something needs an answer: a
query, an update, or the commit.

An insert's error is therefore raised by a later statement of the same transaction.

A commit can be followed at once by the query with which the next transaction begins (`prefetch`).
Each is a packet of its own: if a COMMIT is not the last statement of its packet, a Galera node
reports success even when it rolled the transaction back because another node was first.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Final

from pymysql import MySQLError, OperationalError
from pymysql.constants import CLIENT, ER
from pymysql.cursors import RE_INSERT_VALUES

from adapters.database.mysql_driver import DriverCursor
from adapters.database.mysql_timeouts import ShortTimeoutConnection

# Far below the default max_allowed_packet of MySQL and MariaDB, 16 MiB. A single row may be longer:
# a body of 1 MiB is 2 MiB of hexadecimal digits.
PACKET_CHARACTERS_MAX: Final = 2 * 1024 * 1024
# Inserts are held until they are so many together: the server works while more are made.
_HELD_CHARACTERS_MAX: Final = 48 * 1024


def connect(**options: Any) -> "PipelinedConnection":  # noqa: ANN401 (those of PyMySQL)
    flags = options.pop("client_flag", 0) | CLIENT.MULTI_STATEMENTS
    return PipelinedConnection(**options, client_flag=flags, cursorclass=PipelinedCursor)


class PipelinedConnection(ShortTimeoutConnection):
    """Tracks the inserts that are not sent yet, and those whose answers were not read yet."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 (those of PyMySQL)
        self._held: list[str] = []
        self._held_characters = 0
        self._unanswered: list[int] = []  # the number of statements in each command that was sent
        self._to_prefetch: str | None = None  # goes behind the next commit
        self._prefetched: str | None = None  # was sent behind a commit; its answer was not read yet
        self._packet_bytes_max = PACKET_CHARACTERS_MAX
        super().__init__(**options)
        with self.cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            [(self._packet_bytes_max,)] = cursor.fetchall()

    @property
    def characters_max(self) -> int:
        """Maximum length of a statement; longer lists of rows are split into several."""
        return min(PACKET_CHARACTERS_MAX, self._packet_bytes_max // 2)

    def query(self, sql: Any, unbuffered: bool = False) -> int:  # noqa: ANN401, FBT001, FBT002 (as in PyMySQL)
        """Send what is held and this statement, and return this one's number of rows.

        Raises the error of an earlier insert, and error 1153 for more than the server takes. The
        server itself would close the connection as if it had died, and the whole batch would be
        tried again instead of the one command that is too large.
        """
        if self._prefetched is not None:
            if sql == self._prefetched:
                return self._read_prefetched(unbuffered)
            self._discard_prefetched()
        self._check_size(sql)
        if self._held_characters + len(sql) >= self._packet_bytes_max:
            self._send_held()
        if not self._held and not self._unanswered:
            return super().query(sql, unbuffered)
        held = self._take_held()
        self.send_query(";".join([*held, sql]))
        self._unanswered.append(len(held))
        failed, is_next = self._read_inserts()
        affected = 0
        if is_next:
            try:
                affected = self.next_result(unbuffered)
            except MySQLError as error:
                failed = failed or error
        if failed is not None:
            try:
                raise failed
            finally:
                del failed  # or it would hold itself, and the statement, by this frame
        return affected

    def hold(self, statement: str) -> None:
        """Send a statement without a result with a later one. Raises error 1153 as `query` does."""
        self._check_size(statement)
        if self._held_characters + len(statement) >= self._packet_bytes_max:
            self._send_held()
        self._held.append(statement)
        self._held_characters += len(statement)
        if self._held_characters > _HELD_CHARACTERS_MAX:
            self._send_held()

    def commit(self) -> None:
        self._send_held()
        failed, _ = self._read_inserts()
        if failed is not None:
            try:
                raise failed
            finally:
                del failed
        statement, self._to_prefetch = self._to_prefetch, None
        if statement is None:
            super().commit()
            return
        self.send_query("COMMIT")
        self.send_query(statement)
        self._prefetched = statement  # even if the commit fails: a rollback reads its answer first
        self.start_answer()
        self.read_ok_packet()

    def prefetch(self, statement: str) -> None:
        """Send a query right behind the next commit; the next `query` has to be the same one.

        The server answers it while this process handles the commit. What it locks is locked from
        then on, so its answer must be asked for soon. Its error is raised then.
        """
        self._to_prefetch = statement

    def rollback(self) -> None:
        self._to_prefetch = None
        self._discard_prefetched()
        self._take_held()
        self._read_inserts()  # their errors do not matter: they are rolled back
        super().rollback()

    def _discard_prefetched(self) -> None:
        """Read the answer to a query that was sent behind a commit and is no longer needed."""
        if self._prefetched is not None:
            with suppress(MySQLError):  # if the connection is lost, the next statement raises it
                self._read_prefetched(unbuffered=False)

    def _read_prefetched(self, unbuffered: bool) -> int:  # noqa: FBT001 (as in PyMySQL)
        self._prefetched = None
        self.start_answer()
        return self.next_result(unbuffered)

    def _check_size(self, sql: Any) -> None:  # noqa: ANN401 (a string of either kind)
        if len(sql) >= self._packet_bytes_max:
            raise OperationalError(
                ER.NET_PACKET_TOO_LARGE,
                f"A statement of {len(sql)} bytes is more than max_allowed_packet, which is "
                f"{self._packet_bytes_max} bytes.",
            )

    def _send_held(self) -> None:
        held = self._take_held()
        if held:
            self.send_query(";".join(held))
            self._unanswered.append(len(held))

    def _take_held(self) -> list[str]:
        held, self._held, self._held_characters = self._held, [], 0
        return held

    def _read_inserts(self) -> tuple[MySQLError | None, bool]:
        """Read the answers to all inserts that were sent. Return the first error, and True if all
        inserts of the last command succeeded.

        The server goes on with the next command after one that failed, so its answers have to be
        read too. Within a command it stops at the first error and sends nothing more.
        """
        sent, self._unanswered = self._unanswered, []
        first: MySQLError | None = None
        succeeded = True
        for statements in sent:
            self.start_answer()
            succeeded = True
            for _ in range(statements):
                try:
                    self.read_packet()
                except MySQLError as error:
                    if not self.open:
                        raise
                    first = first or error
                    succeeded = False
                    break
        return first, succeeded


class PipelinedCursor(DriverCursor):
    """`executemany` of an insert, a delete or an update only holds it; its `rowcount` is not known
    (-1).
    """

    def execute(self, query: Any, args: Any = None) -> int:  # noqa: ANN401 (as in PyMySQL)
        if isinstance(args, tuple) and _around_values(query) is not None:
            return self.executemany(query, [args]) or 0
        return super().execute(query, args)

    def executemany(self, query: str, args: Any) -> int | None:  # noqa: ANN401 (as in PyMySQL)
        around = _around_values(query)
        is_held = around is not None or query.startswith(("DELETE ", "UPDATE "))
        if not args or not is_held or isinstance(args[0], dict):
            return super().executemany(query, args)
        connection = self._pipeline()
        if around is None:
            for row in args:
                connection.hold(self.render(query, row))
            self.rowcount = -1
            return None
        before, after = around
        characters_max = connection.characters_max
        values: list[str] = []
        characters = 0
        for rendered in _render_rows(args, connection.escape):
            characters += len(rendered) + 1
            if characters > characters_max and values:
                connection.hold(before + ",".join(values) + after)
                values, characters = [], len(rendered)
            values.append(rendered)
        connection.hold(before + ",".join(values) + after)
        self.rowcount = -1
        return None

    def render(self, query: str, args: Any) -> str:  # noqa: ANN401 (as in PyMySQL)
        if isinstance(args, tuple | list):
            # Not as hexadecimal digits: for a list of 64 keys MariaDB takes 2 ms to plan them, and
            # 0.4 ms for quoted ones.
            escape = self._pipeline().escape
            return query % tuple([str(arg) if type(arg) is int else escape(arg) for arg in args])
        return super().render(query, args)

    def _pipeline(self) -> PipelinedConnection:
        connection = self.driver_connection()
        assert isinstance(connection, PipelinedConnection)
        return connection


_Escape = Callable[[Any], str]


def _render_rows(rows: Sequence[Sequence[Any]], escape: _Escape) -> Iterable[str]:
    """Render each row as `(…)`, column by column: one of a single type needs no test per value."""
    formats: list[str] = []
    columns: list[Iterable[Any]] = []
    for column in zip(*rows, strict=True):
        types = set(map(type, column))
        if types == {int}:
            formats.append("%d")
            columns.append(column)
        elif types == {bytes}:
            formats.append("x'%s'")
            columns.append(map(bytes.hex, column))
        elif types == {type(None)}:
            formats.append("NULL")
        else:
            formats.append("%s")
            columns.append(map(partial(_literal, escape), column))
    return map(f"({','.join(formats)})".__mod__, zip(*columns, strict=True))


def _literal(escape: _Escape, value: Any) -> str:  # noqa: ANN401 (any parameter)
    return _LITERALS.get(type(value), escape)(value)


_LITERALS: Final[dict[type, _Escape]] = {
    int: int.__repr__,
    bytes: lambda value: f"x'{value.hex()}'",
    type(None): lambda _: "NULL",
}


@lru_cache
def _around_values(query: str) -> tuple[str, str] | None:
    """Return the text around the placeholders of an insert; None for another statement."""
    found = RE_INSERT_VALUES.match(query)
    if found is None:
        return None
    return found[1].replace("%%", "%"), (found[3] or "").replace("%%", "%")
