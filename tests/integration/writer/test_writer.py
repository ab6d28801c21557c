"""The one write path: group commit, and what it does when the database does not do its part."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Self

import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection
from structlog.typing import EventDict

import adapters.database.database
import adapters.writer.command_queue
from adapters.log import audit_log
from adapters.log.event_log import Appended, SqlEventLog
from adapters.log.tables import FORMAT, bodies, events, log_head
from adapters.settings import Settings
from adapters.writer.command_queue import CommandQueue
from domain.decisions.answers import Answer, Claimed, JobUpdated, ProjectionsSaved, Submitted
from domain.decisions.batch import Outcome
from domain.decisions.ports import Head
from domain.language.bodies import BODY_BYTES_MAX, body_of
from domain.language.commands import Command, SaveProjections, SubmitJob
from domain.language.errors import (
    FairlogError,
    LogTooNew,
    LogUnavailable,
    NotTheCurrentAttempt,
    QueueFull,
    RateLimited,
    WriteFailed,
)
from domain.language.events import JobSubmitted, Recorded
from domain.language.identifiers import JobId, UserId
from entrypoints.composition import compose, prepare
from entrypoints.service.fairlog import Fairlog
from projections.storage import registry
from tests.support.core import (
    do,
    events_in,
    execute_now,
    head_locked,
    log_of,
    outcomes,
    put,
    put_as_one_batch,
    saved_rows,
    service,
    writer_of,
)
from tests.support.databases import DatabaseServer
from tests.support.mariadb import MariaDB
from tests.support.stories import ALICE, BOB, CAROL, ECHO, claim, complete, submit
from tests.support.tcp_proxy import CommitCutter, Cut
from tests.support.waiting import wait_until

# Callers hear within 5 s that the database is away; the rest is for a machine that is busy.
UNAVAILABLE_SECONDS_MAX = 7.0


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[EventDict]]:
    """Return the writer's own report meanwhile."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with service(database_url) as running:
        yield running


def types_of(replies: list[Future[Answer]]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes(replies)]


def knows_that_nothing_was_recorded(reply: Future[Answer]) -> bool:
    error = reply.exception()
    assert isinstance(error, FairlogError)
    return error.nothing_was_recorded


def submissions(fairlog: Fairlog) -> Counter[str]:
    """Return the number of submissions of each payload, by its digest."""
    return Counter(
        one.event.payload_sha256 for one in log_of(fairlog) if isinstance(one.event, JobSubmitted)
    )


def assert_whole(fairlog: Fairlog) -> None:
    """The log has no gaps, and the projections agree with its end."""
    recorded = log_of(fairlog)
    assert [one.position for one in recorded] == list(range(1, len(recorded) + 1))
    with saved_rows(fairlog) as connection:
        assert fairlog.log.position(connection) == len(recorded)
        counts = fairlog.jobs.counts(connection)
    assert sum(counts.values()) == submissions(fairlog).total()


# Group commit


def test_all_who_wait_are_written_together(fairlog: Fairlog) -> None:
    with ThreadPoolExecutor(60) as threads:
        with head_locked(fairlog):
            calls = [
                threads.submit(partial(execute_now, fairlog), submit(payload=number))
                for number in range(60)
            ]
            wait_until(lambda: len(writer_of(fairlog).queue) >= 40, "the callers wait")
        answers = [call.result(30) for call in calls]
    ids = [answer.job.id for answer in answers if isinstance(answer, Submitted)]
    assert sorted(ids) == list(range(2, 121, 2))
    assert fairlog.writer.stats.commands == 60
    assert fairlog.writer.stats.events == 120
    assert fairlog.writer.stats.batches <= 22


def test_a_batch_is_bounded_in_number(fairlog: Fairlog) -> None:
    replies = put_as_one_batch(fairlog, *[submit(payload=number) for number in range(1200)])
    assert types_of(replies) == ["Submitted"] * 1200
    assert fairlog.writer.stats.batches == 3


def test_a_batch_is_bounded_in_bytes(fairlog: Fairlog) -> None:
    large = [submit(payload="x" * 1024 * 1000 + str(number)) for number in range(10)]
    replies = put_as_one_batch(fairlog, *large)
    assert types_of(replies) == ["Submitted"] * 10
    assert fairlog.writer.stats.batches == 3


