import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from adapters.log.tables import bodies, events, log_head
from domain.jobs.job import Job
from domain.language.commands import SubmitJob
from domain.language.errors import FairlogError, LogTooNew
from domain.language.events import JobCompleted, JobReleased
from domain.log.chain import GENESIS
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases import verification
from entrypoints.use_cases.verification import verify_log, verify_log_chain
from projections.activity import tables as activity_tables
from projections.inline.job_documents import decode_job, encode_job
from projections.inline.jobs import job_counts, jobs
from projections.inline.line import users
from projections.inline.windows import window_counters
from projections.storage.registry import registry
from projections.storage.rows import create_all, insert
from projections.verify.bookkeeping import REGISTRY
from projections.verify.comparison import Side, differences
from projections.verify.findings import Difference, Finding
from projections.verify.verify import TrustedHead, Verified
from tests.conftest import NewDatabase
from tests.support.history import ALICE, ECHO, Intruder, claim, do, service, service_with_history
from tests.support.stories import body

Found = list[Finding | Difference]


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with service_with_history(database_url) as (fairlog, _):
        yield fairlog


@pytest.fixture
def intruder(fairlog: Fairlog) -> Intruder:
    return Intruder(fairlog)


def check(fairlog: Fairlog) -> Found:
    found: Found = []
    verified = verify_log(fairlog, found.append, lambda _done, _total: None)
    assert verified.is_clean == (found == [])
    return found


def check_chain(fairlog: Fairlog, kept: TrustedHead) -> tuple[Found, Verified]:
    found: Found = []
    verified = verify_log_chain(fairlog, kept, found.append, lambda _done, _total: None)
    assert verified.is_clean == (found == [])
    return found, verified


def findings_about(found: Found, position: int | None) -> str:
    """Return the findings about one event; None: about no single event."""
    texts = [one.what for one in found if isinstance(one, Finding) and one.position == position]
    assert texts, found
    return "; ".join(texts)


def newest_job(fairlog: Fairlog) -> Job:
    return fairlog.read_now(
        fairlog.with_saved_rows(
            lambda connection: fairlog.jobs.newest(connection, None, None, None, 1)[0]
        )
    )


def test_a_log_in_which_everything_happened_is_clean(fairlog: Fairlog) -> None:
    assert check(fairlog) == []


def check_apart(fairlog: Fairlog, monkeypatch: pytest.MonkeyPatch) -> Found:
    """Check in two processes, as a long log is checked."""
    with monkeypatch.context() as patch:
        patch.setattr(verification, "CHILD_EVENTS_MIN", 0)
        return check(fairlog)


def test_two_processes_find_a_log_clean(fairlog: Fairlog, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_apart(fairlog, monkeypatch) == []


def test_two_processes_find_the_same_in_the_same_order(
    fairlog: Fairlog, intruder: Intruder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for projector in fairlog.projector_runner.projectors:
        while projector.step():
            pass
    job = newest_job(fairlog)
    intruder.append(JobCompleted(user_id=job.user_id, kind=job.kind, attempt=99), ALICE, job.id)
    intruder.change(intruder.position_of("JobStarted"), user_id=b"mallory")
    intruder.run(
        bodies.delete().where(bodies.c.position == intruder.position_of("JobCompleted")),
        users.update().values(waiting=99),
        activity_tables.buckets.update().values(figures=b"{}"),
    )
    found = check(fairlog)
    assert {one.projection for one in found if isinstance(one, Difference)} >= {"line", "activity"}
    assert any("was illegal" in str(one) for one in found)
    assert any("its body is missing" in str(one) for one in found)
    assert check_apart(fairlog, monkeypatch) == found


def test_two_processes_compare_nothing_behind_what_neither_can_read(
    fairlog: Fairlog, intruder: Intruder, monkeypatch: pytest.MonkeyPatch
) -> None:
    intruder.change(intruder.position_of("JobStarted"), data=b"{}")
    intruder.run(users.update().values(waiting=99))
    found = check(fairlog)
    assert not any(isinstance(one, Difference) for one in found)
    assert check_apart(fairlog, monkeypatch) == found


def test_an_error_in_the_other_process_is_raised_in_this_one(
    fairlog: Fairlog, intruder: Intruder, monkeypatch: pytest.MonkeyPatch
) -> None:
    intruder.run(registry.update().where(registry.c.name == "line").values(version=99))
    with pytest.raises(LogTooNew, match="install the newer release"):
        check_apart(fairlog, monkeypatch)


def test_an_empty_log_is_clean(database_url: str) -> None:
    with service(database_url) as (fairlog, _):
        assert check(fairlog) == []
        assert check_chain(fairlog, TrustedHead(0, GENESIS)) == ([], Verified(0, GENESIS, 0, 0, []))


def test_what_is_returned_at_the_end_is_the_head_of_the_log(fairlog: Fairlog) -> None:
    done: list[tuple[int, int]] = []
    verified = verify_log(fairlog, print, lambda *progress: done.append(progress))
    with fairlog.database.read() as connection:
        head = connection.execute(sa.select(log_head)).one()
    assert (verified.position, verified.hash) == (head.position, bytes(head.hash))
    assert verified.events == head.position
    assert done == [(head.position, head.position)]


def test_a_log_is_clean_at_every_moment_while_the_service_writes(database_url: str) -> None:
    with service(database_url, user_limit=10**9, global_limit=10**9) as (fairlog, _):
        stop = threading.Event()
        submitted = 0

        def submit() -> None:
            nonlocal submitted
            while not stop.is_set():
                submitted += 1
                do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body(submitted)))
                if submitted % 10 == 0:
                    claim(fairlog, 3)

        writing = threading.Thread(target=submit)
        writing.start()
        try:
            for _ in range(10):
                assert check(fairlog) == []
        finally:
            stop.set()
            writing.join()
        assert submitted > 1


