"""Due times: those of cronsim, in every zone, over both changes of the clocks."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from freezegun import freeze_time

from domain.language.errors import InvalidInput
from domain.language.identifiers import ScheduleName
from domain.language.moments import from_micros, to_micros
from domain.language.schedules import Timing
from domain.schedules.timing import checked_timing, first_time, next_time, put_off

# Both hemispheres, changes of half an hour, at midnight, and zones without any.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Los_Angeles",
    "America/Santiago",
    "Africa/Cairo",
    "Asia/Kolkata",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "Pacific/Chatham",
]
HOURLY = "0 * * * *"
MONTHLY = "59 23 L * *"
EXPRESSIONS = [
    "30 2 * * *",
    "15 0 * * *",
    HOURLY,
    "*/30 1-3 * * *",
    "0 3 * * SUN",
    "30 1,2 1-7 * *",
    MONTHLY,
]
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)
CHANGES = [
    (datetime(2026, 3, 5, tzinfo=UTC), datetime(2026, 4, 27, tzinfo=UTC)),
    (datetime(2026, 9, 3, tzinfo=UTC), datetime(2026, 11, 3, tzinfo=UTC)),
]
NAME = ScheduleName("nightly")


def by_cronsim(cron: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    found: list[datetime] = []
    for one in CronSim(cron, start.astimezone(ZoneInfo(zone))):
        if one >= end:
            return found
        found.append(one.astimezone(UTC))
    return found


def times(timing: Timing, start: datetime, end: datetime) -> list[datetime]:
    found: list[datetime] = []
    due_at = next_time(timing, start)
    while due_at is not None and due_at < end:
        found.append(due_at)
        due_at = next_time(timing, due_at)
    return found


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("cron", EXPRESSIONS)
def test_the_times_of_a_year_are_those_of_cronsim_each_once(cron: str, zone: str) -> None:
    # Of a schedule for every hour, the months in which clocks change.
    spans = CHANGES if cron == HOURLY else [(START, END)]
    expected = [one for span in spans for one in by_cronsim(cron, zone, *span)]
    assert len(expected) > 20 or (cron == MONTHLY and len(expected) == 12)
    timing = Timing(cron=cron, time_zone=zone)
    assert [one for span in spans for one in times(timing, *span)] == expected
    assert expected == sorted(set(expected))


@pytest.mark.parametrize("zone", ZONES)
def test_the_next_time_is_the_same_from_any_moment(zone: str) -> None:
    """A schedule goes on from its latest time, and a new or resumed one from any moment."""
    chance = Random(zone)
    for cron in EXPRESSIONS:
        timing = Timing(cron=cron, time_zone=zone)
        expected = by_cronsim(cron, zone, START, END)
        for _ in range(15):
            place = chance.randrange(1, len(expected))
            before, due_at = expected[place - 1], expected[place]
            moment = before + chance.random() * (due_at - before)
            moment = from_micros(to_micros(moment))
            assert next_time(timing, moment) == due_at, (cron, moment)
            assert first_time(timing, due_at) == due_at


def test_where_clocks_change_a_time_of_day_is_due_once() -> None:
    timing = Timing(cron="30 2 * * *", time_zone="Europe/Berlin")
    # On March 29, 2026, half past two does not exist: it is due when the gap ends, at three.
    [gap] = times(timing, datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 3, 29, 20, tzinfo=UTC))
    assert gap == datetime(2026, 3, 29, 1, tzinfo=UTC)
    # On October 25 it comes twice: it is due the first time.
    twice = times(
        timing, datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 25, 20, tzinfo=UTC)
    )
    assert twice == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC)]


def test_after_the_first_of_two_equal_times_of_day_the_second_is_not_due() -> None:
    timing = Timing(cron="30 2 * * *", time_zone="Europe/Berlin")
    between = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 2:10 for the second time
    assert next_time(timing, between) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_an_hourly_schedule_follows_the_time_that_passes() -> None:
    timing = Timing(cron="0 * * * *", time_zone="Europe/Berlin")
    day = times(
        timing, datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 25, 23, tzinfo=UTC)
    )
    assert {one - before for before, one in pairwise(day)} == {timedelta(hours=1)}


def test_the_clock_of_the_machine_does_not_matter() -> None:
    timing = Timing(cron="30 2 * * *", time_zone="America/New_York")
    expected = next_time(timing, START)
    with freeze_time("2031-07-01"):
        found = next_time(timing, START)
    assert found == expected
    assert type(found) is datetime


def test_an_interval_is_due_at_multiples_of_its_length() -> None:
    timing = Timing(every_seconds=900)
    assert next_time(timing, START) == START + timedelta(minutes=15)
    assert next_time(timing, START + timedelta(microseconds=1)) == START + timedelta(minutes=15)
    assert first_time(timing, START) == START


def test_jitter_is_fixed_for_a_name_and_a_time_and_spread_over_its_length() -> None:
    timing = Timing(every_seconds=60, jitter_seconds=30)
    delays = [
        (put_off(timing, ScheduleName(str(number)), START) - START).total_seconds()
        for number in range(300)
    ]
    assert 0 <= min(delays) < 1
    assert 29 < max(delays) <= 30
    assert put_off(timing, NAME, START) == put_off(timing, NAME, START)
    assert put_off(timing, NAME, START) - START != put_off(timing, NAME, END) - END
    assert put_off(Timing(every_seconds=60), NAME, START) == START


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cron": "0 0 31 2 *"}, "no such day is in the month"),
        ({"cron": "0 0 30 FEB *"}, "no such day is in the month"),
        ({"cron": "* * * *"}, "this has 4"),
        ({"cron": "* * * * * *"}, "use every_seconds"),
        ({"cron": "60 * * * *"}, "at its minute"),
        ({"cron": "* 24 * * *"}, "at its hour"),
        ({"cron": "*/0 * * * *"}, "at its minute"),
        ({"cron": "@daily"}, "five fields"),
        ({"cron": ""}, "this has 0"),
        ({"cron": "٣ * * * *"}, "five fields"),
        ({"cron": "1," * 200 + "1 * * * *"}, "at most 255 characters"),
        ({"every_seconds": 0}, "from 1 to 31622400"),
        ({"every_seconds": -5}, "from 1 to 31622400"),
        ({"every_seconds": 31_622_401}, "from 1 to 31622400"),
        ({}, "either cron"),
        ({"cron": "* * * * *", "every_seconds": 5}, "not both"),
        ({"every_seconds": 5, "jitter_seconds": -1}, "jitter_seconds"),
        ({"every_seconds": 5, "jitter_seconds": 86_401}, "jitter_seconds"),
        ({"cron": "* * * * *", "time_zone": "Europe/Atlantis"}, "Europe/Berlin"),
        ({"cron": "* * * * *", "time_zone": "../../etc/passwd"}, "no time zone"),
        ({"cron": "* * * * *", "time_zone": "Europe"}, "no time zone"),
        ({"cron": "* * * * *", "time_zone": ""}, "no time zone"),
        ({"cron": "* * * * *", "time_zone": "x" * 5000}, "no time zone"),
    ],
)
def test_a_timing_that_cannot_be_is_refused_with_what_to_do(
    fields: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        checked_timing(Timing(**fields), START)  # type: ignore[arg-type]


def test_a_day_that_comes_seldom_is_accepted() -> None:
    leap = Timing(cron="0 0 29 2 *")
    assert checked_timing(leap, START) == leap
    assert next_time(leap, START) == datetime(2028, 2, 29, tzinfo=UTC)