def test_a_batch_is_bounded_in_the_jobs_that_it_is_about(fairlog: Fairlog) -> None:
    """Many claims of a thousand jobs each do not keep the log locked for long."""
    with writer_of(fairlog).queue._changed:
        replies = put(fairlog, submit(), *[claim(900) for _ in range(5)], complete(7, JobId(2)))
        sizes = [len(writer_of(fairlog).queue.take()) for _ in range(3)]
    assert sizes == [3, 2, 2]
    assert not any(reply.done() for reply in replies)


def test_commands_of_an_event_loop_are_answered_there(fairlog: Fairlog) -> None:
    async def ask() -> list[Answer]:
        commands = [submit(payload=number) for number in range(300)]
        return await asyncio.gather(*map(fairlog.writer.execute, commands))

    answers = asyncio.run(ask())
    assert [answer.job.payload_bytes for answer in answers if isinstance(answer, Submitted)] == [
        len(str(number)) for number in range(300)
    ]
    assert fairlog.writer.stats.batches < 30


def execute_each(fairlog: Fairlog, commands: Sequence[Command]) -> list[Outcome]:
    return asyncio.run(fairlog.writer.execute_each(commands))


def test_the_commands_of_a_call_are_decided_alone_and_answered_together(database_url: str) -> None:
    with service(database_url, user_limit=600) as fairlog:
        commands = [submit(payload=number) for number in range(600)]
        outcomes_of_call = execute_each(
            fairlog, [complete(7, JobId(99)), *commands, submit(payload="too many"), submit(BOB)]
        )
        assert [type(one).__name__ for one in outcomes_of_call] == [
            "UnknownJob",
            *["Submitted"] * 600,
            "RateLimited",
            "Submitted",
        ]
        jobs = [one.job for one in outcomes_of_call if isinstance(one, Submitted)]
        assert [job.payload_sha256 for job in jobs[:-1]] == [
            command.payload.sha256 for command in commands
        ]
        assert fairlog.writer.stats.batches == 2
        assert execute_each(fairlog, []) == []


def test_a_call_sent_again_changes_nothing(fairlog: Fairlog) -> None:
    execute_each(fairlog, [submit(payload=number) for number in range(3)])
    claimed = do(fairlog, claim(3), Claimed).jobs
    outcomes_of_jobs = [complete(1, job.id) for job in claimed]
    first = execute_each(fairlog, [*outcomes_of_jobs, complete(2, claimed[0].id)])
    assert [type(one).__name__ for one in first] == ["JobUpdated"] * 3 + ["NotTheCurrentAttempt"]
    events = events_in(fairlog)
    again = execute_each(fairlog, outcomes_of_jobs)
    assert again == first[:3]
    assert events_in(fairlog) == events


def test_a_refusal_is_an_answer_to_its_caller_alone(database_url: str) -> None:
    with service(database_url, user_limit=2) as fairlog:
        replies = put_as_one_batch(
            fairlog,
            submit(payload=1),
            complete(7, JobId(99)),
            submit(payload=2),
            submit(payload=3),
            submit(BOB),
        )
        assert types_of(replies) == [
            "Submitted",
            "UnknownJob",
            "Submitted",
            "RateLimited",
            "Submitted",
        ]
        with pytest.raises(RateLimited):
            replies[3].result()
        assert fairlog.writer.stats.batches == 1


def test_a_batch_that_comes_to_nothing_writes_nothing(fairlog: Fairlog) -> None:
    do(fairlog, submit(), Submitted)
    assert len(do(fairlog, claim(1, ECHO), Claimed).jobs) == 1
    assert do(fairlog, claim(1, ECHO), Claimed).jobs == []
    assert events_in(fairlog) == 3


def test_what_was_answered_can_be_read_at_once(fairlog: Fairlog) -> None:
    for number in range(20):
        job = do(fairlog, submit(payload=number), Submitted).job
        with saved_rows(fairlog) as connection:
            assert fairlog.jobs.find(connection, [job.id]) == {job.id: job}
            assert audit_log.bodies_at(connection, [job.id]) == {job.id: b"%d" % number}


