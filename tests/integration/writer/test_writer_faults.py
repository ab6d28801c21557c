"""Whatever the database does to the writer, it goes on, and each caller hears what it was."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from adapters.log.event_log import Appended, SqlEventLog
from adapters.log.tables import bodies, events, log_head
from adapters.writer.commits_in_doubt import CommitsInDoubt
from domain.decisions.answers import Claimed, JobUpdated, ProjectionsSaved, Submitted
from domain.decisions.write_model import WriteModel
from domain.language.commands import SaveProjections
from domain.language.errors import FairlogError, LogUnavailable
from domain.language.identifiers import UserId
from entrypoints.service.fairlog import Fairlog
from tests.support.core import (
    do,
    events_in,
    log_of,
    outcomes,
    put,
    put_as_one_batch,
    service,
    writer_of,
)
from tests.support.databases import DatabaseServer
from tests.support.fault_proxy import ERROR_NUMBERS, FaultProxy
from tests.support.mariadb import MariaDB
from tests.support.server import AppServer
from tests.support.stories import claim, complete, submit
from tests.support.triggers import refuse
from tests.support.waiting import wait_until


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with service(database_url) as running:
        yield running


@pytest.fixture
def proxy(mariadb: DatabaseServer) -> Iterator[FaultProxy]:
    url = mariadb.create_database()
    with FaultProxy(url, random.Random(15)) as between:
        yield between
    mariadb.drop_database(url)


def reason(fairlog: Fairlog) -> str | None:
    return {one.part: one.reason for one in fairlog.supervisor.troubles()}.get("writes")


def unavailable(fairlog: Fairlog, *commands: Any) -> LogUnavailable:
    """The error of all of them."""
    found = outcomes(put_as_one_batch(fairlog, *commands))
    for error in found:
        assert isinstance(error, LogUnavailable), error
        assert "sent again" in str(error)
    assert isinstance(found[0], LogUnavailable)
    return found[0]


def assert_goes_on(fairlog: Fairlog) -> None:
    do(fairlog, submit(payload=random.random()), Submitted)
    wait_until(lambda: reason(fairlog) is None, "writes work")
    positions = [one.position for one in log_of(fairlog)]
    assert positions == list(range(1, len(positions) + 1))


def test_an_error_at_commit_leaves_no_connection_that_cannot_begin_again(
    proxy: FaultProxy,
) -> None:
    with service(proxy.url) as fairlog:
        proxy.fail("^COMMIT", 1213, times=3)
        for number in range(10):
            do(fairlog, submit(payload=number), Submitted)
        assert proxy.failed["COMMIT", 1213] == 3
        proxy.fail("^COMMIT", 1213, times=10_000)
        assert "1213" in str(unavailable(fairlog, submit(payload="unlucky")))
        assert reason(fairlog) is not None
        proxy.recover()
        assert_goes_on(fairlog)


def test_no_answer_goes_by_a_commit_that_shares_its_packet_with_what_follows(
    proxy: FaultProxy,
) -> None:
    """A Galera node reports success for such a COMMIT even if it was rolled back."""
    with service(proxy.url) as fairlog:
        proxy.change("^COMMIT;", "ROLLBACK;")
        answered = {
            outcome.job.id: outcome.job.payload_sha256
            for outcome in outcomes(
                [reply for number in range(300) for reply in put(fairlog, submit(payload=number))]
            )
            if isinstance(outcome, Submitted)
        }
        assert len(answered) == 300
        written = {
            one.position: getattr(one.event, "payload_sha256", None) for one in log_of(fairlog)
        }
        assert answered == {job_id: written.get(job_id) for job_id in answered}


def test_a_commit_that_fails_before_a_question_says_why(proxy: FaultProxy) -> None:
    with service(proxy.url) as fairlog:
        proxy.fail("^COMMIT$", 1213, times=100_000)
        found = outcomes(
            [reply for number in range(300) for reply in put(fairlog, submit(payload=number))]
        )
        assert {type(one) for one in found} == {LogUnavailable}
        assert all("1213" in str(one) for one in found)
        proxy.recover()
        assert_goes_on(fairlog)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_writer_that_was_frozen_with_the_lock_holds_others_up_for_a_bounded_time(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.database.database.WRITER_IDLE_SECONDS_MAX", 2)
    with service(database_url) as frozen, service(database_url) as other:
        # It asks nothing more, as a process that was stopped.
        with frozen.database.connect_writer() as connection, connection.begin() as transaction:
            frozen.log.lock_head(connection)
            wait_until(
                lambda: isinstance(outcomes(put(other, submit(payload=1)))[0], Submitted),
                "another server can write",
            )
            with pytest.raises(sa.exc.DBAPIError):
                frozen.log.hash_at(connection, 1)
            transaction.rollback()
        do(frozen, submit(payload=2), Submitted)
        assert_goes_on(other)


def test_bounds_that_a_server_has_for_everybody_s_statements_leave_nothing_of_ours_out(
    private_mariadb: MariaDB,
) -> None:
    url = private_mariadb.create_database()
    with private_mariadb.connect() as admin, admin.cursor() as cursor:
        cursor.execute("SET GLOBAL sql_select_limit = 1")
        cursor.execute("SET GLOBAL sql_safe_updates = 1")
    with service(url) as fairlog:
        jobs = [
            do(fairlog, submit(user, payload=number), Submitted).job.id
            for number in range(3)
            for user in map(UserId, ("ada", "bob", "eve"))
        ]
        assert sorted(job.id for job in do(fairlog, claim(9), Claimed).jobs) == jobs
        assert len(log_of(fairlog)) == 27  # a decision, a submission and a start each


@pytest.mark.parametrize("backend", ["sqlite", "mariadb"], indirect=True)
def test_a_head_row_that_is_missing_is_told_until_it_is_back(database_url: str) -> None:
    with AppServer(database_url) as server:
        fairlog = server.fairlog
        do(fairlog, submit(payload=1), Submitted)
        with fairlog.database.write() as connection:
            kept = connection.execute(sa.select(log_head)).mappings().one()
            connection.execute(log_head.delete())
        assert "no head row" in str(unavailable(fairlog, submit(payload=2)))
        for path in ("/v1/limits", "/v1/stats", "/readyz"):
            answer = server.client.get(path)
            assert answer.status_code == 503
            assert "no head row" in answer.text
        with fairlog.database.write() as connection:
            connection.execute(log_head.insert().values(**kept))
        assert_goes_on(fairlog)


@pytest.mark.parametrize("statement", ["^COMMIT", "FROM log_head", "UPDATE log_head", "INSERT"])
def test_any_error_at_any_statement_is_outlasted(proxy: FaultProxy, statement: str) -> None:
    with service(proxy.url) as fairlog:
        numbers = random.Random(statement).sample(ERROR_NUMBERS, 20)
        for number in numbers:
            proxy.fail(statement, number)
            [outcome] = outcomes(put(fairlog, submit(payload=number)))
            assert isinstance(outcome, Submitted | FairlogError), outcome
            proxy.recover()
        assert_goes_on(fairlog)
        accepted = events_in(fairlog)
        [again] = outcomes(put(fairlog, submit(payload=numbers[0])))
        assert isinstance(again, Submitted)
        assert again.is_duplicate or events_in(fairlog) > accepted


@pytest.mark.parametrize("first", [1, 129, 513])  # positions of a batch's first, second, last part
@pytest.mark.parametrize("number", [1213, 1406])  # a deadlock, and a refused value
def test_an_error_in_any_part_of_a_batch_leaves_no_part_of_it(
    proxy: FaultProxy, first: int, number: int
) -> None:
    """Later parts are sent before the error is known, and the server carries them out."""
    with service(proxy.url) as fairlog:
        proxy.fail(rf"INSERT INTO events [^;]*VALUES \({first},", number)
        assert_written_once(fairlog, 300)
        assert proxy.failed["INSERT", number] == 1


def test_a_connection_lost_between_two_parts_of_a_batch_leaves_no_part_of_it(
    proxy: FaultProxy,
) -> None:
    class Cut(SqlEventLog):
        """Loses the connection when the second part of a batch is appended."""

        parts = 0

        def append(self, *arguments: Any) -> Appended:
            self.parts += 1
            if self.parts == 2:
                proxy.cut()
            return super().append(*arguments)

    with service(proxy.url) as fairlog:
        log = Cut(fairlog.database)
        writer_of(fairlog)._transactions._log = log
        assert_written_once(fairlog, 300)
        assert log.parts > 2


def assert_written_once(fairlog: Fairlog, jobs: int) -> None:
    """Submit jobs in one batch, and expect each of them once."""
    found = outcomes(put_as_one_batch(fairlog, *[submit(payload=one) for one in range(jobs)]))
    assert {type(one) for one in found} == {Submitted}, found
    digests = [getattr(one.event, "payload_sha256", None) for one in log_of(fairlog)]
    assert len(digests) == 2 * jobs
    assert len({one for one in digests if one}) == jobs
    assert writer_of(fairlog).stats.retries or writer_of(fairlog).stats.batches > 1
    assert_goes_on(fairlog)


def test_random_errors_lose_no_answered_submission_and_write_none_twice(
    proxy: FaultProxy,
) -> None:
    with service(proxy.url) as fairlog:
        proxy.fail_randomly(0.05)
        answered = [
            outcome.job.payload_sha256
            for number in range(60)
            for outcome in outcomes(put(fairlog, submit(payload=number)))
            if isinstance(outcome, Submitted)
        ]
        proxy.recover()
        assert_goes_on(fairlog)
        submitted = [
            digest
            for one in log_of(fairlog)
            if (digest := getattr(one.event, "payload_sha256", None)) is not None
        ]
        assert len(submitted) == len(set(submitted))
        assert set(answered) <= set(submitted)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (1021, "full"),
        (1114, "full"),
        (1034, "damaged"),
        (1194, "damaged"),
        (1030, "damaged"),
        (1290, "read-only"),
        (1142, "right"),
        (1146, "fairlog migrate"),
        (1203, "max_connections"),
        (1226, "MAX_QUERIES_PER_HOUR"),
    ],
)
def test_what_no_command_is_to_blame_for_is_told_to_all_and_ends_by_itself(
    proxy: FaultProxy, number: int, says: str
) -> None:
    with service(proxy.url) as fairlog:
        job = do(fairlog, submit(), Submitted).job
        do(fairlog, claim(1), Claimed)
        proxy.fail("INSERT INTO events", number, times=10_000)
        told = unavailable(fairlog, complete(1, job.id), *[submit(payload=one) for one in range(9)])
        assert says in str(told)
        assert told.nothing_was_recorded
        assert says in (reason(fairlog) or "")
        proxy.recover()
        wait_until(lambda: reason(fairlog) is None, "it finds out by itself")
        assert do(fairlog, complete(1, job.id), JobUpdated).job.state == "done"
        assert_goes_on(fairlog)


@pytest.mark.parametrize("table", [events, bodies])
def test_a_row_behind_the_end_is_named_until_it_is_gone(fairlog: Fairlog, table: sa.Table) -> None:
    do(fairlog, submit(payload=0), Submitted)
    behind = events_in(fairlog) + 1
    strange = {
        "position": behind + (table is bodies),
        "type": "Strange",
        "version": 1,
        "recorded_at": 0,
        "data": b"{}",
        "hash": bytes(32),
        "body": b"1",
    }
    row = {column.name: strange[column.name] for column in table.c if column.name in strange}
    with fairlog.database.write() as connection:
        connection.execute(table.insert(), [row])
    told = unavailable(fairlog, *[submit(payload=one) for one in range(1, 9)])
    assert f"row at position {row['position']}" in str(told)
    assert table.name in (reason(fairlog) or "")
    with fairlog.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER events_no_delete")
        connection.execute(table.delete().where(table.c.position == row["position"]))
    wait_until(lambda: reason(fairlog) is None, "it finds out by itself")
    assert_goes_on(fairlog)


@pytest.mark.parametrize("table", ["events", "jobs_v6"])
def test_a_refusal_of_whatever_is_written_is_told_to_all_and_blamed_on_no_command(
    fairlog: Fairlog, table: str
) -> None:
    do(fairlog, submit(payload=0), Submitted)
    do(fairlog, SaveProjections(), ProjectionsSaved)  # so no row of it is refused later
    with fairlog.database.write() as connection:
        refuse(connection, table)
    if table == "jobs_v6":  # its rows are written behind the log
        do(fairlog, submit(payload="behind"), Submitted)
        wait_until(lambda: reason(fairlog) is not None, "the row was refused")
    for payloads in ([1], range(2, 9)):
        told = unavailable(fairlog, *[submit(payload=one) for one in payloads])
        assert "not Fairlog's" in str(told)
        assert told.nothing_was_recorded
    assert "not Fairlog's" in (reason(fairlog) or "")
    probes = writer_of(fairlog).part.failures
    wait_until(lambda: writer_of(fairlog).part.failures > probes, "it has looked again")
    assert "not Fairlog's" in (reason(fairlog) or "")
    with fairlog.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER strange")
    wait_until(lambda: reason(fairlog) is None, "it finds out by itself")
    assert_goes_on(fairlog)


def test_a_batch_that_may_be_on_disk_is_never_tried_in_parts(
    fairlog: Fairlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a commit without an answer, which another node of a cluster may have."""
    do(fairlog, submit(payload=0), Submitted)
    with fairlog.database.write() as connection:
        refuse(connection, "bodies", "LENGTH(NEW.body) > 20")
    monkeypatch.setattr(CommitsInDoubt, "has_any", True)
    told = unavailable(fairlog, submit(payload="x" * 30), submit(payload="short"))
    assert not told.nothing_was_recorded


