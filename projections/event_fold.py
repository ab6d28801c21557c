"""What follows the log's events, built once more beside the log while `fairlog verify` reads it."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.engine import Connection

from domain.events import Recorded
from projections.counterparts import SCRATCH_GENERATION
from projections.findings import Told
from projections.follower import FollowingProjection

EVENTS_A_FOLD: Final = 8000  # rows that change often are written once


class EventFold:
    """Each projection is folded as far as it has come itself: up to its position."""

    def __init__(
        self,
        scratch: Connection,
        following: Sequence[tuple[FollowingProjection[Recorded], int]],
        told: Told,
    ) -> None:
        self.stopped_at: int | None = None  # from here on they could not be folded
        self._scratch = scratch
        self._following = following
        self._told = told
        self._waiting: list[Recorded] = []

    def take(self, events: Sequence[Recorded]) -> None:
        """Fold them, or have them wait for more; `finish` folds the last ones."""
        self._waiting += events
        if len(self._waiting) >= EVENTS_A_FOLD:
            self.finish()

    def finish(self) -> None:
        events, self._waiting = self._waiting, []
        for projection, up_to in self._following:
            reached = [one for one in events if one.position <= up_to]
            if not reached or self.stopped_at is not None:
                continue
            try:
                projection.apply(self._scratch, SCRATCH_GENERATION, reached)
            except Exception as error:  # noqa: BLE001 (a history that no rule made may do anything)
                position = reached[0].position
                self._told.about(position, f"it cannot be folded ({type(error).__name__}: {error})")
                self.stopped_at = position
