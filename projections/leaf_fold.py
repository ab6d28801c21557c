"""What follows the rows' hashes, built once more beside the log while `fairlog verify` reads it."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.engine import Connection

from domain.errors import LogCorrupt
from domain.stored_log import Leaf
from projections.counterparts import SCRATCH_GENERATION
from projections.follower import FollowingProjection

LEAVES_A_FOLD: Final = 8192  # whole tiles


class LeafFold:
    """Each projection is folded as far as it has come itself: up to its position."""

    def __init__(
        self, scratch: Connection, following: Sequence[tuple[FollowingProjection[Leaf], int]]
    ) -> None:
        self.stopped: set[str] = set()  # those whose rest cannot be told
        self._scratch = scratch
        self._following = following
        self._position = 0
        self._waiting: list[Leaf] = []

    def take(self, leaves: Sequence[Leaf]) -> None:
        """Fold them, or have them wait for more; `finish` folds the last ones."""
        self._waiting += leaves
        if len(self._waiting) >= LEAVES_A_FOLD:
            self.finish()

    def finish(self) -> None:
        leaves, self._waiting = self._waiting, []
        for projection, up_to in self._following:
            reached = [leaf for leaf in leaves if leaf.position <= up_to]
            if not reached or projection.name in self.stopped:
                continue
            if reached[0].position != self._position + 1 or not self._applied(projection, reached):
                self.stopped.add(projection.name)
        if leaves:
            self._position = leaves[-1].position

    def _applied(self, projection: FollowingProjection[Leaf], leaves: Sequence[Leaf]) -> bool:
        try:
            projection.apply(self._scratch, SCRATCH_GENERATION, leaves)
        except LogCorrupt:
            return False
        return True