def test_a_changed_byte_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    position = intruder.position_of("JobStarted")
    data = intruder.row(position)["data"]
    intruder.change(position, data=data.replace(b"worker-1", b"worker-2"))
    assert "its hash is" in findings_about(check(fairlog), position)


def test_a_byte_that_leaves_no_event_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    position = intruder.position_of("JobStarted")
    intruder.change(position, data=intruder.row(position)["data"].replace(b"}", b"]"))
    found = findings_about(check(fairlog), position)
    assert "its hash is" in found
    assert "it cannot be read" in found
    assert "the projections cannot be compared with the log" in found


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("data", "text"),
        ("recorded_at", "noon"),
        ("version", -1),
        ("type", b"JobStarted"),
        ("user_id", 7),
        ("hash", "text"),
        ("job_id", -3),
    ],
)
def test_what_no_column_should_hold_is_found(
    fairlog: Fairlog, intruder: Intruder, column: str, value: Any
) -> None:
    position = intruder.position_of("JobStarted")
    intruder.run(
        sa.text(f"UPDATE events SET {column} = :value WHERE position = {position}").bindparams(
            value=value
        )
    )
    assert findings_about(check(fairlog), position)


@pytest.mark.parametrize(
    "columns",
    [
        {"recorded_at": 2**63 - 1},
        {"recorded_at": -(2**63)},
        {"data": b'{"type":"\xff"}'},
        {"data": b'{"type":"JobStarted","x":' + b"[" * 5000 + b"]" * 5000 + b"}"},
    ],
)
def test_what_nobody_can_read_is_found(
    fairlog: Fairlog, intruder: Intruder, columns: dict[str, Any]
) -> None:
    position = intruder.position_of("JobStarted")
    intruder.change(position, **columns)
    assert "it cannot be read" in findings_about(check(fairlog), position)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("table", "column"),
    [
        (events, "data"),
        (events, "type"),
        (events, "user_id"),
        (bodies, "body"),
        (jobs, "job"),
        (jobs, "key_hash"),
    ],
)
def test_a_text_that_is_no_utf_8_is_found(
    fairlog: Fairlog, intruder: Intruder, table: sa.Table, column: str
) -> None:
    [key, *_] = (one for one in table.primary_key.columns if one.name in {"position", "id"})
    first = sa.select(sa.func.min(key)).scalar_subquery()
    odd = sa.text("CAST(x'ff61' AS TEXT)")
    intruder.run(table.update().where(key == first).values({column: odd}))
    found = check(fairlog)
    assert found
    "\n".join(map(str, found)).encode()  # it can be shown


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_position_that_is_no_number_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    end = len(intruder.rows())
    intruder.run(sa.text(f"UPDATE events SET position = 'last' WHERE position = {end}"))
    assert "are missing" in findings_about(check(fairlog), end)


def test_a_deleted_event_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    position = intruder.position_of("JobStarted")
    intruder.run(events.delete().where(events.c.position == position))
    found = check(fairlog)
    assert "it is missing" in findings_about(found, position)
    assert "its hash is" in findings_about(found, position + 1)


