"""Rows of the outbox: how soon one is a job, and how many become jobs a second.

One row at a time is committed to a server that is otherwise idle, and the time is that from its
commit to the moment at which the log has its job, as a query sees it. Then rows are committed 500
at a time by one program, and the time is that until the table is empty. Three runs; medians. The
limit is one client's submissions over HTTP in batches of the same size.
"""

import random
import time
from collections.abc import Iterator
from contextlib import closing
from statistics import median
from typing import Any, Final

from tests.benchmarks.figures import Figure, Limit, at_most
from tests.benchmarks.lifecycle import JOBS_PER_BATCH, submit_batches
from tests.benchmarks.site import Site
from tests.support.outbox_program import connector

_USERS: Final = 100
_SQL: Final = "INSERT INTO outbox (user_id, kind, payload) VALUES (%s, %s, %s)"


def run(site: Site) -> Iterator[Figure]:
    rows, singles = (1_000, 5) if site.quick else (10_000, 40)
    url = site.new_database("mariadb")
    connect, _ = connector(url)
    with site.server(url) as server, closing(connect()) as connection:
        connection.autocommit(True)  # noqa: FBT003 (PyMySQL's)
        delays = [_delay(connection, number) for number in range(singles)]
        rates, over_http = [], []
        for number in range(site.rounds):
            rates.append(rows / _seconds(connection, rows, number))
            span = submit_batches([server.port], rows)
            over_http.append(rows / (span.ended - span.started))
    site.drop_database("mariadb", url)
    yield Figure("MariaDB, one row, p50", median(delays) * 1000, "ms", None, at_most(300))
    yield Figure(
        f"MariaDB, {JOBS_PER_BATCH} rows a transaction",
        median(rates),
        "rows/s",
        Limit(median(over_http), "batches over HTTP"),
    )


def _delay(connection: Any, number: int) -> float:
    time.sleep(random.uniform(0.2, 0.8))  # not in step with the server
    begun = time.monotonic()
    with closing(connection.cursor()) as cursor:
        cursor.execute(_SQL, ("one", "echo", str(number)))
    _wait_until_empty(connection, 0.002)
    return time.monotonic() - begun


def _seconds(connection: Any, rows: int, run: int) -> float:
    begun = time.monotonic()
    for start in range(0, rows, JOBS_PER_BATCH):
        numbers = range(start, start + JOBS_PER_BATCH)
        with closing(connection.cursor()) as cursor:
            cursor.executemany(
                _SQL,
                [(f"user-{one % _USERS}", "echo", f'{{"n":"{run}-{one}"}}') for one in numbers],
            )
    _wait_until_empty(connection, 0.02)
    return time.monotonic() - begun


def _wait_until_empty(connection: Any, pause: float) -> None:
    while True:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT id FROM outbox LIMIT 1")
            if cursor.fetchone() is None:
                return
        time.sleep(pause)
