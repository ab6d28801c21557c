"""Rows that programs commit to the outbox become jobs, each exactly once."""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.log.outbox import outbox, outbox_rejected
from domain.decisions.answers import LimitsSet, OutboxTaken, Submitted
from domain.language.commands import ChangeLimit, TakeOutbox
from domain.language.errors import OutboxUnavailable
from domain.language.events import JobSubmitted, RateLimitDecided, Scope
from entrypoints.http.metrics import ServerMetrics
from entrypoints.service.fairlog import Fairlog
from tests.support.core import do, events_in, log_of, outcomes, put_as_one_batch, service
from tests.support.stories import ALICE, BOB, ECHO, submit

# SQLite has one lock for the whole file, so nobody writes while a transaction is open.
ON_SERVER = pytest.mark.parametrize("backend", ["mariadb"], indirect=True)


@contextmanager
def other_program(fairlog: Fairlog) -> Iterator[Connection]:
    engine = sa.create_engine(fairlog.database.url)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def insert(fairlog: Fairlog, *rows: Mapping[str, Any]) -> None:
    with other_program(fairlog) as connection:
        insert_on(connection, *rows)
        connection.commit()


def insert_on(connection: Connection, *rows: Mapping[str, Any]) -> None:
    for row in rows:
        values = {"kind": "echo", "payload": "1"} | dict(row)
        connection.execute(outbox.insert().values(**values))


def take(fairlog: Fairlog) -> None:
    fairlog.outbox.take_seconds_max = 60.0
    asyncio.run(fairlog.outbox.take())


def jobs(fairlog: Fairlog) -> list[JobSubmitted]:
    return [one.event for one in log_of(fairlog) if isinstance(one.event, JobSubmitted)]


def rows_of(fairlog: Fairlog, table: sa.Table) -> list[Any]:
    with fairlog.database.read() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)).mappings())


def bodies_of(fairlog: Fairlog) -> list[Any]:
    with fairlog.database.read() as connection:
        return [
            json.loads(bytes(body))
            for body in connection.exec_driver_sql(
                "SELECT body FROM bodies ORDER BY position"
            ).scalars()
        ]


def test_a_committed_row_becomes_a_job_with_all_its_columns(database_url: str) -> None:
    with service(database_url) as fairlog:
        insert(
            fairlog,
            {
                "user_id": "alicé",
                "kind": "thumbnail",
                "payload": '{ "b": [1, 2.5],  "a": "ü" }',
                "idempotency_key": "order-17",
                "run_at": "2126-01-31T12:00:00+02:00",
                "expires_at": "2126-01-31 12:00:00.5",
                "priority": -3,
                "max_attempts": 7,
                "timeout_seconds": 1.5,
            },
        )
        take(fairlog)
        [job] = jobs(fairlog)
        assert (job.user_id, job.kind, job.idempotency_key) == ("alicé", "thumbnail", "order-17")
        assert (job.priority, job.max_attempts, job.timeout_seconds) == (-3, 7, 1.5)
        assert job.run_at == datetime(2126, 1, 31, 10, tzinfo=UTC)
        assert job.expires_at == datetime(2126, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)
        assert bodies_of(fairlog) == [{"a": "ü", "b": [1, 2.5]}]
        assert rows_of(fairlog, outbox) == rows_of(fairlog, outbox_rejected) == []


def test_an_empty_outbox_writes_nothing(database_url: str) -> None:
    with service(database_url) as fairlog:
        take(fairlog)
        assert events_in(fairlog) == 0


def test_equal_rows_are_different_jobs_unless_they_ask_for_less(database_url: str) -> None:
    with service(database_url) as fairlog:
        insert(fairlog, {"user_id": ALICE}, {"user_id": ALICE})
        same = {"user_id": BOB, "options": '{"deduplicate": true}'}
        insert(fairlog, same, same)
        take(fairlog)
        assert [job.user_id for job in jobs(fairlog)] == [ALICE, BOB, ALICE]
        assert rows_of(fairlog, outbox) == []


def test_a_key_means_the_same_job_in_the_outbox_and_in_the_api(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, submit(ALICE, ECHO, 1, idempotency_key="k"), Submitted)
        insert(fairlog, {"user_id": ALICE, "idempotency_key": "k"})
        insert(fairlog, {"user_id": ALICE, "idempotency_key": "k", "payload": "2"})
        take(fairlog)
        assert len(jobs(fairlog)) == 1
        [rejected] = rows_of(fairlog, outbox_rejected)
        assert "'k' already belongs to job 2" in rejected["reason"]


