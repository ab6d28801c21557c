import itertools
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from adapters.log import histories
from adapters.log.histories import changes_of, heartbeats
from adapters.settings import Settings
from domain.audit.system_state import SystemState, from_snapshot, line_in_order, to_snapshot
from domain.decisions.write_model import WriteModel
from domain.fairness.line import NO_JOBS
from domain.jobs.history import jobs_of, with_heartbeats
from domain.jobs.job import Job, State
from domain.language.commands import ChangeLimit, SubmitJob
from domain.language.errors import InvalidInput, UnknownJob
from domain.language.events import RateLimitDecided, ScheduleSet, Scope
from domain.language.identifiers import JobId, UserId
from domain.limits.rate_limits import Counter as WindowCounter
from domain.limits.rate_limits import WindowKey
from entrypoints.composition import compose, rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases import past_policy
from entrypoints.use_cases.time_travel import TimeTravel
from entrypoints.use_cases.verification import verify_log
from projections.following import snapshots as module
from projections.following.snapshots import current, is_kept, snapshots, spacing, state_at
from tests.support import history, server
from tests.support.clock import NOON, ManualClock
from tests.support.core import execute_now, log_of, outcomes, put, service
from tests.support.crowd import crowd
from tests.support.plans import plan_of
from tests.support.stories import ALICE, ECHO, body

EVENTS = 25_000
POSITIONS = 120


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, user_limit=100, global_limit=2_000) as fairlog:
        yield fairlog


def catch_up(fairlog: Fairlog) -> None:
    for projector in fairlog.projector_runner.projectors:
        while projector.step():
            pass


def system_state(fairlog: Fairlog, position: int) -> SystemState:
    return fairlog.read_now(
        lambda connection: state_at(connection, current(), fairlog.log.read, position)
    )


def is_open(window: WindowKey, counter: WindowCounter, of: SystemState) -> bool:
    _, seconds = window
    return of.recorded_at.timestamp() * 1_000_000 < counter.start + seconds * 1_000_000


def assert_equal(found: SystemState, model: WriteModel) -> None:
    """Everything that a system state holds is what the writer's own state has."""
    assert found.position == model.position
    counts = Counter(job.state for job in model.jobs.rows.values())
    assert found.jobs == {state: counts[state] for state in State}
    assert found.line.users == model.line.users
    assert found.line.kinds == model.line.kinds
    assert {
        (user, kind): count
        for user, lanes in found.line.lanes.items()
        for kind, count in lanes.items()
    } == {
        (user, kind): count
        for user, lanes in model.line.lanes.items()
        for kind, count in lanes.items()
        if count != NO_JOBS
    }
    assert found.line.held_kinds == model.line.held_kinds
    assert found.line.starts == model.line.starts
    assert found.line.virtual_time == model.line.virtual_time
    assert dict(found.limits.all_set()) == dict(model.limits.all_set())
    assert [one.schedule for one in found.schedules.in_order()] == [
        replace(one, set=replace(one.set, payload=""))
        for _, one in sorted(model.schedules.rows.items())
        if one is not None
    ]
    assert found.callbacks.rows == model.callbacks.rows
    assert found.limits.users_on == model.limits.users_on
    assert found.limits.user_kinds_set == model.limits.user_kinds_set
    assert found.windows.counters == {
        window: counter
        for window, counter in model.windows.counters.items()
        if is_open(window, counter, found)
    }


def job_at(fairlog: Fairlog, job_id: JobId, position: int) -> Job | None:
    def query(connection: sa.Connection) -> Job | None:
        job = jobs_of(changes_of(connection, [job_id], position)).get(job_id)
        return job and with_heartbeats(job, heartbeats(connection, job.id, position))

    return fairlog.read_now(query)


