"""Hundreds of refused users: few events a second, and every refusal in the log at the end."""

import asyncio
from collections import Counter
from datetime import datetime
from typing import Any

import pytest

from adapters.settings import Settings
from domain.language.errors import LogUnavailable, RateLimited
from domain.language.events import RateLimitDecided
from domain.language.identifiers import UserId
from domain.language.moments import later
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.submission_limiter import REPORTS_PER_ROUND_MAX
from tests.support.clock import LONGEST_WINDOW, ManualClock
from tests.support.core import head_locked, log_of, service
from tests.support.server import AppServer
from tests.support.stories import submit
from tests.support.waiting import wait_until

USERS = [UserId(f"user-{number}") for number in range(300)]
EVENTS_PER_SECOND_MAX = 200
# No window ends meanwhile.
NOBODY_MAY: dict[str, Any] = {"user_limit": 0, "window_seconds": LONGEST_WINDOW}


def refused(fairlog: Fairlog) -> Counter[UserId]:
    """Return the counts by the log's decisions."""
    counts: Counter[UserId] = Counter()
    for one in log_of(fairlog):
        assert isinstance(one.event, RateLimitDecided)
        counts[one.event.user_id] += one.event.count
    return counts


def reports(fairlog: Fairlog) -> list[tuple[datetime, RateLimitDecided]]:
    """Refusals from the cache, and when the log recorded them."""
    return [
        (one.recorded_at, one.event)
        for one in log_of(fairlog)
        if isinstance(one.event, RateLimitDecided) and one.event.first_at is not None
    ]


async def knock(fairlog: Fairlog) -> None:
    """Everybody submits once, and is refused."""
    answers = await asyncio.gather(
        *(fairlog.limiter.submit(user, submit(user)) for user in USERS), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {RateLimited}


def test_a_round_reports_so_many_users_in_turn_and_the_last_one_all(database_url: str) -> None:
    clock = ManualClock()

    async def story(fairlog: Fairlog) -> None:
        await knock(fairlog)  # decided by the log, which fills the cache
        assert reports(fairlog) == []
        for number in (1, 2, 3, 4):
            clock.advance(1)
            await knock(fairlog)
            await fairlog.limiter.report()
            found = [report.user_id for _, report in reports(fairlog)]
            turns = number * REPORTS_PER_ROUND_MAX
            assert sorted(found) == sorted((USERS * 2)[:turns])
        await fairlog.limiter.report_all()

    with service(database_url, clock=clock, **NOBODY_MAY) as fairlog:
        asyncio.run(story(fairlog))
        assert refused(fairlog) == dict.fromkeys(USERS, 5)


def test_a_database_that_is_away_for_a_while_loses_no_count(database_url: str) -> None:
    async def story(fairlog: Fairlog) -> None:
        await knock(fairlog)
        await knock(fairlog)
        with head_locked(fairlog), pytest.raises(LogUnavailable):
            await fairlog.limiter.report()
        await knock(fairlog)
        await fairlog.limiter.report_all()

    with service(database_url, clock=ManualClock(), **NOBODY_MAY) as fairlog:
        asyncio.run(story(fairlog))
        assert refused(fairlog) == dict.fromkeys(USERS, 3)


def test_a_server_reports_few_a_second_and_what_is_left_when_it_stops(database_url: str) -> None:
    jobs = [{"user_id": user, "kind": "echo", "payload": None} for user in USERS]
    knocks = 0
    with AppServer(database_url, Settings(**NOBODY_MAY)) as server:

        def have_had_turns() -> bool:
            nonlocal knocks
            knocks += 1
            answer = server.client.post("/v1/jobs/batch", json={"jobs": jobs})
            assert answer.status_code == 200, answer.text
            return len(reports(server.fairlog)) > len(USERS)

        wait_until(have_had_turns, "all have had a turn")
        moments = [recorded_at for recorded_at, _ in reports(server.fairlog)]

    busiest = max(sum(begin <= one < later(begin, 1) for one in moments) for begin in moments)
    print(f"at most {busiest} reports in a second")
    assert busiest < EVENTS_PER_SECOND_MAX
    with service(database_url) as fairlog:
        assert refused(fairlog) == dict.fromkeys(USERS, knocks)
