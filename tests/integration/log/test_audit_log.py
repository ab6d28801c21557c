import pytest

from adapters.database.database import Database
from adapters.log import audit_log
from adapters.log.audit_log import EventFilter
from adapters.log.event_log import SqlEventLog
from adapters.log.tables import log_head
from domain.language.errors import LogCorrupt
from domain.language.events import Recorded
from domain.language.identifiers import JobId, UserId
from tests.support.clock import ManualClock
from tests.support.given import NOW, at
from tests.support.log import append
from tests.support.stories import admitted


@pytest.fixture
def timed(database: Database) -> Database:
    """Seven events, at 10, 20, 20, 20, 30, 40 and 40 seconds."""
    clock = ManualClock(at(10))
    log = SqlEventLog(database, clock)
    for users, seconds in (("a", 10), ("ab", 0), ("a", 10), ("b", 10), ("aa", 0)):
        append(log, database, *[(user, n) for n, user in enumerate(users, start=1)])
        clock.advance(seconds)
    return database


@pytest.mark.parametrize(
    ("seconds", "position"),
    [
        (-1000, 1),
        (9.999999, 1),
        (10, 1),
        (10.000001, 2),
        (20, 2),
        (20.000001, 5),
        (29.999999, 5),
        (30, 5),
        (30.000001, 6),
        (40, 6),
        (40.000001, 8),
        (10**6, 8),
    ],
)
def test_the_first_event_at_a_moment_is_found_at_every_edge(
    timed: Database, seconds: float, position: int
) -> None:
    with timed.read() as connection:
        assert audit_log.first_at(connection, at(seconds)) == position


def test_in_an_empty_log_the_first_event_would_be_the_first(database: Database) -> None:
    with database.read() as connection:
        assert audit_log.first_at(connection, NOW) == 1
        assert audit_log.find(connection, EventFilter(since=NOW, until=at(1)), 0, 10) == []


@pytest.mark.parametrize(
    ("wanted", "positions"),
    [
        (EventFilter(), [1, 2, 3, 4, 5, 6, 7]),
        (EventFilter(user_id=UserId("b")), [3, 5]),
        (EventFilter(user_id=UserId("B")), []),
        (EventFilter(user_id=UserId("a ")), []),
        (EventFilter(job_id=JobId(2)), [3, 7]),
        (EventFilter(types=["JobStarted"]), []),
        (EventFilter(types=["RateLimitDecided", "JobStarted"], job_id=JobId(2)), [3, 7]),
        (EventFilter(since=at(20)), [2, 3, 4, 5, 6, 7]),
        (EventFilter(since=at(20), until=at(40)), [2, 3, 4, 5]),
        (EventFilter(until=at(20)), [1]),
        (EventFilter(since=at(21), until=at(30)), []),
        (EventFilter(user_id=UserId("a"), since=at(20), until=at(41)), [2, 4, 6, 7]),
        (EventFilter(types=["Ünïcode", "'; --", "x" * 300]), []),
    ],
)
def test_an_audit_finds_what_all_of_its_conditions_let_through(
    timed: Database, wanted: EventFilter, positions: list[int]
) -> None:
    with timed.read() as connection:
        found = [one.position for one in audit_log.find(connection, wanted, 0, 100)]
        assert found == positions
        assert [one.position for one in audit_log.find(connection, wanted, 3, 2)] == [
            position for position in positions if position > 3
        ][:2]


def test_a_log_whose_end_was_cut_off_has_no_first_event_behind_it(timed: Database) -> None:
    with timed.write() as connection:
        connection.execute(log_head.update().values(position=20))
    with timed.read() as connection, pytest.raises(LogCorrupt, match="no event at position"):
        audit_log.first_at(connection, at(41))


def test_bodies_are_found_by_position_however_many(database: Database) -> None:
    log = SqlEventLog(database)
    with database.write() as connection:
        head = log.lock_head(connection)
        recorded = [Recorded(n, head.now, None, admitted()) for n in range(1, 1202)]
        new = log.append(
            connection, head, recorded, [(n, b"%d" % n) for n in range(1, 1202, 2)]
        ).head
        log.move_head(connection, head, new)
    with database.read() as connection:
        found = audit_log.bodies_at(connection, list(range(1202)))
        assert found == {n: b"%d" % n for n in range(1, 1202, 2)}
        assert audit_log.bodies_at(connection, []) == {}


def test_a_body_of_a_mebibyte_comes_back_byte_for_byte(database: Database) -> None:
    log = SqlEventLog(database)
    large = bytes(range(256)) * 4096
    with database.write() as connection:
        head = log.lock_head(connection)
        new = log.append(
            connection, head, [Recorded(1, head.now, None, admitted())], [(1, large)]
        ).head
        log.move_head(connection, head, new)
    with database.read() as connection:
        assert audit_log.bodies_at(connection, [1]) == {1: large}
