"""The projector and the activity projection: in pieces, by several at once, and from nothing."""

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

import projections.activity.projection
from adapters.settings import Settings
from domain.decisions.answers import Claimed, Submitted
from domain.jobs.job import Job
from domain.language.bodies import body_of
from domain.language.commands import CancelJob, ClaimJobs, CompleteJob, FailJob, RetryJob, SubmitJob
from domain.language.errors import LogCorrupt, LogUnavailable, RateLimited
from domain.language.identifiers import Kind, UserId, WorkerId
from entrypoints.composition import compose, rebuild_projections
from entrypoints.feeds import projector_runner
from entrypoints.service.fairlog import Fairlog
from projections.activity import tables
from projections.activity.metrics import ActivityMetrics, total
from projections.activity.projection import KEPT_SECONDS, ActivityProjection
from projections.following import checkpoints
from projections.following.async_projection import Changes
from projections.following.async_projector import AsyncProjector, step_all
from tests.support.clock import NOON, ManualClock
from tests.support.core import execute_now, service
from tests.support.prepared import prepare
from tests.support.waiting import wait_until


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    fairlog = compose(Settings(database_url=database_url, user_limit=5), clock=clock)
    prepare(fairlog)
    fairlog.writer.start()
    yield fairlog
    fairlog.close()


def submit(fairlog: Fairlog, user: str, number: int, kind: str = "echo") -> Submitted:
    answer = execute_now(
        fairlog,
        SubmitJob(user_id=UserId(user), kind=Kind(kind), payload=body_of(number, "payload")),
    )
    assert isinstance(answer, Submitted)
    return answer


def claim(fairlog: Fairlog, most: int, worker: str = "w") -> Claimed:
    answer = execute_now(fairlog, ClaimJobs(worker=WorkerId(worker), max_jobs=most))
    assert isinstance(answer, Claimed)
    return answer


def live_through_a_day(fairlog: Fairlog, clock: ManualClock) -> None:
    """A bit of everything, over hours."""
    for hour in range(5):
        wishes = [(f"user-{number % 3}", f"kind-{number % 2}") for number in range(8)]
        for number, (user, kind) in enumerate([*wishes, *[("greedy", "echo")] * 8]):
            with contextlib.suppress(RateLimited):
                submit(fairlog, user, 100 * hour + number, kind)
        clock.advance(2.5)
        jobs: list[Job] = []
        while len(jobs) < 6:  # a job whose lease was lost comes in a claim of its own
            jobs += claim(fairlog, 6 - len(jobs), f"worker-{hour}").jobs
        clock.advance(0.5)
        done, failed, retried, cancelled, *_ = jobs
        error = body_of({"message": "broken"}, "error")
        execute_now(fairlog, CompleteJob(job_id=done.id, attempt=done.attempt, result=None))
        execute_now(fairlog, FailJob(job_id=failed.id, attempt=failed.attempt, error=error))
        execute_now(
            fairlog,
            FailJob(job_id=retried.id, attempt=retried.attempt, error=error, may_retry=False),
        )
        execute_now(fairlog, RetryJob(job_id=retried.id))
        execute_now(fairlog, CancelJob(job_id=cancelled.id))
        clock.advance(3600 + 61 * hour)
        fairlog.recover(None)  # two leases are lost
    for _ in range(2):
        claim(fairlog, 1, "last")


def rows(fairlog: Fairlog) -> dict[str, list[tuple[object, ...]]]:
    """All tables at their current generation."""
    with fairlog.database.read() as connection:
        at = activity(fairlog).checkpoint(connection)
        assert at is not None
        return {
            table.name: sorted(
                tuple(row)[1:]
                for row in connection.execute(
                    sa.select(table).where(table.c.generation == at.generation)
                )
            )
            for table in tables.TABLES
        }


def activity(fairlog: Fairlog) -> AsyncProjector[Any]:
    return fairlog.projector_runner.of("activity")


def catch_up(fairlog: Fairlog, projector: AsyncProjector[Any] | None = None) -> None:
    projector = projector or activity(fairlog)
    while position(fairlog) < fairlog.read_now(fairlog.log.position):
        projector.step()


