"""Each filter of the audit is one ordered range of an index, by the database's own word."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event

from adapters.log import audit_log
from adapters.log.audit_log import EventFilter
from domain.language.identifiers import JobId, UserId
from domain.language.moments import from_micros
from entrypoints.service.fairlog import Fairlog
from tests.conftest import NewDatabase
from tests.support.clock import ManualClock
from tests.support.core import service
from tests.support.crowd import crowd
from tests.support.plans import plan_of

INDEXES = {"PRIMARY", "events_by_user", "events_by_job", "events_by_type"}
RANGES = {"range", "ref", "const", "eq_ref", "index_merge"}
PAGE = 100


@pytest.fixture(scope="module")
def fairlog(new_database_url: NewDatabase) -> Iterator[Fairlog]:
    clock = ManualClock()
    with service(new_database_url(), clock=clock, user_limit=100) as fairlog:
        crowd(fairlog, clock, 4_000)
        with fairlog.database.write() as connection:
            connection.exec_driver_sql(
                "ANALYZE events" if fairlog.database.is_sqlite else "ANALYZE TABLE events"
            )
        yield fairlog


def filters(fairlog: Fairlog) -> list[EventFilter]:
    """Every combination of the conditions that an audit has."""
    with fairlog.database.read() as connection:
        found = audit_log.find(connection, EventFilter(), 1_500, 1_000)
        moments = [event.recorded_at for event in found]
    users: list[UserId | None] = [None, UserId("user-1")]
    jobs: list[JobId | None] = [None, next(one.job_id for one in found if one.job_id)]
    types = [(), ("JobFailed",), ("JobFailed", "LimitChanged")]
    times = [(None, None), (moments[0], None), (moments[0], moments[-1]), (None, from_micros(1))]
    return [
        EventFilter(user_id=user, job_id=job, types=kinds, since=since, until=until)
        for user, job, kinds, (since, until) in itertools.product(users, jobs, types, times)
    ]


def plans(fairlog: Fairlog, wanted: EventFilter, after: int) -> list[dict[str, Any]]:
    """Return the plan of each statement that a page of the audit sends."""
    sent: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        sent.append((statement, parameters))

    engine = fairlog.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        with fairlog.database.read() as connection:
            audit_log.find(connection, wanted, after, PAGE)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    with fairlog.database.read() as connection:
        return [
            row
            for statement, parameters in sent
            if " FROM events" in statement.replace("\n", " ")
            for row in plan_of(connection, statement, parameters)
        ]


def test_every_filter_is_served_by_an_index(fairlog: Fairlog) -> None:
    for wanted, after in itertools.product(filters(fairlog), (0, 2_000)):
        found = plans(fairlog, wanted, after)
        assert found
        for plan in found:
            if fairlog.database.is_sqlite:
                assert plan["detail"].startswith("SEARCH") or "TEMP B-TREE" in plan["detail"], plan
            elif plan["table"] is not None:  # else it knows that there is nothing
                # "a|b": rows of one that a filter made of the other lets through; "a,b": both.
                keys = set(re.split(r"[|,]", plan["key"] or "none"))
                assert keys <= INDEXES, (wanted, after, plan)
                assert plan["type"].split("|")[0] in RANGES, (wanted, after, plan)


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    "wanted",
    [
        EventFilter(),
        EventFilter(user_id=UserId("user-1")),
        EventFilter(job_id=JobId(2)),
        EventFilter(types=["JobFailed"]),
    ],
)
def test_a_page_of_a_single_condition_needs_no_sorting(
    fairlog: Fairlog, wanted: EventFilter
) -> None:
    for plan in plans(fairlog, wanted, 2_000):
        assert "filesort" not in (plan["Extra"] or ""), plan
