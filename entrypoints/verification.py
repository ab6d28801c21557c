"""`fairlog verify` wired: the log as it is stored, one moment of it, and a scratch database."""

from adapters.scratch import scratch_database
from adapters.stored_log import SqlStoredLog, snapshot
from domain.events import Recorded
from domain.stored_log import Leaf
from entrypoints.service import Fairlog
from projections.findings import Report
from projections.follower import Follower
from projections.live import inline_projections
from projections.merkle import MerkleProjection
from projections.verify import Kept, Progress, Projections, Verified, verify, verify_chain


def verify_log(fairlog: Fairlog, report: Report, progress: Progress) -> Verified:
    """Check the log, and every projection against it, while everybody goes on working."""
    log = SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
    with snapshot(fairlog.database) as connection, scratch_database() as scratch:
        following: list[Follower[Recorded]] = []
        hashing: list[Follower[Leaf]] = []
        for follower in fairlog.following.followers:
            hashes = isinstance(follower.projection, MerkleProjection)
            (hashing if hashes else following).append(follower)
        projections = Projections(inline_projections(), following, hashing)
        return verify(log, connection, projections, scratch, report, progress)


def verify_log_chain(fairlog: Fairlog, kept: Kept, report: Report, progress: Progress) -> Verified:
    """Check only the chain, and only what is new since a kept head."""
    log = SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
    with snapshot(fairlog.database) as connection:
        return verify_chain(log, connection, kept, report, progress)
