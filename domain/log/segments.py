"""Segments: contiguous parts of the log that were moved into files, and what each proves of itself.

A segment names the hash of the chain before and after it, so that segments join like the events
they hold, and the roots of the Merkle subtrees over its leaves, so that roots and proofs of the
whole log need no segment but the ones they are about.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict, replace

from domain.language.events import Recorded, SegmentArchived, SegmentRewritten
from domain.language.moments import from_micros, to_micros
from domain.log.chain import GENESIS, link
from domain.log.merkle import node
from domain.log.stored_log import Leaf, StoredRow, leaf_of


class Segment(Struct, frozen=True, kw_only=True):
    """The description of a segment outside its file. Hashes are in hex."""

    first: int  # position of its first event
    last: int  # position of its last event
    first_recorded_at: int  # of its first event, UTC, microseconds
    last_recorded_at: int  # of its last event, UTC, microseconds
    previous_hash: str  # of the chain before its first event
    last_hash: str  # of the chain after its last event
    roots: Sequence[str]  # of the subtrees that cover it, from the left; see `SubtreeRoots`
    bodies: int  # number of bodies in it
    log_id: str  # leaf hash of the log's first event
    name: str  # of the file
    size: int  # of the file, in bytes
    sha256: str  # of the file

    @property
    def events(self) -> int:
        """The number of events in it."""
        return self.last - self.first + 1


NamingEvent = SegmentArchived | SegmentRewritten  # the events that name the file of a segment


def segment_of(event: NamingEvent) -> Segment:
    """Return what an event says of a segment."""
    return Segment(
        first=event.first,
        last=event.last,
        first_recorded_at=to_micros(event.first_recorded_at),
        last_recorded_at=to_micros(event.last_recorded_at),
        previous_hash=event.previous_hash,
        last_hash=event.last_hash,
        roots=list(event.roots),
        bodies=event.bodies,
        log_id=event.log_id,
        name=event.name,
        size=event.size,
        sha256=event.sha256,
    )


def archived_event(segment: Segment, begun: int, snapshot_sha256: str | None) -> SegmentArchived:
    """Return the event that declares a segment; see its fields of the same names."""
    return SegmentArchived(**_fields(segment), begun=begun, snapshot_sha256=snapshot_sha256)


def rewritten_event(segment: Segment, replaces: str, erasure: int) -> SegmentRewritten:
    """Return the event that declares a segment that was written anew; see its fields."""
    return SegmentRewritten(**_fields(segment), replaces=replaces, erasure=erasure)


def _fields(segment: Segment) -> dict[str, Any]:
    """Return the fields of an event that names the file of a segment."""
    return asdict(segment) | {
        "first_recorded_at": from_micros(segment.first_recorded_at),
        "last_recorded_at": from_micros(segment.last_recorded_at),
        "roots": tuple(segment.roots),
    }


def is_of_part(name: str, segment: Segment) -> bool:
    """Return True if a file has, by its name, the same events as a segment."""
    return name.startswith(name_prefix(segment.first, segment.last))


def name_prefix(first: int, last: int) -> str:
    """Return how the name of a segment's file begins; the rest is of its content."""
    return f"{first:012}-{last:012}-"


def has_same_events(one: Segment, other: Segment) -> bool:
    """Return True if the events of two segments are the same; their bodies may differ."""
    return one == replace(other, bodies=one.bodies, name=one.name, size=one.size, sha256=one.sha256)


def naming_events(recorded: Iterable[Recorded]) -> Iterator[NamingEvent]:
    """Yield those of the events that name the files of segments."""
    for one in recorded:
        if isinstance(one.event, SegmentArchived | SegmentRewritten):
            yield one.event


def named_segments(events: Iterable[NamingEvent]) -> list[Segment]:
    """Return the segments that the log names, given in its order; of each part the latest file."""
    found: list[Segment] = []
    for event in events:
        found = with_named(found, event)
    return found


def with_named(segments: Sequence[Segment], event: NamingEvent) -> list[Segment]:
    """Return the segments that the log names after one more event.

    After a restore, a further archive begins with the first event again.
    """
    new = segment_of(event)
    if isinstance(event, SegmentRewritten):
        return [new if (one.first, one.last) == (new.first, new.last) else one for one in segments]
    return [*(one for one in segments if one.last < new.first), new]


class SegmentFault(Struct, frozen=True):
    """A segment, or its place among the others, is not as it was written."""

    name: str  # of the segment's file; empty: about no single file
    what: str

    def __str__(self) -> str:
        return f"segment {self.name}: {self.what}" if self.name else self.what


