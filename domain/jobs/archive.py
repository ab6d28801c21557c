"""The archived part of the log: which events may be gone, and which jobs change no more.

An archive begins with `ArchiveBegun`: the jobs that had ended by its moment are closed, so that no
later event is about a job that the snapshot at the cut does not have, but for the erasure of its
bodies, which changes nothing there. `SegmentArchived` declares that events may be deleted,
`SegmentRewritten` that a file without erased bodies takes the place of another. See ADR 54 and 55.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from domain.jobs.job import ENDED, Job
from domain.language.commands import (
    ArchiveSegments,
    BeginArchive,
    CompleteArchive,
    EraseArchivedBodies,
    RewriteSegment,
)
from domain.language.errors import (
    ArchiveConflict,
    BodiesAreNeeded,
    JobArchived,
    SegmentConflict,
    UnknownJob,
)
from domain.language.events import (
    ArchiveBegun,
    ArchiveCompleted,
    BodiesErased,
    Event,
    Recorded,
    SegmentArchived,
    SegmentRewritten,
)
from domain.language.moments import UNIX_EPOCH
from domain.log.folds import Folded, FoldMethods
from domain.log.segments import NamingEvent, Segment, has_same_events, segment_of, with_named

ARCHIVE_EVENTS: Final = (ArchiveBegun, SegmentArchived, SegmentRewritten, ArchiveCompleted)


class ArchiveState(Folded):
    """The position up to which the log is archived, and the jobs that are closed: they are not
    retried. Their bodies may be erased, which is the last event of a job and needs no row of it.
    """

    def __init__(self) -> None:
        self.position = 0  # of the last event that is archived; 0: none is
        self.begun = 0  # position of the latest `ArchiveBegun`: only that archive may go on
        # UTC: jobs that had ended by then run no more. The time of the event at `position`, or
        # a later one's if a further archive has begun.
        self.closed_at = UNIX_EPOCH
        # The files that the log names. A writer knows them only while it decides a command that
        # needs them: see `needs_segments`.
        self.segments: Sequence[Segment] = ()

    def become(self, position: int, begun: int, closed_at: datetime) -> None:
        self.position, self.begun, self.closed_at = position, begun, closed_at

    def is_closed(self, job: Job) -> bool:
        """Return True if the job ended in the archived part, or in one that is being archived."""
        return (
            job.state in ENDED and job.finished_at is not None and job.finished_at <= self.closed_at
        )

    def check_open(self, job: Job) -> None:
        """Raise `JobArchived` if the job is closed, so that it cannot be retried."""
        if self.is_closed(job):
            raise JobArchived(job.id)

    def _begun(self, recorded: Recorded, event: ArchiveBegun) -> None:
        self.begun = recorded.position
        self.closed_at = max(self.closed_at, event.recorded_at)

    def _archived(self, _: Recorded, event: SegmentArchived) -> None:
        self.position = event.last
        self._named(_, event)

    def _named(self, _: Recorded, event: NamingEvent) -> None:
        self.segments = with_named(self.segments, event)

    FOLDS: ClassVar[FoldMethods] = {
        ArchiveBegun: _begun,
        SegmentArchived: _archived,
        SegmentRewritten: _named,
    }


def needs_segments(command: object) -> bool:
    """Return True if a command is decided with `ArchiveState.segments`."""
    return isinstance(command, RewriteSegment)


def decide_archive(
    state: ArchiveState,
    command: BeginArchive | ArchiveSegments | RewriteSegment | CompleteArchive,
) -> Sequence[Event]:
    """Return the events that follow. Raises `ArchiveConflict` if another archive was quicker, and
    `SegmentConflict` if the file to replace is not the latest one.
    """
    match command:
        case BeginArchive(last=last, recorded_at=recorded_at):
            if last <= state.position:
                raise ArchiveConflict(state.position)
            return [ArchiveBegun(last=last, recorded_at=recorded_at)]
        case ArchiveSegments(segments=segments):
            before = state.position
            for segment in segments:
                if segment.first != before + 1 or segment.begun != state.begun:
                    raise ArchiveConflict(state.position)
                before = segment.last
            return segments
        case RewriteSegment(rewritten=rewritten):
            if wrong_rewrite(state.segments, rewritten) is not None:
                raise SegmentConflict(rewritten.replaces)
            return [rewritten]
        case CompleteArchive(last=last):
            if last != state.position:
                raise ArchiveConflict(state.position)
            return [ArchiveCompleted(last=last)]


def wrong_rewrite(segments: Sequence[Segment], event: SegmentRewritten) -> str | None:
    """Say what is wrong with an event, given the segments named before it; None: nothing."""
    replaced = next((one for one in segments if one.name == event.replaces), None)
    if replaced is None:
        return f"{event.replaces} was not the latest file of its events before it"
    if not has_same_events(segment_of(event), replaced):
        return f"its events are not those of {event.replaces}"
    if event.bodies > replaced.bodies:
        return f"it has more bodies than {event.replaces}"
    return None


def decide_archived_erasure(
    state: ArchiveState, job: Job | None, command: EraseArchivedBodies
) -> Sequence[Event]:
    """Return the events that follow; `job` is the job's row, which mostly is gone.

    Raises `BodiesAreNeeded`, and `UnknownJob` for a job without a row that is not archived.
    """
    if not command.positions or (job is not None and job.erased_at is not None):
        return []
    if job is not None and job.state not in ENDED:
        raise BodiesAreNeeded(job.id, job.state)
    if job is None and command.job_id > state.position:
        raise UnknownJob(command.job_id)
    return [BodiesErased(user_id=command.user_id, kind=command.kind, positions=command.positions)]
