"""Verification of the log, and of every projection against the log.

Each row is checked as it is stored, then as an event. The events are folded into a scratch database
by the code that writes the live tables, and both are compared row by row. Two passes share the
work, so that it can use two cores. Findings are reported at once; memory does not grow with the
log.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from domain.language.errors import EventsArchived, FairlogError
from domain.language.identifiers import UserId
from domain.log.chain import GENESIS
from domain.log.stored_log import StoredHead, StoredLog
from projections.verify.chain_check import ChainCheck, in_hex
from projections.verify.findings import (
    CheckPass,
    Difference,
    Finding,
    FindingsSink,
    Report,
    earliest,
)
from projections.verify.log_check import LogCheck
from projections.verify.log_pages import LogPages

Progress = Callable[[int, int], None]  # events checked, events in the log


class TrustedHead(Struct, frozen=True):
    """A head that was noted earlier, outside the database."""

    position: int  # 0: the empty log
    hash: bytes


class Verified(Struct, frozen=True):
    """The result of a verification."""

    position: int  # of the latest event
    hash: bytes  # of the log up to there; noted elsewhere, both are a `TrustedHead`
    events: int  # number of events checked
    findings: int  # number of findings about the log
    differing: Sequence[str]  # names of projections that differ from what the log gives
    erased: Mapping[UserId, int] = {}  # number of bodies erased by an event, by user

    @property
    def is_clean(self) -> bool:
        """True if nothing is wrong."""
        return not self.findings and not self.differing


def verify(
    log_check: LogCheck,
    history_check: CheckPass,
    report: Report,
    progress: Progress,
    found_before: Sequence[Finding | Difference] = (),
) -> Verified:
    """Run both passes, and report their findings in the order of the log, page by page.

    `found_before` are findings about the tables themselves, which are reported first. Raises
    `FairlogError` when there is no log, or when a projection was built by a newer release.
    """
    sink = FindingsSink(report)
    sink.add_all(found_before)
    history_pages = history_check.pages()
    position, history_position = 0, 0
    for page in log_check.pages():
        sink.add_all(page.found)
        while history_position < page.position and (other := next(history_pages, None)) is not None:
            sink.add_all(other.found)
            history_position = other.position
        if page.position > position:
            position = page.position
            progress(min(position, log_check.head.position), log_check.head.position)
    for other in history_pages:
        sink.add_all(other.found)
    stopped_at = earliest(log_check.stopped_at(), history_check.stopped_at())
    if stopped_at is not None:
        sink.about(stopped_at, "from here on the projections cannot be compared with the log")
    else:
        for check in (history_check, log_check):
            for differences in check.differences():
                sink.add_all(differences)
    return replace(_verified(log_check.chain, sink), erased=log_check.erased)


def verify_chain(
    log: StoredLog[Connection],
    snapshot: Connection,
    trusted: TrustedHead,
    report: Report,
    progress: Progress,
) -> Verified:
    """Check only positions, hashes and times, and only of the events after a trusted head.

    If the trusted head is on the chain, the hashes up to it are unchanged. Only a full check shows
    whether the rows up to it still have these hashes.
    """
    head = head_of(log, snapshot)
    sink = FindingsSink(report)
    if trusted.position < head.cut:
        raise EventsArchived(head.cut)
    chain = _chain_after(log, snapshot, head, trusted, sink)
    if chain is None:
        return Verified(head.position, head.hash, 0, sink.findings, ())
    with LogPages(log, snapshot) as pages:
        for page in pages.after(chain.position):
            chain.take(page.rows)
            progress(chain.position - trusted.position, head.position - trusted.position)
            if chain.is_broken_off:
                break
    chain.take_head(head)
    return _verified(chain, sink)


def _chain_after(
    log: StoredLog[Connection],
    snapshot: Connection,
    head: StoredHead,
    trusted: TrustedHead,
    sink: FindingsSink,
) -> ChainCheck | None:
    """Return the check of the chain from the trusted head on; None if the log ends before it."""
    if trusted.position == 0:
        if trusted.hash != GENESIS:
            sink.about(0, f"the trusted hash is not that of the empty log, {GENESIS.hex()}")
        return ChainCheck(sink)
    if trusted.position == head.cut:
        if trusted.hash != head.cut_hash:
            sink.about(
                trusted.position,
                f"its hash is {head.cut_hash.hex()}, but the trusted one is {trusted.hash.hex()}",
            )
        return ChainCheck(sink, head.cut, head.cut_hash)
    found = log.rows(snapshot, trusted.position - 1, 1)
    if not found or found[0][0] != trusted.position:
        sink.about(trusted.position, "the trusted head is not in the log: its end was cut off")
        return None
    recorded_at, stored = found[0][5], found[0][7]
    if stored != trusted.hash:
        sink.about(
            trusted.position,
            f"its hash is {in_hex(stored)}, but the trusted one is {trusted.hash.hex()}",
        )
    return ChainCheck(sink, trusted.position, stored, recorded_at)


def head_of(log: StoredLog[Connection], snapshot: Connection) -> StoredHead:
    """Return the head row. Raises `FairlogError` when it is missing or its numbers are none."""
    head = log.head(snapshot)
    if head is None:
        raise FairlogError("The log has no head row (log_head, id 1); run `fairlog migrate`.")
    for name, value in (("position", head.position), ("recorded_at", head.recorded_at)):
        if not isinstance(value, int):  # SQLite stores any type in any column
            raise FairlogError(f"The {name} of the head row (log_head) is {value!r}, no number.")
    return head


def _verified(chain: ChainCheck, sink: FindingsSink) -> Verified:
    return Verified(
        chain.position, chain.last_hash, chain.events, sink.findings, list(sink.differing)
    )
