"""Read models kept in the writer's transaction, built again, and built from nothing: the same."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import projections.rebuild.fold
import projections.rebuild.rebuild
from adapters.log.tables import bodies, events, log_head
from domain.decisions.answers import Claimed, LimitsSet, RefusalsRecorded, Submitted
from domain.decisions.ports import Write
from domain.decisions.write_model import WriteModel
from domain.jobs.job import State
from domain.language.commands import ChangeLimit
from domain.language.errors import RateLimited, Refusal
from domain.language.events import JobSubmitted, RateLimitDecided, Scope
from domain.language.identifiers import UserId
from domain.language.moments import from_micros, to_micros
from entrypoints.composition import prepare, rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.verification import verify_log
from projections.inline import jobs, line, windows
from projections.rebuild.fold import GenerationFold
from projections.storage import registry
from projections.storage.generations import InlineProjection
from tests.support.clock import ManualClock, SteppingClock
from tests.support.core import do, log_of, outcomes, put, put_as_one_batch, saved_rows, service
from tests.support.databases import Databases, SqliteFiles
from tests.support.given import at
from tests.support.inline_rows import PROJECTIONS, Rows, rows_of
from tests.support.mariadb import _roomy_directory as roomy_directory
from tests.support.referee import Referee
from tests.support.start_referee import assert_starts_are_within_limits
from tests.support.stories import (
    ALICE,
    BOB,
    ECHO,
    SLEEP,
    claim,
    complete,
    refusals,
    submit,
)
from tests.support.waiting import wait_until
from tests.support.wishes import ANY_KIND, Batches, Known, batches

TRUTH = {events.name, bodies.name, log_head.name, "alembic_version"}
TIGHT: dict[str, Any] = {
    "user_limit": 6,
    "global_limit": 15,
    "lease_seconds": 30,
    "idempotency_seconds": 100,
    "max_attempts": 2,
}

NewQuickDatabase = Callable[[], AbstractContextManager[str]]


def rows_of_any_generation(fairlog: Fairlog) -> int:
    with fairlog.database.read() as connection:
        return sum(
            connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for projection in PROJECTIONS
            for table in projection.tables
        )


def drop_all_but_the_truth(fairlog: Fairlog) -> None:
    with fairlog.database.write() as connection:
        for name in sa.inspect(connection).get_table_names():
            if name not in TRUTH:
                connection.exec_driver_sql(f"DROP TABLE {name}")


@contextmanager
def rebuilt_in_pieces(
    events_per_page: int, events_per_save: int = 1, rows_kept: int = 0
) -> Iterator[None]:
    """Small pages of the log; after a save, few rows are kept in memory, or none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projections.rebuild.rebuild, "EVENTS_PER_PAGE", events_per_page)
        patch.setattr(projections.rebuild.rebuild, "EVENTS_UNDER_LOCK_MAX", events_per_page)
        patch.setattr(projections.rebuild.fold, "EVENTS_PER_SAVE", events_per_save)
        patch.setattr(projections.rebuild.fold, "ROWS_KEPT_MAX", rows_kept)
        yield


@pytest.fixture(scope="module")
def quick_database_url(backend: str, request: pytest.FixtureRequest) -> Iterator[NewQuickDatabase]:
    """Databases for many examples: in memory where there is room, each dropped after use."""
    with TemporaryDirectory(dir=roomy_directory()) as directory:
        databases: Databases = (
            SqliteFiles(Path(directory))
            if backend == "sqlite"
            else request.getfixturevalue("mariadb")
        )

        @contextmanager
        def new_database() -> Iterator[str]:
            url = databases.create_database()
            yield url
            databases.drop_database(url)

        yield new_database


# Any sequence of commands


Judge = Callable[[Fairlog, Rows], None]  # the rows are those that the writer has saved


