"""`fairlog archive` killed at any moment: the next run finishes, and nothing is lost."""

import os
import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Final

from adapters.archive.directory import Archive
from entrypoints.use_cases.archive_cuts import cut_before
from entrypoints.use_cases.archive_verification import verify_archive
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.verification import verify_log
from tests.support.archived_history import DAY, first_event, follow, live
from tests.support.clock import ManualClock
from tests.support.core import service

KILLS: Final = int(os.environ.get("FAIRLOG_TEST_KILLS", "4"))
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


def test_a_killed_archive_loses_nothing(database_url: str, tmp_path: Path) -> None:
    chance = random.Random(7)
    clock = ManualClock()
    place = Archive(tmp_path)
    with service(database_url, clock=clock, idempotency_seconds=int(3 * DAY)) as fairlog:
        live(fairlog, clock, days=10, rounds=4)
        found: list[str] = []

        def report(one: object) -> None:
            found.append(str(one))

        kills = 0
        while kills < KILLS:
            live(fairlog, clock, days=2, rounds=4, seed=10 + kills)
            follow(fairlog)
            cut = cut_before(fairlog, clock.now() - timedelta(days=5), None)
            kills += _kill(database_url, tmp_path, cut, clock, chance.uniform(0.0, 0.6))
            follow(fairlog)
            archive(fairlog, place, cut, lambda *_: None)
            follow(fairlog)
            verify_log(fairlog, report, lambda *_: None)
            verify_archive(fairlog, str(tmp_path), report, lambda *_: None)
            assert found == []
        with fairlog.database.read() as connection:
            assert fairlog.log.cut(connection).position == cut
            assert first_event(connection) == cut + 1


def _kill(database_url: str, place: Path, cut: int, clock: ManualClock, seconds: float) -> bool:
    """Start an archive, and kill its process after some time; return False if it was quicker."""
    command = [sys.executable, "-c", _PROGRAM, database_url, str(place), str(cut)]
    with subprocess.Popen(
        [*command, clock.now().isoformat()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        process.kill()
        return process.wait() < 0