def test_what_waits_is_written_before_the_writer_ends(database_url: str) -> None:
    fairlog = compose(Settings(database_url=database_url))
    prepare(fairlog)
    replies = put(fairlog, *[submit(payload=number) for number in range(400)])
    fairlog.writer.start()
    fairlog.close()
    assert types_of(replies) == ["Submitted"] * 400
    with pytest.raises(QueueFull, match="stopping"):
        writer_of(fairlog).queue.put(submit())


# The queue


def test_a_full_queue_refuses_submissions_and_still_takes_what_ends_a_job(
    database_url: str,
) -> None:
    queue = CommandQueue(commands_max=8, submissions_max=5)
    fairlog = compose(Settings(database_url=database_url), queue=queue)
    prepare(fairlog)
    users = [UserId(f"user-{number}") for number in range(6)]
    accepted = put(fairlog, *map(submit, users[:5]))
    with pytest.raises(QueueFull, match="try again"):
        queue.put(submit(users[5]))
    accepted += put(fairlog, complete(), complete(), complete())
    with pytest.raises(QueueFull):
        queue.put(complete())
    refused = execute_each(fairlog, [complete(), submit(users[5])])
    assert [type(one).__name__ for one in refused] == ["QueueFull"] * 2
    fairlog.writer.start()
    assert types_of(accepted) == ["Submitted"] * 5 + ["UnknownJob"] * 3
    fairlog.close()


def test_a_call_that_does_not_fit_into_the_queue_is_taken_in_part(database_url: str) -> None:
    queue = CommandQueue(commands_max=8, submissions_max=5)
    fairlog = compose(Settings(database_url=database_url), queue=queue)
    prepare(fairlog)
    commands = [submit(UserId(f"user-{number}")) for number in range(7)]

    async def ask() -> list[Outcome]:
        asking = asyncio.ensure_future(fairlog.writer.execute_each([*commands, complete()]))
        await asyncio.sleep(0)
        fairlog.writer.start()
        return await asking

    assert [type(one).__name__ for one in asyncio.run(ask())] == [
        *["Submitted"] * 5,
        *["QueueFull"] * 2,
        "UnknownJob",
    ]
    fairlog.close()


def test_a_queue_full_of_large_payloads_still_takes_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapters.writer.command_queue, "BYTES_MAX", 1000)
    monkeypatch.setattr(adapters.writer.command_queue, "SUBMISSION_BYTES_MAX", 700)
    queue = CommandQueue()
    large = body_of("x" * 298, "payload")
    queue.put(submit(payload="x" * 298))
    queue.put(submit(BOB, payload="x" * 298))
    with pytest.raises(QueueFull):
        queue.put(submit(CAROL, payload="x" * 298))
    queue.put(submit(CAROL, payload="x" * 98))
    queue.put(complete(result=large))
    with pytest.raises(QueueFull):
        queue.put(complete(result=large))
    queue.put(complete(result=None))
    queue.put(claim(1))
    assert len(queue.take()) == 6
    queue.put(submit(payload="x" * 600))


def test_a_caller_who_went_away_harms_nobody(fairlog: Fairlog) -> None:
    with head_locked(fairlog):
        gone, stays = put_as_one_batch(fairlog, submit(payload=1), submit(payload=2))
        assert gone.cancel()
    assert types_of([stays]) == ["Submitted"]
    assert do(fairlog, submit(payload=3), Submitted).job.id == 6


def test_a_caller_whose_loop_is_closed_harms_nobody(fairlog: Fairlog) -> None:
    loop = asyncio.new_event_loop()

    async def ask_and_leave() -> None:
        asking = asyncio.ensure_future(fairlog.writer.execute(submit(payload=1)))
        await asyncio.sleep(0)
        asking.cancel()

    with head_locked(fairlog):
        loop.run_until_complete(ask_and_leave())
        loop.close()
        [stays] = put(fairlog, submit(payload=2))
    assert types_of([stays]) == ["Submitted"]


