"""`fairlog verify --archive`: segments as they lie, the chain across them, and the live log's part.

Each segment is checked by itself, so that a wrong one does not hide what is wrong with the others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.archive.archived_log import ArchivedLog
from adapters.archive.directory import Archive
from adapters.archive.segment_format import StoredState
from adapters.archive.segment_log import SegmentLog
from adapters.archive.segment_reader import SegmentReader
from adapters.database.scratch import scratch_database
from adapters.log import archived
from adapters.log.histories import of_types
from domain.audit.system_state import FORMAT, SystemState, to_snapshot
from domain.language.errors import SegmentUnusable
from domain.language.events import BodiesErased, Recorded, SegmentRewritten
from domain.log.segments import (
    Segment,
    SegmentFault,
    SegmentRows,
    end_faults,
    is_of_part,
    named_segments,
    naming_events,
    sequence_faults,
)
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.snapshot_verification import snapshot_fault
from entrypoints.use_cases.whole_history import require_joined
from projections.verify.event_check import ErasureCheck, EventCheck
from projections.verify.findings import FindingsSink, Report
from projections.verify.log_pages import LogPages
from projections.verify.verify import Progress

_ERASED: Final = BodiesErased.__name__


class ArchiveVerified(Struct, frozen=True):
    """The result of a check."""

    segments: int
    events: int  # that were checked in them
    findings: int


def verify_archive(
    fairlog: Fairlog, location: str, report: Report, progress: Progress
) -> ArchiveVerified:
    """Check all segments of an archive, and that the database continues them.

    Raises `ArchiveUnavailable`.
    """
    archive = Archive(location)
    sink = FindingsSink(report)
    segments = _segments(fairlog, archive, sink)
    for fault in sequence_faults(segments):
        sink.about(None, str(fault))
    if not segments and not sink.findings:
        sink.about(None, f"There are no segments in {location}; check --archive.")
    events = 0
    with scratch_database() as scratch:
        erasures = _SegmentErasures(scratch, sink, segments)
        states = _StateCheck()
        for segment in segments:
            events += _check(fairlog, archive, segment, erasures, states, sink)
            progress(segment.last, segments[-1].last)
        if segments:
            _check_joint(fairlog, segments, erasures, sink)
        if not sink.findings:  # a segment that could not be read would explain what is missing
            erasures.take_end()
            with ArchivedLog(archive, segments) as segment_log:
                if wrong := snapshot_fault(fairlog, segment_log, progress):
                    sink.about(None, wrong)
    return ArchiveVerified(len(segments), events, sink.findings)


class _StateCheck:
    """Compares the states that segments have with a fold of all events before them.

    After a segment that could not be read whole, later states cannot be checked, and are not.
    """

    def __init__(self) -> None:
        self._state = SystemState()

    def take(self, events: Sequence[Recorded]) -> None:
        """Fold the next events."""
        if events and events[0].position == self._state.position + 1:
            self._state.evolve(events)
            self._state.tidy()

    def fault(self, position: int, stored: StoredState | None) -> str | None:
        """Return what is wrong with the state that is stored for a position; None if it is right,
        if none is stored, or if it is of another release, which folds other states.
        """
        if stored is None or stored.format != FORMAT or self._state.position != position:
            return None
        if stored.data == to_snapshot(self._state):
            return None
        return f"its state is not the one that the events up to {position} give"


class _SegmentErasures(ErasureCheck):
    """Names the file of a body that is there although it was erased, or missing although not."""

    def __init__(
        self, scratch: Connection, sink: FindingsSink, segments: Sequence[Segment]
    ) -> None:
        super().__init__(scratch, sink)
        self._segments = segments

    def _report_stored(self, position: int, erased: int) -> None:
        what = (
            f"event {position} erased the body of event {erased}, which is in it or never was; "
            "`fairlog erase` or `fairlog archive` with this archive removes it"
        )
        self._report(position, erased, what)

    def _report_missing(self, position: int) -> None:
        self._report(position, position, f"the body of event {position} is missing")

    def _report(self, position: int, body: int, what: str) -> None:
        name = next((one.name for one in self._segments if one.first <= body <= one.last), "")
        self._sink.about(position, str(SegmentFault(name, what)))


def _segments(fairlog: Fairlog, archive: Archive, sink: FindingsSink) -> Sequence[Segment]:
    """Return the segments that the log names, else those of the files, whose names tell less."""
    stored, unusable = archive.segments()
    naming = fairlog.read_now(archived.segment_names)
    named = named_segments(naming_events(naming))
    _report_replaced(archive, naming, named, sink)
    if not named:
        for error in unusable:
            sink.about(None, str(error))
        return stored
    for segment in stored:
        if segment.log_id != named[0].log_id:
            what = "it belongs to another log, and is no part of this archive"
            sink.about(None, str(SegmentFault(segment.name, what)))
    return named


def _report_replaced(
    archive: Archive, naming: Sequence[Recorded], named: Sequence[Segment], sink: FindingsSink
) -> None:
    """Report files with the events of a named segment that are not the one which the log names."""
    latest = {one.name for one in named}
    replaced = {
        one.event.replaces: one for one in naming if isinstance(one.event, SegmentRewritten)
    }
    for name in archive.names():
        if name in latest or not any(is_of_part(name, one) for one in named):
            continue
        by = replaced.get(name)
        what = "the log does not name it, and names another file with its events"
        if by is not None and isinstance(by.event, SegmentRewritten):
            what = f"event {by.position} has replaced it by {by.event.name}, and it is still there"
        what += "; `fairlog erase` or `fairlog archive` with this archive removes it"
        sink.about(None, str(SegmentFault(name, what)))


def _check(
    fairlog: Fairlog,
    archive: Archive,
    segment: Segment,
    erasures: ErasureCheck,
    states: _StateCheck,
    sink: FindingsSink,
) -> int:
    """Check one segment, and return the number of its events that were checked."""
    rows = SegmentRows(segment.first, bytes.fromhex(segment.previous_hash))
    try:
        archive.check_digest(segment)
        with archive.open(segment) as reader, _log_pages(fairlog, reader) as pages:
            check = EventCheck(pages, segment.last, erasures, sink)
            for page in pages.after(segment.first - 1):
                for row in page.rows:
                    wrong = rows.take(row)
                    if wrong is not None:
                        sink.about(None, str(SegmentFault(segment.name, wrong)))
                        return rows.position - segment.first + 1
                states.take(check.take(page))
            if (wrong := states.fault(segment.last, reader.state())) is not None:
                sink.about(None, str(SegmentFault(segment.name, wrong)))
    except SegmentUnusable as error:
        sink.about(None, str(error))
    else:
        for fault in end_faults(segment, rows):
            sink.about(None, str(SegmentFault(segment.name, fault)))
    return rows.position - segment.first + 1


@contextmanager
def _log_pages(fairlog: Fairlog, reader: SegmentReader) -> Iterator[LogPages]:
    """Yield the pages of a segment; the connection is there for the port alone."""
    with (
        fairlog.database.read() as connection,
        LogPages(SegmentLog(reader), connection, with_bodies=True) as pages,
    ):
        yield pages


def _check_joint(
    fairlog: Fairlog, segments: Sequence[Segment], erasures: ErasureCheck, sink: FindingsSink
) -> None:
    """Check that the database goes on where the segments end, and what it erased from them."""
    end = segments[-1].last
    with fairlog.database.read() as connection:
        try:
            require_joined(fairlog, connection, segments)
        except SegmentUnusable as error:
            sink.about(None, str(error))
            return
        for event in of_types(connection, [_ERASED], end, fairlog.log.position(connection)):
            assert isinstance(event.event, BodiesErased)
            inside = tuple(one for one in event.event.positions if one <= end)
            if inside:
                erasures.take(event.position, replace(event.event, positions=inside))
