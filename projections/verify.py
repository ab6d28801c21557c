"""Checking the log, and every projection against the log.

The log is streamed once. Each row is checked as it is stored, then as an event, and folded into a
scratch database by the very code that keeps the live tables, which are then compared with it row by
row. Findings are told as they come; memory does not grow with the log.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from domain.chain import GENESIS
from domain.errors import FairlogError
from domain.events import Recorded
from domain.identifiers import UserId
from domain.stored_log import Leaf, StoredHead, StoredLog
from projections import registry
from projections.chain_check import ChainCheck, in_hex
from projections.comparison import Side, differences
from projections.erasure_check import ErasureCheck
from projections.event_check import SCRATCH_GENERATION, EventCheck, ScratchFold
from projections.findings import Difference, Report, Told
from projections.follower import Follower
from projections.generations import InlineProjection, Tabled
from projections.leaf_fold import LeafFold

EVENTS_A_PAGE: Final = 4000

Progress = Callable[[int, int], None]  # events checked, events in the log


class Kept(Struct, frozen=True):
    """A head that somebody noted earlier, outside the database."""

    position: int  # 0: the empty log
    hash: bytes


class Projections(NamedTuple):
    """All that are held against the log."""

    inline: Sequence[InlineProjection]
    following: Sequence[Follower[Recorded]]
    hashing: Sequence[Follower[Leaf]] = ()  # that follow the rows' hashes


class Verified(Struct, frozen=True):
    """What a check came to."""

    position: int  # of the latest event
    hash: bytes  # keep both elsewhere: they stand for the whole log up to there
    events: int  # that were checked
    findings: int  # about the log
    differing: Sequence[str]  # projections that are not what the log gives
    erased: Mapping[UserId, int] = {}  # bodies that events say were erased, of each user

    @property
    def is_clean(self) -> bool:
        return not self.findings and not self.differing


def verify(
    log: StoredLog[Connection],
    snapshot: Connection,
    projections: Projections,
    scratch: Connection,
    report: Report,
    progress: Progress,
) -> Verified:
    """Check everything, as it is on `snapshot`, a connection that sees one moment.

    `scratch` is an empty database. Raises `FairlogError` when there is no log, or when a projection
    was built by a newer release.
    """
    head = _head(log, snapshot)
    told = Told(report)
    compared = _live(snapshot, projections, told)
    chain = ChainCheck(told)
    fold = ScratchFold(
        scratch,
        projections.inline,
        {one.projection.name: (one.projection, at.position)
         for one in projections.following if (at := one.checkpoint(snapshot)) is not None},
        head.position, told,
    )  # fmt: skip
    hashing = LeafFold(
        scratch,
        [(one.projection, at.position)
         for one in projections.hashing if (at := one.checkpoint(snapshot)) is not None],
    )  # fmt: skip
    erasures = ErasureCheck(scratch, told)
    events = EventCheck(log, snapshot, fold, erasures, told)
    while not chain.is_broken_off and (rows := log.rows(snapshot, chain.position, EVENTS_A_PAGE)):
        after = chain.position
        chain.take(rows)
        hashing.take(chain.leaves)
        events.take(rows, after, chain.position, head.position)
        progress(chain.position, head.position)
    chain.take_head(head)
    events.take_end(chain.position)
    fold.finish()
    if fold.stopped_at is not None:
        told.about(fold.stopped_at, "from here on the projections cannot be held against the log")
    else:
        for name, (generation, tables) in compared.items():
            if name in hashing.stopped:  # events are missing, which is told already
                continue
            live, from_log = Side(snapshot, generation), Side(scratch, SCRATCH_GENERATION)
            for table in tables:
                for difference in differences(name, table, live, from_log):
                    told.difference(difference)
    return replace(_verified(chain, told), erased=erasures.erased)


def verify_chain(
    log: StoredLog[Connection],
    snapshot: Connection,
    kept: Kept,
    report: Report,
    progress: Progress,
) -> Verified:
    """Check only positions, hashes and clock, and only of what follows a kept head.

    That the kept head is on the chain says that the hashes up to it are those of then; whether
    their rows still give them is for a full check to say.
    """
    head = _head(log, snapshot)
    told = Told(report)
    chain = _chain_behind(log, snapshot, kept, told)
    if chain is None:
        return Verified(head.position, head.hash, 0, told.findings, ())
    while not chain.is_broken_off and (rows := log.rows(snapshot, chain.position, EVENTS_A_PAGE)):
        chain.take(rows)
        progress(chain.position - kept.position, head.position - kept.position)
    chain.take_head(head)
    return _verified(chain, told)


def _chain_behind(
    log: StoredLog[Connection], snapshot: Connection, kept: Kept, told: Told
) -> ChainCheck | None:
    """The chain from the kept head on; None where the log does not reach it."""
    if kept.position == 0:
        if kept.hash != GENESIS:
            told.about(0, f"the kept hash is not that of the empty log, {GENESIS.hex()}")
        return ChainCheck(told)
    found = log.rows(snapshot, kept.position - 1, 1)
    if not found or found[0][0] != kept.position:
        told.about(kept.position, "the kept head is not in the log: its end was cut off")
        return None
    recorded_at, stored = found[0][5], found[0][7]
    if stored != kept.hash:
        told.about(
            kept.position, f"its hash is {in_hex(stored)}, but the kept one is {kept.hash.hex()}"
        )
    return ChainCheck(told, kept.position, stored, recorded_at)


def _head(log: StoredLog[Connection], snapshot: Connection) -> StoredHead:
    head = log.head(snapshot)
    if head is None:
        raise FairlogError("The log has no head row; run `fairlog migrate`.")
    return head


def _live(
    snapshot: Connection, projections: Projections, told: Told
) -> dict[str, tuple[int, Sequence[sa.Table]]]:
    """The generation in use of each projection, and its tables; told of is one that has none."""
    every: list[Tabled] = [
        *projections.inline,
        *(one.projection for one in projections.following),
        *(one.projection for one in projections.hashing),
    ]
    registered = registry.read(snapshot)
    registry.check_versions(registered, every)
    live: dict[str, tuple[int, Sequence[sa.Table]]] = {}
    for projection in every:
        found = registered.get(projection.name)
        if found is None or not found.is_built or found.version != projection.version:
            key = f"name={projection.name!r}"
            told.difference(
                Difference(projection.name, registry.registry.name, key, "not built", "built")
            )
        else:
            live[projection.name] = (found.generation, projection.tables)
    return live


def _verified(chain: ChainCheck, told: Told) -> Verified:
    return Verified(chain.position, chain.tail, chain.events, told.findings, list(told.differing))