@pytest.mark.timeout(400)  # some 15 s where nothing else runs
def test_at_random_positions_everything_stands_as_a_fold_of_the_log_up_to_there(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    crowd(fairlog, clock, EVENTS)
    catch_up(fairlog)
    chance = random.Random(1)
    told = log_of(fairlog)
    model = WriteModel()
    wanted = [*sorted(chance.sample(range(len(told) + 1), POSITIONS - 1)), len(told)]
    for position in wanted:
        for recorded in told[model.position : position]:
            model.evolve(recorded)
        assert_equal(system_state(fairlog, position), model)
        for job_id in chance.sample(sorted(model.jobs.rows), min(3, len(model.jobs.rows))):
            job = model.jobs.rows[job_id]
            assert job_at(fairlog, job_id, position) == replace(job, holds_key=True)
        running = [one for one in model.jobs.rows.values() if one.state is State.RUNNING]
        for job in running[:2]:
            assert job_at(fairlog, job.id, position) == replace(job, holds_key=True)


def test_snapshots_are_what_the_log_gives_and_can_be_built_again(
    fairlog: Fairlog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPACING", 100)
    crowd(fairlog, clock, 3_000)
    catch_up(fairlog)
    before = stored(fairlog)
    assert before
    assert verify_log(fairlog, print, lambda _done, _total: None).is_clean
    rebuild_projections(fairlog, ["snapshots"])
    assert stored(fairlog) == before
    with fairlog.database.write() as connection:
        connection.execute(snapshots.update().values(data=b"\x99"))
    assert verify_log(fairlog, print, lambda _done, _total: None).differing == ["snapshots"]


def stored(fairlog: Fairlog) -> list[tuple[int, int, bytes]]:
    query = sa.select(snapshots.c.position, snapshots.c.part, snapshots.c.data).where(
        snapshots.c.generation == current()
    )
    with fairlog.database.read() as connection:
        rows = connection.execute(query.order_by(snapshots.c.position, snapshots.c.part))
        return [(position, part, bytes(data)) for position, part, data in rows]


def test_a_process_that_starts_anew_goes_on_from_the_latest_snapshot(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPACING", 100)
    clock = ManualClock()
    for events in (900, 1_800, 2_700):
        with service(database_url, clock=clock, user_limit=100) as fairlog:
            crowd(fairlog, clock, events)
            catch_up(fairlog)
    with service(database_url, clock=clock) as fairlog:
        before = stored(fairlog)
        rebuild_projections(fairlog, ["snapshots"])
        assert stored(fairlog) == before


def test_a_snapshot_of_many_parts_comes_back_whole(
    fairlog: Fairlog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPACING", 200)
    monkeypatch.setattr(module, "PART_BYTES", 50)
    crowd(fairlog, clock, 1_500)
    catch_up(fairlog)
    model = WriteModel()
    for recorded in log_of(fairlog)[:1_234]:
        model.evolve(recorded)
    assert_equal(system_state(fairlog, 1_234), model)


def test_few_snapshots_are_kept_and_the_older_the_farther_apart() -> None:
    kept: set[int] = set()
    for end in range(5_000, 5_000 * 4_000, 5_000):
        kept = {position for position in {*kept, end} if is_kept(position, end)}
    assert len(kept) < 150
    ordered = sorted(kept)
    for earlier, after in itertools.pairwise(ordered):
        assert after - earlier <= max(5_000, (end - earlier) // 8 + 5_000)
    assert (spacing(0), spacing(5_000), spacing(5_001), spacing(1_000_000)) == (
        5_000,
        5_000,
        10_000,
        1_280_000,
    )


def test_a_snapshot_is_equal_bytes_however_it_came_about(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    crowd(fairlog, clock, 1_000)
    through, again = SystemState(), SystemState()
    for recorded in log_of(fairlog):
        through.evolve([recorded])
        again.evolve([recorded])
        if recorded.position % 97 == 0:
            again = from_snapshot(to_snapshot(again))
    assert to_snapshot(again) == to_snapshot(through)
    assert line_in_order(again) == line_in_order(through)


@pytest.fixture
def eventful(database_url: str) -> Iterator[tuple[Fairlog, ManualClock]]:
    with history.service_with_history(database_url) as (fairlog, clock):
        yield fairlog, clock


def test_at_each_position_what_was_set_stands_as_a_fold_of_the_log_up_to_there(
    eventful: tuple[Fairlog, ManualClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPACING", 20)
    fairlog, _ = eventful
    rebuild_projections(fairlog, ["snapshots"])
    model = WriteModel()
    for recorded in log_of(fairlog):
        model.evolve(recorded)
        found = system_state(fairlog, model.position)
        assert_equal(found, model)
        for past in found.schedules.in_order():
            with fairlog.database.read() as connection:
                [by] = fairlog.log.read(connection, past.set_position - 1, 1)
            assert isinstance(by.event, ScheduleSet)
            assert replace(by.event, payload="") == past.schedule.set
    assert model.schedules.rows
    assert model.callbacks.rows


def test_a_time_means_behind_what_was_recorded_by_then(
    eventful: tuple[Fairlog, ManualClock],
) -> None:
    fairlog, clock = eventful
    past = TimeTravel(fairlog)
    told = log_of(fairlog)
    with fairlog.database.read() as connection:
        for moment in {recorded.recorded_at for recorded in told}:
            by_then = [one.position for one in told if one.recorded_at <= moment]
            assert past.position(connection, moment) == by_then[-1]
    first = told[0].recorded_at - timedelta(seconds=1)
    assert fairlog.read_now(lambda c: past.position(c, first)) == 0
    with pytest.raises(InvalidInput, match="in the future"):
        fairlog.read_now(lambda c: past.position(c, clock.now() + timedelta(seconds=1)))
    with pytest.raises(InvalidInput, match=f"ends at position {len(told)}"):
        fairlog.read_now(lambda c: past.position(c, len(told) + 1))
    with pytest.raises(UnknownJob):
        fairlog.read_now(lambda c: past.job(c, JobId(2), 1))


def test_over_http_a_job_and_the_numbers_are_told_as_they_stood(database_url: str) -> None:
    clock = ManualClock(NOON)
    with server.AppServer(database_url, clock=clock) as app:
        client = app.client
        job = server.submit(client, "ada", payload={"n": 1})  # 1, 2
        clock.advance(10)
        server.claim(client)  # 3
        clock.advance(10)
        client.post(f"/v1/jobs/{job['id']}/complete", json={"attempt": 1, "result": "r"})  # 4
        address = f"/v1/jobs/{job['id']}"

        def then(as_of: object) -> dict[str, Any]:
            found = client.get(address, params={"as_of": str(as_of)})
            assert found.status_code == 200, found.text
            return dict(found.json())

        assert then(2) == {name: value for name, value in job.items() if name != "is_duplicate"}
        assert [then(position)["state"] for position in (2, 3, 4)] == ["queued", "running", "done"]
        assert then("2026-01-31T12:00:09Z")["state"] == "queued"
        assert then("2026-01-31T12:00:10Z")["state"] == "running"
        assert then("2026-01-31T14:00:20+02:00") == client.get(address).json()
        assert (then(3)["result"], then(4)["result"]) == (None, "r")

        stats = client.get("/v1/stats", params={"as_of": 2}).json()
        now = client.get("/v1/stats").json()
        assert (stats["position"], stats["jobs"]["queued"], stats["total"]) == (2, 1, 1)
        assert [turn["user_id"] for turn in stats["line"]["next"]] == ["ada"]
        assert stats["global"] == now["global"]
        latest = client.get("/v1/stats", params={"as_of": 4}).json()
        same = {"position", "jobs", "total", "line", "global"}
        assert {name: latest[name] for name in same} == {name: now[name] for name in same}

        early = server.problem(client.get(address, params={"as_of": 1}), 404)
        assert early["detail"] == (
            "There was no job 2 then: it was submitted later, at 2026-01-31T12:00:00.000000Z and"
            " position 2."
        )
        never = server.problem(client.get("/v1/jobs/3", params={"as_of": 1}), 404)
        assert never["detail"] == "There is no job 3."
        page = client.get(address.removeprefix("/v1"), params={"as_of": "1"})
        assert page.status_code == 404
        assert "There was no job 2 then" in page.text
        for wrong in (
            "5",
            "-1",
            "yesterday",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:21Z",
            "9" * 30,
        ):
            server.problem(client.get(address, params={"as_of": wrong}), 400)
            server.problem(client.get("/v1/stats", params={"as_of": wrong}), 400)


# Defaults of then


def submit(fairlog: Fairlog, number: int, user_id: UserId = ALICE) -> int:
    """Submitted or refused; the position behind it."""
    outcomes(put(fairlog, SubmitJob(user_id=user_id, kind=ECHO, payload=body(number))))
    return fairlog.read_now(fairlog.log.position)


def global_limits(database_url: str, clock: ManualClock, *positions: int) -> list[int]:
    """Return the limits at each position, as a server with the default settings shows them."""
    reader = compose(Settings(database_url=database_url), clock=clock)
    try:
        past = TimeTravel(reader)
        with reader.database.read() as connection:
            return [past.state(connection, position).global_.limit for position in positions]
    finally:
        reader.close()


def test_a_default_is_shown_as_those_had_it_who_decided(
    database_url: str, clock: ManualClock
) -> None:
    with service(database_url, clock=clock, global_limit=7, window_seconds=3600) as fairlog:
        first = submit(fairlog, 1)
    with service(database_url, clock=clock, global_limit=2, user_limit=1) as fairlog:
        second = submit(fairlog, 2, UserId("bob"))
        refused = submit(fairlog, 3, UserId("bob"))  # by a limit of his own, which is not all's
    assert global_limits(database_url, clock, 0, first - 1, first, second, refused) == [
        6_000,
        7,
        7,
        2,
        2,
    ]
    reader = compose(Settings(database_url=database_url), clock=clock)
    window = reader.read_now(lambda connection: TimeTravel(reader).state(connection, first)).global_
    reader.close()
    assert (window.window_seconds, window.used, window.remaining) == (3600, 1, 6)


def test_a_default_that_lets_nobody_in_is_told_by_its_refusals(
    database_url: str, clock: ManualClock
) -> None:
    with service(database_url, clock=clock, global_limit=0) as fairlog:
        refused = submit(fairlog, 1)
    assert global_limits(database_url, clock, refused) == [0]


def test_a_limit_that_was_set_is_not_taken_for_the_default(
    database_url: str, clock: ManualClock
) -> None:
    with service(database_url, clock=clock, global_limit=7) as fairlog:
        default = submit(fairlog, 1)
        execute_now(fairlog, ChangeLimit(scope=Scope.GLOBAL, limit=2))
        own = submit(fairlog, 2)
        refused = submit(fairlog, 3)
        execute_now(fairlog, ChangeLimit(scope=Scope.GLOBAL, limit=None))
        execute_now(fairlog, ChangeLimit(scope=Scope.GLOBAL, running=4))
        back = fairlog.read_now(fairlog.log.position)
        known = submit(fairlog, 4)
    assert global_limits(database_url, clock, default, own, refused, back, known) == [
        7,
        2,
        2,
        6_000,
        7,
    ]


def test_behind_many_refusals_the_newest_job_tells_the_default(
    database_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module_with_pages in (histories, past_policy):
        monkeypatch.setattr(module_with_pages, "EVENTS_PER_PAGE", 3)
    with service(database_url, clock=clock, global_limit=7, user_limit=1) as fairlog:
        admitted = submit(fairlog, 0)
        for number in range(1, 6):
            submit(fairlog, number)
        told = log_of(fairlog)
    assert all(isinstance(one.event, RateLimitDecided) for one in told[admitted:])
    assert len(told) == admitted + 5
    assert global_limits(database_url, clock, len(told)) == [7]


def test_defaults_of_then_are_one_range_of_an_index(fairlog: Fairlog, clock: ManualClock) -> None:
    crowd(fairlog, clock, 3_000)
    sent: list[tuple[str, Any]] = []
    engine = fairlog.database.engine

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        sent.append((statement, parameters))

    with fairlog.database.read() as connection:
        sa.event.listen(engine, "before_cursor_execute", note)
        try:
            found = list(
                histories.newest_first(connection, "RateLimitDecided", 0, 2_000, is_frequent=True)
            )
        finally:
            sa.event.remove(engine, "before_cursor_execute", note)
        assert [one.position for one in found] == sorted(
            (
                one.position
                for one in log_of(fairlog)[:2_000]
                if isinstance(one.event, RateLimitDecided)
            ),
            reverse=True,
        )
        for statement, parameters in sent:
            for plan in plan_of(connection, statement, parameters):
                assert "TEMP B-TREE" not in plan.get("detail", "")
                assert "filesort" not in (plan.get("Extra") or "")
                assert plan.get("key", "events_by_type") in {"events_by_type", "PRIMARY"}, plan