def position(fairlog: Fairlog) -> int:
    with fairlog.database.read() as connection:
        at = activity(fairlog).checkpoint(connection)
    assert at is not None
    return at.position


def all_metrics(fairlog: Fairlog, seconds: int) -> ActivityMetrics:
    with fairlog.database.read() as connection:
        found = connection.execute(
            sa.select(tables.buckets.c.figures).where(
                tables.buckets.c.seconds == seconds, tables.buckets.c.kind == tables.ALL_KINDS
            )
        )
        return total(tables.decode_metrics(row[0]) for row in found)


def test_figures_say_what_happened(fairlog: Fairlog, clock: ManualClock) -> None:
    live_through_a_day(fairlog, clock)
    catch_up(fairlog)
    metrics = all_metrics(fairlog, 600)
    assert metrics.submitted == 5 * 13
    assert metrics.refused == 5 * 3
    assert metrics.started == 5 * 6 + 2
    assert metrics.completed == metrics.cancelled == 5
    assert metrics.given_up >= 5
    assert metrics.failed >= 5 * 2
    assert metrics.failed == sum(metrics.reasons.values())
    assert sum(metrics.waits.values()) == metrics.started
    assert sum(metrics.runs.values()) == metrics.completed + metrics.failed


def test_catching_up_in_pieces_and_from_nothing_gives_equal_tables(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    live_through_a_day(fairlog, clock)
    activity(fairlog)._events_per_batch = 3
    catch_up(fairlog)
    in_pieces = rows(fairlog)
    activity(fairlog)._events_per_batch = 10_000
    assert rebuild_projections(fairlog, ["activity"]) == position(fairlog)
    assert rows(fairlog) == in_pieces
    assert all(in_pieces.values())


def test_what_is_older_than_is_kept_goes(fairlog: Fairlog, clock: ManualClock) -> None:
    submit(fairlog, "alice", 1)
    catch_up(fairlog)
    clock.advance(max(KEPT_SECONDS.values()) + 601)
    submit(fairlog, "alice", 2)
    catch_up(fairlog)
    assert {row[1] for row in rows(fairlog)[tables.buckets.name]} == {
        int(clock.now().timestamp()) // seconds * seconds for seconds in KEPT_SECONDS
    }


def test_several_processes_apply_each_event_once(fairlog: Fairlog, clock: ManualClock) -> None:
    live_through_a_day(fairlog, clock)

    def follow() -> None:
        database = fairlog.database
        own = AsyncProjector(
            ActivityProjection(),
            fairlog.log.read,
            fairlog.log,
            database.read,
            database.write,
            events_per_batch=5,
        )
        catch_up(fairlog, own)

    threads = [threading.Thread(target=follow) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = rows(fairlog)
    rebuild_projections(fairlog, ["activity"])
    assert rows(fairlog) == together


def test_rows_do_not_depend_on_what_is_kept_in_memory(
    fairlog: Fairlog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_through_a_day(fairlog, clock)
    catch_up(fairlog)
    before = rows(fairlog)
    activity(fairlog)._events_per_batch = 4
    for rows_max in (0, 1, 3):
        monkeypatch.setattr(projections.activity.projection, "ROWS_CACHED_MAX", rows_max)
        rebuild_projections(fairlog, ["activity"])
        assert rows(fairlog) == before


def test_a_write_that_fails_is_repeated_from_the_stored_rows(
    fairlog: Fairlog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_through_a_day(fairlog, clock)
    activity(fairlog)._events_per_batch = 7
    move, moves = checkpoints.move, itertools.count()

    def move_every_other_time(*arguments: Any) -> None:
        if next(moves) % 2:
            raise LogUnavailable("The connection was lost.")
        move(*arguments)

    monkeypatch.setattr(checkpoints, "move", move_every_other_time)
    while position(fairlog) < fairlog.read_now(fairlog.log.position):
        with contextlib.suppress(LogUnavailable):
            activity(fairlog).step()
    in_spite_of_failures = rows(fairlog)
    monkeypatch.undo()
    rebuild_projections(fairlog, ["activity"])
    assert rows(fairlog) == in_spite_of_failures


def test_all_projections_are_written_in_one_transaction_or_none_is(
    fairlog: Fairlog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_through_a_day(fairlog, clock)
    projectors = fairlog.projector_runner.projectors
    move = checkpoints.move

    def fail_at_the_last(connection: Connection, name: str, *arguments: Any) -> None:
        if name == projectors[-1].projection.name:
            raise LogUnavailable("The connection was lost.")
        move(connection, name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "move", fail_at_the_last)
        with pytest.raises(LogUnavailable):
            step_all(projectors)
    assert position(fairlog) == 0
    end = fairlog.read_now(fairlog.log.position)
    assert step_all(projectors).positions == {one.projection.name: end for one in projectors}


def test_a_projection_that_fails_does_not_keep_the_others_from_going_on(
    fairlog: Fairlog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_through_a_day(fairlog, clock)
    merkle = fairlog.projector_runner.of("merkle").projection

    def fail(*_: object) -> Changes:
        raise LogCorrupt("It cannot be folded.")

    monkeypatch.setattr(merkle, "fold", fail)
    fairlog.projector_runner.start()
    end = fairlog.read_now(fairlog.log.position)
    wait_until(lambda: position(fairlog) == end, "activity goes on")
    part = fairlog.supervisor.part("projection_merkle")
    wait_until(lambda: part.is_failing, "the failure is reported")
    assert not fairlog.supervisor.part("projection_activity").is_failing
    monkeypatch.undo()
    wait_until(lambda: not part.is_failing, "it works again")


def test_events_are_left_to_the_process_that_applies_them_until_it_stops(
    database_url: str, fairlog: Fairlog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector_runner, "LEAD_SECONDS", 600.0)
    submit(fairlog, "ada", 1)
    with service(database_url, clock=clock) as other:
        assert not other.projector_runner._is_left_to_another()
        catch_up(fairlog)
        assert other.projector_runner._is_left_to_another()
        monkeypatch.setattr(projector_runner, "LEAD_SECONDS", 0.1)
        submit(fairlog, "ada", 2)
        other.projector_runner.start()
        end = fairlog.read_now(fairlog.log.position)
        wait_until(lambda: position(fairlog) == end, "the other takes over")


def test_dropped_tables_are_built_again_at_the_next_start(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    live_through_a_day(fairlog, clock)
    catch_up(fairlog)
    before = rows(fairlog)
    with fairlog.database.write() as connection:
        connection.exec_driver_sql(f"DROP TABLE {tables.buckets.name}")
    prepare(fairlog)
    catch_up(fairlog)
    assert rows(fairlog) == before
    with fairlog.database.write() as connection:
        for name in ("projection_checkpoints", "projection_registry"):
            connection.exec_driver_sql(f"DROP TABLE {name}")
    prepare(fairlog)
    catch_up(fairlog)
    assert rows(fairlog) == before


def test_a_start_leaves_what_is_there(fairlog: Fairlog) -> None:
    submit(fairlog, "alice", 1)
    catch_up(fairlog)
    assert not activity(fairlog).prepare()
    assert position(fairlog) == fairlog.read_now(fairlog.log.position)


def test_the_thread_follows_what_is_written(fairlog: Fairlog) -> None:
    fairlog.projector_runner.start()
    submit(fairlog, "alice", 1)
    wait_until(
        lambda: position(fairlog) == fairlog.read_now(fairlog.log.position), "the projector comes"
    )


def test_what_was_written_after_the_projectors_reading_began_is_applied_by_the_next_step(
    fairlog: Fairlog,
) -> None:
    """Its own events come from the process's memory, which is newer than a snapshot of SQLite's."""
    projector = activity(fairlog)
    submit(fairlog, "ada", 1)
    catch_up(fairlog)
    submit(fairlog, "ada", 2)
    read, late = projector._events, [3]

    def read_late(connection: Connection, after: int, limit: int) -> Sequence[Any]:
        if late:
            submit(fairlog, "ada", late.pop())
        return read(connection, after, limit)

    projector._events = read_late
    projector.step()
    assert not late
    catch_up(fairlog)
    assert position(fairlog) == fairlog.read_now(fairlog.log.position)