BAD_ROWS: Sequence[tuple[Mapping[str, Any], str]] = [
    ({"payload": "{"}, "payload"),
    ({"payload": json.dumps("x" * 1_100_000)}, "at most 1048576"),
    ({"user_id": ""}, "1 to 255 bytes"),
    ({"kind": "a\nb"}, "no control characters"),
    ({"user_id": "ü" * 200}, "this one has 400"),
    ({"run_at": "tomorrow"}, "run_at is a time"),
    ({"run_at": "2126-01-02 00:00:00", "expires_at": "2126-01-01 00:00:00"}, "later than run_at"),
    ({"priority": 1001}, "priority is a whole number from -1000 to 1000"),
    ({"max_attempts": 0}, "max_attempts is a whole number from 1 to 1000"),
    ({"timeout_seconds": 0.0}, "timeout_seconds is a number above 0"),
    ({"options": "[]"}, "options is the JSON text of an object"),
    (
        {"options": '{"dedup": false}'},
        "There is no option 'dedup'; the options are deduplicate, retry, resources, after, ",
    ),
    ({"options": '{"deduplicate": 1}'}, "options: "),
    ({"options": '{"callback": {"url": "ftp://a.example"}}'}, "http:// or https:// and a host"),
    ({"kind": "fairlog.callback"}, "callbacks, which the service submits itself"),
    ({"idempotency_key": "k", "options": '{"deduplicate": false}'}, "contradict each other"),
]


def test_a_row_that_cannot_be_a_job_is_moved_with_its_reason_and_holds_up_nobody(
    database_url: str,
) -> None:
    with service(database_url) as fairlog:
        for row, _ in BAD_ROWS:
            insert(fairlog, {"user_id": ALICE} | dict(row))
        insert(fairlog, {"user_id": ALICE, "payload": '"behind them"'})
        before = rows_of(fairlog, outbox)
        take(fairlog)
        assert bodies_of(fairlog) == ["behind them"]
        assert rows_of(fairlog, outbox) == []
        rejected = rows_of(fairlog, outbox_rejected)
        assert len(rejected) == len(BAD_ROWS)
        insert(fairlog, {"user_id": BOB})
        counts = fairlog.read_now(fairlog.outbox_table.counts)
        assert counts == (1, len(BAD_ROWS))
        for (_, reason), stood, moved in zip(BAD_ROWS, before, rejected, strict=False):
            assert reason in moved["reason"]
            assert {name: moved[name] for name in stood} == stood
            assert moved["rejected_at"].endswith("Z")


def test_a_row_that_the_database_refuses_in_the_log_is_moved_too(database_url: str) -> None:
    with service(database_url) as fairlog:
        with fairlog.database.write() as connection:
            connection.exec_driver_sql(REFUSING[fairlog.database.is_sqlite])
        for user_id in (ALICE, BOB):
            insert(fairlog, {"user_id": user_id, "payload": '"first"'})
            insert(fairlog, {"user_id": user_id, "payload": '"poison"'})
            insert(fairlog, {"user_id": user_id, "payload": '"last"'})
        take(fairlog)
        assert sorted(bodies_of(fairlog)) == ["first", "first", "last", "last"]
        reasons = [row["reason"] for row in rows_of(fairlog, outbox_rejected)]
        assert reasons == ["The database refuses the job that this row stands for."] * 2
        assert not fairlog.supervisor.troubles()


REFUSING = {
    True: "CREATE TRIGGER no_poison BEFORE INSERT ON bodies"
    " WHEN CAST(NEW.body AS TEXT) = '\"poison\"' BEGIN SELECT RAISE(ABORT, 'no'); END",
    False: "CREATE TRIGGER no_poison BEFORE INSERT ON bodies FOR EACH ROW"
    " IF NEW.body = '\"poison\"' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF",
}


def test_a_user_over_the_limit_waits_alone_and_is_refused_once(database_url: str) -> None:
    with service(database_url, user_limit=3) as fairlog:
        insert(fairlog, *[{"user_id": ALICE, "payload": str(n)} for n in range(10)])
        insert(fairlog, *[{"user_id": BOB} for _ in range(2)])
        for _ in range(3):
            take(fairlog)
        assert [job.user_id for job in jobs(fairlog)] == [ALICE, BOB, ALICE, BOB, ALICE]
        assert len(refusals(fairlog)) == 1
        assert [row["payload"] for row in rows_of(fairlog, outbox)] == [
            str(n) for n in range(3, 10)
        ]
        do(fairlog, ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=100), LimitsSet)
        take(fairlog)
        assert bodies_of(fairlog)[-7:] == list(range(3, 10))
        assert rows_of(fairlog, outbox) == []


