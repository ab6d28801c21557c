"""Checking the log, and every projection against the log.

Each row is checked as it is stored, then as an event, and folded into a scratch database by the
very code that keeps the live tables, which are then compared with it row by row. Two parts share
this, each with a core of its own where there is one. Findings are told as they come; memory does
not grow with the log.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from domain.language.errors import FairlogError
from domain.language.identifiers import UserId
from domain.log.chain import GENESIS
from domain.log.stored_log import StoredHead, StoredLog
from projections.verify.chain_check import ChainCheck, in_hex
from projections.verify.findings import Difference, Finding, FindingsSink, Report
from projections.verify.log_check import LogCheck
from projections.verify.log_pages import LogPages
from projections.verify.passes import CheckPass, earliest

Progress = Callable[[int, int], None]  # events checked, events in the log


class TrustedHead(Struct, frozen=True):
    """A head that somebody noted earlier, outside the database."""

    position: int  # 0: the empty log
    hash: bytes


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
    ours: LogCheck,
    beside: CheckPass,
    report: Report,
    progress: Progress,
    found_before: Sequence[Finding | Difference] = (),
) -> Verified:
    """Check everything. What was found is told in the order of the log, page by page.

    `found_before` was found about the tables themselves, and is told first.

    Raises `FairlogError` when there is no log, or when a projection was built by a newer release.
    """
    told = FindingsSink(report)
    _tell(told, found_before)
    theirs = beside.pages()
    come, come_beside = 0, 0  # up to these positions
    for page in ours.pages():
        _tell(told, page.found)
        while come_beside < page.position and (other := next(theirs, None)) is not None:
            _tell(told, other.found)
            come_beside = other.position
        if page.position > come:
            come = page.position
            progress(min(come, ours.head.position), ours.head.position)
    for other in theirs:
        _tell(told, other.found)
    stopped_at = earliest(ours.stopped_at(), beside.stopped_at())
    if stopped_at is not None:
        told.about(stopped_at, "from here on the projections cannot be held against the log")
    else:
        for part in (beside, ours):
            for differences in part.differences():
                _tell(told, differences)
    return replace(_verified(ours.chain, told), erased=ours.erased)


def _tell(told: FindingsSink, found: Sequence[Finding | Difference]) -> None:
    for one in found:
        told.found(one)


def verify_chain(
    log: StoredLog[Connection],
    snapshot: Connection,
    kept: TrustedHead,
    report: Report,
    progress: Progress,
) -> Verified:
    """Check only positions, hashes and clock, and only of what follows a kept head.

    That the kept head is on the chain says that the hashes up to it are those of then; whether
    their rows still give them is for a full check to say.
    """
    head = head_of(log, snapshot)
    told = FindingsSink(report)
    chain = _chain_behind(log, snapshot, kept, told)
    if chain is None:
        return Verified(head.position, head.hash, 0, told.findings, ())
    with LogPages(log, snapshot) as pages:
        for page in pages.behind(chain.position):
            chain.take(page.rows)
            progress(chain.position - kept.position, head.position - kept.position)
            if chain.is_broken_off:
                break
    chain.take_head(head)
    return _verified(chain, told)


def _chain_behind(
    log: StoredLog[Connection], snapshot: Connection, kept: TrustedHead, told: FindingsSink
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


def head_of(log: StoredLog[Connection], snapshot: Connection) -> StoredHead:
    """Raises `FairlogError` when there is no log, or no telling where it ends."""
    head = log.head(snapshot)
    if head is None:
        raise FairlogError("The log has no head row (log_head, id 1); run `fairlog migrate`.")
    for name, value in (("position", head.position), ("recorded_at", head.recorded_at)):
        if not isinstance(value, int):  # SQLite keeps whatever it is given
            raise FairlogError(f"The {name} of the head row (log_head) is {value!r}, no number.")
    return head


def _verified(chain: ChainCheck, told: FindingsSink) -> Verified:
    return Verified(chain.position, chain.tail, chain.events, told.findings, list(told.differing))
