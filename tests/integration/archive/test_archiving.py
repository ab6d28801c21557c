"""`fairlog archive`: what was recorded stays provable, and what is open goes on."""

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa
from msgspec import Raw
from sqlalchemy.exc import DBAPIError

from adapters.archive.directory import Archive
from adapters.log import archived, audit_log
from adapters.log.log_size import LogSize, read_size
from adapters.log.tables import bodies, events, log_head, log_snapshot, log_tiles
from domain.decisions.answers import ArchiveChanged, Claimed, Submitted
from domain.jobs.job import ENDED, State
from domain.language.commands import BeginArchive, ClaimJobs, RetryJob, SaveProjections
from domain.language.errors import (
    ArchiveConflict,
    EventsArchived,
    InvalidInput,
    JobArchived,
    UnknownJob,
)
from domain.language.events import Role
from domain.language.identifiers import JobId, WorkerId
from entrypoints.composition import prepare, projection_tables, rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_cuts import cut_before
from entrypoints.use_cases.archive_deletion import finish
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.explain import input_of
from entrypoints.use_cases.restore import restore
from entrypoints.use_cases.time_travel import TimeTravel
from entrypoints.use_cases.verification import verify_log
from projections.storage.snapshot import Digest, SnapshotPart, packed, unpacked
from tests.support.archived_history import (
    DAY,
    archive_older,
    first_event,
    follow,
    live,
    rows_of,
    submission,
)
from tests.support.clock import ManualClock
from tests.support.core import do, execute_now, service
from tests.support.keys import create_key

DAYS: Final = 16
KEY_SECONDS: Final = int(3 * DAY)  # that keys hold


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    """A service with a history of some days."""
    with service(database_url, clock=clock, idempotency_seconds=KEY_SECONDS) as found:
        live(found, clock, days=DAYS, rounds=6)
        follow(found)
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def findings(fairlog: Fairlog) -> list[str]:
    found: list[str] = []
    verify_log(fairlog, lambda one: found.append(str(one)), lambda *_: None)
    return found


def test_the_service_goes_on_from_the_snapshot(
    fairlog: Fairlog, clock: ManualClock, place: Archive
) -> None:
    cut = archive_older(fairlog, clock, place, 6)
    assert findings(fairlog) == []
    live(fairlog, clock, days=4, rounds=6, seed=2)
    execute_now(fairlog, SaveProjections())
    follow(fairlog)
    assert findings(fairlog) == []
    before = rows_of(fairlog)
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == before
    assert archive_older(fairlog, clock, place, 5) > cut
    assert findings(fairlog) == []
    with fairlog.database.read() as connection:
        first, *later = archived.segments(connection)
        assert (first.first, first.last) == (1, cut)
        assert later[0].first == cut + 1
        assert later[0].previous_hash == first.last_hash


def test_the_database_holds_only_what_is_needed(
    fairlog: Fairlog, clock: ManualClock, place: Archive
) -> None:
    cut = archive_older(fairlog, clock, place, 6)
    with fairlog.database.read() as connection:
        assert first_event(connection) == cut + 1
        [segment] = archived.segments(connection)
        stored = set(connection.execute(sa.select(bodies.c.position)).scalars())
        old = [position for position in stored if position <= cut]
        jobs = fairlog.jobs.newest(connection, None, None, cut + 1, 10_000)
    assert 0 < len(old) < segment.bodies
    assert jobs
    for job in jobs:
        is_ended = job.state in ENDED
        assert not is_ended or job.holds_key
        assert job.state is not State.SCHEDULED or job.id in old  # its payload


def test_dropped_tables_come_back_from_the_snapshot(
    fairlog: Fairlog, clock: ManualClock, place: Archive
) -> None:
    archive_older(fairlog, clock, place, 6)
    live(fairlog, clock, days=1, rounds=4, seed=3)
    execute_now(fairlog, SaveProjections())
    follow(fairlog)
    before = rows_of(fairlog)
    with fairlog.database.write() as connection:
        for tables in projection_tables(fairlog).values():
            for table in tables:
                table.drop(connection)
    prepare(fairlog)
    follow(fairlog)
    assert rows_of(fairlog) == before
    assert findings(fairlog) == []


