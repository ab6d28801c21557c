"""A PyMySQL connection that sends a transaction's multi-row inserts together, in one round trip.

Two things made a batch slow, and neither was the database: PyMySQL escapes each value by hand, and
after each statement the writer's thread waits for the answer and then for the interpreter lock,
which the event loop holds. So values are sent as hexadecimal literals, which need no escaping,
cannot be broken out of, and are made by C code; and an insert of many rows waits here until
something needs an answer: a query, an update, or the commit. Then all go as one packet.

An insert's error is therefore raised by the statement after it, in the same transaction.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from pymysql import OperationalError
from pymysql.constants import CLIENT, COMMAND, ER
from pymysql.cursors import RE_INSERT_VALUES, Cursor

from adapters.mysql_patience import ImpatientConnection

# Far below the max_allowed_packet of 16 MiB that MySQL and MariaDB come with. A single row may be
# longer: a body of 1 MiB is 2 MiB of hexadecimal digits.
PACKET_CHARACTERS_MAX: Final = 2 * 1024 * 1024


def connect(**options: Any) -> "PipelinedConnection":  # noqa: ANN401 (those of PyMySQL)
    flags = options.pop("client_flag", 0) | CLIENT.MULTI_STATEMENTS
    return PipelinedConnection(**options, client_flag=flags, cursorclass=PipelinedCursor)


class PipelinedConnection(ImpatientConnection):
    """Holds the inserts that wait to be sent."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 (those of PyMySQL)
        self._waiting: list[str] = []
        self._characters = 0
        self._packet_bytes_max = PACKET_CHARACTERS_MAX
        super().__init__(**options)
        with self.cursor() as cursor:
            cursor.execute("SELECT @@max_allowed_packet")
            [(self._packet_bytes_max,)] = cursor.fetchall()

    @property
    def characters_max(self) -> int:
        """Of what is sent together, where that can be chosen."""
        return min(PACKET_CHARACTERS_MAX, self._packet_bytes_max // 2)

    def query(self, sql: Any, unbuffered: bool = False) -> int:  # noqa: ANN401, FBT001, FBT002 (as in PyMySQL)
        """Send what waits and this statement; the answer is this one's.

        Raises error 1153 for more than the server takes. The server itself would end the
        connection, as if it had died, and the whole batch would be tried again instead of the one
        command that is too large.
        """
        if len(sql) >= self._packet_bytes_max:
            raise OperationalError(
                ER.NET_PACKET_TOO_LARGE,
                f"A statement of {len(sql)} bytes is more than max_allowed_packet, which is "
                f"{self._packet_bytes_max} bytes.",
            )
        waiting = self._take_waiting()
        if not waiting:
            return super().query(sql, unbuffered)
        sql = ";".join([*waiting, sql])
        self._execute_command(COMMAND.COM_QUERY, sql)  # type: ignore[attr-defined]  # no stub
        for _ in waiting:
            self._read_packet()  # type: ignore[no-untyped-call]  # raises what one did wrong
        return self.next_result(unbuffered)

    def hold(self, statement: str) -> None:
        self._waiting.append(statement)
        self._characters += len(statement)
        if self._characters > self.characters_max:
            self._send_waiting()

    def commit(self) -> None:
        self._send_waiting()
        super().commit()

    def rollback(self) -> None:
        self._take_waiting()
        super().rollback()

    def _send_waiting(self) -> None:
        if self._waiting:
            self.query(self._waiting.pop())

    def _take_waiting(self) -> list[str]:
        waiting, self._waiting, self._characters = self._waiting, [], 0
        return waiting


class PipelinedCursor(Cursor):
    """`executemany` of an insert only holds it; its `rowcount` is not known (-1)."""

    def execute(self, query: Any, args: Any = None) -> int:  # noqa: ANN401 (as in PyMySQL)
        if isinstance(args, tuple) and _parts(query) is not None:
            return self.executemany(query, [args]) or 0
        return super().execute(query, args)

    def executemany(self, query: str, args: Any) -> int | None:  # noqa: ANN401 (as in PyMySQL)
        parts = _parts(query)
        if parts is None or not args:
            return super().executemany(query, args)
        before, behind = parts
        connection = self._pipeline()
        values: list[str] = []
        characters = 0
        for rendered in self._render(args):
            characters += len(rendered) + 1
            if values and characters > connection.characters_max:
                connection.hold(before + ",".join(values) + behind)
                values, characters = [], len(rendered)
            values.append(rendered)
        connection.hold(before + ",".join(values) + behind)
        self.rowcount = -1
        return None

    def _render(self, rows: Sequence[Sequence[Any]]) -> Iterable[str]:
        """Each row as `(…)`. Column by column, since one of a single type needs no look at each
        value.
        """
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
                columns.append(map(self._literal, column))
        return map(f"({','.join(formats)})".__mod__, zip(*columns, strict=True))

    def _mogrify(self, query: str, args: Any) -> str:  # noqa: ANN401 (as in PyMySQL)
        if isinstance(args, tuple | list):
            # Not as hexadecimal digits: in a list of 64 keys MariaDB takes 2 ms to plan them, and
            # 0.4 ms for quoted ones.
            escape = self._pipeline().escape
            return query % tuple([str(arg) if type(arg) is int else escape(arg) for arg in args])
        rendered: str = super()._mogrify(query, args)  # type: ignore[misc]  # not in the stubs
        return rendered

    def _literal(self, value: Any) -> str:  # noqa: ANN401 (whatever a parameter may be)
        render = _LITERALS.get(type(value))
        return self._pipeline().escape(value) if render is None else render(value)

    def _pipeline(self) -> PipelinedConnection:
        connection = self._get_db()  # type: ignore[attr-defined]  # not in the stubs
        assert isinstance(connection, PipelinedConnection)
        return connection


_LITERALS: Final[dict[type, Callable[[Any], str]]] = {
    int: int.__repr__,
    bytes: lambda value: f"x'{value.hex()}'",
    type(None): lambda _: "NULL",
}


@lru_cache
def _parts(query: str) -> tuple[str, str] | None:
    """What stands before and behind the row of placeholders; None for another statement."""
    found = RE_INSERT_VALUES.match(query)
    if found is None:
        return None
    return found[1].replace("%%", "%"), (found[3] or "").replace("%%", "%")