def check_any_sequence(
    url: str, played: Batches, events_per_page: int, judge: Judge, rows_kept: Sequence[int]
) -> None:
    """Two services write by turns, with one clock that moves either way."""
    clock = SteppingClock()
    with ExitStack() as stack:
        services = [stack.enter_context(service(url, clock=clock, **TIGHT)) for _ in range(2)]
        fairlog = services[0]
        answered = play(services, clock, played)
        assert_answers_are_recorded(fairlog, answered)
        inline = rows_of(fairlog)
        judge(fairlog, inline)
        for number in rows_kept:
            with rebuilt_in_pieces(events_per_page, rows_kept=number):
                rebuild_projections(fairlog, [])
            assert rows_of(fairlog) == inline
        rebuild_projections(fairlog, [])
        assert rows_of(fairlog) == inline
        drop_all_but_the_truth(fairlog)
    with service(url, clock=clock, **TIGHT) as restarted:
        assert rows_of(restarted) == inline


def judge_by_referee(fairlog: Fairlog, inline: Rows) -> None:
    referee = Referee(fairlog.policy, ANY_KIND)
    referee.see_all(log_of(fairlog))
    referee.assert_nothing_hangs()
    referee.assert_all_ends_are_told()
    assert_rows_are_as_the_referee_saw(inline, referee)


def judge_by_limits_of_starts(fairlog: Fairlog, _: Rows) -> None:
    """The referee does not know these limits; `verify` does."""
    assert_starts_are_within_limits(log_of(fairlog))
    found: list[object] = []
    verify_log(fairlog, found.append, lambda _done, _total: None)
    assert found == []


def play(services: list[Fairlog], clock: ManualClock, played: Batches) -> Counter[type]:
    known = Known()
    answered: Counter[type] = Counter()
    for seconds, which, wishes in played:
        clock.advance(seconds)
        known.now = clock.now()
        commands = [wish(known) for wish in wishes]
        note(f"{seconds:+} s, to service {which}: {commands}")
        for outcome in outcomes(put_as_one_batch(services[which], *commands)):
            match outcome:
                case Submitted(job=job, is_duplicate=False):
                    known.attempts.setdefault(job.id, 0)
                    answered[Submitted] += 1
                case Claimed(jobs=claimed):
                    known.attempts |= {job.id: job.attempt for job in claimed}
                case RateLimited():
                    answered[RateLimited] += 1
                case RefusalsRecorded(count=count):
                    answered[RateLimited] += count
                case Exception():
                    assert isinstance(outcome, Refusal), outcome
    return answered


def assert_answers_are_recorded(fairlog: Fairlog, answered: Counter[type]) -> None:
    recorded = [one.event for one in log_of(fairlog)]
    refused = [one for one in recorded if isinstance(one, RateLimitDecided) and not one.allowed]
    assert sum(one.count for one in refused) == answered[RateLimited]
    submitted = [one for one in recorded if isinstance(one, JobSubmitted) and not one.delivery]
    assert len(submitted) == answered[Submitted]


def assert_rows_are_as_the_referee_saw(rows: Rows, referee: Referee) -> None:
    states = {row[0]: jobs.STATES[row[3]] for row in rows[jobs.jobs.name]}
    assert states == {job_id: job.state for job_id, job in referee.jobs.items()}
    counts = {jobs.STATES[state]: count for state, count in rows[jobs.job_counts.name] if count}
    assert counts == referee.states()
    nothing = (None, None, 0, 0)  # a user who only has limits has no row
    lined_up = {row[0].decode(): row[1:5] for row in rows[line.users.name] if row[0]}
    assert {name: row for name, row in lined_up.items() if row != nothing} == {
        name: row
        for name, user in referee.users.items()
        if (
            row := (
                user.last_served,
                user.joined if user.waiting and user.last_served is None else None,
                len(user.waiting),
                user.running,
            )
        )
        != nothing
    }
    running = {row[0].decode(): row[2] for row in rows[line.kinds.name] if row[2]}
    assert running == +referee.kinds_running
    place = [column.name for column in jobs.jobs.columns].index("place") - 1
    waiting = {row[0] for row in rows[jobs.jobs.name] if row[place] is not None}
    assert waiting == {job_id for user in referee.users.values() for job_id in user.waiting}
    counted = {
        (row[0].decode(), row[1], from_micros(row[2])): row[3:]
        for row in rows[windows.window_counters.name]
    }
    latest: dict[tuple[str, int], datetime] = {}
    for who, seconds, start in referee.used.keys() | referee.refused.keys():
        latest[who, seconds] = max(start, latest.get((who, seconds), start))
    windows_left = [(*window, start) for window, start in latest.items()]
    assert counted == {key: (referee.used[key], referee.refused[key]) for key in windows_left}