def test_claims_that_are_refused_are_told_while_submissions_go_well(fairlog: Fairlog) -> None:
    jobs = [do(fairlog, submit(payload=one), Submitted).job for one in range(3)]
    do(fairlog, claim(1), Claimed)
    with fairlog.database.write() as connection:
        refuse(connection, "events", "NEW.type = 'JobStarted'")
    assert "not Fairlog's" in str(unavailable(fairlog, claim(1)))
    for number in range(10):
        do(fairlog, submit(payload=["more", number]), Submitted)
        assert "not Fairlog's" in (reason(fairlog) or "")
    with fairlog.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER strange")

    def is_well_again() -> bool:
        """Found out without another claim, while submissions leave no time to look."""
        do(fairlog, submit(payload=random.random()), Submitted)
        return reason(fairlog) is None

    wait_until(is_well_again, "it finds out by itself")
    assert do(fairlog, complete(1, jobs[0].id), JobUpdated).job.state == "done"
    assert_goes_on(fairlog)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_full_disk_is_told_until_there_is_room(fairlog: Fairlog) -> None:
    """Fill the disk as SQLite allows it: the file may have no page more than it has."""
    do(fairlog, submit(payload=0), Submitted)
    is_full = True

    def limit(connection: sqlite3.Connection, _: object) -> None:
        if is_full:
            connection.execute("PRAGMA max_page_count = 1")  # it takes the pages that there are

    sa.event.listen(fairlog.database.writing_engine, "connect", limit)
    writer_of(fairlog)._transactions.disconnect()
    large = [submit(payload=f"{one} {'x' * 20_000}") for one in range(1, 4)]
    assert "full" in str(unavailable(fairlog, *large))
    wait_until(lambda: "full" in (reason(fairlog) or ""), "it is known")
    is_full = False
    wait_until(lambda: reason(fairlog) is None, "it finds out by itself")
    assert_goes_on(fairlog)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_damaged_page_is_told_until_it_is_mended(fairlog: Fairlog, database_url: str) -> None:
    do(fairlog, submit(payload=0), Submitted)
    file = Path(make_url(database_url).database or "")
    fairlog.database.overwrite_deleted()  # everything is in the file, and nothing beside it
    with fairlog.database.read() as connection:
        page, size = (
            connection.exec_driver_sql(query).scalar_one()
            for query in (
                "SELECT rootpage FROM sqlite_master WHERE name = 'events'",
                "PRAGMA page_size",
            )
        )
    with file.open("r+b") as content:
        content.seek((page - 1) * size)
        whole = content.read(size)
        content.seek((page - 1) * size)
        content.write(bytes(size))
    writer_of(fairlog)._transactions.disconnect()
    assert "damaged" in str(unavailable(fairlog, submit(payload=1), submit(payload=2)))
    assert "damaged" in (reason(fairlog) or "")
    with file.open("r+b") as content:
        content.seek((page - 1) * size)
        content.write(whole)
    wait_until(lambda: reason(fairlog) is None, "it finds out by itself")
    assert_goes_on(fairlog)


# It is raised above the database, so one kind of database shows what becomes of it.
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "error",
    [SystemExit(1), KeyboardInterrupt(), MemoryError(), RecursionError(), ValueError("?")],
    ids=lambda error: type(error).__name__,
)
def test_nothing_that_is_raised_ends_the_writer(
    fairlog: Fairlog, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    raised = 0

    def load(*_: Any) -> WriteModel:
        nonlocal raised
        raised += 1
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(writer_of(fairlog)._transactions._projections, "load", load)
        for number in range(2):  # each is tried until its time is over
            [outcome] = outcomes(put(fairlog, submit(payload=number)))
            assert isinstance(outcome, FairlogError), outcome
        assert raised >= 2
    assert_goes_on(fairlog)


def test_a_query_that_any_error_stops_can_be_sent_again(proxy: FaultProxy) -> None:
    with service(proxy.url) as fairlog:
        do(fairlog, submit(), Submitted)
        for number in random.Random(7).sample(ERROR_NUMBERS, 40):
            proxy.fail("FROM log_head", number, times=10)
            with pytest.raises(LogUnavailable, match="sent again"):
                fairlog.read_now(fairlog.log.position)
            proxy.recover()
            assert fairlog.read_now(fairlog.log.position) == 2
