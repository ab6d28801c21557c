"""The size of the database, as `/metrics`, the dashboard and `doctor` tell it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy import make_url

from adapters.doctor import Level
from adapters.log import log_size
from adapters.log.log_size import LogSize, read_size
from domain.decisions.answers import Submitted
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.diagnosis import FREE_BYTES_MIN, size
from tests.support.clock import ManualClock
from tests.support.core import do, events_in, saved_rows, service
from tests.support.stories import submit

GB = 10**9


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, size_limit_bytes=GB) as running:
        yield running


def read(fairlog: Fairlog) -> LogSize:
    return fairlog.read_now(fairlog.sizes.read_anew)


def test_an_empty_log_grows_by_nothing(fairlog: Fairlog) -> None:
    found = read(fairlog)
    assert (found.events, found.oldest_at, found.events_per_day) == (0, None, 0)
    assert (found.growth_per_day, found.days_left) == (0, None)
    assert found.total > 0


def test_sizes_are_those_of_the_tables(fairlog: Fairlog) -> None:
    do(fairlog, submit(), Submitted)
    with saved_rows(fairlog) as connection:
        names = set(sa.inspect(connection).get_table_names())
        found = fairlog.sizes.read_anew(connection)
    assert set(found.tables) >= names
    assert all(found.tables[name] > 0 for name in names)
    assert sum(found.tables.values()) <= found.total
    assert found.limit == GB


def test_of_a_large_file_the_tables_are_not_told_apart(
    database_url: str, fairlog: Fairlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fairlog.database.is_sqlite:
        return
    monkeypatch.setattr(log_size, "SQLITE_BYTES_BY_TABLE_MAX", 4096)
    do(fairlog, submit(), Submitted)
    found = read(fairlog)
    assert found.tables == {}
    fairlog.database.shrink_journal()
    file = Path(make_url(database_url).database or "")
    assert 0.5 < found.total / file.stat().st_size < 2
    assert found.free is not None


def test_a_day_is_counted_from_the_time_of_its_events(fairlog: Fairlog, clock: ManualClock) -> None:
    first = clock.now()
    for number in range(3):
        do(fairlog, submit(payload={"n": number}), Submitted)
    assert read(fairlog).oldest_at == first
    assert read(fairlog).events == events_in(fairlog) == 6
    assert read(fairlog).events_per_day == 6 * 24  # of an hour, at least
    clock.advance(12 * 3600)
    assert read(fairlog).events_per_day == 12
    clock.advance(24 * 3600)
    do(fairlog, submit(payload={"n": 9}), Submitted)
    found = read(fairlog)
    assert (found.events, found.events_per_day) == (8, 2)
    assert found.growth_per_day == pytest.approx(found.total / 4)
    assert found.days_left == pytest.approx((GB - found.total) / found.growth_per_day)


def test_it_is_read_once_a_minute(fairlog: Fairlog) -> None:
    before = fairlog.read_now(fairlog.sizes.read)
    do(fairlog, submit(), Submitted)
    assert fairlog.read_now(fairlog.sizes.read) is before
    assert read(fairlog).events == 2
    assert fairlog.read_now(fairlog.sizes.read).events == 2


GROWING = LogSize(
    total=10 * GB,
    tables={},
    events=10_000_000,
    oldest_at=None,
    events_per_day=100_000,
    free=None,
    limit=None,
)


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({}, Level.OK),
        ({"limit": 14 * GB}, Level.OK),
        ({"limit": 12 * GB}, Level.WARNING),
        ({"limit": 9 * GB}, Level.WARNING),
        ({"free": 4 * GB}, Level.OK),
        ({"free": 2 * GB}, Level.WARNING),
        ({"free": FREE_BYTES_MIN - 1, "events_per_day": 0}, Level.WARNING),
        ({"events": 0, "free": GB, "limit": 10 * GB}, Level.OK),
    ],
)
def test_doctor_warns_thirty_days_ahead(change: dict[str, int], level: Level) -> None:
    found = size(replace(GROWING, **change))
    assert found.level is level
    assert (found.mend is None) == (level is Level.OK)


def test_doctor_says_how_long_it_lasts() -> None:
    found = size(replace(GROWING, limit=12 * GB, free=3 * GB))
    assert found.found == (
        "10 GB, and a day adds 100 MB; 3 GB are free; size_limit_bytes is 12 GB, which is 20 days "
        "away"
    )
    assert "raise size_limit_bytes" in (found.mend or "")
    assert replace(GROWING, limit=GB).days_left == 0
    assert replace(GROWING, limit=GB, events_per_day=0).days_left == 0


def test_what_no_log_has_yet_is_left_out(fairlog: Fairlog) -> None:
    with fairlog.database.read() as connection:
        found = read_size(connection, fairlog.log.now(connection), None)
    assert (found.limit, found.days_left) == (None, None)
