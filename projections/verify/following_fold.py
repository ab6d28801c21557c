"""What follows the log, built once more beside it while `fairlog verify` reads it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Generic

from sqlalchemy.engine import Connection

from domain.language.errors import LogCorrupt
from domain.language.events import Recorded
from domain.log.stored_log import Leaf
from projections.following.async_projector import AsyncProjection, E, WithPositions
from projections.verify.expected_tables import SCRATCH_GENERATION
from projections.verify.findings import FindingsSink

EVENTS_PER_FOLD: Final = 8000  # rows that change often are written once


class _FollowingFold(ABC, Generic[E]):
    """Each projection is folded as far as it has come itself: up to its position."""

    def __init__(self, scratch: Connection, following: WithPositions[E]) -> None:
        self._scratch = scratch
        self._following = following
        self._waiting: list[E] = []

    def not_begun(self, projections: Sequence[AsyncProjection[E]]) -> set[str]:
        """The names of those that have no checkpoint to be compared at."""
        return {one.name for one in projections} - {one.name for one, _ in self._following}

    def take(self, events: Sequence[E]) -> None:
        """Fold them, or have them wait for more; `finish` folds the last ones."""
        self._waiting += events
        if len(self._waiting) >= EVENTS_PER_FOLD:
            self.finish()

    def finish(self) -> None:
        events, self._waiting = self._waiting, []
        for projection, up_to in self._following:
            if reached := [one for one in events if one.position <= up_to]:
                self._fold(projection, reached)

    @abstractmethod
    def _fold(self, projection: AsyncProjection[E], events: Sequence[E]) -> None:
        """Fold some, unless it was stopped before."""


class EventFold(_FollowingFold[Recorded]):
    """Of what follows the events. Where one cannot be folded all stop, and it is told."""

    def __init__(
        self, scratch: Connection, following: WithPositions[Recorded], told: FindingsSink
    ) -> None:
        super().__init__(scratch, following)
        self.stopped_at: int | None = None  # from here on they could not be folded
        self._told = told

    def _fold(self, projection: AsyncProjection[Recorded], events: Sequence[Recorded]) -> None:
        if self.stopped_at is not None:
            return
        try:
            projection.apply(self._scratch, SCRATCH_GENERATION, events)
        except Exception as error:  # noqa: BLE001 (a history that no rule made may do anything)
            position = events[0].position
            self._told.about(position, f"it cannot be folded ({type(error).__name__}: {error})")
            self.stopped_at = position


class LeafFold(_FollowingFold[Leaf]):
    """Of what follows the rows' hashes. Where some are missing it stops, which is told already."""

    def __init__(self, scratch: Connection, following: WithPositions[Leaf]) -> None:
        super().__init__(scratch, following)
        self.stopped: set[str] = set()  # those whose rest cannot be told
        self._position = 0

    def finish(self) -> None:
        last = self._waiting[-1].position if self._waiting else self._position
        super().finish()
        self._position = last

    def _fold(self, projection: AsyncProjection[Leaf], events: Sequence[Leaf]) -> None:
        if projection.name in self.stopped:
            return
        if events[0].position != self._position + 1 or not self._applied(projection, events):
            self.stopped.add(projection.name)

    def _applied(self, projection: AsyncProjection[Leaf], events: Sequence[Leaf]) -> bool:
        try:
            projection.apply(self._scratch, SCRATCH_GENERATION, events)
        except LogCorrupt:
            return False
        return True
