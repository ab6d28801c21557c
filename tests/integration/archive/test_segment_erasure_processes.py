"""Archives and erasures that fail or are killed while they write a segment, as processes."""

import random
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Final

from adapters.archive.directory import Archive
from adapters.log import archived
from domain.language.identifiers import JobId
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_cuts import cut_before
from entrypoints.use_cases.archive_verification import verify_archive
from entrypoints.use_cases.archived_erasure import erase_archived_job
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.erasure import Erased
from entrypoints.use_cases.segment_erasure import rewrite_segments
from entrypoints.use_cases.verification import verify_log
from entrypoints.use_cases.whole_history import whole_history
from tests.support.archived_history import DAY, follow, live
from tests.support.clock import ManualClock
from tests.support.core import service

KILLS: Final = 2
_PROGRAM: Final = """
import resource, sys
from datetime import datetime
from adapters.archive import directory
from domain.language.errors import ArchiveUnavailable
from entrypoints.use_cases.archived_erasure import erase_archived_job
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.erasure import Erased
from entrypoints.use_cases.segment_erasure import rewrite_segments
from tests.support.clock import ManualClock
from tests.support.core import service

url, location, now, what, number, bytes_max = sys.argv[1:]

def limited(write):
    def limited_write(self, data):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(bytes_max), before[1]))
        try:
            written = write(self, data)
            self._file.flush()
            return written
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return limited_write

if int(bytes_max):  # of a segment alone, as if its disk were full
    directory._Hashed.write = limited(directory._Hashed.write)
place = directory.Archive(location)
with service(url, clock=ManualClock(datetime.fromisoformat(now))) as fairlog:
    print("ready", flush=True)
    try:
        if what == "archive":
            archive(fairlog, place, int(number), lambda *_: None)
        else:
            erase_archived_job(fairlog, location, int(number), Erased())
            rewrite_segments(fairlog, place, lambda *_: None)
    except ArchiveUnavailable as error:
        print(error, flush=True)
"""


def process(
    database_url: str, place: Path, clock: ManualClock, what: str, number: int, bytes_max: int = 0
) -> "subprocess.Popen[str]":
    values = [database_url, str(place), clock.now().isoformat(), what, str(number), str(bytes_max)]
    started = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *values], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def findings(fairlog: Fairlog, place: Path) -> list[str]:
    found: list[str] = []
    follow(fairlog)
    verify_log(fairlog, lambda one: found.append(str(one)), lambda *_: None)
    if fairlog.read_now(archived.segments):
        verify_archive(fairlog, str(place), lambda one: found.append(str(one)), lambda *_: None)
    return found


def archived_jobs(fairlog: Fairlog, place: Path) -> list[JobId]:
    """Those that have ended, have no row, and are not erased."""
    with whole_history(fairlog, str(place)) as log, fairlog.database.read() as connection:
        ids = [one for page in log.payloads() for one in page]
        rows = fairlog.jobs.find(connection, ids)
        return [one for one in ids if one not in rows]


def require_erased(fairlog: Fairlog, place: Path, job_id: JobId) -> None:
    [segment] = fairlog.read_now(archived.segments)
    assert Archive(place).names() == [segment.name]
    assert [one.name for one in place.iterdir()] == [segment.name]
    with Archive(place).open(segment) as reader:
        assert reader.with_bodies([job_id]) == []
    assert findings(fairlog, place) == []


def test_a_full_place_is_a_sentence_and_the_next_run_goes_on(
    database_url: str, tmp_path: Path
) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock, idempotency_seconds=int(3 * DAY)) as fairlog:
        live(fairlog, clock, days=12, rounds=3)
        follow(fairlog)
        position = cut_before(fairlog, clock.now() - timedelta(days=6), None)
        full = "cannot be written: File too large."
        told = process(database_url, tmp_path, clock, "archive", position, 4_000).communicate()[0]
        assert full in told
        assert list(tmp_path.iterdir()) == []
        assert fairlog.read_now(fairlog.log.cut).position == 0
        assert findings(fairlog, tmp_path) == []
        archive(fairlog, Archive(tmp_path), position, lambda *_: None)
        follow(fairlog)
        before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
        job_id = archived_jobs(fairlog, tmp_path)[0]
        told = process(database_url, tmp_path, clock, "erase", job_id, 4_000).communicate()[0]
        assert full in told
        assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before
        assert "which is in it or never was" in "\n".join(findings(fairlog, tmp_path))
        rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
        require_erased(fairlog, tmp_path, job_id)


def test_a_killed_erasure_is_finished_by_the_next(database_url: str, tmp_path: Path) -> None:
    chance = random.Random(11)
    clock = ManualClock()
    with service(database_url, clock=clock, idempotency_seconds=int(3 * DAY)) as fairlog:
        live(fairlog, clock, days=12, rounds=3)
        follow(fairlog)
        position = cut_before(fairlog, clock.now() - timedelta(days=6), None)
        archive(fairlog, Archive(tmp_path), position, lambda *_: None)
        follow(fairlog)
        for job_id in archived_jobs(fairlog, tmp_path)[:KILLS]:
            started = process(database_url, tmp_path, clock, "erase", job_id)
            time.sleep(chance.uniform(0.0, 0.4))
            started.kill()
            started.communicate()
            erase_archived_job(fairlog, str(tmp_path), job_id, Erased())
            rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
            require_erased(fairlog, tmp_path, job_id)


def test_erasures_at_once_lose_nothing(database_url: str, tmp_path: Path) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock, idempotency_seconds=int(3 * DAY)) as fairlog:
        live(fairlog, clock, days=12, rounds=3)
        follow(fairlog)
        position = cut_before(fairlog, clock.now() - timedelta(days=6), None)
        archive(fairlog, Archive(tmp_path), position, lambda *_: None)
        follow(fairlog)
        jobs = archived_jobs(fairlog, tmp_path)
        for pair in (jobs[:3], jobs[3:6]):
            started = [process(database_url, tmp_path, clock, "erase", one) for one in pair]
            for one in started:
                one.communicate()  # a process may find that another has removed the file it reads
            rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
            for job_id in pair:
                erase_archived_job(fairlog, str(tmp_path), job_id, Erased())
            rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
            for job_id in pair:
                require_erased(fairlog, tmp_path, job_id)
