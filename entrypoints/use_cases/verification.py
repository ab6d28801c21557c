"""`fairlog verify`: its parts joined, the stored log, a snapshot and a scratch database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from adapters.database.scratch import scratch_database
from adapters.log.schema import TriggerFault, sees_triggers, trigger_faults, triggers_are_possible
from adapters.log.schema_check import schema_faults
from adapters.log.stored_log import SqlStoredLog, snapshot
from adapters.log.tables import metadata
from domain.language.events import Recorded
from domain.log.stored_log import Leaf
from entrypoints.composition import projection_tables
from entrypoints.runtime.interpreter import tuned_for_one_pass
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.verifying import following, history_check, history_check_in_child
from projections.following.async_projection import AsyncProjection
from projections.following.merkle import MerkleProjection
from projections.verify import bookkeeping
from projections.verify.findings import Difference, Finding, Report
from projections.verify.log_check import AsyncProjections, LogCheck
from projections.verify.verify import Progress, TrustedHead, Verified, head_of, verify, verify_chain

CHILD_EVENTS_MIN: Final = 20_000  # for fewer, starting a child process takes longer than it saves


def verify_log(fairlog: Fairlog, report: Report, progress: Progress) -> Verified:
    """Check the log, and every projection against it, while the service runs."""
    database = fairlog.database
    found = faults_of_tables(fairlog)
    with tuned_for_one_pass(), _log_check(fairlog) as log_pass:
        is_long = log_pass.head.position >= CHILD_EVENTS_MIN
        with (history_check_in_child if is_long else history_check)(database) as history_pass:
            return verify(log_pass, history_pass, report, progress, found)


def verify_log_chain(
    fairlog: Fairlog, trusted: TrustedHead, report: Report, progress: Progress
) -> Verified:
    """Check only the chain, and only the events after a trusted head."""
    with snapshot(fairlog.database) as connection:
        return verify_chain(_stored_log(fairlog), connection, trusted, report, progress)


def faults_of_tables(fairlog: Fairlog) -> list[Finding | Difference]:
    """Return the faults of the tables themselves, and of the triggers that guard the events."""
    database = fairlog.database
    faults: list[Finding | Difference] = []
    if triggers_are_possible(database) and (missing := trigger_faults(database)):
        is_seen = sees_triggers(database)
        faults += [
            Finding(None, f"the trigger {name} on events {fault.value}; run `fairlog migrate`")
            for name, fault in missing.items()
            if is_seen or fault is not TriggerFault.MISSING
        ]
    with database.read() as connection:
        for one in schema_faults(connection, metadata.sorted_tables):
            what = f"{one.table}, {one.what}: {one.found}, and not {one.wanted}"
            faults.append(Finding(None, what))
        for projection, tables in projection_tables(fairlog).items():
            faults += [
                Difference(projection, one.table, one.what, one.found, one.wanted)
                for one in schema_faults(connection, tables)
            ]
    return faults


def bookkeeping_faults(fairlog: Fairlog) -> list[str]:
    """Return what `fairlog verify` would report about head row, registry and checkpoints."""
    log = _stored_log(fairlog)
    following = [projector.projection for projector in fairlog.projector_runner.projectors]
    with snapshot(fairlog.database) as connection:
        head = head_of(log, connection)
        found = bookkeeping.differences(log, connection, head, following)
        return [*head.wrong, *map(str, found)]


@contextmanager
def _log_check(fairlog: Fairlog) -> Iterator[LogCheck]:
    log = _stored_log(fairlog)
    events: list[AsyncProjection[Recorded]] = []
    leaves: list[AsyncProjection[Leaf]] = []
    every = [projector.projection for projector in fairlog.projector_runner.projectors]
    elsewhere = {one.name for one in following()}
    for projection in every:
        if projection.name not in elsewhere:
            (leaves if isinstance(projection, MerkleProjection) else events).append(projection)
    with snapshot(fairlog.database) as connection, scratch_database() as scratch:
        head = head_of(log, connection)
        yield LogCheck(log, connection, head, AsyncProjections(events, leaves, every), scratch)


def _stored_log(fairlog: Fairlog) -> SqlStoredLog:
    return SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