# No explanation of a failure: it would try each example many times over.
PROPERTY = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
)
pass_quickly_fail_slowly = pytest.mark.timeout(600)  # a failure is made small first


@pass_quickly_fail_slowly
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@settings(PROPERTY, max_examples=10)
@given(played=batches(), events_per_page=st.integers(1, 7))
def test_any_sequence_of_commands_is_legal_and_can_be_rebuilt_on_sqlite(
    quick_database_url: NewQuickDatabase, played: Batches, events_per_page: int
) -> None:
    with quick_database_url() as url:
        check_any_sequence(url, played, events_per_page, judge_by_referee, (0, 8))


@pass_quickly_fail_slowly
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@settings(PROPERTY, max_examples=5)
@given(played=batches(), events_per_page=st.integers(1, 7))
def test_any_sequence_of_commands_is_legal_and_can_be_rebuilt_on_mariadb(
    quick_database_url: NewQuickDatabase, played: Batches, events_per_page: int
) -> None:
    with quick_database_url() as url:
        check_any_sequence(url, played, events_per_page, judge_by_referee, (0, 8))


@pass_quickly_fail_slowly
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@settings(PROPERTY, max_examples=10)
@given(played=batches(with_start_limits=True), events_per_page=st.integers(1, 7))
def test_any_limits_of_starts_hold_and_can_be_rebuilt_on_sqlite(
    quick_database_url: NewQuickDatabase, played: Batches, events_per_page: int
) -> None:
    with quick_database_url() as url:
        check_any_sequence(url, played, events_per_page, judge_by_limits_of_starts, (8,))


@pass_quickly_fail_slowly
@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@settings(PROPERTY, max_examples=5)
@given(played=batches(with_start_limits=True), events_per_page=st.integers(1, 7))
def test_any_limits_of_starts_hold_and_can_be_rebuilt_on_mariadb(
    quick_database_url: NewQuickDatabase, played: Batches, events_per_page: int
) -> None:
    with quick_database_url() as url:
        check_any_sequence(url, played, events_per_page, judge_by_limits_of_starts, (8,))


# Building again


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with service(database_url, clock=ManualClock()) as running:
        yield running


def tell_a_story(fairlog: Fairlog) -> None:
    """Jobs of several users and kinds, in several states."""
    replies = put_as_one_batch(
        fairlog,
        *[
            submit(user, kind, payload=n)
            for n in range(30)
            for user in (ALICE, BOB)
            for kind in (ECHO, SLEEP)
        ],
    )
    assert all(isinstance(outcome, Submitted) for outcome in outcomes(replies))
    claimed = do(fairlog, claim(40), Claimed).jobs
    outcomes(put(fairlog, *[complete(1, job.id) for job in claimed[:20]]))