def test_the_limit_of_all_users_together_holds_for_the_outbox(database_url: str) -> None:
    with service(database_url, global_limit=4) as fairlog:
        insert(fairlog, *[{"user_id": f"user-{n}"} for n in range(10)])
        for _ in range(3):
            take(fairlog)
        assert len(jobs(fairlog)) == 4
        assert [one.scope for one in refusals(fairlog)] == [Scope.GLOBAL]


def refusals(fairlog: Fairlog) -> list[RateLimitDecided]:
    return [
        one.event
        for one in log_of(fairlog)
        if isinstance(one.event, RateLimitDecided) and not one.event.allowed
    ]


def test_thousands_of_rows_of_one_user_leave_the_others_their_turn(database_url: str) -> None:
    with service(database_url) as fairlog:
        insert(fairlog, *[{"user_id": "many", "payload": str(n)} for n in range(2_000)])
        insert(fairlog, *[{"user_id": f"user-{n:03}"} for n in range(120)])
        take(fairlog)
        users = [job.user_id for job in jobs(fairlog)]
        assert len(users) == 2_120
        assert max(place for place, user_id in enumerate(users) if user_id != "many") < 700
        assert [body for body in bodies_of(fairlog) if body != 1] == [
            n for n in range(2_000) if n != 1
        ]


def test_two_servers_take_each_row_once(database_url: str) -> None:
    with service(database_url) as one, service(database_url) as other:
        insert(one, *[{"user_id": f"user-{n % 7}", "payload": str(n)} for n in range(300)])
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(take, (one, other)))
        assert sorted(bodies_of(one)) == list(range(300))


@ON_SERVER
def test_a_row_is_taken_when_its_transaction_commits_and_nobody_waits_for_it(
    database_url: str,
) -> None:
    with service(database_url) as fairlog:
        with other_program(fairlog) as connection:
            insert_on(connection, {"user_id": ALICE, "payload": '"open"'})
            insert(fairlog, {"user_id": ALICE, "payload": '"later"'}, {"user_id": BOB})
            take(fairlog)
            assert sorted(map(str, bodies_of(fairlog))) == ["1", "later"]
            connection.commit()
        take(fairlog)
        assert "open" in bodies_of(fairlog)


@ON_SERVER
def test_a_transaction_that_is_rolled_back_leaves_no_job(database_url: str) -> None:
    with service(database_url) as fairlog:
        with other_program(fairlog) as connection:
            insert_on(connection, {"user_id": ALICE})
            take(fairlog)
            connection.rollback()
        take(fairlog)
        assert events_in(fairlog) == 0


@ON_SERVER
def test_a_row_that_its_program_holds_keeps_back_that_user_alone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrypoints.service.outbox_taking.LOCKED_SECONDS", 0.0)
    with service(database_url) as fairlog:
        insert(fairlog, {"user_id": ALICE, "payload": '"held"'}, {"user_id": BOB})
        with other_program(fairlog) as connection:
            connection.execute(outbox.update().where(outbox.c.user_id == ALICE).values(payload="2"))
            take(fairlog)
            assert [job.user_id for job in jobs(fairlog)] == [BOB]
            connection.commit()
        take(fairlog)
        assert bodies_of(fairlog) == [1, 2]


def test_a_row_is_taken_once_by_two_commands_of_one_batch(database_url: str) -> None:
    """A server asks again when its writer has not answered in time; both may wait together."""
    with service(database_url) as fairlog:
        insert(fairlog, *[{"user_id": ALICE, "payload": str(n)} for n in range(3)])
        again = TakeOutbox(users=(ALICE,), rows_max=10)
        outcomes(put_as_one_batch(fairlog, again, again))
        assert sorted(bodies_of(fairlog)) == [0, 1, 2]


