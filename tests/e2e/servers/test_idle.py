"""A server with nothing to do: it leaves the database in peace."""

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters.database.database import Database
from tests.support.server import FairlogServer
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

STATEMENTS_PER_SECOND_MAX = 5 + 4  # four to look into the outbox
WINDOW_SECONDS = 5.0
HANDLERS = """
async def echo(payload):
    return payload
"""


def statements_sent(database: Database) -> int:
    with database.read() as connection:
        found = connection.execute(sa.text("SHOW GLOBAL STATUS LIKE 'Questions'")).one()
    return int(found[1])


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_an_idle_server_with_waiting_workers_sends_few_statements(
    database_url: str, tmp_path: Path
) -> None:
    """It polls more often at first, until it knows that no other server runs."""
    handlers = tmp_path / "handlers.py"
    handlers.write_text(HANDLERS)
    database = Database(database_url)

    def is_quiet() -> bool:
        before = statements_sent(database)
        time.sleep(WINDOW_SECONDS)
        sent = statements_sent(database) - before - 1
        return sent < STATEMENTS_PER_SECOND_MAX * WINDOW_SECONDS

    with (
        FairlogServer(database_url, workers=2) as server,
        WorkerProcess(server.url, "--handlers", str(handlers), "--concurrency", "4"),
    ):
        submission = {"user_id": "ada", "kind": "echo", "payload": 1}
        server.client.post("/v1/jobs", json=submission).raise_for_status()
        wait_until(is_quiet, "few statements are sent", 60.0)
    database.close()
