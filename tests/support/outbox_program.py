"""A program that writes to the outbox and knows nothing of Fairlog: plain SQL through a driver.

Run as `python -m tests.support.outbox_program URL FIRST ROWS SEED`. It inserts rows with the
numbers from FIRST on, in transactions of random size, and rolls a third of them back. After each
transaction it prints a line: what became of it, and its numbers. Some rows are no JSON.
"""

import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import pymysql
import sqlalchemy as sa

USERS: Final = 13
ROWS_PER_TRANSACTION_MAX: Final = 40
_ERRORS: Final = (pymysql.MySQLError, sqlite3.Error, OSError)


def connector(url: str) -> tuple[Callable[[], Any], str]:
    """Return a function that connects, and the driver's placeholder."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        file = parsed.database
        assert file is not None
        return lambda: sqlite3.connect(file, timeout=10, isolation_level=None), "?"
    options: dict[str, Any] = {"host": parsed.host, "port": parsed.port, "user": parsed.username}
    options |= {"password": parsed.password, "database": parsed.database, "charset": "utf8mb4"}
    return lambda: pymysql.connect(**options, read_timeout=20), "%s"


def transactions(first: int, rows: int, chance: random.Random) -> Iterator[list[int]]:
    left = list(range(first, first + rows))
    while left:
        size = chance.randint(1, ROWS_PER_TRANSACTION_MAX)
        yield left[:size]
        left = left[size:]


def payload_of(number: int) -> str:
    """Return a payload that is JSON, or none for some numbers."""
    return f"[{number}" if is_bad(number) else str(number)


def is_bad(number: int) -> bool:
    return number % 29 == 0


def write(connection: Any, mark: str, numbers: list[int], *, commits: bool) -> str:
    """Return what became of a transaction."""
    statement = f"INSERT INTO outbox (user_id, kind, payload) VALUES ({mark}, {mark}, {mark})"
    try:
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        for number in numbers:
            cursor.execute(statement, (f"user {number % USERS}", "echo", payload_of(number)))
        if not commits:
            cursor.execute("ROLLBACK")
            return "absent"
    except _ERRORS:
        return "absent"  # it was not committed
    try:
        cursor.execute("COMMIT")
    except _ERRORS:
        return "unknown"
    return "committed"


def main(url: str, first: int, rows: int, seed: int) -> None:
    chance = random.Random(seed)
    connect, mark = connector(url)
    connection = None
    for numbers in transactions(first, rows, chance):
        while connection is None:
            with suppress(*_ERRORS):
                connection = connect()
                break
            time.sleep(0.05)
        fate = write(connection, mark, numbers, commits=chance.random() > 1 / 3)
        print(fate, *numbers, flush=True)
        if fate == "unknown" or (fate == "absent" and chance.random() < 0.2):
            with suppress(*_ERRORS):
                connection.close()
            connection = None
        time.sleep(chance.uniform(0, 0.02))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