def test_states_that_an_earlier_release_left_at_the_cut_are_read(
    fairlog: Fairlog, clock: ManualClock, place: Archive
) -> None:
    """They have no schedules and no endpoints of callbacks, in a table of another name."""
    cut = archive_older(fairlog, clock, place, 6)
    before = fairlog.read_now(partial(TimeTravel(fairlog).state, as_of=cut))
    with fairlog.database.write() as connection:
        for row in connection.execute(sa.select(log_snapshot)).all():
            [part] = unpacked([row.data])
            if part.projection == "snapshots":
                part = SnapshotPart("snapshots", 2, "snapshots_v2", list(map(_earlier, part.rows)))
                changed = log_snapshot.update().where(log_snapshot.c.part == row.part)
                connection.execute(changed.values(data=packed(part, Digest())))
    rebuild_projections(fairlog, ["snapshots"])
    assert fairlog.read_now(partial(TimeTravel(fairlog).state, as_of=cut)) == before


def _earlier(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row of a state as it was before states had schedules and callbacks."""
    position, part, data = row
    fields = msgspec.msgpack.decode(data)
    assert (fields[0], fields[-2:]) == (4, [[], []])
    return position, part, msgspec.msgpack.encode([3, *fields[1:-2]])


def test_open_jobs_of_the_archived_part_go_on(
    fairlog: Fairlog, clock: ManualClock, place: Archive
) -> None:
    far = do(fairlog, submission(clock, days_ahead=30), Submitted).job
    clock.advance(8 * DAY)
    live(fairlog, clock, days=5, rounds=2, seed=4)
    follow(fairlog)
    cut = archive_older(fairlog, clock, place, 6)
    assert far.id <= cut
    travel = TimeTravel(fairlog)
    with fairlog.database.read() as connection:
        assert input_of(fairlog, connection, far.id).job.state is State.SCHEDULED
        assert travel.job(connection, far.id, cut + 1).payload == Raw(b'{"number":1}')
        with pytest.raises(EventsArchived, match=str(cut)):
            travel.job(connection, far.id, cut - 1)
    clock.advance(30 * DAY)
    execute_now(fairlog, SaveProjections())
    found = do(fairlog, ClaimJobs(worker=WorkerId("late"), max_jobs=1000), Claimed)
    while not any(job.id == far.id for job in found.jobs) and found.jobs:
        found = do(fairlog, ClaimJobs(worker=WorkerId("late"), max_jobs=1000), Claimed)


def test_an_archived_job_is_gone_and_says_where(
    fairlog: Fairlog, clock: ManualClock, place: Archive
) -> None:
    with fairlog.database.read() as connection:
        old = fairlog.jobs.newest(connection, None, State.FAILED, None, 1000)[-1]
    cut = archive_older(fairlog, clock, place, 6)
    assert old.id <= cut
    with fairlog.database.read() as connection:
        [segment] = archived.segments(connection)
        assert not fairlog.jobs.find(connection, [old.id])
        with pytest.raises(JobArchived, match=segment.name):
            input_of(fairlog, connection, old.id)
        with pytest.raises(EventsArchived):
            fairlog.log.read(connection, 0, 10)
        assert type(archived.absence(connection, JobId(10**9))) is UnknownJob
    with pytest.raises(JobArchived):
        execute_now(fairlog, RetryJob(job_id=old.id))


def test_a_restored_log_is_archived_anew(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("first", "second")]
    for one in places:
        one.mkdir()
    cut = archive_older(fairlog, clock, Archive(places[0]), 10)
    restore(fairlog, str(places[0]), lambda *_: None)
    with fairlog.database.read() as connection:
        assert type(archived.absence(connection, JobId(cut))) is UnknownJob
    with pytest.raises(InvalidInput, match="restored"):
        archive_older(fairlog, clock, Archive(places[0]), 8)
    for days in (8, 6):
        cut = archive_older(fairlog, clock, Archive(places[1]), days)
    with fairlog.database.read() as connection:
        assert archived.segments(connection)[-1].last == cut
    assert findings(fairlog) == []


def test_the_size_is_that_of_what_is_not_archived(
    fairlog: Fairlog, clock: ManualClock, place: Archive
) -> None:
    def size() -> LogSize:
        return fairlog.read_now(lambda connection: read_size(connection, clock.now(), None))

    execute_now(fairlog, create_key("kept", Role.READER))
    clock.advance(8 * DAY)
    live(fairlog, clock, days=5, rounds=2, seed=4)
    follow(fairlog)
    cut = archive_older(fairlog, clock, place, 6)  # the event of the key stays below the cut
    found = size()
    with fairlog.database.read() as connection:
        assert archived.kept_rows(connection, cut)
        assert found.events == fairlog.log.position(connection) - cut
        assert found.oldest_at == audit_log.times_at(connection, [cut + 1])[cut + 1]


def test_an_archive_learns_its_own_begin(fairlog: Fairlog, clock: ManualClock) -> None:
    begin = BeginArchive(last=10, recorded_at=clock.now())
    answers = [do(fairlog, begin, ArchiveChanged) for _ in range(2)]
    with fairlog.database.read() as connection:
        latest = archived.latest_archive_event(connection)
    assert [one.begun for one in answers] == [latest - 1, latest]


def test_the_database_refuses_to_delete_what_is_not_archived(
    fairlog: Fairlog, clock: ManualClock, place: Archive
) -> None:
    cut = archive_older(fairlog, clock, place, 6)
    delete = events.delete()
    with pytest.raises(DBAPIError, match="append-only"), fairlog.database.write() as connection:
        connection.execute(delete.where(events.c.position == cut + 1))
    with fairlog.database.write() as connection:
        kept = archived.kept_rows(connection, cut)
        connection.execute(delete.where(events.c.position <= cut, events.c.position != 0))
    assert len(findings(fairlog)) == len(kept)


def test_of_two_archives_the_one_that_began_later_wins(
    fairlog: Fairlog, clock: ManualClock, place: Archive, tmp_path: Path
) -> None:
    cut = cut_before(fairlog, clock.now() - timedelta(days=6), None)
    other = Archive(tmp_path / "other")
    (tmp_path / "other").mkdir()
    began: list[int] = []

    def meanwhile(*_: object) -> None:
        if not began:
            began.append(1)
            archive(fairlog, other, cut, lambda *_: None)

    with pytest.raises(ArchiveConflict, match=str(cut)):
        archive(fairlog, place, cut, meanwhile)
    follow(fairlog)
    assert findings(fairlog) == []


STEPS: Final = ("writing", "comparing", "deleting bodies", "deleting events")


@pytest.mark.parametrize("stop_after", STEPS)
def test_a_stopped_archive_is_finished_by_the_next(
    database_url: str, fairlog: Fairlog, clock: ManualClock, place: Archive, stop_after: str
) -> None:
    cut = cut_before(fairlog, clock.now() - timedelta(days=6), None)

    def stop(what: str, *_: object) -> None:
        if what == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive(fairlog, place, cut, stop)
    with service(database_url, clock=clock, idempotency_seconds=KEY_SECONDS) as started_later:
        follow(started_later)  # with nothing in memory
        position = started_later.read_now(started_later.log.position)
        state = started_later.read_now(partial(TimeTravel(started_later).state, as_of=position))
        assert state.position == position
    follow(fairlog)
    if not stop_after.startswith(
        "deleting"
    ):  # then rows are left over, which nothing names any more
        assert findings(fairlog) == []
    archive(fairlog, place, cut, lambda *_: None)
    finish(fairlog, lambda *_: None)
    follow(fairlog)
    assert findings(fairlog) == []
    with fairlog.database.read() as connection:
        assert fairlog.log.cut(connection).position == cut


def test_every_change_of_what_the_archive_left_is_found(
    fairlog: Fairlog, clock: ManualClock, place: Archive
) -> None:
    cut = archive_older(fairlog, clock, place, 6)

    def found_after(*statements: sa.Executable) -> str:
        with fairlog.database.write() as connection:
            for statement in statements:
                connection.execute(statement)
        return "\n".join(findings(fairlog))

    with fairlog.database.read() as connection:
        part = connection.execute(sa.select(log_snapshot)).first()
        old = connection.execute(
            sa.select(sa.func.min(bodies.c.position)).where(bodies.c.position <= cut)
        ).scalar_one()
    assert part is not None
    assert f"event {old}: its body is missing" in found_after(
        bodies.delete().where(bodies.c.position == old)
    )
    with fairlog.database.read() as connection:
        tile = connection.execute(sa.select(log_tiles)).first()
    assert tile is not None
    changed = log_tiles.update().where(log_tiles.c.tile == tile.tile)
    assert "archived Merkle tile 0 of level 0" in found_after(
        changed.values(hashes=bytes(32) + tile.hashes[32:])
    )
    assert "latest archive began" in found_after(log_head.update().values(closed_at=0))
    assert "archived up to" in found_after(log_head.update().values(archived_hash=bytes(32)))
    snapshot = log_snapshot.update().where(log_snapshot.c.part == part.part)
    assert "snapshot" in found_after(snapshot.values(data=part.data[:-9] + b"123456789"))
    assert "snapshot" in found_after(log_snapshot.delete().where(log_snapshot.c.part == 1))
