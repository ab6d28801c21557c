"""One contract of the log, on each database."""

import hashlib
import multiprocessing
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import closing
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import DBAPIError

from adapters.database.database import Database
from adapters.log import audit_log
from adapters.log.audit_log import EventFilter
from adapters.log.event_log import SqlEventLog
from adapters.log.schema import REVISION, is_current, migrate, protect_events, trigger_faults
from adapters.log.tables import FORMAT, events, log_head
from adapters.log.tables import metadata as log_metadata
from adapters.log.upgrade import newest_revision
from adapters.settings import Settings
from domain.decisions.answers import Submitted
from domain.decisions.ports import Head
from domain.language.errors import LogCorrupt, LogTooNew, LogUnavailable
from domain.language.events import Recorded, decode
from domain.language.identifiers import JobId, UserId
from domain.language.moments import UNIX_EPOCH
from domain.log.chain import GENESIS
from entrypoints.composition import compose, prepare
from entrypoints.service.fairlog import Fairlog
from projections.inline.live import inline_projections
from projections.rebuild.rebuild import outdated
from tests.conftest import NewDatabase
from tests.support.clock import ManualClock
from tests.support.core import do, log_of, outcomes, put, service
from tests.support.given import NOW, at
from tests.support.log import append
from tests.support.stories import ALICE, BOB, admitted, submit
from tests.support.waiting import wait_until

# Appending and reading


def test_positions_are_counted_from_one_without_gaps(database: Database) -> None:
    log = SqlEventLog(database)
    append(log, database, ("a", None), ("b", None))
    append(log, database, ("c", 3))
    with database.read() as connection:
        assert [one.position for one in log.read(connection, 0, 10)] == [1, 2, 3]
        assert [one.position for one in log.read(connection, 1, 1)] == [2]
        assert log.read(connection, 3, 10) == []
        assert log.position(connection) == 3


def test_an_event_is_read_as_it_was_written(database: Database) -> None:
    log = SqlEventLog(database, ManualClock(at(0.000001)))
    append(log, database, ("zoë 👩‍👩‍👧 ", 77))
    with database.read() as connection:
        [read] = log.read(connection, 0, 10)
        [stored] = audit_log.find(connection, EventFilter(), 0, 10)
    assert read == Recorded(1, at(0.000001), JobId(77), admitted(UserId("zoë 👩‍👩‍👧 ")))
    assert (stored.user_id, stored.job_id, stored.recorded_at) == ("zoë 👩‍👩‍👧 ", 77, at(0.000001))
    assert (stored.type, stored.version) == ("RateLimitDecided", 1)
    assert decode(stored.data) == read.event


def test_what_is_not_committed_was_never_there(database: Database) -> None:
    log = SqlEventLog(database)
    with database.connect_writer() as connection, connection.begin() as transaction:
        head = log.lock_head(connection)
        new = log.append(connection, head, [Recorded(1, head.now, None, admitted())], []).head
        log.move_head(connection, head, new)
        transaction.rollback()
    with database.read() as connection:
        assert (log.read(connection, 0, 9), log.position(connection)) == ([], 0)
    assert append(log, database, ("a", None)).position == 1


def test_a_head_that_somebody_else_moved_is_not_moved_again(database: Database) -> None:
    """Move the head as a cluster's certification sees it, where one node's lock proves nothing."""
    log = SqlEventLog(database)
    with database.write() as connection:
        stale = log.lock_head(connection)
    append(log, database, ("a", None))
    with pytest.raises(LogUnavailable), database.write() as connection:
        log.move_head(connection, stale, Head(1, b"x" * 32, stale.now, stale.version))


def test_a_log_of_a_newer_format_is_not_touched(database: Database) -> None:
    log = SqlEventLog(database)
    with database.write() as connection:
        connection.execute(log_head.update().values(format=FORMAT + 1))
    with database.write() as connection, pytest.raises(LogTooNew, match="install the newer"):
        log.lock_head(connection)


def test_a_log_without_a_head_says_so(database: Database) -> None:
    with database.write() as connection:
        connection.execute(log_head.delete())
    with database.write() as connection, pytest.raises(LogCorrupt, match="fairlog migrate"):
        SqlEventLog(database).lock_head(connection)


# Writers and readers who race