def test_deleted_events_in_a_row_are_found(fairlog: Fairlog, intruder: Intruder) -> None:
    intruder.run(events.delete().where(events.c.position.between(20, 29)))
    assert "up to 29 are missing" in findings_about(check(fairlog), 20)


def test_events_that_changed_places_are_found(fairlog: Fairlog, intruder: Intruder) -> None:
    rows = intruder.rows()
    first = intruder.position_of("JobCompleted")
    rows[first - 1], rows[first] = rows[first], rows[first - 1]
    intruder.replace_all(rows)
    found = check(fairlog)
    assert "its hash is" in findings_about(found, first)
    assert "its hash is" in findings_about(found, first + 1)


def test_an_inserted_event_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    rows = intruder.rows()
    position = intruder.position_of("JobCompleted")
    rows.insert(position, rows[position - 1])
    intruder.replace_all(rows)
    found = check(fairlog)
    assert "its hash is" in findings_about(found, position + 1)
    assert f"it comes after {len(rows) - 1}" in findings_about(found, len(rows))


def test_an_event_behind_the_head_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    rows = intruder.rows()
    intruder.run(events.insert().values(**(rows[0] | {"position": len(rows) + 1})))
    found = findings_about(check(fairlog), len(rows) + 1)
    assert "it comes after" in found
    assert "its hash is" in found


def test_a_time_before_the_one_before_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    position = intruder.position_of("JobStarted")
    intruder.change(position, recorded_at=intruder.row(position)["recorded_at"] - 62_000_000)
    intruder.link_anew()
    assert "recorded earlier" in findings_about(check(fairlog), position)


def test_an_event_under_another_users_name_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    position = intruder.position_of("JobStarted")
    intruder.change(position, user_id=b"mallory")
    intruder.link_anew()
    assert "the user of its data" in findings_about(check(fairlog), position)


def test_an_event_under_another_types_name_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    position = intruder.position_of("JobStarted")
    intruder.change(position, type="JobCompleted")
    intruder.link_anew()
    assert "of another type" in findings_about(check(fairlog), position)


def test_an_event_of_another_jobs_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    position = intruder.position_of("JobSubmitted")
    intruder.change(position, job_id=position + 1000)
    intruder.link_anew()
    assert "a job's id is its position" in findings_about(check(fairlog), position)


def test_an_event_of_a_newer_release_is_reported_as_such(
    fairlog: Fairlog, intruder: Intruder
) -> None:
    position = len(intruder.rows())
    intruder.change(position, version=99, type="JobFrozen", data=b'{"type":"JobFrozen"}')
    intruder.link_anew()
    assert "version 99, and this release knows up to" in findings_about(check(fairlog), position)


@pytest.mark.parametrize(
    ("column", "value"), [("position", 5), ("hash", GENESIS), ("recorded_at", 1)]
)
def test_a_head_that_is_not_the_end_is_found(
    fairlog: Fairlog, intruder: Intruder, column: str, value: Any
) -> None:
    intruder.run(log_head.update().values(**{column: value}))
    assert any(isinstance(one, Finding) for one in check(fairlog))


def test_a_log_without_a_head_is_an_error(fairlog: Fairlog, intruder: Intruder) -> None:
    intruder.run(log_head.delete())
    with pytest.raises(FairlogError, match="fairlog migrate"):
        check(fairlog)


def test_an_altered_body_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    position = intruder.position_of("JobSubmitted")
    intruder.run(bodies.update().where(bodies.c.position == position).values(body=b"7"))
    assert "its body has 1 bytes" in findings_about(check(fairlog), position)


@pytest.mark.parametrize("event_type", ["JobSubmitted", "JobCompleted", "JobFailed"])
def test_a_removed_body_is_found(fairlog: Fairlog, intruder: Intruder, event_type: str) -> None:
    position = intruder.position_of(event_type)
    intruder.run(bodies.delete().where(bodies.c.position == position))
    assert findings_about(check(fairlog), position) == "its body is missing"


@pytest.mark.parametrize("behind_the_end", [False, True])
def test_a_body_without_an_event_is_found(
    fairlog: Fairlog, intruder: Intruder, *, behind_the_end: bool
) -> None:
    position = 10**6 if behind_the_end else intruder.position_of("JobStarted")
    intruder.run(bodies.insert().values(position=position, body=b"1"))
    assert findings_about(check(fairlog), position) == "a body is stored that no event names"


