"""The rows of the inline projections are written behind the log, and nobody notices."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Final

import pytest
from sqlalchemy.engine import Connection

from adapters.log.tables import log_head
from adapters.settings import Settings
from adapters.writer import transactions, writer
from domain.decisions.answers import Claimed, JobUpdated, LimitsSet, ProjectionsSaved, Submitted
from domain.jobs.job import Job, State
from domain.language.commands import CancelJob, ChangeLimit, SaveProjections
from domain.language.errors import LogIsBehind, UnknownJob
from domain.language.events import Recorded, Scope
from domain.language.identifiers import JobId
from entrypoints.composition import compose, rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.limit_reads import kind, user_limits
from entrypoints.use_cases.bulk_retry import RetryFilter, retry_jobs
from entrypoints.use_cases.explain import explain_job
from entrypoints.use_cases.verification import verify_log
from projections.inline.live import LiveProjections, inline_projections
from projections.rebuild import rebuild
from tests.support import server
from tests.support.core import do, outcomes, put, service, writer_of
from tests.support.repository import ROOT
from tests.support.server import AppServer, ending_with_us, without_settings
from tests.support.stories import ALICE, BOB, ECHO, claim, complete, submit
from tests.support.triggers import refuse
from tests.support.waiting import wait_until

KILLS: Final = 4
ROUNDS: Final = 40  # of each kind of query

# Submits, claims, completes and cancels as fast as it can, until it is killed.
BUSY: Final = """
import random, sys
import domain.decisions.batch
from tests.support.core import outcomes, put, service
from tests.support.stories import ALICE, BOB, CAROL, claim, complete, submit
from domain.decisions.answers import Claimed
domain.decisions.batch.EVENTS_PER_APPEND = 8  # a batch is sent in many parts
chance = random.Random(int(sys.argv[2]))
with service(sys.argv[1]) as fairlog:
    print("writes", flush=True)
    while True:
        some = [submit(chance.choice([ALICE, BOB, CAROL]), payload=chance.random())
                for _ in range(chance.randrange(40))]
        for claimed in outcomes(put(fairlog, *some, claim(chance.randrange(1, 30)))):
            if isinstance(claimed, Claimed):
                outcomes(put(fairlog, *(complete(job.attempt, job.id) for job in claimed.jobs
                                        if chance.random() < 0.8)))
"""


@pytest.fixture
def never_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are saved where somebody asks for it alone."""
    monkeypatch.setattr(writer, "IDLE_SAVE_SECONDS", 3600.0)
    monkeypatch.setattr(transactions, "SAVE_SECONDS_MAX", 3600.0)


def stands_at(fairlog: Fairlog) -> tuple[int, int]:
    """The end of the log, and the position of the rows."""
    with fairlog.database.read() as connection:
        row = connection.execute(log_head.select()).one()
        return row.position, row.saved


