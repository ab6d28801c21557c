"""Rows of the log as they are stored: positions without gaps, a clock that only rises, hashes."""

import struct
from collections.abc import Sequence

from domain.log.chain import GENESIS, leaf, link
from domain.log.stored_log import Leaf, StoredHead, StoredRow
from projections.verify.findings import FindingsSink


class ChainCheck:
    """Takes the rows in order, from the first one or from those behind a position."""

    def __init__(
        self, told: FindingsSink, position: int = 0, tail: bytes = GENESIS, recorded_at: int = 0
    ) -> None:
        self.position = position  # of the latest row
        self.tail = tail  # the hash that the next row builds on
        self.events = 0  # that were taken
        self.is_broken_off = False  # what lies behind cannot be read in order
        self._recorded_at = recorded_at
        self._told = told
        self._type_names: dict[str, bytes] = {}
        self.leaves: list[Leaf] = []  # of the rows taken last

    def take(self, rows: Sequence[StoredRow]) -> None:
        self.leaves.clear()
        for row in rows:
            try:
                self._take(*row)
            except (TypeError, ValueError, AttributeError, struct.error):
                # SQLite keeps whatever it is given, whatever the column is declared as.
                self._told.about(self.position + 1, "a column holds what Fairlog never writes")
                if not isinstance(row[0], int):
                    self.is_broken_off = True
                    return
                self.position = row[0]
                self.tail = row[7] if isinstance(row[7], bytes) else self.tail
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
            self._miss(position)
        if recorded_at < self._recorded_at:
            self._told.about(position, "it is recorded earlier than the event before it")
        name = self._type_names.get(type_name)
        if name is None:
            name = self._type_names[type_name] = type_name.encode()
        hashed = leaf(position, version, name, user_id, job_id, recorded_at, data)
        self.leaves.append(Leaf(position, hashed))
        self.tail = tail = link(self.tail, hashed)
        if tail != stored:
            self._told.about(
                position,
                f"its hash is {in_hex(stored)}, but its content and the hash before it give "
                f"{tail.hex()}",
            )
            self.tail = stored  # else every event from here on would be one more finding
        self.position = position
        self._recorded_at = recorded_at

    def _miss(self, found: int) -> None:
        first, last = self.position + 1, found - 1
        self._told.about(
            first, "it is missing" if first == last else f"it and those up to {last} are missing"
        )

    def take_head(self, head: StoredHead) -> None:
        """Hold the end of the log against what the head row says of it."""
        for wrong in head.wrong:
            self._told.about(None, wrong)
        if head.position > self.position:
            self._told.about(
                self.position + 1,
                f"it and those up to {head.position}, where the log ends by its head, are missing",
            )
        elif head.position < self.position:
            self._told.about(
                head.position + 1, f"it lies behind {head.position}, where the log ends by its head"
            )
        elif head.hash != self.tail:
            self._told.about(
                None,
                f"the head's hash is {in_hex(head.hash)}, the last event's {in_hex(self.tail)}",
            )
        elif head.recorded_at != self._recorded_at:
            self._told.about(None, "the head's time is not that of the last event")


def in_hex(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)
