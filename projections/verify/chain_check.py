"""The check of the log's rows as they are stored: contiguous positions, rising times, hashes."""

import struct
from collections.abc import Sequence

from domain.log.chain import GENESIS, leaf, link
from domain.log.stored_log import Leaf, StoredHead, StoredRow
from projections.verify.findings import FindingsSink


class ChainCheck:
    """Checks rows in order, from the first row or from the one after a known position.

    `recorded_at` is the known row's time (Unix time in microseconds), and `last_hash` its hash.
    """

    def __init__(
        self,
        sink: FindingsSink,
        position: int = 0,
        last_hash: bytes = GENESIS,
        recorded_at: int = 0,
    ) -> None:
        self.position = position  # of the latest row
        self.last_hash = last_hash  # of the latest row
        self.events = 0  # number of rows checked
        self.is_broken_off = False  # True: the rows that follow cannot be read in order
        self._recorded_at = recorded_at
        self._sink = sink
        self._type_names: dict[str, bytes] = {}
        self.leaves: list[Leaf] = []  # of the latest page of rows

    def take(self, rows: Sequence[StoredRow]) -> None:
        """Check the next page of rows."""
        self.leaves.clear()
        for row in rows:
            try:
                self._take(*row)
            except (TypeError, ValueError, AttributeError, struct.error):
                # SQLite stores any type in any column.
                self._sink.about(self.position + 1, "a column holds what Fairlog never writes")
                if not isinstance(row[0], int):
                    self.is_broken_off = True
                    return
                self.position = row[0]
                self.last_hash = row[7] if isinstance(row[7], bytes) else self.last_hash
            self.events += 1

    def _take(
        self,
        position: int,
        type_name: str,
        version: int,
        user_id: bytes | None,
        job_id: int | None,
        recorded_at: int,
        data: bytes,
        stored: bytes,
    ) -> None:
        if position != self.position + 1:
            self._report_gap(position)
        if recorded_at < self._recorded_at:
            self._sink.about(position, "it is recorded earlier than the event before it")
        name = self._type_names.get(type_name)
        if name is None:
            name = self._type_names[type_name] = type_name.encode()
        hashed = leaf(position, version, name, user_id, job_id, recorded_at, data)
        self.leaves.append(Leaf(position, hashed))
        self.last_hash = expected = link(self.last_hash, hashed)
        if expected != stored:
            self._sink.about(
                position,
                f"its hash is {in_hex(stored)}, but its content and the hash before it give "
                f"{expected.hex()}",
            )
            self.last_hash = stored  # else every later event would be one more finding
        self.position = position
        self._recorded_at = recorded_at

    def _report_gap(self, found: int) -> None:
        first, last = self.position + 1, found - 1
        self._sink.about(
            first, "it is missing" if first == last else f"it and those up to {last} are missing"
        )

    def take_head(self, head: StoredHead) -> None:
        """Compare the latest row with the head row."""
        for wrong in head.wrong:
            self._sink.about(None, wrong)
        if head.position > self.position:
            self._sink.about(
                self.position + 1,
                f"it and those up to {head.position}, where the log ends by its head, are missing",
            )
        elif head.position < self.position:
            self._sink.about(
                head.position + 1,
                f"it comes after {head.position}, where the log ends by its head",
            )
        elif head.hash != self.last_hash:
            self._sink.about(
                None,
                f"the head's hash is {in_hex(head.hash)}, "
                f"the last event's {in_hex(self.last_hash)}",
            )
        elif head.recorded_at != self._recorded_at:
            self._sink.about(None, "the head's time is not that of the last event")


def in_hex(value: object) -> str:
    """Return bytes in hex, and the representation of anything else."""
    return value.hex() if isinstance(value, bytes) else repr(value)
