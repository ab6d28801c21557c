"""An application that writes rows of its own and rows of the outbox in one transaction.

`python -m tests.soak.application URL NAME SEED` may be killed at any moment. Each order that it
commits is a row of its table `orders`, and so is what the referee holds the jobs against. It rolls
a third of its transactions back. It uses a driver alone and knows nothing of the service.
"""

import json
import random
import sqlite3
import sys
import time
from contextlib import suppress
from typing import Any, Final

import pymysql

from tests.soak.referee.sql import connect

TABLE: Final = "CREATE TABLE IF NOT EXISTS orders (number VARCHAR(64) PRIMARY KEY)"
_ERRORS: Final = (pymysql.MySQLError, sqlite3.Error, OSError)


def write(connection: Any, numbers: list[str], user: str, mark: str, *, commits: bool) -> None:
    """Write orders, and a row of the outbox for each; end the transaction."""
    cursor = connection.cursor()
    cursor.execute("BEGIN")
    for number in numbers:
        cursor.execute(f"INSERT INTO orders (number) VALUES ({mark})", (number,))
        cursor.execute(
            f"INSERT INTO outbox (user_id, kind, payload) VALUES ({mark}, 'order', {mark})",
            (user, json.dumps({"order": number})),
        )
    cursor.execute("COMMIT" if commits else "ROLLBACK")


def main(url: str, name: str, seed: str, users: str) -> None:
    chance = random.Random(seed)
    mark = "?" if url.startswith("sqlite") else "%s"
    connection = None
    number = 0
    while True:
        numbers = [f"{name}-{number + one}" for one in range(chance.randint(1, 4))]
        number += len(numbers)
        try:
            connection = connection or connect(url)
            commits = chance.random() > 1 / 3
            write(connection, numbers, chance.choice(users.split(",")), mark, commits=commits)
        except _ERRORS:  # whether it was committed is what the table says
            if connection is not None:
                with suppress(*_ERRORS):
                    connection.close()
            connection = None
        time.sleep(chance.uniform(0.2, 1.2))


if __name__ == "__main__":
    main(*sys.argv[1:])