# Each value with each of another argument, where a page ends within a save and the other way round.
@pytest.mark.parametrize(
    ("events_per_page", "events_per_save", "rows_kept"),
    [
        (1, 1, 0),
        (1, 50, 12),
        (2, 1, 90),
        (2, 50, 0),
        (7, 1, 12),
        (7, 50, 90),
        (64, 1, 0),
        (64, 50, 90),
    ],
)
def test_building_in_pieces_comes_to_the_same(
    fairlog: Fairlog, events_per_page: int, events_per_save: int, rows_kept: int
) -> None:
    tell_a_story(fairlog)
    inline = rows_of(fairlog)
    with rebuilt_in_pieces(events_per_page, events_per_save, rows_kept):
        assert rebuild_projections(fairlog, []) == 300
    assert rows_of(fairlog) == inline
    assert sum(map(len, inline.values())) == rows_of_any_generation(fairlog)


def test_rows_that_go_on_changing_are_written_at_the_end_of_a_rebuild(
    fairlog: Fairlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_a_story(fairlog)
    inline = rows_of(fairlog)
    written: list[str] = []

    def watch(projection: type[InlineProjection]) -> None:
        take_changes = projection.take_changes

        def watched(self: InlineProjection, generation: int, model: WriteModel) -> Any:
            written.append(self.name)
            return take_changes(self, generation, model)

        monkeypatch.setattr(projection, "take_changes", watched)

    for projection in PROJECTIONS:
        watch(projection)
    with rebuilt_in_pieces(10, events_per_save=50, rows_kept=1000):
        rebuild_projections(fairlog, [])
    everything = ["callbacks", "schedules", "jobs", "windows", "line", "parents"]
    assert written == ["jobs", "parents"] * 5 + everything * 2
    assert rows_of(fairlog) == inline


def test_what_is_appended_during_the_last_writes_is_folded_before_the_lock_is_taken(
    fairlog: Fairlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_a_story(fairlog)
    folded: list[int] = []
    take_changes = GenerationFold.take_changes

    def last_changes(fold: GenerationFold) -> list[Write[sa.Connection]]:
        if fold.position == 290:
            outcomes(put(fairlog, *[submit(payload=f"late-{number}") for number in range(30)]))
        return take_changes(fold)

    monkeypatch.setattr(GenerationFold, "take_changes", last_changes)
    with rebuilt_in_pieces(10, events_per_save=1000, rows_kept=1000):
        names = [projection.name for projection in PROJECTIONS]
        rebuild_projections(fairlog, names, lambda done, _: folded.append(done))
    assert sorted(set(folded)) == [*range(0, 350, 10), 360]


@pytest.mark.parametrize("name", ["jobs", "line", "windows"])
def test_one_projection_can_be_built_alone(fairlog: Fairlog, name: str) -> None:
    tell_a_story(fairlog)
    inline = rows_of(fairlog)
    rebuild_projections(fairlog, [name])
    assert rows_of(fairlog) == inline
    tell_more(fairlog)


def tell_more(fairlog: Fairlog) -> None:
    """Record commands after a rebuild, and rebuild them as well."""
    claimed = do(fairlog, claim(10), Claimed).jobs
    assert len(claimed) == 10
    outcomes(put(fairlog, submit(payload="more"), *[complete(1, job.id) for job in claimed]))
    inline = rows_of(fairlog)
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline
    Referee(fairlog.policy).see_all(log_of(fairlog))


def test_the_service_goes_on_while_its_projections_are_built(fairlog: Fairlog) -> None:
    tell_a_story(fairlog)
    is_over = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not is_over.wait(0.005):  # leaves gaps, for SQLite keeps no queue for its lock
            [outcome] = outcomes(put(fairlog, submit(payload=["meanwhile", len(written)])))
            assert isinstance(outcome, Submitted)
            written.append(outcome.job.id)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with rebuilt_in_pieces(100, events_per_save=300):
            for _ in range(3):
                rebuild_projections(fairlog, [])
                wait_until_more(written)
    finally:
        is_over.set()
        writer.join()
    inline = rows_of(fairlog)
    assert set(written) <= {row[0] for row in inline[jobs.jobs.name]}
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline
    tell_more(fairlog)


def wait_until_more(written: list[int]) -> None:
    before = len(written)
    wait_until(lambda: len(written) > before, "the service goes on")


def test_a_rebuild_that_was_overtaken_does_not_bring_its_generation_to_life(
    fairlog: Fairlog,
) -> None:
    """Two servers build at once: the later one is done first, and has deleted the other's rows."""
    tell_a_story(fairlog)
    inline = rows_of(fairlog)
    overtaken: list[int] = []

    def progress(done: int, _total: int) -> None:
        if done > 50 and not overtaken:
            overtaken.append(done)
            rebuild_projections(fairlog, [])

    with rebuilt_in_pieces(10):
        rebuild_projections(fairlog, [], progress)
    assert overtaken
    assert rows_of(fairlog) == inline
    assert sum(map(len, inline.values())) == rows_of_any_generation(fairlog)
    tell_more(fairlog)


def test_a_rebuild_that_died_half_way_leaves_nothing_behind_after_the_next(
    fairlog: Fairlog,
) -> None:
    tell_a_story(fairlog)
    inline = rows_of(fairlog)

    def progress(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with rebuilt_in_pieces(10), pytest.raises(KeyboardInterrupt):
        rebuild_projections(fairlog, [], progress)
    assert rows_of_any_generation(fairlog) > sum(map(len, inline.values()))
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline
    assert rows_of_any_generation(fairlog) == sum(map(len, inline.values()))


@pytest.mark.parametrize("lost", ["everything", "the registry", "one projection's tables"])
@pytest.mark.parametrize("rebuilt", [0, 2])
def test_what_was_dropped_is_there_again_after_a_start(
    database_url: str, lost: str, rebuilt: int
) -> None:
    """The first generation is reserved again if the registry is lost, although it has rows."""
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        tell_a_story(fairlog)
        for _ in range(rebuilt):
            rebuild_projections(fairlog, [])
        inline = rows_of(fairlog)
        with fairlog.database.write() as connection:
            match lost:
                case "everything":
                    names = set(sa.inspect(connection).get_table_names()) - TRUTH
                case "the registry":
                    names = {registry.registry.name}
                case _:
                    names = {table.name for table in line.LineProjection.tables}
            for name in names:
                connection.exec_driver_sql(f"DROP TABLE {name}")
    with service(database_url, clock=clock) as restarted:
        assert rows_of(restarted) == inline
        tell_more(restarted)


def test_a_start_with_everything_in_place_builds_nothing(fairlog: Fairlog) -> None:
    tell_a_story(fairlog)
    assert prepare(fairlog) == []


# More than a statement takes


def test_a_log_of_very_many_windows_can_be_rebuilt(fairlog: Fairlog) -> None:
    """SQLite joins no more than 500 selects."""
    reports = [refusals(2, used=6, window_seconds=number) for number in range(1, 1201)]
    assert not [one for one in outcomes(put(fairlog, *reports)) if isinstance(one, Exception)]
    inline = rows_of(fairlog)
    assert len(inline[windows.window_counters.name]) == 2400
    with rebuilt_in_pieces(1100):
        rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline


def test_windows_that_are_over_leave_no_rows_behind(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        for number in range(40):
            clock.advance(60)
            who = (ALICE, BOB) if number % 3 else (ALICE,)
            outcomes(put(fairlog, *[submit(user, payload=number) for user in who]))
        inline = rows_of(fairlog)
        starts = [
            (row[0], (row[2] - to_micros(clock.now())) // 60_000_000)
            for row in inline[windows.window_counters.name]
        ]
        assert starts == [(b"", 0), (b"alice", 0), (b"bob", -1)]
        rebuild_projections(fairlog, [])
        assert rows_of(fairlog) == inline


def test_very_many_users_can_be_served_by_one_claim_and_rebuilt(fairlog: Fairlog) -> None:
    """A claim that empties a thousand lanes; SQLite nests no more than 1,000 conditions."""
    users = [UserId(f"user-{number:04}") for number in range(1100)]
    outcomes(put(fairlog, *[submit(user) for user in users], *[submit(users[0], SLEEP)]))
    claimed = do(fairlog, claim(1000), Claimed).jobs
    assert [job.user_id for job in claimed] == users[:1000]
    rest = do(fairlog, claim(1000, SLEEP, ECHO), Claimed).jobs
    assert [job.user_id for job in rest] == [*users[1000:], users[0]]
    outcomes(put(fairlog, *[complete(1, job.id) for job in claimed]))
    inline = rows_of(fairlog)
    assert len(inline[line.users.name]) == 1100 + 1  # and the virtual time
    assert len(inline[line.lanes.name]) == 101  # of running jobs
    with rebuilt_in_pieces(1500):
        rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline
    Referee(fairlog.policy).see_all(log_of(fairlog))


# Claims and what happens beside them in a batch


def test_who_is_freed_from_a_cap_in_the_batch_of_a_claim_is_served_in_their_turn(
    fairlog: Fairlog,
) -> None:
    """Their waiting jobs were in nobody's way when the line was read, and so were not its front."""
    outcomes(put(fairlog, *[submit(ALICE, payload=n) for n in range(5)], submit(BOB, payload=9)))
    do(fairlog, cap(1), LimitsSet)
    [running] = do(fairlog, claim(1), Claimed).jobs
    [_, _, claimed] = outcomes(
        put_as_one_batch(fairlog, complete(1, running.id), submit(ALICE, payload=7), claim(9))
    )
    assert isinstance(claimed, Claimed)
    assert [(job.user_id, job.id) for job in claimed.jobs] == [("bob", 12), ("alice", 4)]
    [_, claimed] = outcomes(put_as_one_batch(fairlog, cap(3), claim(9)))
    assert isinstance(claimed, Claimed)
    assert [job.id for job in claimed.jobs] == [6, 8]
    Referee(fairlog.policy).see_all(log_of(fairlog))


def cap(running: int) -> ChangeLimit:
    return ChangeLimit(scope=Scope.USER, user_id=ALICE, running=running)


def test_a_kind_that_enters_the_line_in_the_batch_of_a_claim_is_served_in_its_turn(
    fairlog: Fairlog,
) -> None:
    """A claim of any kind, and a user whose turn is the oldest comes with a kind of their own."""
    outcomes(put(fairlog, submit(BOB), submit(ALICE), claim(2), submit(ALICE, payload=2)))
    [_, claimed] = outcomes(put_as_one_batch(fairlog, submit(BOB, SLEEP), claim(1)))
    assert isinstance(claimed, Claimed)
    assert [(job.user_id, job.kind) for job in claimed.jobs] == [("bob", "sleep")]


def test_an_expired_job_is_cancelled_and_not_claimed(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        outcomes(put(fairlog, submit(payload=1, expires_at=at(10)), submit(payload=2)))
        clock.advance(10)
        assert [job.id for job in do(fairlog, claim(9), Claimed).jobs] == [4]
        with saved_rows(fairlog) as connection:
            assert fairlog.jobs.counts(connection)[State.CANCELLED] == 1
        inline = rows_of(fairlog)
        rebuild_projections(fairlog, [])
        assert rows_of(fairlog) == inline


def test_users_who_differ_in_a_byte_are_other_users(fairlog: Fairlog) -> None:
    names = ["a", "A", "a ", "ä", "a\u0308", "\u202ea", "👩", "👩\u200d👩", "a" * 255, "%s", "'"]
    users = [UserId(name) for name in names]
    outcomes(put(fairlog, *[submit(user) for user in users]))
    claimed = do(fairlog, claim(99), Claimed).jobs
    assert [job.user_id for job in claimed] == users
    inline = rows_of(fairlog)
    assert len(inline[line.users.name]) == len(names) + 1  # and the virtual time
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == inline
