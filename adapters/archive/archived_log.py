"""The archived part of the log: several segments read as one, opened as they are needed."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, Self

from adapters.archive.directory import Archive
from adapters.archive.segment_reader import SegmentReader
from adapters.log.audit_log import EventFilter, StoredEvent
from adapters.log.key_events import KEY_EVENT_NAMES
from domain.access.keys import ApiKeys
from domain.audit.system_state import FORMAT, SystemState, from_snapshot
from domain.language.events import JobSubmitted, Recorded
from domain.language.identifiers import JobId, UserId
from domain.language.moments import from_micros, to_micros
from domain.log.segments import Segment
from domain.log.stored_log import StoredRow, recorded

OPEN_MAX: Final = 8  # segments
_PER_READ: Final = 1_000  # rows, where no column says which ones match
_SUBMITTED: Final = JobSubmitted.__name__


class ArchivedLog:
    """Segments that follow each other from the beginning of the log. To be closed."""

    def __init__(self, archive: Archive, segments: Sequence[Segment]) -> None:
        self.segments = segments
        self._archive = archive
        self._open: OrderedDict[int, SegmentReader] = OrderedDict()  # by first position

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    @property
    def end(self) -> int:
        """The position of the last archived event; 0 if there is none."""
        return self.segments[-1].last if self.segments else 0

    def rows(self, after: int, limit: int) -> list[StoredRow]:
        """Return up to `limit` rows after a position, in log order."""
        found: list[StoredRow] = []
        for segment in self._between(after, self.end):
            found += self._reader(segment).rows(after, limit - len(found))
            if len(found) >= limit:
                break
        return found

    def events(self, after: int, limit: int) -> list[Recorded]:
        """Return up to `limit` events after a position, in log order."""
        return [recorded(row) for row in self.rows(after, limit)]

    def bodies(self, positions: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies at those positions, as far as they exist here."""
        found: dict[int, bytes] = {}
        for segment in self.segments:
            inside = [one for one in positions if segment.first <= one <= segment.last]
            if inside:
                found |= self._reader(segment).bodies(inside)
        return found

    def bodies_between(self, after: int, up_to: int) -> Iterator[tuple[int, bytes]]:
        """Yield the bodies after a position, up to another one, inclusive, in log order."""
        for segment in self._between(after, up_to):
            yield from self._reader(segment).bodies_between(after, up_to)

    def hash_at(self, position: int) -> bytes:
        """Return the hash of the chain at an archived position."""
        return bytes(self.rows(position - 1, 1)[0][7])

    def matching(
        self, wanted: EventFilter, after: int, up_to: int, *, newest_first: bool = False
    ) -> Iterator[StoredEvent]:
        """Yield the events after a position that match, times aside."""
        for row in self._candidates(wanted, after, up_to, newest_first=newest_first):
            event = stored_event(row)
            if wanted.matches(event):
                yield event

    def of_types(
        self, types: Sequence[str], after: int, up_to: int, *, newest_first: bool = False
    ) -> Iterator[Recorded]:
        """Yield the events of some types after a position."""
        wanted = EventFilter(types=types)
        for row in self._candidates(wanted, after, up_to, newest_first=newest_first):
            yield recorded(row)

    def of_jobs(
        self, job_ids: Sequence[JobId], types: Sequence[str], up_to: int
    ) -> Iterator[Recorded]:
        """Yield the events of some types about some jobs, in log order."""
        for segment in self._between(0, up_to):
            reader = self._reader(segment)
            for positions in reader.matching("job_id", job_ids, up_to=up_to):
                for row in reader.rows_at(positions):
                    if row[1] in types:
                        yield recorded(row)

    def payloads(
        self, *, user_id: UserId | None = None, job_id: JobId | None = None
    ) -> Iterator[list[JobId]]:
        """Yield jobs that were submitted here and whose payloads are here, of one user or one job
        if it is given; those of a segment's group of rows at once.
        """
        for segment in self.segments:
            if not segment.bodies:
                continue
            reader = self._reader(segment)
            wanted = EventFilter(user_id=user_id, job_id=job_id, types=[_SUBMITTED])
            for positions in _positions(reader, wanted, 0, segment.last, newest_first=False):
                stored = reader.with_bodies(positions)
                yield [JobId(row[0]) for row in reader.rows_at(stored) if row[1] == _SUBMITTED]

    def state_by(self, position: int) -> SystemState | None:
        """Return the latest state of the system that a segment has, at or before a position; None
        if there is none. States of other formats than this release's are passed over.
        """
        for segment in reversed(self.segments):
            if segment.last <= position:
                state = self._reader(segment).state()
                if state is not None and state.format == FORMAT:
                    return from_snapshot(state.data)
        return None

    def keys_at(self, position: int) -> ApiKeys:
        """Return the API keys at a position; beyond the end, those at the end."""
        keys = ApiKeys()
        for event in self.of_types(KEY_EVENT_NAMES, 0, position):
            keys.evolve(event)
        return keys

    def first_at(self, moment: datetime) -> int | None:
        """Return the position of the first event at or after a moment; None if it is not here."""
        micros = to_micros(moment)
        for segment in self.segments:
            if segment.last_recorded_at >= micros:
                break
        else:
            return None
        reader = self._reader(segment)
        low, high = segment.first, segment.last
        while low < high:
            middle = (low + high) // 2
            if reader.rows(middle - 1, 1)[0][5] < micros:
                low = middle + 1
            else:
                high = middle
        return low

    def _candidates(
        self, wanted: EventFilter, after: int, up_to: int, *, newest_first: bool
    ) -> Iterator[StoredRow]:
        """Yield the rows that one column's condition selects: that of the rarest values."""
        for segment in self._between(after, up_to, newest_first=newest_first):
            reader = self._reader(segment)
            for positions in _positions(reader, wanted, after, up_to, newest_first=newest_first):
                yield from reader.rows_at(positions)

    def _between(self, after: int, up_to: int, *, newest_first: bool = False) -> Iterator[Segment]:
        for segment in reversed(self.segments) if newest_first else self.segments:
            if segment.last > after and segment.first <= up_to:
                yield segment

    def _reader(self, segment: Segment) -> SegmentReader:
        reader = self._open.pop(segment.first, None)
        if reader is None:
            reader = self._archive.open(segment)
        self._open[segment.first] = reader
        if len(self._open) > OPEN_MAX:
            self._open.popitem(last=False)[1].close()
        return reader


