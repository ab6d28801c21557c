"""The pass that checks the log itself, row by row, and most asynchronous projections."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy.engine import Connection

from domain.language.events import Recorded
from domain.language.identifiers import UserId
from domain.log.stored_log import CutLog, Leaf, StoredHead
from projections.following.async_projection import AsyncProjection
from projections.storage.generations import Tabled
from projections.verify import bookkeeping
from projections.verify.archive_check import ArchiveCheck
from projections.verify.async_fold import EventFold, LeafFold, checkpoint_positions
from projections.verify.chain_check import ChainCheck
from projections.verify.event_check import ErasureCheck, EventCheck
from projections.verify.expected_tables import ExpectedTables, restore_cut
from projections.verify.findings import (
    Checked,
    Difference,
    Finding,
    FindingsSink,
    earliest,
    in_pages,
)
from projections.verify.log_pages import LogPages


class AsyncProjections(NamedTuple):
    """The asynchronous projections, by what they are folded from."""

    events: Sequence[AsyncProjection[Recorded]]
    leaves: Sequence[AsyncProjection[Leaf]]  # hashes of the log's rows
    all: Sequence[Tabled]  # including those that `HistoryCheck` compares


class LogCheck:
    """Checks rows, chain, bodies and bookkeeping, and the asynchronous projections given to it."""

    def __init__(
        self,
        log: CutLog[Connection],
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
        self._sink = sink = FindingsSink(self._found.append)
        projections: list[Tabled] = [*following.events, *following.leaves]
        self._expected = ExpectedTables(snapshot, scratch, projections, sink)
        self.chain = ChainCheck(sink, head.cut, head.cut_hash)
        self._archive = ArchiveCheck(log, snapshot, head, sink)
        stay = self._archive.bodies
        self._erasures = ErasureCheck(
            scratch, sink, lambda position: position <= head.cut and position not in stay
        )
        for one in bookkeeping.differences(log, snapshot, head, following.all):
            sink.add(one)
        restore_cut(log, snapshot, head, projections, scratch)
        self._leaves = LeafFold(scratch, checkpoint_positions(snapshot, following.leaves), head.cut)
        self._events = EventFold(scratch, checkpoint_positions(snapshot, following.events), sink)
        self._unreadable_at: int | None = None

    @property
    def erased(self) -> Mapping[UserId, int]:
        """The number of bodies that events say were erased, by user."""
        return self._erasures.erased

    def pages(self) -> Iterator[Checked]:
        yield self._checked()
        chain = self.chain
        with LogPages(self._log, self._snapshot, with_bodies=True) as pages:
            check = EventCheck(pages, self.head.position, self._erasures, self._sink)
            check.take_archived(self._archive.bodies, self.head.cut)
            for page in pages.after(self.head.cut):
                chain.take(page.rows)
                self._leaves.take(chain.leaves)
                events = check.take(page)
                self._archive.take(events)
                self._events.take(events)
                self._unreadable_at = check.stopped_at
                yield self._checked()
                if chain.is_broken_off:
                    break
            self._leaves.finish()
            self._events.finish()
            chain.take_head(self.head)
            self._archive.finish()
            check.take_end(chain.position)
        yield self._checked()

    def stopped_at(self) -> int | None:
        return earliest(self._unreadable_at, self._events.stopped_at)

    def differences(self) -> Iterator[Sequence[Difference]]:
        # Missing rows and missing checkpoints are reported already.
        incomplete = self._leaves.stopped | self._leaves.without_checkpoint(self._following.leaves)
        incomplete |= self._events.without_checkpoint(self._following.events)
        return in_pages(self._expected.differences(incomplete))

    def _checked(self) -> Checked:
        found = list(self._found)
        self._found.clear()
        return Checked(self.chain.position, found)
