"""The check of an archive's events: whether they continue what was archived before."""

from domain.jobs.archive import ArchiveState, wrong_rewrite
from domain.jobs.job import Job
from domain.language.events import (
    ArchiveBegun,
    ArchiveCompleted,
    Recorded,
    SegmentArchived,
    SegmentRewritten,
)


def check_archive_event(
    _: Job | None,
    recorded: Recorded,
    event: ArchiveBegun | SegmentArchived | SegmentRewritten | ArchiveCompleted,
) -> str | None:
    """Say what is wrong with an event of the archive by itself; None: nothing."""
    if event.last >= recorded.position:
        return f"it is about the event {event.last}, which comes later"
    if isinstance(event, SegmentRewritten) and event.erasure >= recorded.position:
        return f"it follows the event {event.erasure}, which comes later"
    return None


def misarchived(state: ArchiveState, recorded: Recorded) -> str | None:
    """Say what is wrong with an event of the archive, given those before it."""
    match recorded.event:
        case SegmentArchived(first=first, last=last, begun=begun):
            # A log that was restored from its segments is archived from its beginning again.
            if first not in {state.position + 1, 1} or last < first:
                return f"the log was archived up to {state.position} before it"
            if begun != state.begun:
                return f"another archive had begun at {state.begun}"
        case SegmentRewritten() as event:
            return wrong_rewrite(state.segments, event)
        case ArchiveCompleted(last=last) if last != state.position:
            return f"the log was archived up to {state.position} before it"
        case _:
            pass
    return None
