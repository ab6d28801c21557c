"""`fairlog verify` wired: the log as it is stored, one moment of it, and a scratch database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from adapters.scratch import scratch_database
from adapters.stored_log import SqlStoredLog, snapshot
from domain.events import Recorded
from domain.stored_log import Leaf
from entrypoints.interpreter import tuned_for_one_pass
from entrypoints.service import Fairlog
from entrypoints.verifying import following, history_check, history_check_beside
from projections.findings import Report
from projections.follower import FollowingProjection
from projections.log_check import Following, LogCheck
from projections.merkle import MerkleProjection
from projections.verify import Kept, Progress, Verified, head_of, verify, verify_chain

EVENTS_APART_MIN: Final = 20_000  # starting a process takes as long as checking some of them


def verify_log(fairlog: Fairlog, report: Report, progress: Progress) -> Verified:
    """Check the log, and every projection against it, while everybody goes on working."""
    database = fairlog.database
    with tuned_for_one_pass(), _log_check(fairlog) as ours:
        is_long = ours.head.position >= EVENTS_APART_MIN
        with (history_check_beside if is_long else history_check)(database) as beside:
            return verify(ours, beside, report, progress)


def verify_log_chain(fairlog: Fairlog, kept: Kept, report: Report, progress: Progress) -> Verified:
    """Check only the chain, and only what is new since a kept head."""
    with snapshot(fairlog.database) as connection:
        return verify_chain(_stored_log(fairlog), connection, kept, report, progress)


@contextmanager
def _log_check(fairlog: Fairlog) -> Iterator[LogCheck]:
    log = _stored_log(fairlog)
    events: list[FollowingProjection[Recorded]] = []
    leaves: list[FollowingProjection[Leaf]] = []
    elsewhere = {one.name for one in following()}
    for follower in fairlog.following.followers:
        projection = follower.projection
        if projection.name not in elsewhere:
            (leaves if isinstance(projection, MerkleProjection) else events).append(projection)
    with snapshot(fairlog.database) as connection, scratch_database() as scratch:
        head = head_of(log, connection)
        yield LogCheck(log, connection, head, Following(events, leaves), scratch)


def _stored_log(fairlog: Fairlog) -> SqlStoredLog:
    return SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
