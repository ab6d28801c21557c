"""The state of the system that each segment has: it is what its events give, and it is checked."""

import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from adapters.archive.archived_log import ArchivedLog
from adapters.archive.directory import Archive
from adapters.archive.segment_format import StoredState
from adapters.settings import Settings
from domain.audit.system_state import FORMAT, to_snapshot
from domain.language.errors import SegmentUnusable
from domain.log.segments import Segment
from entrypoints.composition import compose
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_verification import verify_archive
from entrypoints.use_cases.restore import restore
from entrypoints.use_cases.time_travel import TimeTravel
from entrypoints.use_cases.whole_history import whole_history
from projections.following.snapshots import current, state_at
from tests.support import history
from tests.support.archived_history import archive_older, findings, follow, live
from tests.support.archives import States, bodies_of, write_up_to
from tests.support.clock import ManualClock
from tests.support.core import service
from tests.support.repository import ROOT

LASTS = [50, 90, 130]


@pytest.fixture(scope="module")
def fairlog(new_database_url: Any) -> Iterator[Fairlog]:
    """Every type of event. Tests only read it."""
    with history.service_with_history(new_database_url()) as (told, _):
        yield told


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def right(fairlog: Fairlog) -> States:
    def state(position: int) -> StoredState:
        with fairlog.database.read() as connection:
            found = state_at(connection, current(), fairlog.log.read, position)
        return StoredState(FORMAT, to_snapshot(found))

    return state


def found_by_verify(fairlog: Fairlog, archive: Archive) -> list[str]:
    found: list[str] = []
    verify_archive(fairlog, archive.location, lambda one: found.append(str(one)), lambda *_: None)
    return found


def altered(one: StoredState, _: StoredState) -> StoredState:
    data = bytearray(one.data)
    data[len(data) // 2] ^= 1
    return StoredState(one.format, bytes(data))


def swapped(_: StoredState, other: StoredState) -> StoredState:
    return other


def cut_short(one: StoredState, _: StoredState) -> StoredState:
    return StoredState(one.format, one.data[:-5])


@pytest.mark.parametrize("wrong", [altered, swapped, cut_short])
def test_a_state_that_was_wrong_when_it_was_written_is_named(
    fairlog: Fairlog, archive: Archive, wrong: Any
) -> None:
    state = right(fairlog)
    segments = write_up_to(
        fairlog,
        archive,
        LASTS,
        lambda last: wrong(state(last), state(50)) if last == 90 else state(last),
    )
    what = "its state is not the one that the events up to 90 give"
    assert found_by_verify(fairlog, archive) == [f"segment {segments[1].name}: {what}"]


def test_right_states_absent_ones_and_those_of_other_releases_are_clean(
    fairlog: Fairlog, archive: Archive
) -> None:
    others = {50: None, 90: StoredState("fairlog-state-2", b"of an earlier release")}
    state = right(fairlog)
    segments = write_up_to(fairlog, archive, LASTS, lambda last: others.get(last, state(last)))
    assert found_by_verify(fairlog, archive) == []
    with ArchivedLog(archive, segments) as log:
        assert log.state_by(129) is None
        latest = log.state_by(130)
    assert latest is not None
    assert latest.position == 130


def byte_changed(folder: Path, segment: Segment, offset: int) -> None:
    content = bytearray((folder / segment.name).read_bytes())
    content[offset] ^= 1
    (folder / segment.name).write_bytes(content)


def test_a_state_that_was_changed_in_its_file_is_refused_and_named(
    fairlog: Fairlog, archive: Archive, tmp_path: Path
) -> None:
    segments = write_up_to(fairlog, archive, LASTS, right(fairlog))
    with archive.open(segments[1]) as reader:
        part = reader.content.state
    assert part is not None
    byte_changed(tmp_path, segments[1], part.offset + part.size // 2)
    with ArchivedLog(archive, segments) as log, pytest.raises(SegmentUnusable, match="changed"):
        log.state_by(100)
    assert any(segments[1].name in one for one in found_by_verify(fairlog, archive))


def test_a_segment_without_its_bodies_keeps_its_state_which_has_none(
    fairlog: Fairlog, archive: Archive
) -> None:
    segments = write_up_to(fairlog, archive, LASTS, right(fairlog))
    bodies = bodies_of(fairlog, 50, 90)
    assert bodies
    new = archive.rewrite(segments[1], list(bodies))
    with archive.open(segments[1]) as before, archive.open(new) as after:
        state = after.state()
        assert state is not None
        assert state == before.state() == right(fairlog)(90)
    assert not any(body in state.data for body in bodies.values())


def test_an_archive_whose_state_was_taken_out_or_exchanged_is_named(
    new_database_url: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrypoints.use_cases.archiving.EVENTS_PER_SEGMENT", 30)
    (place := tmp_path / "archive").mkdir()
    (forged := tmp_path / "forged").mkdir()
    clock = ManualClock()
    with service(new_database_url(), clock=clock) as fairlog:
        live(fairlog, clock, days=8, rounds=5)
        follow(fairlog)
        archive_older(fairlog, clock, Archive(place), 4)
        assert findings(fairlog, place) == []
        with whole_history(fairlog, str(place)) as log:
            one, two = log.segments[:2]
            others = [None, log._reader(two).state()]
            rows = log.rows(0, one.events)
            stored = list(log._reader(one).bodies_between(0, one.last))
        for other in others:
            shutil.copy(place / one.name, tmp_path / "right")
            new = Archive(forged).write([rows], stored, first=1, state=partial(_return, other))
            shutil.copy(forged / new.name, place / one.name)
            assert any(one.name in found for found in findings(fairlog, place))
            shutil.move(tmp_path / "right", place / one.name)
        assert findings(fairlog, place) == []


def test_an_archive_of_a_release_without_states_is_read(new_database_url: Any) -> None:
    place = ROOT / "tests" / "corpus" / "archive_without_states"
    with closing(compose(Settings(database_url=new_database_url()), clock=ManualClock())) as log:
        last, *_ = restore(log, str(place), lambda *_: None)
        assert last == 115
        follow(log)
        assert findings(log, place) == []
        asked = sorted(random.Random(1).sample(range(last + 1), 12))
        live_answers = states(log, asked)
        with whole_history(log, str(place)) as segments:
            assert segments.state_by(last) is None
            assert states(log, asked) == live_answers


def _return(state: StoredState | None) -> StoredState | None:
    return state


def states(fairlog: Fairlog, positions: Sequence[int]) -> list[Any]:
    with fairlog.database.read() as connection:
        return [TimeTravel(fairlog).state(connection, one) for one in positions]