def _positions(
    reader: SegmentReader, wanted: EventFilter, after: int, up_to: int, *, newest_first: bool
) -> Iterator[Sequence[int]]:
    column, values = _column_of(wanted)
    if column:
        yield from reader.matching(
            column, values, after=after, up_to=up_to, newest_first=newest_first
        )
        return
    first = max(after + 1, reader.content.first)
    end = min(up_to, reader.content.last) + 1
    starts = range(first, end, _PER_READ)
    for start in reversed(starts) if newest_first else starts:
        page = range(start, min(start + _PER_READ, end))
        yield page[::-1] if newest_first else page


def _column_of(wanted: EventFilter) -> tuple[str, Sequence[str | int]]:
    if wanted.job_id is not None:
        return "job_id", [wanted.job_id]
    if wanted.user_id is not None:
        return "user_id", [wanted.user_id]
    if wanted.types:
        return "type", wanted.types
    return "", []


def stored_event(row: StoredRow) -> StoredEvent:
    """Return a row of a segment as an event that is not decoded."""
    position, type_name, version, user_id, job_id, recorded_at, data, hashed = row
    user = None if user_id is None else UserId(user_id.decode())
    job = None if job_id is None else JobId(job_id)
    return StoredEvent(
        position, type_name, version, user, job, from_micros(recorded_at), data, hashed
    )
