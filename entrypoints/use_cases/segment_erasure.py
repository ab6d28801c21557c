"""Removes erased bodies from segments: a file that has some is written anew without them.

The new file is written, read back and compared, and recorded; only then the earlier one is removed.
Stopped anywhere, it is repeated: what is left to do follows from the log and the files.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy.engine import Connection

from adapters.archive.archived_log import ArchivedLog
from adapters.archive.directory import Archive
from adapters.log import archived
from domain.language.commands import RewriteSegment
from domain.language.errors import InvalidInput, SegmentConflict, SegmentUnusable
from domain.language.events import Recorded, SegmentArchived, SegmentRewritten
from domain.log.segments import (
    Segment,
    is_of_part,
    named_segments,
    naming_events,
    rewritten_event,
)
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.whole_history import erased_by, erasures, latest_files

_TRIES_MAX: Final = 3  # while others write the same segments anew

Progress = Callable[[int, int], None]  # positions of the archive examined, and all of them


class Rewritten(Struct):
    """The segments that were written anew."""

    segments: int = 0
    bodies: int = 0  # that they had and have no more


class _Pending(Struct, frozen=True):
    """The segments that the log names, and the bodies in each that may still have to go."""

    named: Sequence[Segment]
    names: frozenset[str]  # of all files that were ever named
    erased: Mapping[str, Sequence[int]]  # by name: positions of bodies, rising
    position: int  # of the log, where this is known


def bodies_left(connection: Connection) -> int:
    """Return how many bodies were erased and not removed from their segments, by the log alone.

    Only the latest ERASURES_MAX erasures are counted.
    """
    naming = archived.segment_names(connection)
    named = named_segments(naming_events(naming))
    since = without_since(naming) | {
        # An archive removes itself what was erased while it ran.
        one.event.name: one.position
        for one in naming
        if isinstance(one.event, SegmentArchived)
    }
    found = archived.latest_erasures(connection, min((since[one.name] for one in named), default=0))
    return sum(1 for _ in _left(named, since, erased_by(found)))


def check_place(fairlog: Fairlog, archive: Archive) -> None:
    """Raise `InvalidInput` for a place that has not all segments of the log, `SegmentUnusable` for
    one that is cut short or another log's, and `ArchiveUnavailable` if nothing can be written.
    """
    archive.check_writable()
    named = fairlog.read_now(archived.segments)
    names = archive.names()
    if not named:
        if names:
            raise InvalidInput(
                f"{archive.location} has segments like {names[0]}, and this log names none: they "
                "are another log's, or this one was restored from them. Then archive it to a new "
                "place, and erase there."
            )
        return
    for segment in latest_files(archive, named):
        if segment.name not in names:
            raise InvalidInput(
                f"{archive.location} does not have the segment {segment.name}: give the place "
                "where this log is archived, or bring the file back there."
            )
        archive.open(segment).close()


def rewrite_segments(fairlog: Fairlog, archive: Archive, progress: Progress) -> Rewritten:
    """Write each segment anew that has a body which the log says was erased, and remove files that
    were replaced. The writer must run. Raises as `check_place` does, and `SegmentConflict` if
    others do the same all the time; repeated, it continues.
    """
    check_place(fairlog, archive)
    done = Rewritten()
    for attempt in range(_TRIES_MAX):
        try:
            _rewrite_all(fairlog, archive, done, progress)
            break
        except SegmentConflict:
            if attempt == _TRIES_MAX - 1:
                raise
    return done


def _rewrite_all(fairlog: Fairlog, archive: Archive, done: Rewritten, progress: Progress) -> None:
    # First. So a file that is listed and not named by then is of a process that was stopped, or
    # that goes on and finds that its segment was replaced.
    listed = archive.names()
    pending = _pending(fairlog, archive)
    files = latest_files(archive, pending.named)
    for segment, file in zip(pending.named, files, strict=True):
        current = _rewrite(fairlog, archive, segment, file, pending, done)
        for name in listed:
            if is_of_part(name, segment) and name != current.name:
                _remove(archive, name, segment, pending.names)
        progress(segment.last, pending.named[-1].last)


def _pending(fairlog: Fairlog, archive: Archive) -> _Pending:
    def read(connection: Connection) -> _Pending:
        naming = archived.segment_names(connection)
        position = fairlog.log.position(connection)
        named = named_segments(naming_events(naming))
        since = without_since(naming)
        erased: dict[str, list[int]] = {one.name: [] for one in named}
        with ArchivedLog(archive, latest_files(archive, named)) as segment_log:
            after = min((since[one.name] for one in named), default=0)
            found = erasures(connection, segment_log, after, position)
            for name, body in _left(named, since, found):
                erased[name].append(body)
        names = frozenset(since)
        return _Pending(
            named, names, {name: sorted(some) for name, some in erased.items()}, position
        )

    return fairlog.read_now(read)


def without_since(naming: Sequence[Recorded]) -> dict[str, int]:
    """Return by name of a file the position up to which erased bodies are not in it: they had left
    the database before it was written from there, or it was written anew without them.
    """
    found: dict[str, int] = {}
    for one in naming:
        match one.event:
            case SegmentArchived(name=name, begun=begun):
                found[name] = begun
            case SegmentRewritten(name=name, erasure=erasure):
                found[name] = erasure
            case _:
                pass
    return found


def _left(
    named: Sequence[Segment],
    since: Mapping[str, int],
    found: Iterable[tuple[int, Sequence[int]]],
) -> Iterator[tuple[str, int]]:
    """Yield the file and the position of each body that was erased after the file was written."""
    lasts = [one.last for one in named]
    for at, positions in found:
        for body in positions:
            place = bisect_left(lasts, body)
            if place < len(named) and at > since[name := named[place].name]:
                yield name, body


def _rewrite(
    fairlog: Fairlog,
    archive: Archive,
    segment: Segment,
    file: Segment,
    pending: _Pending,
    done: Rewritten,
) -> Segment:
    """Write and record one segment if it needs it, and return the one that the log names then."""
    erased: list[int] = []
    if pending.erased[segment.name]:
        with archive.open(file) as reader:
            erased = reader.with_bodies(pending.erased[segment.name])
    if erased:
        file = archive.rewrite(file, erased)
    elif file.name == segment.name:
        return segment
    rewritten = rewritten_event(file, segment.name, pending.position)
    fairlog.execute_now(RewriteSegment(rewritten=rewritten))
    archive.open(file).close()  # it is there, so the earlier one may go
    done.segments += 1
    done.bodies += len(erased)
    return file


def _remove(archive: Archive, name: str, segment: Segment, names: frozenset[str]) -> None:
    """Remove a file that was replaced, or that a stopped process has left; not another log's."""
    if name not in names:
        try:
            if archive.described(name).log_id != segment.log_id:
                return
        except SegmentUnusable:
            return
    archive.remove(name)
