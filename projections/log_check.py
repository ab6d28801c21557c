"""The log itself, row by row, and the projections that follow it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy.engine import Connection

from domain.events import Recorded
from domain.identifiers import UserId
from domain.stored_log import Leaf, StoredHead, StoredLog
from projections.chain_check import ChainCheck
from projections.counterparts import SCRATCH_GENERATION, Counterparts
from projections.erasure_check import ErasureCheck
from projections.event_check import EventCheck
from projections.findings import Difference, Finding, Told
from projections.follower import E, Follower, FollowingProjection
from projections.generations import Tabled
from projections.leaf_fold import LeafFold
from projections.log_pages import LogPages
from projections.parts import Checked, in_pages

EVENTS_A_FOLD: Final = 8000  # of what follows the log: rows that change often are written once


class Following(NamedTuple):
    """The projections that follow the log."""

    events: Sequence[Follower[Recorded]]
    leaves: Sequence[Follower[Leaf]]  # that follow the rows' hashes


class LogCheck:
    """A part of a check. Each projection is folded as far as it has come itself."""

    def __init__(
        self,
        log: StoredLog[Connection],
        snapshot: Connection,
        head: StoredHead,
        following: Following,
        scratch: Connection,
    ) -> None:
        self._log = log
        self._snapshot = snapshot
        self._scratch = scratch
        self.head = head
        self._found: list[Finding | Difference] = []
        self._told = told = Told(self._found.append)
        projections: list[Tabled] = [
            *(one.projection for one in following.events),
            *(one.projection for one in following.leaves),
        ]
        self._counterparts = Counterparts(snapshot, scratch, projections, told)
        self.chain = ChainCheck(told)
        self._erasures = ErasureCheck(scratch, told)
        self._leaves = LeafFold(scratch, _reached(snapshot, following.leaves))
        self._events = _reached(snapshot, following.events)
        self._unreadable_at: int | None = None
        self._unfoldable_at: int | None = None
        self._unfolded: list[Recorded] = []
        self._unfolded_leaves: list[Leaf] = []

    @property
    def erased(self) -> Mapping[UserId, int]:
        """How many bodies events say were erased, of each user."""
        return self._erasures.erased

    def pages(self) -> Iterator[Checked]:
        yield self._checked()
        chain = self.chain
        with LogPages(self._log, self._snapshot, with_bodies=True) as pages:
            check = EventCheck(pages, self.head.position, self._erasures, self._told)
            for page in pages.behind(0):
                chain.take(page.rows)
                self._unfolded_leaves += chain.leaves
                self._unfolded += check.take(page)
                self._unreadable_at = check.stopped_at
                if len(self._unfolded_leaves) >= EVENTS_A_FOLD:
                    self._fold()
                yield self._checked()
                if chain.is_broken_off:
                    break
            self._fold()
            chain.take_head(self.head)
            check.take_end(chain.position)
        yield self._checked()

    def stopped_at(self) -> int | None:
        stops = (self._unreadable_at, self._unfoldable_at)
        return min((at for at in stops if at is not None), default=None)

    def differences(self) -> Iterator[Sequence[Difference]]:
        # Of those that were stopped events are missing, which is told already.
        return in_pages(self._counterparts.differences(self._leaves.stopped))

    def _checked(self) -> Checked:
        found = list(self._found)
        self._found.clear()
        return Checked(self.chain.position, found)

    def _fold(self) -> None:
        events, self._unfolded = self._unfolded, []
        leaves, self._unfolded_leaves = self._unfolded_leaves, []
        self._leaves.take(leaves)
        for projection, up_to in self._events:
            reached = [one for one in events if one.position <= up_to]
            if not reached or self._unfoldable_at is not None:
                continue
            try:
                projection.apply(self._scratch, SCRATCH_GENERATION, reached)
            except Exception as error:  # noqa: BLE001 (a history that no rule made may do anything)
                position = reached[0].position
                self._told.about(position, f"it cannot be folded ({type(error).__name__}: {error})")
                self._unfoldable_at = position


def _reached(
    snapshot: Connection, followers: Sequence[Follower[E]]
) -> list[tuple[FollowingProjection[E], int]]:
    """Those that were begun, each with the position that it has come to."""
    return [
        (one.projection, at.position)
        for one in followers if (at := one.checkpoint(snapshot)) is not None
    ]  # fmt: skip
