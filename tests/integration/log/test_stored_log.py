"""Rows and bodies as they are stored, whatever somebody has put into them."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.log.stored_log import SqlStoredLog
from adapters.log.tables import bodies, events
from domain.language.events import JobCancelled, Recorded
from domain.language.identifiers import POSITION_MAX, JobId, Kind, UserId
from domain.language.moments import from_micros
from entrypoints.service.fairlog import Fairlog
from tests.support.history import service

CANCELLED = b'{"type":"JobCancelled","user_id":"alice","kind":"echo","was":"queued"}'
WITH_ROW = CANCELLED[:-1] + b',"x":1}],[3,"",1,null,7,5,"",2,{}'
_STORED = (
    events.c.position,
    events.c.type,
    events.c.version,
    events.c.user_id,
    events.c.job_id,
    events.c.recorded_at,
    events.c.data,
    events.c.hash,
)


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with service(database_url) as (fairlog, _):
        yield fairlog


def put(fairlog: Fairlog, position: int, data: bytes = CANCELLED, **columns: Any) -> None:
    row = {
        "position": position,
        "type": "JobCancelled",
        "version": 1,
        "user_id": b"alice",
        "job_id": 7,
        "recorded_at": 5,
        "data": data,
        "hash": bytes(range(32)),
    }
    with fairlog.database.write() as connection:
        connection.execute(events.insert().values(**(row | columns)))


def stored(connection: Connection) -> list[tuple[Any, ...]]:
    """One by one, by a query that does nothing else."""
    return list(map(tuple, connection.execute(sa.select(*_STORED).order_by(events.c.position))))


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"user_id": None, "job_id": None},
        {"user_id": b"u" * 255},
        {"user_id": b'\xff"\\\n\x00'},
        {"type": 'Job"],[\\Cancelled'},
        {"type": ""},
        {"version": -1, "job_id": -1, "recorded_at": -1},
        {"hash": b'"' * 32},
        {"data": b""},
        {"data": b"[]"},
        {"data": b" " + CANCELLED},
        {"data": CANCELLED + b" "},
        {"data": CANCELLED[:-1]},
        {"data": CANCELLED[:-1] + b',"x":"'},
        {"data": CANCELLED[:-1] + b',"x":[[1'},
        {"data": CANCELLED + b"," + CANCELLED},
        {"data": WITH_ROW},
        {"data": b"\xff\xfe\x00"},
    ],
    ids=repr,
)
def test_every_row_is_read_as_it_is_stored(fairlog: Fairlog, columns: dict[str, Any]) -> None:
    for position in (1, 2, 4):
        put(fairlog, position)
    log = SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
    for position in (3, 5):
        put(fairlog, position, **columns)
        with fairlog.database.read() as connection:
            assert list(log.rows(connection, 0, 10)) == stored(connection)
            assert list(log.rows(connection, 2, 2)) == stored(connection)[2:4]


def test_rows_are_read_over_missing_positions(fairlog: Fairlog) -> None:
    for position in (2, 3, 900):
        put(fairlog, position)
    log = SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
    with fairlog.database.read() as connection:
        assert [row[0] for row in log.rows(connection, 0, 10)] == [2, 3, 900]
        assert [row[0] for row in log.rows(connection, 3, 10)] == [900]
        assert log.rows(connection, 900, 10) == []


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_a_page_is_read_as_events_if_every_row_is_one(fairlog: Fairlog) -> None:
    log = SqlStoredLog(is_sqlite=False)
    for position in (1, 2):
        put(fairlog, position)
    event = JobCancelled(user_id=UserId("alice"), kind=Kind("echo"), was="queued")
    with fairlog.database.read() as connection:
        assert log.events(connection, 0, 10) == [
            Recorded(position, from_micros(5), JobId(7), event) for position in (1, 2)
        ]
        assert log.events(connection, 2, 10) is None
    put(fairlog, 4)
    with fairlog.database.read() as connection:
        assert log.events(connection, 0, 10) is None


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@pytest.mark.parametrize(
    "columns",
    [{"version": 2}, {"data": b" " + CANCELLED}, {"data": b"{}"}, {"data": CANCELLED + b"]"}],
    ids=repr,
)
def test_a_page_with_a_row_that_is_none_is_not_read_as_events(
    fairlog: Fairlog, columns: dict[str, Any]
) -> None:
    put(fairlog, 1)
    put(fairlog, 2, **columns)
    with fairlog.database.read() as connection:
        assert SqlStoredLog(is_sqlite=False).events(connection, 0, 10) is None


def test_bodies_are_told_by_their_digests_and_sizes(fairlog: Fairlog) -> None:
    contents = {1: b'"a"', 2: b"", 5: b"\xff" * 1000}
    with fairlog.database.write() as connection:
        for position, body in contents.items():
            connection.execute(bodies.insert().values(position=position, body=body))
    expected = [(at, sha256(body).hexdigest(), len(body)) for at, body in contents.items()]
    log = SqlStoredLog(is_sqlite=fairlog.database.is_sqlite)
    with fairlog.database.read() as connection:
        assert list(log.body_digests(connection, 0, 10, 10)) == expected
        assert list(log.body_digests(connection, 0, 2, 10)) == expected[:2]
        assert list(log.body_digests(connection, 1, POSITION_MAX, 1)) == expected[1:2]
        assert list(log.body_digests(connection, 5, 10, 10)) == []
