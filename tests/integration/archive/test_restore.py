"""A log that is restored from its segments is the log that was archived, row by row."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adapters.archive.directory import Archive
from adapters.settings import Settings
from domain.language.commands import SubmitJob
from domain.language.errors import FairlogError, SegmentUnusable
from entrypoints.composition import compose
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases import restore as restoring
from entrypoints.use_cases.proofs import Prover
from entrypoints.use_cases.restore import restore
from entrypoints.use_cases.verification import verify_log
from tests.support import history
from tests.support.archives import bodies_of, rows_between, write_up_to
from tests.support.clock import ManualClock
from tests.support.core import service
from tests.support.crowd import crowd
from tests.support.history import ALICE, ECHO
from tests.support.repository import ROOT
from tests.support.stories import body


class Kept:
    """An archive of a whole log, and what the log was."""

    def __init__(self, fairlog: Fairlog, location: Path) -> None:
        self.location = location
        self.end = fairlog.read_now(fairlog.log.position)
        self.rows = rows_between(fairlog, 0, self.end)
        self.bodies = bodies_of(fairlog, 0, self.end)
        prover = Prover(fairlog)
        prover.catch_up()
        self.head = fairlog.read_now(prover.head)
        self.segments = write_up_to(fairlog, Archive(location), [60, 61, self.end])


@pytest.fixture(scope="module")
def kept(new_database_url: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with history.service_with_history(new_database_url()) as (fairlog, clock):
        crowd(fairlog, clock, 800)
        yield Kept(fairlog, tmp_path_factory.mktemp("archive"))


def require_clean(fairlog: Fairlog) -> tuple[int, str]:
    """Verify the log and all projections; return position and hash of the head."""
    found: list[str] = []
    verified = verify_log(fairlog, lambda one: found.append(str(one)), lambda *_: None)
    assert found == []
    assert verified.is_clean
    return verified.position, verified.hash.hex()


def require_restored(url: str, kept: Kept) -> None:
    with closing(compose(Settings(database_url=url))) as fairlog:
        assert rows_between(fairlog, 0, kept.end) == kept.rows
        assert bodies_of(fairlog, 0, kept.end) == kept.bodies
        assert require_clean(fairlog) == (kept.head.position, kept.head.hash)
        prover = Prover(fairlog)
        prover.catch_up()
        assert fairlog.read_now(prover.head) == kept.head


def test_a_log_is_restored_row_by_row_and_goes_on(
    kept: Kept, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "ROWS_PER_TRANSACTION", 37)
    steps: list[int] = []
    with closing(compose(Settings(database_url=database_url))) as fairlog:
        restored, _ = restore(fairlog, str(kept.location), lambda done, _: steps.append(done))
    assert restored == kept.end
    assert steps[-1] == kept.end
    assert len(steps) > 20
    require_restored(database_url, kept)
    with service(database_url) as fairlog:  # by the real clock, which is later
        history.do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body("after")))
        position, _ = require_clean(fairlog)
        assert position > kept.end


def test_a_database_with_another_log_is_left_alone(kept: Kept, database_url: str) -> None:
    with service(database_url, clock=ManualClock()) as fairlog:
        history.do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body(1)))
        before = rows_between(fairlog, 0, 10**6)
        with pytest.raises(FairlogError, match="The database has another log"):
            restore(fairlog, str(kept.location), lambda *_: None)
        assert rows_between(fairlog, 0, 10**6) == before


def test_a_missing_segment_is_named_before_anything_is_written(
    kept: Kept, database_url: str, tmp_path: Path
) -> None:
    for segment in (kept.segments[0], kept.segments[2]):
        (tmp_path / segment.name).hardlink_to(kept.location / segment.name)
    (tmp_path / "empty").mkdir()
    with closing(compose(Settings(database_url=database_url))) as fairlog:
        with pytest.raises(SegmentUnusable, match="events 61 to 61, before it, are in no segment"):
            restore(fairlog, str(tmp_path), lambda *_: None)
        with pytest.raises(SegmentUnusable, match="There are no segments"):
            restore(fairlog, str(tmp_path / "empty"), lambda *_: None)


def test_a_restore_that_is_killed_goes_on(kept: Kept, database_url: str) -> None:
    chance = random.Random(7)
    script = (
        "import sys; from entrypoints.use_cases import restore; "
        "restore.ROWS_PER_TRANSACTION = 20; from entrypoints.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "restore", "--archive", str(kept.location)]
    command += ["--database-url", database_url]
    for _ in range(4):
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(chance.uniform(0.8, 3.0))
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=20)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert f"Restored {kept.end:,} events." in done.stdout
    require_restored(database_url, kept)