def test_a_subscriber_hears_of_every_batch_after_it_is_on_disk_and_cannot_spoil_it(
    database_url: str,
) -> None:
    heard: list[int] = []

    with service(database_url) as fairlog:

        def subscriber(recorded: Any, leaves: Any, last_hash: bytes) -> None:
            assert len(last_hash) == 32
            assert events_in(fairlog) == recorded[-1].position
            assert [one.position for one in recorded] == [one.position for one in leaves]
            heard.extend(one.position for one in recorded)
            raise ZeroDivisionError

        writer_of(fairlog).subscribe(subscriber)
        assert types_of(put_as_one_batch(fairlog, submit(), submit(BOB))) == ["Submitted"] * 2
        do(fairlog, submit(payload=2), Submitted)
        assert heard == [1, 2, 3, 4, 5, 6]
        assert_whole(fairlog)


# A command that the database refuses


class Choosy(SqlEventLog):
    """Has the database refuse whatever a user called poison submits, by a row that cannot be."""

    def append(
        self,
        connection: Connection,
        head: Head,
        recorded: Sequence[Recorded],
        new_bodies: Sequence[tuple[int, bytes]],
    ) -> Appended:
        if any(getattr(one.event, "user_id", None) == "poison" for one in recorded):
            row = {"id": 1, "position": 0, "hash": b"", "recorded_at": 0, "format": 1, "epoch": 1}
            connection.execute(log_head.insert(), [row])
        return super().append(connection, head, recorded, new_bodies)


@pytest.mark.parametrize("poisoned", [[0], [49], [17, 18, 33], list(range(50))])
def test_a_batch_is_split_until_what_the_database_refuses_stands_alone(
    database_url: str, poisoned: list[int]
) -> None:
    fairlog = compose(Settings(database_url=database_url))
    prepare(fairlog)
    writer_of(fairlog)._transactions._log = Choosy(fairlog.database)
    fairlog.writer.start()
    users = [UserId("poison") if number in poisoned else ALICE for number in range(50)]
    replies = put_as_one_batch(fairlog, *[submit(user, payload=n) for n, user in enumerate(users)])
    assert types_of(replies) == [
        "WriteFailed" if number in poisoned else "Submitted" for number in range(50)
    ]
    assert submissions(fairlog).total() == 50 - len(poisoned)
    assert_whole(fairlog)
    do(fairlog, submit(payload="afterwards"), Submitted)
    fairlog.close()


class Defective(SqlEventLog):
    """Raises an error of no database for each batch, or for the events of one user."""

    poison: UserId | None = UserId("poison")

    def append(
        self,
        connection: Connection,
        head: Head,
        recorded: Sequence[Recorded],
        new_bodies: Sequence[tuple[int, bytes]],
    ) -> Appended:
        if self.poison in {None, *(getattr(one.event, "user_id", None) for one in recorded)}:
            raise KeyError("unforeseen")
        return super().append(connection, head, recorded, new_bodies)


def test_a_defect_is_not_said_to_be_the_database_s_and_stops_readiness_if_all_have_it(
    database_url: str,
) -> None:
    fairlog = compose(Settings(database_url=database_url))
    prepare(fairlog)
    writer = writer_of(fairlog)
    log = writer._transactions._log = Defective(fairlog.database)
    fairlog.writer.start()
    with pytest.raises(WriteFailed, match="because of a defect; the server's log has it"):
        do(fairlog, submit(UserId("poison")), Submitted)
    wait_until(lambda: not writer.part.is_failing, "others can be written")
    log.poison = None
    with pytest.raises(WriteFailed):
        do(fairlog, submit(payload=1), Submitted)
    wait_until(lambda: writer.part.is_failing, "nobody's commands can be written")
    log.poison = UserId("poison")
    do(fairlog, submit(payload=2), Submitted)
    wait_until(lambda: not writer.part.is_failing, "commands can be written again")
    fairlog.close()