def test_an_event_that_no_rule_made_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    job = newest_job(fairlog)
    made_up = JobCompleted(user_id=job.user_id, kind=job.kind, attempt=99)
    position = intruder.append(made_up, job.user_id, job.id)
    assert "JobCompleted was illegal" in findings_about(check(fairlog), position)


def test_an_admission_that_was_miscounted_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    position = next(
        row["position"] for row in intruder.rows() if b'"allowed":true,"used":2' in row["data"]
    )
    data = intruder.row(position)["data"]
    intruder.change(position, data=data.replace(b'"used":2', b'"used":1'))
    intruder.link_anew()
    assert "it counts 1 in its user's window" in findings_about(check(fairlog), position)


def test_a_history_that_cannot_be_folded_is_found(fairlog: Fairlog, intruder: Intruder) -> None:
    job = newest_job(fairlog)
    nobodys = JobReleased(user_id=job.user_id, kind=job.kind)
    position = intruder.append(nobodys, job.user_id, None)
    found = findings_about(check(fairlog), position)
    assert "which did not exist" in found
    assert "it cannot be folded" in found
    assert "the projections cannot be compared with the log" in found


def test_a_log_whose_end_was_cut_off_is_found_with_a_kept_head(
    fairlog: Fairlog, intruder: Intruder
) -> None:
    _, before = check_chain(fairlog, TrustedHead(0, GENESIS))
    intruder.cut_off(before.position - 2)
    assert check_chain(fairlog, TrustedHead(0, GENESIS))[0] == []  # nothing else would tell
    found, _ = check_chain(fairlog, TrustedHead(before.position, before.hash))
    assert "its end was cut off" in findings_about(found, before.position)


def test_a_log_that_was_written_anew_is_found_with_a_kept_head(
    fairlog: Fairlog, intruder: Intruder
) -> None:
    _, before = check_chain(fairlog, TrustedHead(0, GENESIS))
    position = intruder.position_of("JobStarted")
    data = intruder.row(position)["data"]
    intruder.change(position, data=data.replace(b"worker-1", b"worker-2"))
    intruder.link_anew()
    assert check_chain(fairlog, TrustedHead(0, GENESIS))[0] == []
    found, _ = check_chain(fairlog, TrustedHead(before.position, before.hash))
    assert "but the trusted one is" in findings_about(found, before.position)


def test_only_what_is_new_since_a_kept_head_is_checked(
    fairlog: Fairlog, intruder: Intruder
) -> None:
    kept = TrustedHead(40, intruder.row(40)["hash"])
    found, verified = check_chain(fairlog, kept)
    assert (found, verified.events) == ([], verified.position - 40)
    intruder.change(30, data=b"{}")
    assert check_chain(fairlog, kept)[0] == []
    intruder.change(50, data=b"{}")
    assert "its hash is" in findings_about(check_chain(fairlog, kept)[0], 50)


def test_a_chain_that_never_had_the_kept_hash_is_found(fairlog: Fairlog) -> None:
    assert "but the trusted one is" in findings_about(
        check_chain(fairlog, TrustedHead(9, bytes(32)))[0], 9
    )
    assert "not that of the empty log" in findings_about(
        check_chain(fairlog, TrustedHead(0, b"x"))[0], 0
    )


@pytest.mark.parametrize(
    ("table", "change", "column"),
    [
        (users, {"waiting": 99}, "waiting=99"),
        (window_counters, {"used": 99}, "used=99"),
        (job_counts, {"jobs": 99}, "jobs=99"),
        (jobs, {"state": 99}, "state=99"),
    ],
)
def test_a_row_changed_by_hand_is_named_and_built_again(
    fairlog: Fairlog, intruder: Intruder, table: sa.Table, change: dict[str, int], column: str
) -> None:
    key = list(table.primary_key.columns)[-1]
    with fairlog.database.read() as connection:
        value = connection.execute(sa.select(key).order_by(key).limit(1)).scalar_one()
        changed = connection.execute(
            sa.select(sa.func.count()).select_from(table).where(key == value)
        ).scalar_one()
    intruder.run(table.update().where(key == value).values(**change))
    found = check(fairlog)
    assert len(found) == changed
    for one in found:
        assert isinstance(one, Difference)
        assert (one.table, one.live) == (table.name, column)
        assert one.from_log.startswith(column.split("=", 1)[0])
        assert str(value.decode() if isinstance(value, bytes) else value) in one.key
    rebuild_projections(fairlog, [one.projection for one in found if isinstance(one, Difference)])
    assert check(fairlog) == []