class SubtreeRoots:
    """Joins leaves into the fewest complete subtrees of the log's Merkle tree that cover them.

    A subtree of 2**n leaves begins at a multiple of 2**n, as in RFC 6962. The hashes are in the
    order of their leaves.
    """

    def __init__(self, first: int) -> None:
        """`first` is the position of the first leaf."""
        self._index = first - 1  # of the next leaf, from 0
        self._roots: list[tuple[int, bytes]] = []  # level and hash

    def add(self, leaf_hash: bytes) -> None:
        """Append the next leaf."""
        level, hashed, start = 0, leaf_hash, self._index
        while start & (1 << level) and self._roots and self._roots[-1][0] == level:
            hashed = node(self._roots.pop()[1], hashed)
            start -= 1 << level
            level += 1
        self._roots.append((level, hashed))
        self._index += 1

    def hashes(self) -> list[bytes]:
        """Return the roots, from the left."""
        return [hashed for _, hashed in self._roots]


def subtrees(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the level and index of the subtrees that cover these positions, from the left."""
    start, end = first - 1, last
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        yield level, start >> level
        start += 1 << level


class SegmentRows:
    """Checks rows one after the other against the chain, and sums them up.

    Used to write a segment, where a wrong row ends the work, and to check one that was written.
    """

    def __init__(self, first: int, previous_hash: bytes, previous_recorded_at: int = 0) -> None:
        self.position = first - 1  # of the latest row
        self.last_hash = previous_hash  # of the chain up to the latest row
        self.first_recorded_at = 0
        self.last_recorded_at = previous_recorded_at
        self.log_id = b""  # leaf hash of event 1, if it is among the rows
        self._roots = SubtreeRoots(first)
        self._first = first

    def take(self, row: StoredRow) -> str | None:
        """Add the next row. Returns what is wrong with it, after which nothing more may be added;
        None if it continues the chain.
        """
        position, recorded_at, stored = row[0], row[5], row[7]
        if position != self.position + 1:
            return f"event {self.position + 1} is missing: {position} follows {self.position}"
        try:
            leaf = leaf_of(row)
        except (TypeError, ValueError, AttributeError, struct.error):
            return f"event {position} holds what Fairlog never writes"
        if recorded_at < self.last_recorded_at:
            return f"event {position} is recorded earlier than the one before it"
        expected = link(self.last_hash, leaf.hash)
        if expected != stored:
            return f"the hash of event {position} does not fit its content and the hash before it"
        self._add(leaf, recorded_at, expected)
        return None

    def roots(self) -> list[str]:
        """Return the roots of the subtrees that cover the rows, in hex."""
        return [one.hex() for one in self._roots.hashes()]

    def _add(self, leaf: Leaf, recorded_at: int, hashed: bytes) -> None:
        if leaf.position == self._first:
            self.first_recorded_at = recorded_at
        if leaf.position == 1:
            self.log_id = leaf.hash
        self.position = leaf.position
        self.last_hash = hashed
        self.last_recorded_at = recorded_at
        self._roots.add(leaf.hash)


def end_faults(segment: Segment, rows: SegmentRows) -> list[str]:
    """Return in what a segment's rows, all of which were taken, differ from what is known of it."""
    found: list[str] = []
    if rows.position != segment.last:
        found.append(f"it ends at event {rows.position}, and not at {segment.last}")
        return found
    if rows.last_hash.hex() != segment.last_hash:
        found.append(
            f"its last hash is {rows.last_hash.hex()}, and the log says {segment.last_hash}"
        )
    if rows.roots() != list(segment.roots):
        found.append("the Merkle roots of its events are not those that were recorded")
    times = (rows.first_recorded_at, rows.last_recorded_at)
    if times != (segment.first_recorded_at, segment.last_recorded_at):
        found.append("the times of its events are not those that were recorded")
    if segment.first == 1 and rows.log_id.hex() != segment.log_id:
        found.append("its first event is not that of this log")
    return found


_GENESIS_HEX: Final = GENESIS.hex()


def sequence_faults(segments: Sequence[Segment]) -> list[SegmentFault]:
    """Return what is wrong with segments as a whole, given in the order of the log: each must
    begin where the one before it ends, by position and by hash, and belong to the same log.
    """
    found: list[SegmentFault] = []
    position, last_hash, recorded_at, before = 0, _GENESIS_HEX, 0, ""
    for one in segments:
        if one.log_id != segments[0].log_id:
            found.append(SegmentFault(one.name, "it belongs to another log than the first segment"))
        if one.first > position + 1:
            what = f"events {position + 1} to {one.first - 1}, before it, are in no segment"
            found.append(SegmentFault(one.name, what))
        elif one.first <= position:
            what = f"it begins at event {one.first}, which is also in {before}"
            found.append(SegmentFault(one.name, what))
        elif one.previous_hash != last_hash:
            after = before or "the empty log"
            what = f"its events do not continue those of {after}: the hashes differ"
            found.append(SegmentFault(one.name, what))
        elif one.first_recorded_at < recorded_at:
            what = f"its first event is recorded earlier than the last one of {before}"
            found.append(SegmentFault(one.name, what))
        position, last_hash = one.last, one.last_hash
        recorded_at, before = one.last_recorded_at, one.name
    return found