def test_a_call_is_split_until_what_the_database_refuses_stands_alone(database_url: str) -> None:
    fairlog = compose(Settings(database_url=database_url))
    prepare(fairlog)
    writer_of(fairlog)._transactions._log = Choosy(fairlog.database)
    fairlog.writer.start()
    users = [UserId("poison") if number in {0, 17, 18} else ALICE for number in range(50)]
    found = execute_each(fairlog, [submit(user, payload=n) for n, user in enumerate(users)])
    assert [type(one).__name__ for one in found] == [
        "WriteFailed" if user == "poison" else "Submitted" for user in users
    ]
    assert submissions(fairlog).total() == 47
    assert_whole(fairlog)
    fairlog.close()


@pytest.mark.parametrize(
    "broken",
    [
        submit(UserId("a\ud800b")),
        SubmitJob(
            user_id=ALICE, kind=ECHO, payload=body_of(1, "payload"), idempotency_key="\udfff"
        ),
        complete(1, JobId(2**63)),
        submit(UserId("x" * 300)),
    ],
    ids=["surrogate in a user id", "surrogate in a key", "job id too large", "user id too long"],
)
def test_what_should_never_have_passed_validation_spoils_no_neighbour(
    fairlog: Fairlog, broken: Any
) -> None:
    replies = put_as_one_batch(fairlog, submit(payload=1), broken, submit(payload=2), claim(1))
    before, _, behind, claimed = types_of(replies)
    assert (before, behind, claimed) == ("Submitted", "Submitted", "Claimed")
    assert_whole(fairlog)


def test_a_body_that_is_larger_than_the_server_s_packets_spoils_no_neighbour() -> None:
    with (
        MariaDB(options=["--max-allowed-packet=1M"]) as server,
        service(server.create_database()) as fairlog,
    ):
        replies = put_as_one_batch(
            fairlog,
            *[submit(payload=number) for number in range(20)],
            submit(payload="x" * (BODY_BYTES_MAX - 2)),
            submit(BOB),
        )
        assert types_of(replies) == ["Submitted"] * 20 + ["WriteFailed", "Submitted"]
        assert fairlog.writer.stats.retries == 0
        assert_whole(fairlog)


def test_sixteen_payloads_of_a_mebibyte_at_once_go_through(fairlog: Fairlog) -> None:
    """A payload of quotation marks doubles when it is escaped, and a packet has 16 MiB."""
    payloads = [
        (f"{number:02}" + '"' * BODY_BYTES_MAX)[: BODY_BYTES_MAX // 2 - 1] for number in range(16)
    ]
    replies = put_as_one_batch(fairlog, *[submit(payload=one) for one in payloads])
    found = outcomes(replies)
    ids = [one.job.id for one in found if isinstance(one, Submitted)]
    assert len(ids) == 16
    with fairlog.database.read() as connection:
        stored = audit_log.bodies_at(connection, ids)
        sizes = connection.execute(
            sa.select(sa.func.max(sa.func.length(bodies.c.body)))
        ).scalar_one()
    assert [stored[job_id] for job_id in ids] == [body_of(one, "payload").data for one in payloads]
    assert BODY_BYTES_MAX - 10 <= sizes <= BODY_BYTES_MAX


# Locks


def test_a_lock_wait_that_times_out_is_tried_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.database.database, "LOCK_WAIT_SECONDS_MAX", 1)
    with service(database_url) as fairlog:
        with head_locked(fairlog):
            [reply] = put(fairlog, submit())
            wait_until(lambda: fairlog.writer.stats.retries > 0, "the wait timed out")
            assert not reply.done()
        assert types_of([reply]) == ["Submitted"]
        assert_whole(fairlog)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_deadlock_is_tried_again(fairlog: Fairlog) -> None:
    """Somebody holds a row that the writer wants, and then wants the head that it has."""
    do(fairlog, submit(payload=1), Submitted)
    do(fairlog, SaveProjections(), ProjectionsSaved)
    row = {"position": 3, "type": "T", "version": 1, "recorded_at": 0, "data": b"", "hash": b""}
    with fairlog.database.connect_writer() as other, other.begin() as transaction:
        other.execute(events.insert(), [row])
        # Many locks, so that InnoDB chooses the writer for its victim.
        other.exec_driver_sql("CREATE TEMPORARY TABLE weight (n INT PRIMARY KEY) ENGINE = InnoDB")
        rows = ", ".join(f"({number})" for number in range(2000))
        other.exec_driver_sql(f"INSERT INTO weight VALUES {rows}")
        replies = put(fairlog, submit(payload=2))
        wait_until(lambda: _waits_for_a_row(fairlog), "the writer waits for the row")
        fairlog.log.lock_head(other)
        transaction.rollback()
    assert types_of(replies) == ["Submitted"]
    assert fairlog.writer.stats.retries == 1
    assert_whole(fairlog)


