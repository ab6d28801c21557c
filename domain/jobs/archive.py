"""The archived part of the log: which events may be gone, and which jobs change no more.

An archive begins with `ArchiveBegun`: the jobs that had ended by its moment are closed, so that no
later event is about a job that the snapshot at the cut does not have. `SegmentArchived` declares
that events may be deleted. See ADR 50.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Final

from domain.jobs.job import ENDED, Job
from domain.language.commands import ArchiveSegments, BeginArchive, CompleteArchive
from domain.language.errors import ArchiveConflict, JobArchived
from domain.language.events import (
    ArchiveBegun,
    ArchiveCompleted,
    Event,
    Recorded,
    SegmentArchived,
)
from domain.language.moments import UNIX_EPOCH
from domain.log.folds import Folded, FoldMethods

ARCHIVE_EVENTS: Final = (ArchiveBegun, SegmentArchived, ArchiveCompleted)


class ArchiveState(Folded):
    """The position up to which the log is archived, and the jobs that are closed."""

    def __init__(self) -> None:
        self.position = 0  # of the last event that is archived; 0: none is
        self.begun = 0  # position of the latest `ArchiveBegun`: only that archive may go on
        # UTC: jobs that had ended by then change no more. The time of the event at `position`, or
        # a later one's if a further archive has begun.
        self.closed_at = UNIX_EPOCH

    def become(self, position: int, begun: int, closed_at: datetime) -> None:
        self.position, self.begun, self.closed_at = position, begun, closed_at

    def is_closed(self, job: Job) -> bool:
        """Return True if the job ended in the archived part, or in one that is being archived."""
        return (
            job.state in ENDED and job.finished_at is not None and job.finished_at <= self.closed_at
        )

    def check_open(self, job: Job) -> None:
        """Raise `JobArchived` if the job is closed."""
        if self.is_closed(job):
            raise JobArchived(job.id)

    def _begun(self, recorded: Recorded, event: ArchiveBegun) -> None:
        self.begun = recorded.position
        self.closed_at = max(self.closed_at, event.recorded_at)

    def _archived(self, _: Recorded, event: SegmentArchived) -> None:
        self.position = event.last

    FOLDS: ClassVar[FoldMethods] = {ArchiveBegun: _begun, SegmentArchived: _archived}


def decide_archive(
    state: ArchiveState, command: BeginArchive | ArchiveSegments | CompleteArchive
) -> Sequence[Event]:
    """Return the events that follow. Raises `ArchiveConflict` if another archive was quicker."""
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
        case CompleteArchive(last=last):
            if last != state.position:
                raise ArchiveConflict(state.position)
            return [ArchiveCompleted(last=last)]
