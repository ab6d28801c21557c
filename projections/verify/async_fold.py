"""The fold of asynchronous projections into the scratch database."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Generic

from sqlalchemy.engine import Connection

from domain.language.errors import LogCorrupt
from domain.language.events import Recorded
from domain.log.stored_log import Leaf
from projections.following.async_projection import AsyncProjection, E, apply_events
from projections.following.checkpoints import checkpoint_of
from projections.verify.expected_tables import SCRATCH_GENERATION
from projections.verify.findings import FindingsSink

EVENTS_PER_FOLD: Final = 8000  # many, so that a row that changes often is written once


WithPositions = Sequence[tuple[AsyncProjection[E], int]]  # each with its checkpoint's position


def checkpoint_positions(
    connection: Connection, projections: Sequence[AsyncProjection[E]]
) -> WithPositions[E]:
    """Return the projections that have a checkpoint, each with its position."""
    return [
        (one, at.position)
        for one in projections
        if (at := checkpoint_of(connection, one)) is not None and isinstance(at.position, int)
    ]


class _AsyncFold(ABC, Generic[E]):
    """Folds each projection up to the position of its own checkpoint."""

    def __init__(self, scratch: Connection, following: WithPositions[E]) -> None:
        self._scratch = scratch
        self._following = following
        self._buffer: list[E] = []

    def without_checkpoint(self, projections: Sequence[AsyncProjection[E]]) -> set[str]:
        """Return the names of projections without a checkpoint, which cannot be compared."""
        return {one.name for one in projections} - {one.name for one, _ in self._following}

    def take(self, events: Sequence[E]) -> None:
        """Buffer events, and fold when there are enough; `finish` folds the rest."""
        self._buffer += events
        if len(self._buffer) >= EVENTS_PER_FOLD:
            self.finish()

    def finish(self) -> None:
        """Fold the events in the buffer."""
        events, self._buffer = self._buffer, []
        for projection, up_to in self._following:
            if reached := [one for one in events if one.position <= up_to]:
                self._fold(projection, reached)

    @abstractmethod
    def _fold(self, projection: AsyncProjection[E], events: Sequence[E]) -> None:
        """Fold events, unless an earlier fold has stopped."""


class EventFold(_AsyncFold[Recorded]):
    """Folds events. If one cannot be folded, it is reported and all projections stop."""

    def __init__(
        self, scratch: Connection, following: WithPositions[Recorded], sink: FindingsSink
    ) -> None:
        super().__init__(scratch, following)
        self.stopped_at: int | None = None  # first position of the batch that cannot be folded
        self._sink = sink

    def _fold(self, projection: AsyncProjection[Recorded], events: Sequence[Recorded]) -> None:
        if self.stopped_at is not None:
            return
        try:
            apply_events(projection, self._scratch, SCRATCH_GENERATION, events)
        except Exception as error:  # noqa: BLE001 (a history that no rule made may do anything)
            position = events[0].position
            self._sink.about(position, f"it cannot be folded ({type(error).__name__}: {error})")
            self.stopped_at = position


class LeafFold(_AsyncFold[Leaf]):
    """Folds hashes of rows. It stops where some are missing, which `ChainCheck` has reported."""

    def __init__(
        self, scratch: Connection, following: WithPositions[Leaf], position: int = 0
    ) -> None:
        """`position` is that of the cut, where the rows of its snapshot stand."""
        super().__init__(scratch, following)
        self.stopped: set[str] = set()  # names of projections that are incomplete
        self._position = position

    def finish(self) -> None:
        last = self._buffer[-1].position if self._buffer else self._position
        super().finish()
        self._position = last

    def _fold(self, projection: AsyncProjection[Leaf], events: Sequence[Leaf]) -> None:
        if projection.name in self.stopped:
            return
        if events[0].position != self._position + 1 or not self._applied(projection, events):
            self.stopped.add(projection.name)

    def _applied(self, projection: AsyncProjection[Leaf], events: Sequence[Leaf]) -> bool:
        try:
            apply_events(projection, self._scratch, SCRATCH_GENERATION, events)
        except LogCorrupt:
            return False
        return True