def _waits_for_a_row(fairlog: Fairlog) -> bool:
    with fairlog.database.read() as connection:
        return bool(
            connection.exec_driver_sql(
                "SELECT COUNT(*) FROM information_schema.processlist"
                " WHERE db = DATABASE() AND info LIKE '%%INTO events%%' AND id <> CONNECTION_ID()"
            ).scalar_one()
        )


# Lost connections


def kill_writer(server: DatabaseServer, fairlog: Fairlog) -> None:
    connection = writer_of(fairlog)._transactions._connection
    assert connection is not None
    thread_id = connection.connection.driver_connection.thread_id()  # type: ignore[union-attr]  # PyMySQL's
    with server.connect() as admin, admin.cursor() as cursor:
        cursor.execute("KILL %s", (thread_id,))


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_connection_lost_between_batches_is_made_anew(
    fairlog: Fairlog, mariadb: DatabaseServer
) -> None:
    for number in range(5):
        do(fairlog, submit(payload=number), Submitted)
        kill_writer(mariadb, fairlog)
    assert types_of(put_as_one_batch(fairlog, submit(BOB), claim(9, ECHO))) == [
        "Submitted",
        "Claimed",
    ]
    # One that is found dead while rows are saved behind the log is no batch that is tried again.
    assert 1 <= fairlog.writer.stats.retries <= 5
    assert_whole(fairlog)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_connection_lost_within_a_batch_is_made_anew(
    fairlog: Fairlog, mariadb: DatabaseServer
) -> None:
    do(fairlog, submit(payload=0), Submitted)
    with head_locked(fairlog):
        replies = put_as_one_batch(fairlog, submit(payload=1), submit(payload=2))
        wait_until(lambda: len(writer_of(fairlog).queue) == 0, "the writer has the batch")
        kill_writer(mariadb, fairlog)
    assert types_of(replies) == ["Submitted"] * 2
    assert submissions(fairlog).total() == 3
    assert_whole(fairlog)


@pytest.fixture
def cutter(mariadb: DatabaseServer) -> Iterator[CommitCutter]:
    url = mariadb.create_database()
    with CommitCutter(url) as proxy:
        yield proxy
    mariadb.drop_database(url)


@pytest.mark.parametrize("cut", list(Cut))
def test_a_commit_whose_outcome_is_unknown_is_written_once_and_answered(
    cutter: CommitCutter, cut: Cut
) -> None:
    with service(cutter.url) as fairlog:
        do(fairlog, submit(payload="before"), Submitted)
        cutter.cut_next(cut)
        replies = put_as_one_batch(
            fairlog, *[submit(payload=n) for n in range(10)], claim(3), complete(9, JobId(2))
        )
        found = outcomes(replies)
        assert cutter.cuts == 1
        assert [one.job.id for one in found if isinstance(one, Submitted)] == list(range(4, 23, 2))
        [claimed] = [one for one in found if isinstance(one, Claimed)]
        assert [job.id for job in claimed.jobs] == [2, 4, 6]
        assert isinstance(found[-1], NotTheCurrentAttempt)
        assert events_in(fairlog) == 2 + 20 + 3
        assert set(submissions(fairlog).values()) == {1}
        assert fairlog.writer.stats.retries == 1
        for job in claimed.jobs:
            do(fairlog, complete(1, job.id), JobUpdated)
        assert_whole(fairlog)


@pytest.mark.parametrize("cut", list(Cut))
def test_the_rows_of_a_batch_that_was_looked_for_are_saved_without_another_command(
    cutter: CommitCutter, cut: Cut
) -> None:
    with service(cutter.url) as fairlog:
        _submit_and_save(fairlog)
        cutter.cut_next(cut)
        do(fairlog, submit(payload=2), Submitted)
        assert cutter.cuts == 1
        wait_until(lambda: fairlog.read_now(fairlog.log.saved) == (4, 4), "the rows are saved")


