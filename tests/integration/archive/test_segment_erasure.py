"""Bodies are erased in segments too: with an event, and no file with them is left."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from adapters.archive.directory import Archive
from adapters.archive.source import bodies_between
from adapters.doctor import Level
from adapters.log import archived
from adapters.log.audit_log import EventFilter
from adapters.settings import Settings
from domain.decisions.answers import Submitted
from domain.jobs.job import Job, State
from domain.language.commands import CancelJob, EraseArchivedBodies, RewriteSegment
from domain.language.errors import InvalidInput, SegmentConflict, SegmentUnusable, UnknownJob
from domain.language.events import BodiesErased
from domain.language.identifiers import JobId
from domain.log.segments import rewritten_event
from entrypoints.composition import compose
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archived_erasure import (
    count_archived,
    erase_archived,
    erase_archived_job,
)
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.diagnosis import erased_in_segments
from entrypoints.use_cases.erasure import Erased, count_older, erase_job, erase_older
from entrypoints.use_cases.export import pages
from entrypoints.use_cases.proofs import Prover
from entrypoints.use_cases.restore import restore
from entrypoints.use_cases.segment_erasure import check_place, rewrite_segments
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
from tests.support.clock import ManualClock
from tests.support.core import do, execute_now, service

DAYS: Final = 12


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, idempotency_seconds=int(3 * DAY)) as found:
        live(found, clock, days=DAYS, rounds=3)
        follow(found)
        yield found


def an_ended_job(fairlog: Fairlog) -> Job:
    """The oldest one that failed; it has a payload and an error."""
    with fairlog.database.read() as connection:
        return fairlog.jobs.newest(connection, None, State.FAILED, None, 1000)[-1]


def end_of(fairlog: Fairlog) -> int:
    return fairlog.read_now(fairlog.log.position)


def stored_bodies(place: Path) -> dict[int, bytes]:
    """All bodies in all files of a place, also in those that the log does not name."""
    found: dict[int, bytes] = {}
    one = Archive(place)
    for name in one.names():
        with one.open(one.stored(name)) as reader:
            found |= dict(reader.bodies_between(0, 10**9))
    return found


def erase(fairlog: Fairlog, place: Path, job_id: JobId) -> Erased:
    done = Erased()
    erase_archived_job(fairlog, str(place), job_id, done)
    rewrite_segments(fairlog, Archive(place), lambda *_: None)
    return done


def answer(fairlog: Fairlog, place: Path, job: Job, end: int) -> dict[str, Any]:
    with whole_history(fairlog, str(place)), fairlog.database.read() as connection:
        travel, prover = TimeTravel(fairlog), Prover(fairlog)
        exported = pages(fairlog, EventFilter(job_id=job.id), (0, end), bodies=True)
        return {
            "view": travel.job(connection, job.id, end),
            "proof": msgspec.json.encode(prover.prove_job(connection, job.id, end)),
            "state": msgspec.json.encode(travel.state(connection, job.id + 1)),
            "export": [one for page in exported for one in page],
        }


def test_a_body_leaves_its_segment_with_an_event(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path
) -> None:
    job = an_ended_job(fairlog)
    archive_older(fairlog, clock, Archive(tmp_path), 6)
    Prover(fairlog).catch_up()
    end = end_of(fairlog)
    [before] = fairlog.read_now(archived.segments)
    told = answer(fairlog, tmp_path, job, end)
    assert bytes(told["view"].payload) != b"null"
    done = Erased()
    erase_archived_job(fairlog, str(tmp_path), job.id, done)
    hidden = answer(fairlog, tmp_path, job, end)  # the file still has it
    rewritten = rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
    assert (done.jobs, done.bodies) == (1, rewritten.bodies)
    assert (rewritten.segments, rewritten.bodies) == (1, done.bodies)
    now = answer(fairlog, tmp_path, job, end)
    assert msgspec.json.encode(hidden) == msgspec.json.encode(now)
    assert now["view"].erased
    assert bytes(now["view"].payload) == b"null"
    assert [one.erased for one in now["export"]].count(True) == done.bodies
    assert (now["proof"], now["state"]) == (told["proof"], told["state"])
    [segment] = fairlog.read_now(archived.segments)
    assert Archive(tmp_path).names() == [segment.name]
    assert segment.bodies == before.bodies - done.bodies
    assert job.id not in stored_bodies(tmp_path)
    assert findings(fairlog, tmp_path) == []
    assert end_of(fairlog) == end + 2
    assert erase(fairlog, tmp_path, job.id) == Erased()
    assert end_of(fairlog) == end + 2
    with fairlog.database.read() as connection:
        assert not fairlog.jobs.find(connection, [job.id])


def test_all_archived_jobs_of_a_user_or_an_age_are_erased(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path
) -> None:
    for days in (8, 6):
        archive_older(fairlog, clock, Archive(tmp_path), days)
    place = str(tmp_path)
    done, moment = Erased(), clock.now() - timedelta(days=7)
    erase_archived(fairlog, place, done, user_id=USERS[2])
    rewritten = rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
    assert done.jobs > 1
    assert rewritten.bodies == done.bodies
    with whole_history(fairlog, place) as segment_log:
        left = [one for page in segment_log.payloads(user_id=USERS[2]) for one in page]
    with fairlog.database.read() as connection:
        assert {job.id for job in fairlog.jobs.find(connection, left).values()} == set(left)
    counted = count_older(fairlog, moment)
    count_archived(fairlog, place, counted, moment)
    end = end_of(fairlog)
    older = erase_older(fairlog, moment)
    erase_archived(fairlog, place, older, ended_before=moment)
    assert counted == older
    assert older.jobs > 1
    assert end_of(fairlog) == end + older.jobs
    rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
    assert findings(fairlog, tmp_path) == []
    again = Erased()
    erase_archived(fairlog, place, again, ended_before=moment)
    assert again == Erased()


def erased_after_the_cut(fairlog: Fairlog, clock: ManualClock, place: Path) -> JobId:
    """A job that was open at the cut, and was erased in the database alone."""
    far = do(fairlog, submission(clock, days_ahead=30), Submitted).job
    clock.advance(8 * DAY)
    live(fairlog, clock, days=5, rounds=2, seed=4)
    follow(fairlog)
    assert far.id <= archive_older(fairlog, clock, Archive(place), 6)
    execute_now(fairlog, CancelJob(job_id=far.id))
    assert erase_job(fairlog, far.id, cancel=False).bodies == 1
    return far.id


@pytest.mark.one_database
@pytest.mark.parametrize("by", ["erase", "archive"])
def test_the_copy_of_a_job_that_was_open_at_the_cut_is_erased(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path, by: str
) -> None:
    job_id = erased_after_the_cut(fairlog, clock, tmp_path)
    [segment] = fairlog.read_now(archived.segments)
    told = fairlog.read_now(erased_in_segments)
    assert told
    assert told.found == "erased bodies that are still in its segments: 1"
    [found] = findings(fairlog, tmp_path)
    assert f"segment {segment.name}: event " in found
    assert f" erased the body of event {job_id}, which is in it or never was" in found
    if by == "erase":
        assert rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None).bodies == 1
    else:
        archive(fairlog, Archive(tmp_path), segment.last, lambda *_: None)
    assert job_id not in stored_bodies(tmp_path)
    assert findings(fairlog, tmp_path) == []
    told = fairlog.read_now(erased_in_segments)
    assert told
    assert told.level is Level.OK


@pytest.mark.one_database
def test_a_later_archive_knows_jobs_that_were_erased_before_it(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path
) -> None:
    job = an_ended_job(fairlog)
    archive_older(fairlog, clock, Archive(tmp_path), 8)
    erase(fairlog, tmp_path, job.id)  # between the next cut and its `ArchiveBegun`
    archive_older(fairlog, clock, Archive(tmp_path), 6)
    assert findings(fairlog, tmp_path) == []
    clock.advance(6 * DAY)
    live(fairlog, clock, days=1, rounds=2, seed=7)
    follow(fairlog)
    archive_older(
        fairlog, clock, Archive(tmp_path), 5
    )  # now the events of the erasure are in a segment, too
    assert findings(fairlog, tmp_path) == []
    assert rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None).segments == 0


STEPS: Final = {
    "before the new file": (Archive, "rewrite"),
    "before it is compared": (Archive, "read_back"),
    "before it is recorded": (Fairlog, "execute_now"),
    "before the earlier file is removed": (Archive, "remove"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_stopped_erasure_is_finished_by_the_next(
    fairlog: Fairlog,
    clock: ManualClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    job = an_ended_job(fairlog)
    archive_older(fairlog, clock, Archive(tmp_path), 6)
    [before] = fairlog.read_now(archived.segments)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    erase_archived_job(fairlog, str(tmp_path), job.id, Erased())
    with monkeypatch.context() as patch:
        patch.setattr(*STEPS[step], stop)
        with pytest.raises(KeyboardInterrupt):
            rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
    found = "\n".join(findings(fairlog, tmp_path))
    assert before.name in found
    assert "with this archive removes it" in found
    with fairlog.database.read() as connection:
        other = next(
            one.job_id
            for one in archived_submissions(fairlog, tmp_path, connection)
            if one.job_id != job.id
        )
    assert other is not None
    erase(fairlog, tmp_path, other)  # so that the file of the stopped run is none that is wanted
    [segment] = fairlog.read_now(archived.segments)
    assert Archive(tmp_path).names() == [segment.name]
    assert not {job.id, other} & set(stored_bodies(tmp_path))
    assert findings(fairlog, tmp_path) == []


def archived_submissions(fairlog: Fairlog, place: Path, connection: Any) -> Sequence[Any]:
    """Submissions of archived jobs that have ended and have no row."""
    with whole_history(fairlog, str(place)) as segment_log:
        ids = [one for page in segment_log.payloads() for one in page]
        rows = fairlog.jobs.find(connection, ids)
        gone = [one for one in ids if one not in rows]
        return list(segment_log.of_jobs(gone, ["JobSubmitted"], 10**9))


@pytest.mark.one_database
def test_every_wrong_state_is_named(fairlog: Fairlog, clock: ManualClock, tmp_path: Path) -> None:
    job = an_ended_job(fairlog)
    archive_older(fairlog, clock, Archive(tmp_path), 6)
    [old] = fairlog.read_now(archived.segments)
    content = (tmp_path / old.name).read_bytes()
    erase(fairlog, tmp_path, job.id)
    [new] = fairlog.read_now(archived.segments)
    (tmp_path / old.name).write_bytes(content)
    [found] = findings(fairlog, tmp_path)
    assert found.startswith(f"segment {old.name}: event ")
    assert f"has replaced it by {new.name}, and it is still there" in found
    rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
    assert findings(fairlog, tmp_path) == []
    # A body is removed without an event, by somebody who can change the log, too.
    body = min(stored_bodies(tmp_path))
    forged = Archive(tmp_path).rewrite(new, [body])
    found = "\n".join(findings(fairlog, tmp_path))
    assert f"segment {forged.name}: the log does not name it" in found
    execute_now(
        fairlog, RewriteSegment(rewritten=rewritten_event(forged, new.name, end_of(fairlog)))
    )
    (tmp_path / new.name).unlink()
    [found] = findings(fairlog, tmp_path)
    assert found == f"event {body}: segment {forged.name}: the body of event {body} is missing"


@pytest.mark.one_database
def test_an_erasure_that_others_have_made_meanwhile_records_nothing(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path
) -> None:
    job = an_ended_job(fairlog)
    archive_older(fairlog, clock, Archive(tmp_path), 6)
    [old] = fairlog.read_now(archived.segments)
    command = EraseArchivedBodies(
        job_id=job.id, user_id=job.user_id, kind=job.kind, positions=(job.id,)
    )
    erase(fairlog, tmp_path, job.id)
    end = end_of(fairlog)
    execute_now(fairlog, command)
    with pytest.raises(SegmentConflict, match=old.name):
        execute_now(fairlog, RewriteSegment(rewritten=rewritten_event(old, old.name, end)))
    with pytest.raises(UnknownJob):
        execute_now(fairlog, msgspec.structs.replace(command, job_id=JobId(10**9)))
    assert end_of(fairlog) == end


@pytest.mark.one_database
def test_segments_alone_are_restored_after_an_erasure(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path, new_database_url: Any
) -> None:
    job = an_ended_job(fairlog)
    open_then = erased_after_the_cut(fairlog, clock, tmp_path)
    clock.advance(3 * DAY)
    live(fairlog, clock, days=5, rounds=2, seed=6)
    follow(fairlog)
    with fairlog.database.read() as connection:
        erasure = max(
            one.position
            for one in fairlog.log.read(connection, fairlog.log.cut(connection).position, 10**6)
            if isinstance(one.event, BodiesErased)
        )
    last = archive_older(fairlog, clock, Archive(tmp_path), 7)
    erase(fairlog, tmp_path, job.id)
    assert findings(fairlog, tmp_path) == []
    assert erasure > last or open_then not in stored_bodies(tmp_path)
    with closing(compose(Settings(database_url=new_database_url()), clock=clock)) as other:
        restored, again = restore(other, str(tmp_path), lambda *_: None)
        assert restored == last
        assert again.jobs >= 1
        assert findings(other, tmp_path) == []
        with other.database.read() as connection:
            stored = dict(bodies_between(connection, 0, 10**9))
        assert job.id not in stored
        assert open_then not in stored
        end = end_of(other)
        assert restore(other, str(tmp_path), lambda *_: None)[1] == Erased()
        assert end_of(other) == end


def test_a_live_part_is_restored_after_an_erasure(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path
) -> None:
    job = an_ended_job(fairlog)
    archive_older(fairlog, clock, Archive(tmp_path), 8)
    erase(fairlog, tmp_path, job.id)
    archive_older(fairlog, clock, Archive(tmp_path), 6)
    restore(fairlog, str(tmp_path), lambda *_: None)
    assert findings(fairlog, tmp_path) == []
    with fairlog.database.read() as connection:
        assert fairlog.jobs.find(connection, [job.id])[job.id].erased_at is not None
        other = fairlog.jobs.newest(connection, None, State.FAILED, None, 1000)[-1]
    erase_job(fairlog, other.id, cancel=False)  # in the database and in the segment
    rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
    assert other.id not in stored_bodies(tmp_path)
    assert findings(fairlog, tmp_path) == []


def test_another_place_is_refused_before_anything_is_erased(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path, new_database_url: Any
) -> None:
    places = [tmp_path / name for name in ("own", "empty", "foreign")]
    for place in places:
        place.mkdir()
    archive_older(fairlog, clock, Archive(places[0]), 6)
    with (
        service(new_database_url(), clock=ManualClock()) as other,
        pytest.raises(InvalidInput, match="this log names none"),
    ):
        check_place(other, Archive(places[0]))
    [segment] = fairlog.read_now(archived.segments)
    with pytest.raises(InvalidInput, match=f"does not have the segment {segment.name}"):
        check_place(fairlog, Archive(places[1]))
    (places[2] / segment.name).write_bytes(b"not a segment")
    with pytest.raises(SegmentUnusable, match="cut short or changed"):
        check_place(fairlog, Archive(places[2]))
    check_place(fairlog, Archive(places[0]))
