"""The rules of the archived part of the log: which file is a segment, and what may be erased."""

from typing import Any, Final

import pytest
from msgspec.structs import replace

from domain.audit.archive_legality import check_archive_event, misarchived
from domain.jobs.archive import ArchiveState, decide_archive, decide_archived_erasure
from domain.language.commands import EraseArchivedBodies, RewriteSegment
from domain.language.errors import BodiesAreNeeded, SegmentConflict, UnknownJob
from domain.language.events import BodiesErased, Event, Recorded, SegmentArchived
from domain.language.identifiers import JobId
from domain.log.segments import named_segments, rewritten_event, segment_of
from tests.support.given import NOW, given
from tests.support.stories import ALICE, ECHO, JOB, SUBMITTED, completed, started


def segment_archived(first: int, last: int, name: str) -> SegmentArchived:
    return SegmentArchived(
        first=first,
        last=last,
        first_recorded_at=NOW,
        last_recorded_at=NOW,
        previous_hash="00",
        last_hash="01",
        roots=("02",),
        bodies=4,
        log_id="03",
        begun=20,
        name=name,
        size=100,
        sha256="04",
    )


FIRST: Final = segment_archived(1, 9, "first")
SECOND: Final = segment_archived(10, 19, "second")
ANEW: Final = rewritten_event(
    replace(segment_of(FIRST), name="anew", bodies=3, size=90, sha256="05"), "first", 25
)
ERASE: Final = EraseArchivedBodies(job_id=JobId(3), user_id=ALICE, kind=ECHO, positions=(3, 5))


def recorded(event: Event, position: int = 30) -> Recorded:
    return Recorded(position=position, recorded_at=NOW, job_id=None, event=event)


def archived(*events: Event) -> ArchiveState:
    state = ArchiveState()
    for event in events:
        state.evolve(recorded(event))
    return state


def names(state: ArchiveState) -> list[str]:
    return [one.name for one in state.segments]


def test_the_latest_file_of_each_part_is_its_segment() -> None:
    assert names(archived(FIRST, SECOND)) == ["first", "second"]
    assert names(archived(FIRST, SECOND, ANEW)) == ["anew", "second"]
    assert archived(FIRST, SECOND, ANEW).position == 19
    assert names(archived(FIRST, SECOND, ANEW, segment_archived(1, 12, "other"))) == ["other"]
    assert [one.name for one in named_segments([FIRST, ANEW])] == ["anew"]


def test_a_file_takes_the_place_of_the_latest_one_alone() -> None:
    command = RewriteSegment(rewritten=ANEW)
    assert decide_archive(archived(FIRST, SECOND), command) == [ANEW]
    with pytest.raises(SegmentConflict, match="first"):
        decide_archive(archived(FIRST, ANEW), command)


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"replaces": "second"}, "its events are not those of second"),
        ({"last_hash": "ff"}, "its events are not those of first"),
        ({"log_id": "ff"}, "its events are not those of first"),
        ({"bodies": 5}, "it has more bodies than first"),
        ({"replaces": "other"}, "other was not the latest file of its events before it"),
    ],
)
def test_what_no_rewrite_may_say_is_told(changed: dict[str, Any], wrong: str) -> None:
    state = archived(FIRST, SECOND)
    event = replace(ANEW, **changed)
    assert misarchived(state, recorded(ANEW)) is None
    assert misarchived(state, recorded(event)) == wrong
    with pytest.raises(SegmentConflict):
        decide_archive(state, RewriteSegment(rewritten=event))


def test_a_rewrite_follows_an_erasure_that_was_recorded() -> None:
    assert check_archive_event(None, recorded(ANEW), ANEW) is None
    early = check_archive_event(None, recorded(ANEW, 25), ANEW)
    assert early == "it follows the event 25, which comes later"


def test_an_archived_job_is_erased_without_its_row() -> None:
    state = archived(FIRST, SECOND)
    assert decide_archived_erasure(state, None, ERASE) == [
        BodiesErased(user_id=ALICE, kind=ECHO, positions=(3, 5))
    ]
    assert decide_archived_erasure(state, None, replace(ERASE, positions=())) == []
    with pytest.raises(UnknownJob):
        decide_archived_erasure(state, None, replace(ERASE, job_id=JobId(20)))


def test_a_row_that_is_still_there_decides() -> None:
    state = archived(FIRST, SECOND)
    ended = given(SUBMITTED, started(), completed()).job(JOB)
    open_job = given(SUBMITTED, started()).job(JOB)
    command = replace(ERASE, job_id=JOB)
    assert len(decide_archived_erasure(state, ended, command)) == 1
    assert decide_archived_erasure(state, replace(ended, erased_at=NOW), command) == []
    with pytest.raises(BodiesAreNeeded):
        decide_archived_erasure(state, open_job, command)