def test_two_writers_at_once_leave_no_gap_and_a_reader_by_position_skips_nothing(
    database_url: str,
) -> None:
    """Each writer is a service of its own; the reader follows while they write."""
    followed: list[int] = []
    done = threading.Event()

    def follow(fairlog: Fairlog) -> None:
        last = 0
        while True:
            is_over = done.is_set()
            with fairlog.database.read() as connection:
                found = [one.position for one in fairlog.log.read(connection, last, 50)]
            followed.extend(found)
            last = found[-1] if found else last
            if is_over and not found:
                return

    with service(database_url) as one, service(database_url) as other:
        with ThreadPoolExecutor(3) as threads:
            reader = threads.submit(follow, one)
            writers = [
                threads.submit(_submit_many, fairlog, user)
                for fairlog, user in ((one, ALICE), (other, BOB))
            ]
            accepted = [job_id for writer in writers for job_id in writer.result()]
            done.set()
            reader.result()
        positions = [event.position for event in log_of(one)]
        assert positions == list(range(1, 2 * 300 * 2 + 1))
        assert followed == positions
        assert len(set(accepted)) == 600
        assert min(one.writer.stats.batches, other.writer.stats.batches) > 5


def _submit_many(fairlog: Fairlog, user: UserId) -> list[int]:
    found: list[int] = []
    for start in range(0, 300, 20):
        commands = [submit(user, payload=n) for n in range(start, start + 20)]
        for outcome in outcomes(put(fairlog, *commands)):
            assert isinstance(outcome, Submitted), outcome
            found.append(outcome.job.id)
    return found


def test_a_reader_never_sees_a_later_event_before_an_earlier_one_that_commits_late(
    database_url: str,
) -> None:
    """A writer is held between append and commit; another waits for it, and readers see nothing."""
    with service(database_url) as fairlog, service(database_url) as other:
        with fairlog.database.connect_writer() as connection, connection.begin():
            log = fairlog.log
            head = log.lock_head(connection)
            new = log.append(connection, head, [Recorded(1, head.now, None, admitted())], []).head
            log.move_head(connection, head, new)
            asked = asks_for_the_lock(other)
            [late] = put(other, submit(BOB))
            assert asked.wait(20)
            with other.database.read() as reading:
                assert other.log.read(reading, 0, 10) == []
            assert not late.done()
        [outcome] = outcomes([late])
        assert isinstance(outcome, Submitted)
        assert outcome.job.id == 3
        assert [one.event for one in log_of(other)][:1] == [admitted()]
        assert [one.position for one in log_of(other)] == [1, 2, 3]


def asks_for_the_lock(fairlog: Fairlog) -> threading.Event:
    """Set as soon as its writer has begun a transaction, or is about to lock the head."""
    asked = threading.Event()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("BEGIN") or "FOR UPDATE" in statement:
            asked.set()

    sa.event.listen(fairlog.database.writing_engine, "before_cursor_execute", note)
    return asked


# Time


class Clocks:
    """A clock that shows these moments, one after another, and then the last for ever."""

    def __init__(self, *moments: datetime) -> None:
        self._moments = list(moments)

    def now(self) -> datetime:
        return self._moments.pop(0) if len(self._moments) > 1 else self._moments[0]

    def elapsed(self) -> float:
        return 0.0


def test_a_commit_may_take_the_lock_for_the_next_transaction(database: Database) -> None:
    log = SqlEventLog(database)
    with database.connect_writer() as connection:
        for position in range(3):
            with connection.begin():
                head = log.lock_head(connection)
                assert head.position == position
                event = Recorded(position + 1, head.now, None, admitted(ALICE))
                new = log.append(connection, head, [event], []).head
                log.move_head(connection, head, new)
                log.prefetch_head_lock(connection)
        with connection.begin():
            assert log.lock_head(connection).position == 3


def test_a_prefetched_lock_that_is_not_used_is_released(database: Database) -> None:
    log = SqlEventLog(database)
    with database.connect_writer() as connection:
        with connection.begin():
            log.lock_head(connection)
            log.prefetch_head_lock(connection)
        with connection.begin():
            assert log.position(connection) == 0  # another query is answered as usual
        with connection.begin() as transaction:
            log.lock_head(connection)
            log.prefetch_head_lock(connection)
            transaction.rollback()  # which takes nothing along
        assert append(log, database, ("a", None)).position == 1
        with connection.begin():
            log.lock_head(connection)
            log.prefetch_head_lock(connection)
        with connection.begin() as transaction:
            transaction.rollback()
        assert append(log, database, ("b", None)).position == 2


