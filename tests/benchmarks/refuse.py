"""Submissions over the limit, by 64 clients, against the no-op on the same server.

Three floods: a few users over their own limits; a thousand users, each over their own; and a
thousand users when the window of all together is used up. Both are asked in turn, three times, once
the windows are used up; figures are medians. The growth of the log is taken from the first refusal
to the last report of one, and the largest of the three is shown. The counts of the decisions in the
log, admissions included, are then held against what clients saw: exactly, for 20,000 submissions
whose clients wait for every answer.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Final

from msgspec import Struct

from domain.language.events import RateLimitDecided
from entrypoints.service.submission_limiter import REPORT_SECONDS
from tests.benchmarks.client import Client
from tests.benchmarks.figures import (
    Figure,
    Limit,
    alternate,
    at_most,
    median_of,
    ratio_at_least,
)
from tests.benchmarks.filling import open_service
from tests.benchmarks.load import Load, submissions
from tests.benchmarks.serving import NOOP_PATH, SUBMIT_PATH, BenchmarkServer
from tests.benchmarks.site import Site
from tests.support.waiting import wait_until

CLIENTS: Final = 64
_WINDOW_SECONDS: Final = 86_400  # none ends while we measure, but at midnight
_QUIET_SECONDS: Final = 2 * REPORT_SECONDS
# Until the counts of the refusal cache are in the log; of 1,000 users: 9.
_REPORTED_SECONDS_MAX: Final = 60.0


class _Flood(Struct, frozen=True):
    name: str
    users: int
    limits: Mapping[str, int]


_FLOODS: Final = (
    _Flood("10 users over their limits", 10, {"user_limit": 10}),
    _Flood("1,000 users over their limits", 1000, {"user_limit": 1}),
    _Flood("1,000 users, global limit", 1000, {"global_limit": 100}),
)


class _Counts(Struct, frozen=True):
    """Submissions, by what became of them."""

    admitted: int
    refused: int

    @property
    def total(self) -> int:
        return self.admitted + self.refused


def run(site: Site) -> Iterator[Figure]:
    for flood in _FLOODS:
        url = site.new_database("mariadb")
        settings = {"window_seconds": _WINDOW_SECONDS, **flood.limits}
        with site.server(url, settings=settings) as server:
            yield from _rates(site, server, flood)
            yield from _counts(site, server, flood, url)
        site.drop_database("mariadb", url)


def _rates(site: Site, server: BenchmarkServer, flood: _Flood) -> Iterator[Figure]:
    growth: list[float] = []  # events a second

    def noop() -> Load:
        return submissions(server.url, NOOP_PATH, clients=CLIENTS, seconds=site.seconds)

    def refuse() -> Load:
        before, started = _position(server.stats()), time.monotonic()
        load = submissions(
            server.url,
            SUBMIT_PATH,
            clients=CLIENTS,
            seconds=site.seconds,
            users=flood.users,
            may_refuse=True,
        )
        ended = time.monotonic()
        after, at = _settled(server)
        growth.append((after - before) / (max(ended, at) - started))
        return load

    refuse()  # uses up the windows, and warms up
    growth.clear()
    noops, refusals = alternate(site.rounds, noop, refuse)
    yield Figure(
        f"{flood.name}",
        median_of(refusals, lambda one: one.rate),
        "refusals/s",
        Limit(median_of(noops, lambda one: one.rate), "the no-op"),
        ratio_at_least(0.8),
    )
    yield Figure(f"{flood.name}: log grows by", max(growth), "events/s", target=at_most(200))


def _counts(site: Site, server: BenchmarkServer, flood: _Flood, url: str) -> Iterator[Figure]:
    before, _ = _settled(server)
    requests = 2000 if site.quick else 20_000
    seen = asyncio.run(_ask(server.port, requests, flood.users))
    _settled(server)
    logged = _logged(url, before)
    yield Figure(
        f"{flood.name}: not in the log, of {requests:,}",
        abs(seen.admitted - logged.admitted) + abs(seen.refused - logged.refused),
        "decisions",
        target=at_most(0),
    )


def _settled(server: BenchmarkServer) -> tuple[int, float]:
    """Return the head position and its time, once the refusal cache has nothing left to report."""
    since, position = time.monotonic(), _position(server.stats())

    def is_settled() -> bool:
        nonlocal since, position
        found = _position(server.stats())
        if found != position:
            since, position = time.monotonic(), found
        return time.monotonic() - since > _QUIET_SECONDS

    wait_until(is_settled, "the log stands still", _REPORTED_SECONDS_MAX)
    return position, since


def _position(stats: Mapping[str, Any]) -> int:
    return int(stats["position"])


async def _ask(port: int, requests: int, users: int) -> _Counts:
    """Submit so many; what the clients saw."""
    numbers = iter(range(requests))
    statuses: list[int] = []

    async def ask() -> None:
        async with Client(port) as client:
            for number in numbers:
                content = {
                    "user_id": f"user-{number % users}",
                    "kind": "echo",
                    "payload": {"exact": number},
                }
                statuses.append((await client.post(SUBMIT_PATH, content))[0])

    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    counts = _Counts(statuses.count(202), statuses.count(429))
    if counts.total != requests:
        raise RuntimeError(f"neither 202 nor 429: {set(statuses)}")
    return counts


def _logged(url: str, after: int) -> _Counts:
    admitted = refused = 0
    with closing(open_service(url)) as fairlog, fairlog.database.read() as connection:
        while page := fairlog.log.read(connection, after, 4000):
            after = page[-1].position
            for recorded in page:
                if isinstance(recorded.event, RateLimitDecided):
                    if recorded.event.allowed:
                        admitted += recorded.event.count
                    else:
                        refused += recorded.event.count
    return _Counts(admitted, refused)