def test_a_row_that_another_server_has_moved_meanwhile_takes_no_good_one_with_it(
    database_url: str,
) -> None:
    with service(database_url) as fairlog:
        insert(fairlog, {"user_id": ALICE})
        [row] = rows_of(fairlog, outbox)
        gone = TakeOutbox(users=(ALICE,), rows_max=1, row_id=row["id"] + 7, rejection="no")
        assert not do(fairlog, gone, OutboxTaken).rejected
        take(fairlog)
        assert rows_of(fairlog, outbox_rejected) == []
        assert len(jobs(fairlog)) == 1


BROKEN: Mapping[str, str] = {
    "rejected rows have no table": "DROP TABLE outbox_rejected",
    "the outbox has no table": "DROP TABLE outbox",
    "a column is missing": "ALTER TABLE outbox DROP COLUMN options",
}


@pytest.mark.parametrize("statement", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_outbox_hurts_nobody_else(database_url: str, statement: str) -> None:
    with service(database_url) as fairlog:
        insert(fairlog, {"user_id": ALICE, "payload": "{"})
        with other_program(fairlog) as connection:
            connection.exec_driver_sql(statement)
            connection.commit()
        with pytest.raises(OutboxUnavailable):
            take(fairlog)
        found = outcomes(
            put_as_one_batch(fairlog, TakeOutbox(users=(ALICE,), rows_max=10), submit(BOB))
        )
        assert isinstance(found[1], Submitted)
        assert not fairlog.supervisor.troubles()
        take(fairlog)  # it is left alone for a while
        metrics = ServerMetrics(fairlog)
        assert fairlog.read_now(metrics.read_stored) is not None


def test_rows_that_are_too_long_are_rejected_unread_and_delay_nobody(database_url: str) -> None:
    long = json.dumps("x" * 2_500_000)
    with service(database_url) as fairlog:
        insert(fairlog, *[{"user_id": ALICE, "payload": long, "options": long} for _ in range(12)])
        insert(fairlog, {"user_id": BOB})
        asyncio.run(fairlog.outbox._take_once(time.monotonic() + 60))
        assert [job.user_id for job in jobs(fairlog)] == [BOB]
        reasons = {row["reason"] for row in rows_of(fairlog, outbox_rejected)}
        assert reasons == {"The row has more than 4194304 bytes."}
        assert rows_of(fairlog, outbox) == []


def test_large_rows_of_some_users_leave_no_other_one_out(database_url: str) -> None:
    large = json.dumps("x" * 1_000_000)
    with service(database_url) as fairlog:
        for user_id in ("big-1", "big-2", "big-3"):
            insert(fairlog, *[{"user_id": user_id, "payload": large} for _ in range(4)])
        for _ in range(3):
            asyncio.run(fairlog.outbox._take_once(time.monotonic() + 60))
        assert {job.user_id for job in jobs(fairlog)} == {"big-1", "big-2", "big-3"}


def test_a_reason_may_have_any_text(database_url: str) -> None:
    with service(database_url) as fairlog:
        insert(fairlog, {"user_id": ALICE, "options": '{"日本": 1}'})
        take(fairlog)
        [rejected] = rows_of(fairlog, outbox_rejected)
        assert "There is no option '日本'" in rejected["reason"]


def test_ids_that_differ_in_trailing_spaces_alone_are_different_users(database_url: str) -> None:
    with service(database_url, user_limit=2) as fairlog:
        for user_id in ("alice", "alice "):
            insert(fairlog, *[{"user_id": user_id} for _ in range(2)])
        take(fairlog)
        assert sorted(job.user_id for job in jobs(fairlog)) == ["alice"] * 2 + ["alice "] * 2
        assert refusals(fairlog) == []


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_sqlite_refuses_a_user_that_is_no_text(database_url: str) -> None:
    with service(database_url) as fairlog, pytest.raises(sa.exc.IntegrityError):
        insert(fairlog, {"user_id": b"alice"})


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_text_that_is_no_utf8_is_rejected(database_url: str) -> None:
    with service(database_url) as fairlog:
        with other_program(fairlog) as connection:
            connection.exec_driver_sql(
                "INSERT INTO outbox (user_id, kind, payload)"
                " VALUES ('alice', 'echo', CAST(x'22ff22' AS TEXT))"
            )
            connection.commit()
        insert(fairlog, {"user_id": ALICE}, {"user_id": BOB})
        take(fairlog)
        take(fairlog)
        assert sorted(job.user_id for job in jobs(fairlog)) == [ALICE, BOB]
        with fairlog.database.read() as connection:
            assert connection.exec_driver_sql("SELECT COUNT(*) FROM outbox_rejected").scalar() == 1
