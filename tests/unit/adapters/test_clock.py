from datetime import UTC, datetime, timedelta

import msgspec
from freezegun import freeze_time

from adapters.clock import SystemClock


def test_under_freezegun_the_clock_shows_the_frozen_moment() -> None:
    # A whole second: freezegun's time_ns() goes by way of a float and may lose a microsecond.
    with freeze_time("2024-02-29T12:34:56Z"):
        now = SystemClock().now()

    assert now == datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC)


def test_under_freezegun_the_clock_gives_a_real_datetime_that_msgspec_encodes() -> None:
    with freeze_time("2024-02-29T12:34:56Z"):
        now = SystemClock().now()
        encoded = msgspec.json.encode(now)

    assert type(now) is datetime
    assert encoded == b'"2024-02-29T12:34:56Z"'


def test_the_clock_follows_time_as_it_is_moved_on() -> None:
    clock = SystemClock()
    with freeze_time("2024-02-29T23:59:59Z") as frozen:
        before = clock.now()
        frozen.tick(timedelta(seconds=2))
        after = clock.now()

    assert after - before == timedelta(seconds=2)


def test_the_clock_is_in_utc_and_agrees_with_the_machine() -> None:
    before = datetime.now(UTC)
    now = SystemClock().now()
    after = datetime.now(UTC)

    assert now.tzinfo is UTC
    assert before <= now <= after