def test_commits_cut_again_and_again_lose_nothing_and_write_nothing_twice(
    cutter: CommitCutter,
) -> None:
    with service(cutter.url) as fairlog, service(cutter.url) as other:
        replies: list[Future[Answer]] = []
        for number in range(60):
            if number % 3 != 2:
                cutter.cut_next(list(Cut)[number % 2])
            replies += put(fairlog, submit(payload=number), submit(BOB, payload=number))
            replies += put(other, submit(UserId("carol"), payload=number))
            outcomes(replies[-3:])
        assert types_of(replies) == ["Submitted"] * 180
        assert cutter.cuts == 40
        assert events_in(fairlog) == 360
        assert_whole(fairlog)


def test_another_writer_between_the_lost_commit_and_the_look_up_is_no_obstacle(
    cutter: CommitCutter,
) -> None:
    """The tail is compared where the batch would be, not at the end of the log."""
    with service(cutter.url) as fairlog, service(cutter.url) as other:
        do(fairlog, submit(payload="before"), Submitted)
        original = writer_of(fairlog)._transactions._connect
        interrupted = threading.Event()

        def connect_later() -> Connection:
            if cutter.cuts and not interrupted.is_set():
                interrupted.set()
                do(other, submit(BOB, payload="between"), Submitted)
            return original()

        writer_of(fairlog)._transactions._connect = connect_later  # type: ignore[method-assign]  # to have another come first
        cutter.cut_next(Cut.AFTER)
        assert do(fairlog, submit(payload="in doubt"), Submitted).job.id == 4
        assert interrupted.is_set()
        assert events_in(fairlog) == 6
        assert_whole(fairlog)


# The database away


class Load:
    """Callers who submit one job after another until they are told to stop."""

    def __init__(self, fairlog: Fairlog, callers: int = 6) -> None:
        self._fairlog = fairlog
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(number,)) for number in range(callers)
        ]
        self.answered: list[tuple[int, str]] = []  # (job, payload's digest)
        self.refused_after: list[float] = []  # seconds

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _call(self, caller: int) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            command = submit(UserId(f"user-{caller}"), payload=[caller, number])
            started = time.monotonic()
            [outcome] = outcomes(put(self._fairlog, command))
            if isinstance(outcome, Submitted):
                self.answered.append((outcome.job.id, command.payload.sha256))
            else:
                assert isinstance(outcome, LogUnavailable), outcome
                self.refused_after.append(time.monotonic() - started)

    def wait_for_more(self) -> None:
        before = len(self.answered)
        wait_until(lambda: len(self.answered) > before + 20, "callers are answered")

    def wait_for_refusals(self) -> None:
        wait_until(lambda: len(self.refused_after) >= 6, "callers hear of it")


@pytest.mark.parametrize(
    ("harm", "mend"),
    [
        (MariaDB.stop, MariaDB.start),
        (MariaDB.kill, MariaDB.start),
        (MariaDB.pause, MariaDB.resume),
    ],
    ids=["stopped", "killed", "frozen"],
)
def test_with_the_database_away_callers_hear_it_soon_and_the_writer_goes_on_afterwards(
    private_mariadb: MariaDB, harm: Callable[[MariaDB], None], mend: Callable[[MariaDB], None]
) -> None:
    with service(private_mariadb.create_database()) as fairlog:
        with Load(fairlog) as load:
            load.wait_for_more()
            harm(private_mariadb)
            load.wait_for_refusals()
            mend(private_mariadb)
            load.wait_for_more()
        print(f"refused after {max(load.refused_after):.2f} s at most")
        assert max(load.refused_after) < UNAVAILABLE_SECONDS_MAX
        stored = {
            one.position: one.event.payload_sha256
            for one in log_of(fairlog)
            if isinstance(one.event, JobSubmitted)
        }
        assert [stored[job_id] for job_id, _ in load.answered] == [one for _, one in load.answered]
        assert set(submissions(fairlog).values()) == {1}
        assert_whole(fairlog)


