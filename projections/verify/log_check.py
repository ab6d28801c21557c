"""The log itself, row by row, and the projections that follow it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy.engine import Connection

from domain.language.events import Recorded
from domain.language.identifiers import UserId
from domain.log.stored_log import Leaf, StoredHead, StoredLog
from projections.following.async_projector import AsyncProjection, checkpoint_positions
from projections.storage.generations import Tabled
from projections.verify import bookkeeping
from projections.verify.chain_check import ChainCheck
from projections.verify.erasure_check import ErasureCheck
from projections.verify.event_check import EventCheck
from projections.verify.expected_tables import ExpectedTables
from projections.verify.findings import Difference, Finding, FindingsSink
from projections.verify.following_fold import EventFold, LeafFold
from projections.verify.log_pages import LogPages
from projections.verify.passes import Checked, earliest, in_pages


class AsyncProjections(NamedTuple):
    """Projections that follow the log."""

    events: Sequence[AsyncProjection[Recorded]]
    leaves: Sequence[AsyncProjection[Leaf]]  # that follow the rows' hashes
    all: Sequence[Tabled]  # also those that another part compares


class LogCheck:
    """A part of a check."""

    def __init__(
        self,
        log: StoredLog[Connection],
        snapshot: Connection,
        head: StoredHead,
        following: AsyncProjections,
        scratch: Connection,
    ) -> None:
        self._log = log
        self._snapshot = snapshot
        self._following = following
        self.head = head
        self._found: list[Finding | Difference] = []
        self._told = told = FindingsSink(self._found.append)
        projections: list[Tabled] = [*following.events, *following.leaves]
        self._counterparts = ExpectedTables(snapshot, scratch, projections, told)
        self.chain = ChainCheck(told)
        self._erasures = ErasureCheck(scratch, told)
        for one in bookkeeping.differences(log, snapshot, head, following.all):
            told.found(one)
        self._leaves = LeafFold(scratch, checkpoint_positions(snapshot, following.leaves))
        self._events = EventFold(scratch, checkpoint_positions(snapshot, following.events), told)
        self._unreadable_at: int | None = None

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
                self._leaves.take(chain.leaves)
                self._events.take(check.take(page))
                self._unreadable_at = check.stopped_at
                yield self._checked()
                if chain.is_broken_off:
                    break
            self._leaves.finish()
            self._events.finish()
            chain.take_head(self.head)
            check.take_end(chain.position)
        yield self._checked()

    def stopped_at(self) -> int | None:
        return earliest(self._unreadable_at, self._events.stopped_at)

    def differences(self) -> Iterator[Sequence[Difference]]:
        # Of those that were stopped events are missing, which is told already; so is it that there
        # is no checkpoint.
        unknown = self._leaves.stopped | self._leaves.not_begun(self._following.leaves)
        unknown |= self._events.not_begun(self._following.events)
        return in_pages(self._counterparts.differences(unknown))

    def _checked(self) -> Checked:
        found = list(self._found)
        self._found.clear()
        return Checked(self.chain.position, found)
