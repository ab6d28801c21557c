"""A log that `fairlog archive` has cut, with its archive: the answers are those of before."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from adapters.archive.directory import Archive
from adapters.archive.source import row_pages
from adapters.log.audit_log import EventFilter
from adapters.settings import Settings
from domain.decisions.answers import Submitted
from domain.language.commands import CancelJob, EraseBodies
from domain.language.errors import FairlogError
from domain.language.identifiers import JobId
from entrypoints.composition import compose
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_verification import verify_archive
from entrypoints.use_cases.export import pages
from entrypoints.use_cases.proofs import Prover
from entrypoints.use_cases.restore import restore
from entrypoints.use_cases.time_travel import TimeTravel
from entrypoints.use_cases.whole_history import whole_history
from tests.support.archived_history import (
    DAY,
    USERS,
    archive_older,
    findings,
    follow,
    live,
    submission,
)
from tests.support.archives import bodies_of, stored_log
from tests.support.clock import ManualClock
from tests.support.core import do, execute_now, service

DAYS: Final = 16


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, idempotency_seconds=int(3 * DAY)) as found:
        live(found, clock, days=DAYS, rounds=6)
        follow(found)
        yield found


def answers(fairlog: Fairlog, end: int) -> dict[str, bytes]:
    found: dict[str, Any] = {}
    travel, prover, past = TimeTravel(fairlog), Prover(fairlog), fairlog.past
    with fairlog.database.read() as connection:
        submitted = past.find(connection, EventFilter(types=["JobSubmitted"]), 0, end)
        jobs = [JobId(event.position) for event in submitted if event.position <= end][::20]
        for user in USERS[:4]:
            wanted = EventFilter(user_id=user)
            found[f"export {user}"] = list(pages(fairlog, wanted, (0, end + 1), bodies=True))
            for as_of in range(1, end, end // 3):
                views = travel.jobs_of_user(connection, user, as_of, 9)
                found[f"{user} {as_of}"] = [travel.view(connection, job) for job in views]
        for as_of in {*range(1, end, end // 7), *range(100, end, 100), *range(131, end, 131)}:
            found[f"state {as_of}"] = travel.state(connection, as_of)
        for as_of in range(1, end, end // 7):
            found[f"event {as_of}"] = prover.prove_event(connection, as_of, end)
            found[f"growth {as_of}"] = prover.prove_growth(connection, as_of, end)
        for job in jobs:
            found[f"proof {job}"] = prover.prove_job(connection, job, end)
            for as_of in (job, job + 40, end):
                try:
                    found[f"job {job} {as_of}"] = travel.job(connection, job, min(as_of, end))
                except FairlogError as error:
                    found[f"job {job} {as_of}"] = str(error)
    return {name: msgspec.json.encode(answer) for name, answer in found.items()}


def test_an_archived_log_answers_as_before(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrypoints.use_cases.archiving.EVENTS_PER_SEGMENT", 100)
    Prover(fairlog).catch_up()
    end = fairlog.read_now(fairlog.log.position)
    before = answers(fairlog, end)
    for days in (9, 6):
        archive_older(fairlog, clock, Archive(tmp_path), days)
        Prover(fairlog).catch_up()
        with whole_history(fairlog, str(tmp_path)) as segments:
            now = answers(fairlog, end)
            assert len(segments.segments) > 1
            for position in (150, 199, 200, 201):  # a state is folded from the segment before it
                nearest = segments.state_by(position)
                assert nearest is not None
                assert nearest.position == position // 100 * 100
        assert [name for name, answer in before.items() if now[name] != answer] == []
    assert findings(fairlog, tmp_path) == []


def test_a_snapshot_that_was_wrong_when_it_was_made_is_named(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("entrypoints.use_cases.archiving._bodies_of", lambda *_: [])
        position = archive_older(fairlog, clock, Archive(tmp_path), 6)
    found: list[str] = []
    verify_archive(fairlog, str(tmp_path), lambda one: found.append(str(one)), lambda *_: None)
    assert len(found) == 1
    assert found[0].startswith(f"the snapshot at position {position} has the digest ")
    assert "a fold of the events before it gives" in found[0]


def stored(fairlog: Fairlog) -> tuple[list[Any], dict[int, bytes]]:
    end = fairlog.read_now(fairlog.log.position)
    with fairlog.database.read() as connection:
        rows = row_pages(stored_log(fairlog), connection, 0, end)
        return [row for page in rows for row in page], bodies_of(fairlog, 0, end)


def test_a_live_part_gets_its_archived_part_back(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path
) -> None:
    rows, bodies = stored(fairlog)
    for days in (9, 6):
        archive_older(fairlog, clock, Archive(tmp_path), days)
    kept = len(stored(fairlog)[0])
    assert kept < len(rows) / 2
    restore(fairlog, str(tmp_path), lambda *_: None)
    now, bodies_now = stored(fairlog)
    assert now[: len(rows)] == rows
    assert bodies_now == bodies
    assert fairlog.read_now(fairlog.log.cut).position == 0
    follow(fairlog)
    assert findings(fairlog, tmp_path) == []
    restore(fairlog, str(tmp_path), lambda *_: None)  # again: nothing changes
    assert stored(fairlog) == (now, bodies_now)
    live(fairlog, clock, days=2, rounds=3, seed=5)
    follow(fairlog)
    assert findings(fairlog, tmp_path) == []
    (place := tmp_path / "new").mkdir()
    assert archive_older(fairlog, clock, Archive(place), 6) > 0
    assert findings(fairlog, place) == []


def test_what_was_erased_stays_erased_in_a_restored_log(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path
) -> None:
    far = do(fairlog, submission(clock, days_ahead=30), Submitted).job
    clock.advance(8 * DAY)
    live(fairlog, clock, days=5, rounds=2, seed=4)
    follow(fairlog)
    assert far.id <= archive_older(fairlog, clock, Archive(tmp_path), 6)
    execute_now(fairlog, CancelJob(job_id=far.id))
    execute_now(fairlog, EraseBodies(job_id=far.id, attempt=0, positions=(far.id,)))
    restore(fairlog, str(tmp_path), lambda *_: None)
    assert far.id not in bodies_of(fairlog, 0, fairlog.read_now(fairlog.log.position))
    assert findings(fairlog, tmp_path)[0].endswith(
        f"erased the body of event {far.id}, which is in it or never was; `fairlog erase` or "
        "`fairlog archive` with this archive removes it"
    )


def test_segments_alone_give_the_log_up_to_their_end(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path, new_database_url: Any
) -> None:
    rows, _ = stored(fairlog)
    for days in (9, 6):
        last = archive_older(fairlog, clock, Archive(tmp_path), days)
    with closing(compose(Settings(database_url=new_database_url()), clock=clock)) as other:
        assert restore(other, str(tmp_path), lambda *_: None)[0] == last
        follow(other)
        assert stored(other)[0] == rows[:last]
        assert findings(other, tmp_path) == []