def test_of_a_changed_document_the_field_is_named(fairlog: Fairlog, intruder: Intruder) -> None:
    with fairlog.database.read() as connection:
        row = connection.execute(sa.select(jobs).order_by(jobs.c.id).limit(1)).one()
    job = decode_job(bytes(row.job))
    assert job.attempt == 1
    document = encode_job(replace(job, attempt=7))
    intruder.run(jobs.update().where(jobs.c.id == row.id).values(job=document))
    [found] = check(fairlog)
    assert str(found) == (
        f"projection jobs, {jobs.name} id={row.id}: live job.attempt=7, from the log job.attempt=1"
    )


def test_rows_that_are_missing_and_rows_too_many_are_named(
    fairlog: Fairlog, intruder: Intruder
) -> None:
    with fairlog.database.read() as connection:
        generation = connection.execute(
            sa.select(registry.c.generation).where(registry.c.name == "line")
        ).scalar_one()
    made_up = {"generation": generation, "user_id": b"nobody", "waiting": 1, "running": 0}
    made_up |= {"pass_value": bytes(16)}
    intruder.run(
        users.delete().where(users.c.user_id == b"alice"), users.insert().values(**made_up)
    )
    missing, too_many = (one for one in check(fairlog) if isinstance(one, Difference))
    assert (missing.key, missing.live) == ("user_id='alice'", "no row")
    assert (too_many.key, too_many.from_log) == ("user_id='nobody'", "no row")
    assert "waiting=1" in too_many.live


def test_a_projection_that_was_never_built_differs(fairlog: Fairlog, intruder: Intruder) -> None:
    intruder.run(registry.delete().where(registry.c.name == "windows"))
    assert [(one.projection, one.live) for one in check(fairlog) if isinstance(one, Difference)][
        1:
    ] == [("windows", "not built")]  # the first is that the registry was changed


def test_each_projection_is_looked_at_by_one_part(fairlog: Fairlog, intruder: Intruder) -> None:
    with fairlog.database.read() as connection:
        names = list(connection.execute(sa.select(registry.c.name)).scalars())
    intruder.run(registry.delete())
    found = [one.projection for one in check(fairlog) if isinstance(one, Difference)]
    assert sorted(name for name in found if name != REGISTRY) == sorted(names)
    assert {one.projection.name for one in fairlog.projector_runner.projectors} < set(names)


def test_a_projection_that_follows_is_held_against_the_log_as_far_as_it_has_come(
    fairlog: Fairlog, intruder: Intruder
) -> None:
    projector, *_ = fairlog.projector_runner.projectors
    while projector.step():
        pass
    assert check(fairlog) == []
    intruder.run(activity_tables.buckets.update().values(figures=b"{}"))
    assert {one.projection for one in check(fairlog) if isinstance(one, Difference)} == {"activity"}


def test_pages_of_two_generations_are_compared_in_the_order_of_any_key(
    new_database_url: NewDatabase,
) -> None:
    """Compare page sizes around every border with a comparison of both tables as a whole."""
    chance = random.Random(1)
    names = [b"", b"a", b"a ", b"b\xc3\xa0", b"B"]
    keys = [(name, length) for name in names for length in range(1, 9)]
    with service(new_database_url()) as (fairlog, _):
        with fairlog.database.write() as connection:
            create_all(connection, [window_counters])
        for generation in range(100, 120, 2):
            sides = [
                {key: chance.choice([0, 0, 0, 1]) for key in keys if chance.random() < 0.8}
                for _ in range(2)
            ]
            with fairlog.database.write() as connection:
                for number, side in enumerate(sides, generation):
                    rows = [(number, *key, 0, used, 0) for key, used in side.items()]
                    insert(connection, window_counters, rows)
            live, log = sides
            expected = sorted(
                key for key in live.keys() | log.keys() if live.get(key) != log.get(key)
            )
            with (
                fairlog.database.read() as connection,
                fairlog.database.read() as another,
            ):
                left, right = Side(connection, generation), Side(another, generation + 1)
                for rows_per_page in (1, 2, 3, 7, 40, 1000):
                    found = list(
                        differences("windows", window_counters, left, right, rows_per_page)
                    )
                    assert [one.key for one in found] == [
                        f"user_id={name.decode()!r}, window_seconds={length}"
                        for name, length in expected
                    ]