def test_an_account_that_is_locked_out_is_no_fault_of_a_command(private_mariadb: MariaDB) -> None:
    with service(private_mariadb.create_database()) as fairlog:
        do(fairlog, submit(payload=1), Submitted)
        with private_mariadb.connect() as admin, admin.cursor() as cursor:
            cursor.execute("ALTER USER 'fairlog'@'127.0.0.1' ACCOUNT LOCK")
            kill_writer(private_mariadb, fairlog)
            replies = put_as_one_batch(fairlog, submit(payload=2), submit(payload=3))
            assert types_of(replies) == ["LogUnavailable"] * 2
            cursor.execute("ALTER USER 'fairlog'@'127.0.0.1' ACCOUNT UNLOCK")
        do(fairlog, submit(payload=4), Submitted)
        assert submissions(fairlog).total() == 2


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_file_that_somebody_else_keeps_locked_is_a_database_away(fairlog: Fairlog) -> None:
    with head_locked(fairlog):
        started = time.monotonic()
        [reply, waiting] = put(fairlog, submit(payload=1), submit(payload=2))
        assert types_of([reply, waiting]) == ["LogUnavailable"] * 2
        assert [knows_that_nothing_was_recorded(one) for one in (reply, waiting)] == [True] * 2
        took = time.monotonic() - started
    print(f"refused after {took:.2f} s")
    assert took < UNAVAILABLE_SECONDS_MAX
    do(fairlog, submit(payload=3), Submitted)
    assert events_in(fairlog) == 2


def test_a_command_whose_caller_was_told_that_it_failed_is_not_tried_again(
    private_mariadb: MariaDB,
) -> None:
    with service(private_mariadb.create_database()) as fairlog:
        do(fairlog, submit(payload=1), Submitted)
        private_mariadb.kill()
        replies = put(fairlog, *[submit(payload=number) for number in range(2, 600)])
        assert set(types_of(replies)) == {"LogUnavailable"}
        private_mariadb.start()
        do(fairlog, submit(payload="after"), Submitted)
        assert submissions(fairlog).total() == 2


# Newer releases


def test_a_log_of_a_newer_format_stops_the_writer(fairlog: Fairlog) -> None:
    _submit_and_save(fairlog)
    with fairlog.database.write() as connection:
        connection.execute(log_head.update().values(format=FORMAT + 1))
    _assert_stops(fairlog)


def test_an_idle_writer_stops_at_a_log_of_a_newer_format(database_url: str) -> None:
    fairlog = compose(Settings(database_url=database_url))
    prepare(fairlog)
    writer_of(fairlog).probe_seconds = 0.05
    fairlog.writer.start()
    with fairlog.database.write() as connection:
        connection.execute(log_head.update().values(format=FORMAT + 1))
    wait_until(lambda: writer_of(fairlog).queue.is_closed, "the writer stops")
    assert isinstance(fairlog.writer.fatal, LogTooNew)
    fairlog.close()


def test_a_projection_of_a_newer_version_stops_the_writer(fairlog: Fairlog) -> None:
    _submit_and_save(fairlog)
    with fairlog.database.write() as connection:
        fairlog.log.lock_head(connection)
        connection.execute(registry.registry.update().values(version=99))
        fairlog.log.set_registry_digest(connection, registry.digest_of(connection))
    _assert_stops(fairlog)


def _submit_and_save(fairlog: Fairlog) -> None:
    """Submit a job, and leave the writer nothing to save: it would look at the log for that."""
    do(fairlog, submit(payload=1), Submitted)
    do(fairlog, SaveProjections(), ProjectionsSaved)


def _assert_stops(fairlog: Fairlog) -> None:
    replies = put_as_one_batch(fairlog, submit(payload=2), complete(), submit(payload=3))
    assert types_of(replies) == ["LogTooNew"] * 3
    wait_until(lambda: writer_of(fairlog).queue.is_closed, "the writer stops")
    assert isinstance(fairlog.writer.fatal, LogTooNew)
    assert "install the newer release" in str(fairlog.writer.fatal)
    with pytest.raises(QueueFull):
        writer_of(fairlog).queue.put(submit(payload=4))
    assert events_in(fairlog) == 2