def assert_verified(fairlog: Fairlog) -> None:
    found: list[object] = []
    assert verify_log(fairlog, found.append, lambda *_: None).is_clean, found


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_rows_are_saved_soon_when_nothing_more_is_written(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        wait_until(lambda: stands_at(fairlog) == (2, 2), "they are saved")


@pytest.mark.usefixtures("never_saved")
def test_rows_are_saved_at_the_end_of_the_process(database_url: str) -> None:
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        assert stands_at(fairlog) == (2, 0)
        fairlog.writer.stop()
        assert stands_at(fairlog) == (2, 2)


@pytest.mark.usefixtures("never_saved")
def test_a_job_that_is_done_by_then_is_written_once(database_url: str) -> None:
    with service(database_url) as fairlog:
        outcomes(put(fairlog, claim(1), claim(1, ECHO)))  # from now on the line is in memory
        job = do(fairlog, submit(), Submitted).job
        do(fairlog, claim(1), Claimed)
        do(fairlog, complete(1, job.id), JobUpdated)
        assert stands_at(fairlog) == (4, 0)
        assert asyncio.run(fairlog.job(job.id)).state is State.DONE
        assert stands_at(fairlog) == (4, 4)


@pytest.mark.usefixtures("never_saved")
def test_at_most_so_many_events_are_unsaved(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "UNSAVED_EVENTS_MAX", 10)
    with service(database_url) as fairlog:
        for number in range(30):
            do(fairlog, submit(payload=number), Submitted)
            position, saved = stands_at(fairlog)
            assert position - saved <= 10 + 2


@pytest.mark.usefixtures("never_saved")
def test_verify_compares_the_rows_with_the_log_up_to_where_they_stand(database_url: str) -> None:
    with service(database_url) as fairlog:
        outcomes(put(fairlog, *[submit(payload=number) for number in range(20)]))
        do(fairlog, claim(5), Claimed)
        do(fairlog, SaveProjections(), ProjectionsSaved)
        _, saved = stands_at(fairlog)
        do(fairlog, claim(7), Claimed)
        do(fairlog, complete(1, JobId(2)), JobUpdated)
        assert stands_at(fairlog) == (saved + 8, saved)
        assert_verified(fairlog)


@pytest.mark.parametrize("chosen", [["jobs"], ["line", "windows"], []])
@pytest.mark.usefixtures("never_saved")
def test_a_rebuild_leaves_all_rows_at_one_position(database_url: str, chosen: list[str]) -> None:
    with service(database_url) as fairlog:
        outcomes(put(fairlog, *[submit(payload=number) for number in range(20)]))
        do(fairlog, claim(5), Claimed)
        rebuild_projections(fairlog, chosen, lambda *_: None)
        assert stands_at(fairlog) == (45, 45)
        assert_verified(fairlog)
        do(fairlog, complete(1, JobId(2)), JobUpdated)
        do(fairlog, SaveProjections(), ProjectionsSaved)
        assert_verified(fairlog)


@pytest.mark.usefixtures("never_saved")
def test_a_rebuild_of_all_rows_folds_each_event_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that are behind the old rows are not folded into them under the head lock."""
    with service(database_url) as fairlog:
        outcomes(put(fairlog, *[submit(payload=number) for number in range(20)]))
        read: list[int] = []
        whole_page = fairlog.log.read

        def counted(connection: Connection, after: int, limit: int) -> Sequence[Recorded]:
            events = whole_page(connection, after, limit)
            read.extend(one.position for one in events)
            return events

        monkeypatch.setattr(fairlog.log, "read", counted)
        rebuild_projections(fairlog, [one.name for one in inline_projections()])
        assert sorted(read) == list(range(1, 41))


@pytest.mark.usefixtures("never_saved")
@pytest.mark.parametrize("chosen", [[], ["jobs"]])
def test_a_rebuild_that_another_overtakes_says_nothing_of_its_rows(
    database_url: str, chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "EVENTS_UNDER_LOCK_MAX", 0)  # it tells of its progress at once
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        later: list[JobId] = []

        def overtake(_done: int, _total: int) -> None:
            if later:  # what is not built by the other stands as it did
                assert fairlog.read_now(lambda reading: fairlog.line.user(reading, ALICE))
            else:
                later.append(JobId(0))
                rebuild_projections(fairlog, chosen)
                later[0] = do(fairlog, submit(BOB), Submitted).job.id

        rebuild_projections(fairlog, [], overtake)
        assert asyncio.run(fairlog.job(later[0])).state is State.QUEUED
        assert_verified(fairlog)


@pytest.mark.usefixtures("never_saved")
def test_a_command_that_writes_nothing_reads_the_rows_as_they_stand(database_url: str) -> None:
    with service(database_url) as writing:
        do(writing, submit(), Submitted)
        assert stands_at(writing) == (2, 0)
        with closing(compose(Settings(database_url=database_url))) as reading:
            query = reading.with_saved_rows(
                lambda connection: reading.jobs.find(connection, [JobId(2)])
            )
            assert reading.read_now(query) == {}


@pytest.mark.usefixtures("never_saved")
def test_what_one_process_leaves_unsaved_another_saves(database_url: str) -> None:
    """Each folds what the others have appended, and any may save it."""
    with ExitStack() as stack:
        one, other, third = (stack.enter_context(service(database_url)) for _ in range(3))
        first = do(one, submit(), Submitted).job
        assert do(other, submit(), Submitted).is_duplicate
        second = do(other, submit(BOB), Submitted).job
        assert [job.id for job in do(third, claim(9), Claimed).jobs] == [first.id, second.id]
        do(one, complete(1, second.id), JobUpdated)
        assert asyncio.run(third.job(second.id)).state is State.DONE
        position, saved = stands_at(one)
        assert position == saved
        do(other, complete(1, first.id), JobUpdated)  # it has seen none of these
        assert asyncio.run(one.job(first.id)).state is State.DONE
        assert_verified(one)


@pytest.mark.usefixtures("never_saved")
def test_a_process_goes_on_with_what_it_knows_when_another_has_saved_just_that(
    database_url: str,
) -> None:
    with service(database_url) as one, service(database_url) as other:
        do(one, submit(), Submitted)
        do(other, SaveProjections(), ProjectionsSaved)
        kept = projections_of(one)._kept
        assert kept is not None
        do(one, submit(payload=2), Submitted)
        assert projections_of(one)._kept is kept
        do(one, SaveProjections(), ProjectionsSaved)
        assert_verified(one)


def projections_of(fairlog: Fairlog) -> LiveProjections:
    found = writer_of(fairlog)._transactions._projections
    assert isinstance(found, LiveProjections)
    return found


@pytest.mark.usefixtures("never_saved")
def test_a_state_that_is_too_large_is_saved_and_read_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.inline.live.ROWS_KEPT_MAX", 30)
    with service(database_url) as fairlog:
        for number in range(40):
            do(fairlog, submit(BOB if number % 3 else ALICE, payload=number), Submitted)
        started = [job for _ in range(8) for job in do(fairlog, claim(5), Claimed).jobs]
        assert len(started) == 40
        assert [job.user_id for job in started[:6]] == [ALICE, BOB] * 3
        outcomes(put(fairlog, *(complete(1, job.id) for job in started)))
        assert_verified(fairlog)


# Each kind of query sees what was answered before

Query = Callable[[Fairlog, Fairlog, int], None]


def _job(one: Fairlog, other: Fairlog, number: int) -> None:
    job = do(one, submit(payload=["job", number]), Submitted).job
    assert asyncio.run(other.job(job.id)).state is State.QUEUED
    do(other, CancelJob(job_id=job.id), JobUpdated)
    assert asyncio.run(one.job(job.id)).state is State.CANCELLED


def _list(one: Fairlog, other: Fairlog, number: int) -> None:
    job = do(one, submit(payload=["list", number]), Submitted).job
    assert asyncio.run(other.newest_jobs(ALICE, None, None, 1)).jobs[0].id == job.id
    assert asyncio.run(other.newest_jobs(None, State.QUEUED, None, 1)).jobs[0].id == job.id


def _stats(one: Fairlog, other: Fairlog, number: int) -> None:
    before = asyncio.run(other.stats())
    do(one, submit(payload=["stats", number]), Submitted)
    after = asyncio.run(other.stats())
    assert after.total == before.total + 1
    assert after.jobs[State.QUEUED] == before.jobs[State.QUEUED] + 1


def _kind(one: Fairlog, other: Fairlog, number: int) -> None:
    before = asyncio.run(kind(other, ECHO)).waiting
    do(one, submit(payload=["kind", number]), Submitted)
    assert asyncio.run(kind(other, ECHO)).waiting == before + 1


def _limits(one: Fairlog, other: Fairlog, number: int) -> None:
    limit = 1_000_000 + number
    do(one, ChangeLimit(scope=Scope.USER, user_id=ALICE, limit=limit), LimitsSet)
    before = asyncio.run(user_limits(other, ALICE))
    do(one, submit(payload=["limits", number]), Submitted)
    after = asyncio.run(user_limits(other, ALICE))
    assert after.limit == limit
    assert after.used == before.used + 1 or after.resets_at != before.resets_at


def _explain(one: Fairlog, other: Fairlog, number: int) -> None:
    job = do(one, submit(payload=["explain", number]), Submitted).job
    assert asyncio.run(explain_job(other, job.id))["state"] == "queued"


def _retry(one: Fairlog, other: Fairlog, number: int) -> None:
    job = do(one, submit(payload=["retry", number]), Submitted).job
    do(one, CancelJob(job_id=job.id), JobUpdated)
    wanted = RetryFilter(
        user_id=ALICE, state=State.CANCELLED, kind=None, error_contains=None, jobs_max=1
    )
    assert asyncio.run(retry_jobs(other, wanted, None)).jobs == [job.id]


@pytest.fixture
def two(database_url: str) -> Iterator[tuple[Fairlog, Fairlog]]:
    with service(database_url) as one, service(database_url) as other:
        yield one, other


@pytest.mark.parametrize("query", [_job, _list, _stats, _kind, _limits, _explain, _retry])
def test_a_query_sees_what_was_written_before_it(
    two: tuple[Fairlog, Fairlog], query: Query
) -> None:
    """Write on one of two servers and ask the other, in turn."""
    chance = random.Random(17)
    for number in range(ROUNDS):
        one, other = two if chance.random() < 0.5 else two[::-1]
        query(one, chance.choice([one, other]), number)
    with pytest.raises(UnknownJob):
        asyncio.run(two[0].job(JobId(10**9)))
    assert_verified(two[0])


def test_a_job_that_comes_to_be_while_it_is_asked_for_is_unknown_and_no_trouble(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(database_url) as fairlog:
        find = fairlog.jobs.find

        def find_late(connection: Connection, job_ids: list[JobId]) -> dict[JobId, Job]:
            found = find(connection, job_ids)
            do(fairlog, submit(payload=random.random()), Submitted)
            return found

        monkeypatch.setattr(fairlog.jobs, "find", find_late)
        with pytest.raises(UnknownJob):
            asyncio.run(fairlog.job(JobId(2)))
        assert not fairlog.supervisor.troubles()


def test_a_job_is_shown_as_it_is_while_no_row_can_be_saved(database_url: str) -> None:
    with AppServer(database_url) as app:
        client = app.client
        changed = server.submit(client, payload=1)["id"]
        assert client.get(f"/v1/jobs/{changed}").json()["state"] == "queued"  # its row is saved
        with app.fairlog.database.write() as connection:
            refuse(connection, "jobs_v6")
        client.post(f"/v1/jobs/{changed}/cancel").raise_for_status()
        new = server.submit(client, payload={"n": 2})["id"]
        for _ in range(2):  # the second time, the writer knows that it fails
            assert client.get(f"/v1/jobs/{changed}").json()["state"] == "cancelled"
            shown = client.get(f"/v1/jobs/{new}", params={"wait_seconds": 0.01}).json()
            assert (shown["state"], shown["payload"]) == ("queued", {"n": 2})
        with app.fairlog.database.write() as connection:
            connection.exec_driver_sql("DROP TRIGGER strange")
        wait_until(lambda: client.get("/readyz").is_success, "rows are saved again")
        assert client.get(f"/v1/jobs/{changed}").json()["state"] == "cancelled"


def test_what_is_written_while_a_query_begins_does_not_make_the_database_look_behind(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(database_url) as fairlog:
        job = do(fairlog, submit(), Submitted).job
        saved = fairlog.log.saved

        def saved_late(connection: Connection) -> tuple[int, int]:
            found = saved(connection)
            do(fairlog, submit(payload=random.random()), Submitted)
            return found

        monkeypatch.setattr(fairlog.log, "saved", saved_late)
        for _ in range(3):
            assert asyncio.run(fairlog.job(job.id)).state is State.QUEUED
        assert not fairlog.supervisor.troubles()


# A process that is killed


def busy(database_url: str, seed: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*ending_with_us(), sys.executable, "-c", BUSY, database_url, str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env=without_settings(os.environ),
        cwd=ROOT,
    )


@pytest.mark.timeout(300)
def test_after_a_kill_at_any_moment_the_rows_are_what_the_log_gives(database_url: str) -> None:
    with service(database_url):
        pass
    chance = random.Random(7)
    for number in range(KILLS):
        process = busy(database_url, number)
        assert process.stdout is not None
        assert process.stdout.readline() == "writes\n"
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.0, 0.6))
        kill(process)
        process.stdout.close()
        with service(database_url) as fairlog:
            assert_verified(fairlog)
            do(fairlog, SaveProjections(), ProjectionsSaved)
            position, saved = stands_at(fairlog)
            assert position == saved
            assert_verified(fairlog)


def test_rows_that_another_server_has_saved_are_not_read_as_if_they_were_here(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server that is read lags behind the one that is written to."""
    with service(database_url) as fairlog:
        do(fairlog, submit(), Submitted)
        monkeypatch.setattr(fairlog, "save_rows", lambda _: True)
        with pytest.raises(LogIsBehind):
            fairlog.read_now(fairlog.require_rows)
