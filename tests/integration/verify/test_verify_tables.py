"""Changed tables, triggers, registry rows and checkpoints are reported, and repaired."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from adapters.doctor import DoctorFinding as Diagnosis
from adapters.doctor import Level, examine
from adapters.log.event_pages import latest_position
from adapters.log.key_events import latest_key_event
from adapters.log.tables import bodies, events, log_head
from adapters.settings import Settings
from adapters.supervision import Supervisor
from domain.language.commands import SubmitJob
from entrypoints.cli.database import _diagnoses, _repaired, _verify
from entrypoints.composition import compose, restore_indexes
from entrypoints.feeds.projector_runner import ProjectorRunner
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.verification import verify_log
from projections.following.checkpoints import checkpoints
from projections.inline.jobs import jobs
from projections.storage.registry import digest_of, registry
from projections.storage.registry import read as registered
from projections.verify.findings import Difference, Finding
from tests.support.history import ALICE, ECHO, Intruder, do, service, service_with_history
from tests.support.mariadb import MariaDB
from tests.support.stories import body
from tests.support.waiting import wait_until


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with service_with_history(database_url) as (fairlog, _):
        catch_up(fairlog)
        yield fairlog


@pytest.fixture
def intruder(fairlog: Fairlog) -> Intruder:
    return Intruder(fairlog)


def catch_up(fairlog: Fairlog) -> None:
    for projector in fairlog.projector_runner.projectors:
        while projector.step():
            pass


def report_of(fairlog: Fairlog) -> str:
    found: list[Finding | Difference] = []
    verified = verify_log(fairlog, found.append, lambda _done, _total: None)
    assert verified.is_clean == (not found)
    return "\n".join(map(str, found))


def diagnosed(fairlog: Fairlog) -> dict[str, Diagnosis]:
    return {one.check: one for one in _diagnoses(fairlog)}


def repaired(fairlog: Fairlog) -> bool:
    """Run `fairlog verify --repair`; return True if nothing is wrong afterwards."""
    return _repaired(fairlog, _verify(fairlog)).is_clean


# The head row


def test_a_second_head_row_is_reported_and_stops_nobody(
    fairlog: Fairlog, intruder: Intruder
) -> None:
    with fairlog.database.read() as connection:
        row = dict(connection.execute(sa.select(log_head)).mappings().one())
    intruder.run(log_head.insert().values(**(row | {"id": 2})))
    assert "log_head has a second row, with the id 2" in report_of(fairlog)
    assert diagnosed(fairlog)["bookkeeping"].level is Level.ERROR
    do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body("still")))
    catch_up(fairlog)
    assert fairlog.read_now(fairlog.log.position) == row["position"] + 2


@pytest.mark.parametrize("value", [0, 7])
def test_a_changed_format_is_reported(fairlog: Fairlog, intruder: Intruder, value: int) -> None:
    intruder.run(log_head.update().values(format=value))
    assert f"the head's format is {value}, and this log has " in report_of(fairlog)
    assert diagnosed(fairlog)["bookkeeping"].level is Level.ERROR


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_head_that_is_no_number_is_reported(fairlog: Fairlog, intruder: Intruder) -> None:
    intruder.run(log_head.update().values(epoch=sa.text("'x'")))
    assert "'x', by log_head.epoch" in report_of(fairlog)


# The registry and the checkpoints


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("line", {"newest": 99}),
        ("merkle", {"newest": 0}),
        ("line", {"generation": 10**9}),
        ("merkle", {"version": 0}),
        ("line", {"name": "other"}),
    ],
    ids=str,
)
def test_a_changed_registry_is_reported_and_repaired(
    fairlog: Fairlog, intruder: Intruder, name: str, change: dict[str, Any]
) -> None:
    intruder.run(registry.update().where(registry.c.name == name).values(**change))
    assert "projection_registry" in report_of(fairlog)
    assert "projection_registry" in diagnosed(fairlog)["bookkeeping"].found
    assert repaired(fairlog)
    assert diagnosed(fairlog)["bookkeeping"].level is Level.OK
    do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body("after")))
    catch_up(fairlog)
    assert report_of(fairlog) == ""


def test_a_changed_epoch_is_reported_and_repaired(fairlog: Fairlog, intruder: Intruder) -> None:
    intruder.run(log_head.update().values(epoch=5))
    assert "by log_head.epoch" in report_of(fairlog)
    assert repaired(fairlog)


def test_an_epoch_of_an_earlier_release_is_settled_at_the_next_start(
    intruder: Intruder, database_url: str
) -> None:
    intruder.run(log_head.update().values(epoch=2))
    with service(database_url) as (other, _):
        assert report_of(other) == ""
        with other.database.read() as connection:
            epoch = connection.execute(sa.select(log_head.c.epoch)).scalar_one()
            corrected_at = latest_position(connection, "ClockCorrected")
            changed_at = corrected_at + latest_key_event(connection)
            changed_at += latest_position(connection, "LossAccepted")
            assert epoch == digest_of(connection) + changed_at


def test_checkpoints_of_an_earlier_release_are_gone_on_from(
    fairlog: Fairlog, database_url: str
) -> None:
    def generations() -> dict[str, int]:
        with fairlog.database.read() as connection:
            return {name: one.generation for name, one in registered(connection).items()}

    before = generations()
    with fairlog.database.write() as connection:
        connection.execute(sa.text("ALTER TABLE projection_checkpoints DROP COLUMN hash"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
        connection.execute(log_head.update().values(epoch=4))
    with service(database_url) as (upgraded, _):
        assert report_of(upgraded) == ""
        assert generations() == before


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("activity", {"position": 10**9}),
        ("snapshots", {"position": 3}),
        ("merkle", {"position": -1}),
        ("activity", {"version": 9}),
        ("snapshots", {"generation": 50}),
        ("merkle", {"name": "other"}),
        ("activity", {"hash": b"\7" * 32}),
    ],
    ids=str,
)
def test_a_changed_checkpoint_is_reported_and_repaired(
    fairlog: Fairlog, intruder: Intruder, name: str, change: dict[str, Any]
) -> None:
    intruder.run(checkpoints.update().where(checkpoints.c.name == name).values(**change))
    assert checkpoints.name in report_of(fairlog)
    assert checkpoints.name in diagnosed(fairlog)["bookkeeping"].found
    assert repaired(fairlog)


def test_a_checkpoint_of_nobody_is_reported_and_repaired(
    fairlog: Fairlog, intruder: Intruder
) -> None:
    stray = {"name": "nobody", "generation": 1, "version": 1, "position": 0, "hash": bytes(32)}
    intruder.run(checkpoints.insert().values(**stray))
    assert "name='nobody', generation=1" in report_of(fairlog)
    assert repaired(fairlog)


def positions(fairlog: Fairlog) -> dict[str, int | None]:
    with fairlog.database.read() as connection:
        found = {
            one.projection.name: one.checkpoint(connection)
            for one in fairlog.projector_runner.projectors
        }
    return {name: None if at is None else at.position for name, at in found.items()}


@pytest.mark.parametrize("harm", ["beyond the end", "not there", "of another log"])
def test_what_follows_the_log_begins_anew_by_itself(
    fairlog: Fairlog, intruder: Intruder, harm: str
) -> None:
    changes = {
        "beyond the end": checkpoints.update().values(position=10**9),
        "not there": checkpoints.delete(),
        "of another log": checkpoints.update().values(hash=b"\7" * 32),
    }
    intruder.run(changes[harm])
    following = ProjectorRunner(fairlog.projector_runner.projectors, Supervisor())
    following.start()
    try:
        end = fairlog.read_now(fairlog.log.position)
        wait_until(lambda: set(positions(fairlog).values()) == {end}, "all begun anew")
    finally:
        following.stop()
    assert report_of(fairlog) == ""


def test_what_follows_a_log_that_was_restored_and_went_on_begins_anew(
    fairlog: Fairlog, intruder: Intruder, database_url: str
) -> None:
    """A backup has the log alone: the projections beside it are of the log before."""
    end = fairlog.read_now(fairlog.log.position)
    intruder.cut_off(end - 5)
    with service(database_url) as (restored, clock):
        clock.advance(86_400)
        for number in range(10):  # beyond where the checkpoints are
            do(restored, SubmitJob(user_id=ALICE, kind=ECHO, payload=body(f"new {number}")))
        assert restored.read_now(restored.log.position) > end
        catch_up(restored)
        found = report_of(restored)
        assert "activity" not in found
        assert "merkle" not in found


# Triggers


@pytest.mark.parametrize("trigger", ["events_no_update", "events_no_delete"])
def test_a_dropped_trigger_is_reported(fairlog: Fairlog, trigger: str) -> None:
    with fairlog.database.write() as connection:
        connection.execute(sa.text(f"DROP TRIGGER {trigger}"))
    assert f"the trigger {trigger} on events is missing; run `fairlog migrate`" in report_of(
        fairlog
    )
    assert f"the trigger {trigger} is missing" in diagnosed(fairlog)["append-only"].found


def test_a_trigger_that_refuses_nothing_is_reported_and_created_again(
    fairlog: Fairlog, database_url: str
) -> None:
    harmless = "CREATE TRIGGER events_no_update BEFORE UPDATE ON events " + (
        "BEGIN SELECT 1; END" if fairlog.database.is_sqlite else "FOR EACH ROW SET @a = 1"
    )
    with fairlog.database.write() as connection:
        connection.execute(sa.text("DROP TRIGGER events_no_update"))
    with fairlog.database.write() as connection:
        connection.execute(sa.text(harmless))
    assert "the trigger events_no_update on events is not as Fairlog makes it" in report_of(fairlog)
    assert "is not as Fairlog makes it" in diagnosed(fairlog)["append-only"].found
    with service(database_url) as (other, _):
        assert report_of(other) == ""


def test_an_account_that_may_not_see_triggers_does_not_miss_them(
    private_mariadb: MariaDB,
) -> None:
    url = private_mariadb.create_database()
    name = make_url(url).database
    with service_with_history(url):
        pass
    with private_mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER reader@'127.0.0.1' IDENTIFIED BY 'secret'")
        cursor.execute(f"GRANT SELECT ON {name}.* TO reader@'127.0.0.1'")
    reader = make_url(url).set(username="reader", password="secret")
    fairlog = compose(Settings(database_url=reader.render_as_string(hide_password=False)))
    try:
        assert report_of(fairlog) == ""
        assert {one.check: one for one in examine(fairlog.database)}["append-only"].level is (
            Level.UNKNOWN
        )
    finally:
        fairlog.close()


# Columns and indexes


@pytest.mark.parametrize("table", [events, jobs], ids=["events", "jobs"])
def test_a_dropped_index_is_reported_and_created_again(fairlog: Fairlog, table: sa.Table) -> None:
    name = min(str(index.name) for index in table.indexes)
    with fairlog.database.write() as connection:
        on = "" if fairlog.database.is_sqlite else f" ON {table.name}"
        connection.execute(sa.text(f"DROP INDEX {name}{on}"))
    assert f"index {name}" in report_of(fairlog)
    assert f"index {name}: missing" in diagnosed(fairlog)["columns and indexes"].found
    restore_indexes(fairlog)
    assert report_of(fairlog) == ""
    assert diagnosed(fairlog)["columns and indexes"].level is Level.OK


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    ("table", "change", "expected"),
    [
        ("events", "MODIFY version BIGINT NOT NULL", "events, column version: BIGINT, and not INT"),
        ("events", "MODIFY version INT", "events, column version: may be NULL, and not NOT NULL"),
        ("events", "MODIFY type VARCHAR(64) CHARACTER SET utf8mb4 NOT NULL", "column type"),
        ("bodies", "ADD COLUMN note INT", "bodies, column note: there, and not missing"),
    ],
)
def test_a_column_of_another_kind_is_reported(
    fairlog: Fairlog, table: str, change: str, expected: str
) -> None:
    with fairlog.database.write() as connection:
        connection.execute(sa.text(f"ALTER TABLE {table} {change}"))
    assert expected in report_of(fairlog)
    assert expected in diagnosed(fairlog)["columns and indexes"].found


# Rows that nothing speaks of


def test_an_event_and_a_body_behind_the_head_are_reported(
    fairlog: Fairlog, intruder: Intruder
) -> None:
    last = intruder.rows()[-1]
    end = last["position"]
    intruder.run(
        events.insert().values(**(last | {"position": end + 1})),
        bodies.insert().values(position=end + 2, body=b"1"),
    )
    found = report_of(fairlog)
    assert f"event {end + 1}: it comes after {end}" in found
    assert f"event {end + 2}: a body is stored that no event names" in found
