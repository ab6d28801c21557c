"""`fairlog archive` or its database killed at any moment: the next run finishes, nothing is lost.

`FAIRLOG_TEST_KILLS` is the number of kills of each test, 2 by default.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.archive.directory import Archive
from adapters.log.tables import events
from entrypoints.use_cases.archive_cuts import cut_before
from entrypoints.use_cases.archive_verification import verify_archive
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.verification import verify_log
from tests.support.archived_history import DAY, first_event, follow, live
from tests.support.clock import ManualClock
from tests.support.core import service
from tests.support.mariadb import MariaDB

KILLS: Final = int(os.environ.get("FAIRLOG_TEST_KILLS", "2"))
ENDING_SECONDS_MAX: Final = 60.0  # of an archive whose database is away
_PROGRAM: Final = """
import sys
from datetime import datetime
from adapters.archive.directory import Archive
from entrypoints.use_cases.archiving import archive
from tests.support.clock import ManualClock
from tests.support.core import service

with service(sys.argv[1], clock=ManualClock(datetime.fromisoformat(sys.argv[4]))) as fairlog:
    print("ready", flush=True)
    archive(fairlog, Archive(sys.argv[2]), int(sys.argv[3]), lambda *_: None)
"""

Archiving = subprocess.Popen[bytes]


def test_a_killed_archive_loses_nothing(database_url: str, tmp_path: Path) -> None:
    check(database_url, tmp_path, lambda archiving: archiving.kill())


@pytest.mark.parametrize("end", [MariaDB.kill, MariaDB.stop])
def test_an_archive_whose_database_ends_loses_nothing(
    tmp_path: Path, end: Callable[[MariaDB], None]
) -> None:
    with MariaDB() as database:

        def interrupt(archiving: Archiving) -> None:
            end(database)
            archiving.wait(ENDING_SECONDS_MAX)
            database.start()

        check(database.create_database(), tmp_path, interrupt)


def check(url: str, folder: Path, interrupt: Callable[[Archiving], None]) -> None:
    chance = random.Random(7)
    clock = ManualClock()
    found: list[str] = []

    def report(one: object) -> None:
        found.append(str(one))

    interrupted = rounds = 0
    while interrupted < KILLS:
        with service(url, clock=clock, idempotency_seconds=int(3 * DAY)) as fairlog:
            live(fairlog, clock, days=2 if rounds else 10, rounds=4, seed=10 + rounds)
            follow(fairlog)
            cut = cut_before(fairlog, clock.now() - timedelta(days=5), None)
        interrupted += _interrupted(url, folder, cut, clock, chance.uniform(0.0, 0.6), interrupt)
        with service(url, clock=clock, idempotency_seconds=int(3 * DAY)) as fairlog:
            follow(fairlog)
            archive(fairlog, Archive(folder), cut, lambda *_: None)
            follow(fairlog)
            verify_log(fairlog, report, lambda *_: None)
            verify_archive(fairlog, str(folder), report, lambda *_: None)
            assert found == []
            with fairlog.database.read() as connection:
                assert fairlog.log.cut(connection).position == cut
                assert first_event(connection) > cut
                assert rows_after(connection, cut) == fairlog.log.position(connection) - cut
        rounds += 1


def rows_after(connection: Connection, position: int) -> int:
    rows = sa.select(sa.func.count()).where(events.c.position > position)
    return int(connection.execute(rows).scalar_one())


def _interrupted(
    url: str,
    folder: Path,
    cut: int,
    clock: ManualClock,
    seconds: float,
    interrupt: Callable[[Archiving], None],
) -> bool:
    """Start an archive, and interrupt it after some time; return False if it was quicker."""
    command = [sys.executable, "-c", _PROGRAM, url, str(folder), str(cut)]
    with subprocess.Popen(
        [*command, clock.now().isoformat()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        interrupt(process)
        return process.wait() != 0
