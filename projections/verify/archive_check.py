"""The check of what an archive has left in the database: the cut, the snapshot there, kept events.

The log's events say where it is cut and what the digest of the snapshot is, and the chain after the
cut covers these events. The segment files are checked elsewhere: `fairlog verify --archive`.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from sqlalchemy.engine import Connection

from domain.language.errors import LogCorrupt
from domain.language.events import ArchiveBegun, Recorded, SegmentArchived
from domain.language.moments import to_micros
from domain.log.merkle import HASH_BYTES, complete_root
from domain.log.stored_log import CutLog, StoredHead, recorded
from projections.following.merkle import TILE, full_tiles, tiles
from projections.storage.snapshot import BODIES, EVENTS, Digest, unpacked
from projections.verify.event_check import NO_EVENT
from projections.verify.findings import FindingsSink


class ArchiveCheck:
    """Checks the snapshot at the cut, and reads its lists. Does nothing if nothing is archived."""

    def __init__(
        self,
        log: CutLog[Connection],
        snapshot: Connection,
        head: StoredHead,
        sink: FindingsSink,
    ) -> None:
        # Of the archived bodies that stay: SHA-256 in hex and size, by position.
        self.bodies: dict[int, tuple[str, int]] = {}
        self._head = head
        self._sink = sink
        self._latest: SegmentArchived | None = None
        self._begun, self._closed_at = 0, 0
        partial_tiles: dict[tuple[int, int], bytes] = {}  # by level and number
        digest = Digest()
        kept_events: list[tuple[object, ...]] = []
        try:
            for part in unpacked(log.snapshot_parts(snapshot, head.cut_snapshot), digest):
                if part.projection == BODIES:
                    self.bodies |= {row[1]: (row[2], row[3]) for row in part.rows}
                elif part.projection == EVENTS:
                    kept_events += part.rows
                elif part.table == tiles.name:
                    partial_tiles |= {(row[0], row[1]): row[2] for row in part.rows}
        except LogCorrupt as error:
            sink.about(None, str(error))
        self._digest = digest.hex()
        if head.cut:
            stored = log.kept_rows(snapshot, head.cut)
            self._compare(stored, kept_events)
            for row in stored:
                with suppress(*NO_EVENT):
                    self.take([recorded(row)])
            self._latest = None  # the one of the cut comes after it
            self._check_tiles(log, snapshot, partial_tiles)

    def _compare(
        self, stored: Sequence[tuple[object, ...]], kept: Sequence[tuple[object, ...]]
    ) -> None:
        by_position = {row[0]: row for row in kept}
        for row in stored:
            if by_position.pop(row[0], None) != row:
                at = row[0] if isinstance(row[0], int) else None
                self._sink.about(at, "it is archived, and is not as the snapshot has it")
        for position in by_position:
            assert isinstance(position, int)
            self._sink.about(position, "it should have stayed in the archived log, and is missing")

    def _check_tiles(
        self,
        log: CutLog[Connection],
        snapshot: Connection,
        partial: Mapping[tuple[int, int], bytes],
    ) -> None:
        """Check each full tile against the tile above it; the uppermost are in the snapshot."""
        for level, number in full_tiles(self._head.cut):
            above, parent = -1, b""
            for tile in range(number):
                if tile // TILE != above:
                    above = tile // TILE
                    parent = log.archived_tile(snapshot, level + 1, above)
                    parent = parent or partial.get((level + 1, above), b"")
                hashes = log.archived_tile(snapshot, level, tile)
                expected = parent[HASH_BYTES * (tile % TILE) :][:HASH_BYTES]
                if len(hashes) != TILE * HASH_BYTES or complete_root(hashes) != expected:
                    self._sink.about(
                        None, f"the archived Merkle tile {tile} of level {level} was changed"
                    )

    def take(self, events: Sequence[Recorded]) -> None:
        """Note what these events say of the archive."""
        for one in events:
            match one.event:
                case SegmentArchived() as segment:
                    self._latest = segment
                case ArchiveBegun(recorded_at=recorded_at):
                    self._begun = one.position
                    self._closed_at = max(self._closed_at, to_micros(recorded_at))
                case _:
                    pass

    def finish(self) -> None:
        """Compare the head row and the snapshot with the latest `SegmentArchived`."""
        latest, head = self._latest, self._head
        found, told = (head.archive_begun, head.closed_at), (self._begun, self._closed_at)
        is_restored = latest is not None and not head.cut  # by then nothing may have been archived
        if found != told and not (is_restored and found == (0, 0)):
            self._sink.about(
                None,
                f"the head row says that the latest archive began at {found[0]!r} and closed jobs "
                f"up to {found[1]!r}, and the log says {told[0]} and {told[1]}",
            )
        if not head.cut:  # all rows are there, as after a restore, or the chain has a gap
            return
        if latest is None:
            self._sink.about(
                None,
                f"the head row says that the log is archived up to {head.cut}, and no event "
                "after that says so",
            )
            return
        if (latest.last, latest.last_hash, latest.begun) != (
            head.cut,
            head.cut_hash.hex(),
            head.cut_snapshot,
        ):
            self._sink.about(
                None,
                f"the head row says that the log is archived up to {head.cut}, with the hash "
                f"{head.cut_hash.hex()}, and the log up to {latest.last}, with {latest.last_hash}",
            )
        elif latest.snapshot_sha256 != self._digest:
            self._sink.about(
                None,
                f"the digest of the snapshot at position {head.cut} is {self._digest}, and the "
                f"event that archived it says {latest.snapshot_sha256}",
            )
