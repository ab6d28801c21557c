"""Findings of `doctor` about the service itself."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from adapters.doctor import DoctorFinding, Level
from adapters.log.tables import events
from domain.decisions.answers import ProjectionsSaved, Submitted
from domain.language.commands import SaveProjections
from entrypoints.composition import projection_tables
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.diagnosis import OVERDUE_SECONDS, diagnose, former_tables
from tests.support.clock import ManualClock
from tests.support.core import do, events_in, service
from tests.support.stories import submit


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock) as running:
        yield running


def found(fairlog: Fairlog) -> dict[str, DoctorFinding]:
    return {one.check: one for one in diagnose(fairlog)}


def test_a_service_in_order_has_nothing_to_be_mended(fairlog: Fairlog) -> None:
    do(fairlog, submit(), Submitted)
    events_before = events_in(fairlog)
    assert [one.level for one in found(fairlog).values()] == [Level.OK] * 4
    assert events_in(fairlog) == events_before


def test_a_row_behind_the_end_is_named(fairlog: Fairlog) -> None:
    do(fairlog, submit(), Submitted)
    with fairlog.database.write() as connection:
        connection.execute(
            events.insert(),
            [
                {
                    "position": events_in(fairlog) + 1,
                    "type": "Strange",
                    "version": 1,
                    "recorded_at": 0,
                    "data": b"{}",
                    "hash": bytes(32),
                }
            ],
        )
    wrong = found(fairlog)["writes"]
    assert wrong.level is Level.ERROR
    assert "row at position 3" in (wrong.mend or "")


def test_jobs_that_nobody_wakes_and_projections_that_stand_still_are_told(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    do(fairlog, submit(run_at=clock.now() + timedelta(seconds=1)), Submitted)
    do(fairlog, SaveProjections(), ProjectionsSaved)
    clock.advance(OVERDUE_SECONDS + 5)
    wrong = found(fairlog)
    assert {name: one.level for name, one in wrong.items()} == {
        "writes": Level.OK,
        "due jobs": Level.WARNING,
        "following": Level.WARNING,
        "size": Level.OK,
    }
    assert "activity by 2 events" in wrong["following"].found


def test_tables_that_nothing_reads_any_more_are_named(fairlog: Fairlog) -> None:
    current = [table for tables in projection_tables(fairlog).values() for table in tables]
    assert former_tables(fairlog, current).level is Level.OK
    with fairlog.database.write() as connection:
        for name in ("jobs_v5", "noted_claims_v4", "line_v1", "jobs_v999", "jobs"):
            connection.exec_driver_sql(f"CREATE TABLE {name} (generation INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("CREATE TABLE snapshots_v1 (id INTEGER PRIMARY KEY)")  # a user's
    wrong = former_tables(fairlog, current)
    assert wrong.level is Level.WARNING
    assert wrong.found.startswith("nothing reads jobs_v5, noted_claims_v4 (")
    assert "DROP TABLE jobs_v5, noted_claims_v4" in (wrong.mend or "")