def test_recorded_times_never_go_back_though_the_clock_does(database: Database) -> None:
    log = SqlEventLog(database, Clocks(NOW, at(-3600), at(5), at(4.999999), at(6)))
    for _ in range(5):
        append(log, database, ("a", None))
    with database.read() as connection:
        times = [one.recorded_at for one in log.read(connection, 0, 10)]
    assert times == [NOW, NOW, at(5), at(5), at(6)]


def test_another_process_s_clock_that_is_behind_does_not_turn_time_back(database: Database) -> None:
    append(SqlEventLog(database, ManualClock(at(10))), database, ("a", None))
    behind = SqlEventLog(database, ManualClock(at(3)))
    with database.write() as connection:
        assert behind.lock_head(connection).now == at(10)


def test_without_a_clock_of_ours_time_is_the_database_server_s(database: Database) -> None:
    log = SqlEventLog(database)
    append(log, database, ("a", None))
    with database.read() as connection:
        [recorded] = log.read(connection, 0, 10)
        now = log.now(connection)
    assert abs(now - recorded.recorded_at) < timedelta(seconds=60)
    assert recorded.recorded_at.tzinfo is now.tzinfo
    assert recorded.recorded_at > UNIX_EPOCH


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_no_account_moves_the_log_s_clock_by_its_session(database: Database) -> None:
    log = SqlEventLog(database)
    with database.write() as connection:
        connection.exec_driver_sql("SET timestamp = 1, time_zone = '-08:00'")
        moved = connection.exec_driver_sql("SELECT NOW()").scalar_one()
        assert moved.year in (1969, 1970)
        connection.exec_driver_sql("SET time_zone = '+00:00'")
        locked = log.lock_head(connection).now
    with database.read() as connection:
        assert abs(log.now(connection) - locked) < timedelta(seconds=60)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_the_time_is_that_after_the_lock_was_had(database: Database) -> None:
    """A batch that waited for its turn is recorded after the one that it waited for."""
    log = SqlEventLog(database)
    with ThreadPoolExecutor(1) as threads:
        with database.write() as holder:
            log.lock_head(holder)
            waiting = threads.submit(_head_time, log, database)
            _wait_for_a_lock_wait(database)
            released_after = log.now(holder)
        assert waiting.result() >= released_after


def _head_time(log: SqlEventLog, database: Database) -> datetime:
    with database.write() as connection:
        return log.lock_head(connection).now


def _wait_for_a_lock_wait(database: Database) -> None:
    def somebody_waits() -> bool:
        with database.read() as connection:
            return bool(
                connection.exec_driver_sql(
                    "SELECT COUNT(*) FROM information_schema.processlist"
                    " WHERE db = DATABASE() AND info LIKE '%%FOR UPDATE%%'"
                    " AND id <> CONNECTION_ID()"
                ).scalar_one()
            )

    wait_until(somebody_waits, "somebody waits for the head row")


# The chain


def test_the_chain_can_be_computed_from_the_rows_by_anybody(database_url: str) -> None:
    """Compute the chain by the rule in `domain/log/chain.py`, without our code."""
    with service(database_url) as fairlog:
        do(fairlog, submit(UserId("zoë 👩 "), payload={"x": [1.5, "é"]}), Submitted)
        outcomes(put(fairlog, *[submit(BOB, payload=n) for n in range(50)]))
        with fairlog.database.read() as connection:
            rows = connection.exec_driver_sql(
                "SELECT position, version, type, user_id, job_id, recorded_at, data, hash"
                " FROM events ORDER BY position"
            ).fetchall()
            head = connection.exec_driver_sql("SELECT position, hash FROM log_head").one()
    tail = bytes(32)
    for *fields, stored in rows:
        tail = hashlib.sha256(tail + hashlib.sha256(b"\x00" + _entry(fields)).digest()).digest()
        assert tail == stored
    assert tuple(head) == (len(rows), tail) == (102, tail)


def _entry(fields: Sequence[object]) -> bytes:
    entry = b""
    for value in fields:
        match value:
            case None:
                entry += b"\xff\xff\xff\xff"
            case int():
                entry += struct.pack(">IQ", 8, value)
            case str():
                entry += struct.pack(">I", len(value)) + value.encode("ascii")
            case bytes():
                entry += struct.pack(">I", len(value)) + value
    return entry


