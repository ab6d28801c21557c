"""Standard error that takes no line: nothing but the lines is lost."""

import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from adapters.database.database import Database
from adapters.log.event_log import SqlEventLog
from tests.support.server import FairlogServer, problem, submit
from tests.support.waiting import wait_until

SETTINGS = {"lease_seconds": 12}  # longer than the lock is held: no heartbeat can be written then
PAYLOAD = {"seconds": 13}  # longer than a lease


@contextmanager
def head_locked(database_url: str) -> Iterator[None]:
    database = Database(database_url)
    with database.connect_writer() as connection, connection.begin() as transaction:
        SqlEventLog(database).lock_head(connection)
        yield
        transaction.rollback()
    database.close()


@contextmanager
def full_pipe(folder: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A pipe that takes not one byte more, and the end that nobody reads."""
    path = folder / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n" * 1024)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as reader:
        yield path, reader


def assert_outlasts_a_lock(server: FairlogServer, database_url: str) -> None:
    """Log lines are written meanwhile, by the writer and by the clock."""
    running = submit(
        server.client, kind="sleep", payload=PAYLOAD, idempotency_key=secrets.token_hex()
    )
    with head_locked(database_url), ThreadPoolExecutor(3) as pool:
        bodies = [{"user_id": "ada", "kind": "echo", "payload": number} for number in range(3)]
        for answer in pool.map(lambda body: server.client.post("/v1/jobs", json=body), bodies):
            problem(answer, 503)
    submit(server.client, "bob", idempotency_key=secrets.token_hex())
    wait_until(lambda: server.client.get("/readyz").status_code == 200, "it is ready again")

    def is_done() -> bool:
        job = server.client.get(f"/v1/jobs/{running['id']}").json()
        assert job["attempt"] <= 1, job
        return bool(job["state"] == "done")

    wait_until(is_done, "a job longer than a lease is done by its first attempt")


# Which database it is makes no difference to where lines go.
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", ">&- 2>&- <&-"])
def test_a_server_without_standard_error_serves_all_the_same(
    database_url: str, redirection: str
) -> None:
    with FairlogServer(
        database_url, workers=2, settings=SETTINGS, redirection=redirection
    ) as server:
        assert_outlasts_a_lock(server, database_url)
        server.terminate()


@pytest.mark.one_database
def test_a_pipe_that_nobody_reads_blocks_no_part_of_a_server(
    database_url: str, tmp_path: Path
) -> None:
    with (
        full_pipe(tmp_path) as (path, reader),
        FairlogServer(
            database_url, workers=2, settings=SETTINGS, redirection=f"2>{path}"
        ) as server,
    ):
        assert_outlasts_a_lock(server, database_url)
        reader.close()  # from here on it is broken
        assert_outlasts_a_lock(server, database_url)
        server.terminate()
