"""A claim reads nothing of what cannot start, however much of it comes first in line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from sqlalchemy import event

from domain.decisions.answers import Claimed, LimitsSet, Submitted
from domain.fairness.queues import queue_of
from domain.language.bodies import body_of
from domain.language.commands import ChangeLimit, ClaimJobs, SubmitJob
from domain.language.events import Scope
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId, WorkerId
from domain.language.limits import Rate
from entrypoints.service.fairlog import Fairlog
from projections.inline.front import LANES_PER_QUEUE_MIN, LANES_PER_READ_MAX
from tests.support.clock import ManualClock
from tests.support.core import do, service
from tests.support.live_line import limit_resource, limit_user

CALL: Final = Kind("call")
IN_FRONT: Final = 10_000
OPEN: Final = PlanName("open")
JOBS: Final = 20
# Lanes, first jobs, users and their lanes and limits, of as many users as are read ahead.
ROWS_MAX: Final = 1_000


class ReadCounter:
    """Counts what the writer reads."""

    def __init__(self, fairlog: Fairlog) -> None:
        self.rows = 0  # that statements returned
        self._is_sqlite = fairlog.database.is_sqlite
        self._connection: Any = None
        engine = fairlog.database.writing_engine
        event.listen(engine, "after_cursor_execute", self._count)

    def _count(
        self, connection: Any, cursor: Any, statement: str, parameters: Any, *_: object
    ) -> None:
        self._connection = connection.connection.driver_connection
        if not statement.lstrip("(").startswith("SELECT"):
            return
        if self._is_sqlite:  # it does not know the number before all are fetched
            raw = self._connection.cursor()
            raw.execute(f"SELECT COUNT(*) FROM ({statement})", parameters)
            self.rows += raw.fetchone()[0]
        else:
            self.rows += cursor.rowcount

    def examined(self) -> int:
        """Return how many rows the server has read for the writer; 0 for SQLite. Call it while the
        writer is idle.
        """
        if self._is_sqlite:
            return 0
        with self._connection.cursor() as cursor:
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
            return sum(int(value) for _, value in cursor.fetchall())


@contextmanager
def counted(database_url: str, clock: ManualClock) -> Iterator[tuple[Fairlog, ReadCounter]]:
    """A service that knows nothing yet."""
    with service(database_url, clock=clock) as fairlog:
        counter = ReadCounter(fairlog)
        do(fairlog, submission("somebody", 0, None), Submitted)  # connects, and reads limits
        counter.rows = 0
        yield fairlog, counter


def submission(user: str, number: int, resource: str | None) -> SubmitJob:
    return SubmitJob(
        user_id=UserId(user),
        kind=CALL,
        payload=body_of(number, "payload"),
        deduplicate=False,
        resources=() if resource is None else (ResourceName(resource),),
    )


def submit_all(fairlog: Fairlog, commands: list[SubmitJob]) -> None:
    for start in range(0, len(commands), 1_000):
        outcomes = fairlog.writer.execute_all(commands[start : start + 1_000])
        assert all(isinstance(one, Submitted) for one in outcomes)


def claim(fairlog: Fairlog, jobs_max: int = JOBS) -> list[str]:
    command = ClaimJobs(worker=WorkerId("w"), max_jobs=jobs_max)
    return [job.user_id for job in do(fairlog, command, Claimed).jobs]


def submit_open(fairlog: Fairlog) -> None:
    """Let other users wait behind those in front, whose throttle is not used up."""
    plan = ChangeLimit(scope=Scope.PLAN, plan=OPEN, throttle=Rate(1_000, 3600))
    do(fairlog, plan, LimitsSet)
    for number in range(300):
        do(fairlog, limit_user(UserId(f"open-{number}"), plan=OPEN), LimitsSet)
    do(fairlog, limit_user(UserId("somebody"), plan=OPEN), LimitsSet)
    submit_all(fairlog, [submission(f"open-{number}", number, None) for number in range(300)])


def assert_reads_little(database_url: str, clock: ManualClock) -> None:
    with counted(database_url, clock) as (fairlog, counter):
        examined = counter.examined()
        assert len(claim(fairlog)) == JOBS
        assert counter.rows <= ROWS_MAX
        # The server also reads ahead in its indexes, and sorts.
        assert counter.examined() - examined <= 8 * ROWS_MAX
        counter.rows = 0
        served = claim(fairlog)
        assert len(served) == JOBS
        assert all(user.startswith("open-") for user in served)
        assert counter.rows <= ROWS_MAX // 4


def test_a_claim_reads_none_of_ten_thousand_throttled_users_in_front(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        once = ChangeLimit(
            scope=Scope.PLAN, plan=PlanName("default"), throttle=Rate(1, 31 * 86_400)
        )
        do(fairlog, once, LimitsSet)
        users = [f"held-{number}" for number in range(IN_FRONT)]
        submit_all(fairlog, [submission(user, n, None) for n in range(2) for user in users])
        for _ in range(IN_FRONT // 1_000):
            assert len(claim(fairlog, 1_000)) == 1_000
        assert claim(fairlog) == [], "all have used their throttles up, and have jobs left"
        submit_open(fairlog)
    assert_reads_little(database_url, clock)


@pytest.mark.parametrize("limit", [{"paused": True}, {"running": 0}, {"throttle": Rate(0, 60)}])
def test_a_claim_reads_none_of_the_users_of_closed_resources_in_front(
    database_url: str, limit: dict[str, Any]
) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        do(fairlog, limit_resource("shop:*", **limit), LimitsSet)
        submit_all(
            fairlog,
            [
                submission(f"closed-{number}", number, f"shop:{number % 1_000}")
                for number in range(IN_FRONT // 2)
            ],
        )
        submit_open(fairlog)
    with counted(database_url, clock) as (fairlog, counter):
        assert len(claim(fairlog)) == JOBS
        names = 2 * 1_000 + 50  # the queues and their resources, to know that they are closed
        assert counter.rows <= ROWS_MAX + names
        counter.rows = 0
        assert len(claim(fairlog)) == JOBS
        assert counter.rows <= ROWS_MAX // 4


def test_a_claim_of_few_jobs_reads_few_lanes_of_each_of_a_thousand_queues(
    database_url: str,
) -> None:
    queues = 1_000
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        submit_all(
            fairlog,
            [
                submission(f"user-{number}", number, f"shop:{number % queues}")
                for number in range(5 * queues)
            ],
        )
    with counted(database_url, clock) as (fairlog, counter):
        assert claim(fairlog) == [f"user-{number}" for number in range(JOBS)]
        lanes = max(LANES_PER_READ_MAX, LANES_PER_QUEUE_MIN * queues)
        # A lane, its user, the user's lanes; the queues and resources, and some first jobs.
        assert counter.rows <= 3 * lanes + 2 * queues + ROWS_MAX
        known = fairlog.writer._transactions._projections._kept.line.known  # type: ignore[attr-defined]
        assert len(list(known.users_in_order(queue_of(CALL, [ResourceName("shop:0")])))) < 5
        counter.rows = 0
        assert claim(fairlog) == [f"user-{number}" for number in range(JOBS, 2 * JOBS)]
        assert counter.rows <= ROWS_MAX // 4
