"""A PyMySQL connection that sends a transaction's multi-row inserts without waiting for each.

Two things made a batch slow, and neither was the database: PyMySQL escapes each value by hand, and
after each statement the writer waits for the answer. So values are sent as hexadecimal literals,
which need no escaping, cannot be broken out of, and are made by C code; and inserts go out a few
together, while the next rows are made, and are answered for when something needs an answer: a
query, an update, or the commit.

An insert's error is therefore raised by a statement after it, in the same transaction.

A commit can be followed at once by the question with which the next transaction begins
(`foresee`). Each is a packet of its own: of a COMMIT that is not the last statement of its packet,
a Galera node says that it went well also when it was rolled back, since another node was first.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from pymysql import MySQLError, OperationalError
from pymysql.constants import CLIENT, COMMAND, ER
from pymysql.cursors import RE_INSERT_VALUES, Cursor

from adapters.database.mysql_timeouts import ShortTimeoutConnection

# Far below the max_allowed_packet of 16 MiB that MySQL and MariaDB come with. A single row may be
# longer: a body of 1 MiB is 2 MiB of hexadecimal digits.
PACKET_CHARACTERS_MAX: Final = 2 * 1024 * 1024
# Inserts are held until they are so many together: the server works while more are made.
_HELD_CHARACTERS_MAX: Final = 48 * 1024


def connect(**options: Any) -> "PipelinedConnection":  # noqa: ANN401 (those of PyMySQL)
    flags = options.pop("client_flag", 0) | CLIENT.MULTI_STATEMENTS
    return PipelinedConnection(**options, client_flag=flags, cursorclass=PipelinedCursor)


class PipelinedConnection(ShortTimeoutConnection):
    """Knows which inserts wait to be sent, and which to be answered for."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 (those of PyMySQL)
        self._held: list[str] = []
        self._held_characters = 0
        self._unanswered: list[int] = []  # statements of each command that was sent
        self._foreseen: str | None = None  # goes behind the next commit
        self._asked: str | None = None  # was sent behind a commit; its answer was not read yet
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
        """Send what is held and this statement; the answer is this one's.

        Raises what an insert did wrong, and error 1153 for more than the server takes. The server
        itself would end the connection, as if it had died, and the whole batch would be tried
        again instead of the one command that is too large.
        """
        if self._asked is not None:
            if sql == self._asked:
                return self._take_answer(unbuffered)
            self._drop_answer()
        self._check_size(sql)
        if self._held_characters + len(sql) >= self._packet_bytes_max:
            self._send_held()
        if not self._held and not self._unanswered:
            return super().query(sql, unbuffered)
        held = self._take_held()
        self._send(";".join([*held, sql]))
        self._unanswered.append(len(held))
        failed, is_next = self._hear_inserts()
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
        """Raises error 1153, see `query`."""
        self._check_size(statement)
        if self._held_characters + len(statement) >= self._packet_bytes_max:
            self._send_held()
        self._held.append(statement)
        self._held_characters += len(statement)
        if self._held_characters > _HELD_CHARACTERS_MAX:
            self._send_held()

    def commit(self) -> None:
        self._send_held()
        failed, _ = self._hear_inserts()
        if failed is not None:
            try:
                raise failed
            finally:
                del failed
        statement, self._foreseen = self._foreseen, None
        if statement is None:
            super().commit()
            return
        self._send("COMMIT")
        self._send(statement)
        self._asked = statement  # also where the commit fails: a rollback reads its answer first
        self._next_seq_id = 1
        self._read_ok_packet()  # type: ignore[attr-defined]  # not in the stubs

    def foresee(self, statement: str) -> None:
        """Have a question sent right behind the next commit, which is asked next: the server
        answers it while others are told of the commit.

        What it locks is locked from then on, so it has to be asked soon. Its error is raised then.
        """
        self._foreseen = statement

    def rollback(self) -> None:
        self._foreseen = None
        self._drop_answer()
        self._take_held()
        self._hear_inserts()  # what they did wrong is undone with them
        super().rollback()

    def _drop_answer(self) -> None:
        """To a question that was sent behind a commit, and that nobody asks any more."""
        if self._asked is not None:
            with suppress(MySQLError):  # a lost connection is lost for who asks next, too
                self._take_answer(unbuffered=False)

    def _take_answer(self, unbuffered: bool) -> int:  # noqa: FBT001 (as in PyMySQL)
        self._asked = None
        self._next_seq_id = 1  # each command's answers are numbered anew
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
            self._send(";".join(held))
            self._unanswered.append(len(held))

    def _take_held(self) -> list[str]:
        held, self._held, self._held_characters = self._held, [], 0
        return held

    def _send(self, sql: str) -> None:
        self._execute_command(COMMAND.COM_QUERY, sql)  # type: ignore[attr-defined]  # no stub

    def _hear_inserts(self) -> tuple[MySQLError | None, bool]:
        """Read the answers to all that was sent: the first error, and whether the last command went
        well as far as that.

        The server goes on with the next command after one that failed, so its answers have to be
        read too. Within a command it stops there, and there is nothing more to read of it.
        """
        sent, self._unanswered = self._unanswered, []
        first: MySQLError | None = None
        went_well = True
        for statements in sent:
            self._next_seq_id = 1  # each command's answers are numbered anew
            went_well = True
            for _ in range(statements):
                try:
                    self._read_packet()  # type: ignore[no-untyped-call]
                except MySQLError as error:
                    if not self.open:
                        raise
                    first = first or error
                    went_well = False
                    break
        return first, went_well


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
        characters_max = connection.characters_max
        values: list[str] = []
        characters = 0
        for rendered in self._render(args):
            characters += len(rendered) + 1
            if characters > characters_max and values:
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