def test_the_hash_at_a_position_stands_for_all_before_it(database: Database) -> None:
    log = SqlEventLog(database, ManualClock())
    first = append(log, database, ("a", None))
    second = append(log, database, ("a", None))
    assert GENESIS != first.hash != second.hash
    with database.read() as connection:
        assert log.hash_at(connection, 1) == first.hash
        assert log.hash_at(connection, 2) == second.hash
        assert log.hash_at(connection, 3) is None


# Append-only


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}' WHERE position = 1",
        "UPDATE events SET position = 7",
        "DELETE FROM events WHERE position = 2",
        "DELETE FROM events",
        "REPLACE INTO events SELECT * FROM events WHERE position = 1",
    ],
)
def test_the_database_itself_refuses_to_change_or_delete_events(
    database: Database, statement: str
) -> None:
    log = SqlEventLog(database)
    append(log, database, ("a", None), ("b", None))
    before = _stored(database)
    with pytest.raises(DBAPIError), database.write() as connection:
        connection.exec_driver_sql(statement)
    assert _stored(database) == before


def _stored(database: Database) -> list[tuple[object, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(sa.select(events))]


def test_a_position_is_taken_once(database: Database) -> None:
    log = SqlEventLog(database)
    append(log, database, ("a", None))
    with database.connect_writer() as connection, connection.begin() as transaction:
        head = log.lock_head(connection)
        with pytest.raises(DBAPIError):
            _append_one(log, connection, head)
        transaction.rollback()
    assert len(_stored(database)) == 1


def _append_one(log: SqlEventLog, connection: sa.Connection, head: Head) -> None:
    """Insert at a position that is taken; on MySQL the statement that follows raises the error."""
    log.append(connection, head, [Recorded(head.position, head.now, None, admitted())], [])
    log.move_head(connection, head, head)


# Making the tables


def test_services_that_start_at_once_in_one_process_all_come_up(database_url: str) -> None:
    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as threads:
        started = [threads.submit(_start, [database_url], number, barrier) for number in range(4)]
        ids = [job_id for one in started for job_id in one.result()]
    assert sorted(ids) == [2, 4, 6, 8]
    _assert_whole(database_url)


def test_servers_that_start_at_once_on_an_empty_database_all_come_up(
    new_database_url: NewDatabase,
) -> None:
    """Processes of their own, in several rounds: each on another empty database."""
    urls = [new_database_url() for _ in range(4)]
    spawning = multiprocessing.get_context("spawn")
    with spawning.Manager() as manager, ProcessPoolExecutor(3, spawning) as processes:
        barrier = manager.Barrier(3)
        started = [processes.submit(_start, urls, number, barrier) for number in range(3)]
        ids = [one.result() for one in as_completed(started)]
    for turn, url in enumerate(urls):
        assert sorted(of_process[turn] for of_process in ids) == [2, 4, 6]
        _assert_whole(url)
        new_database_url.drop(url)


def _start(urls: Sequence[str], number: int, barrier: threading.Barrier) -> list[int]:
    """Start at the same moment as the others on each of these, and submit a job."""
    ids: list[int] = []
    try:
        for url in urls:
            barrier.wait(60)
            with closing(compose(Settings(database_url=url))) as fairlog:
                prepare(fairlog)  # as a server does, and not by a copy
                fairlog.writer.start()
                ids.append(do(fairlog, submit(UserId(f"user-{number}")), Submitted).job.id)
    except BaseException:
        barrier.abort()
        raise
    return ids


def _assert_whole(database_url: str) -> None:
    database = Database(database_url)
    assert is_current(database)
    assert trigger_faults(database) == {}
    with database.read() as connection:
        assert len(connection.execute(sa.select(log_head)).all()) == 1
        assert outdated(connection, inline_projections()) == []
    database.close()


def test_migrating_again_changes_nothing(database: Database) -> None:
    append(SqlEventLog(database), database, ("a", None))
    before = _stored(database)
    migrate(database)
    protect_events(database)
    assert _stored(database) == before
    assert is_current(database)


def test_a_database_without_tables_is_not_current(database_url: str) -> None:
    database = Database(database_url)
    assert not is_current(database)
    database.close()


def test_the_migrations_make_the_tables_that_the_code_knows(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, log_metadata) == []
    assert newest_revision() == REVISION
