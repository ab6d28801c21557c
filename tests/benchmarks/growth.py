"""The same questions at several sizes: databases of more and more waiting jobs, asked in turn."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from statistics import median
from typing import Final

from msgspec import Struct

from domain.language.identifiers import JobId
from entrypoints.service.fairlog import Fairlog
from tests.benchmarks.figures import Figure, Limit, ratio_at_most
from tests.benchmarks.filling import Filled, limited, open_service, queued
from tests.benchmarks.site import Site

# Jobs and users; one user owns half of the jobs.
SIZES: Final = ((1_000, 100), (100_000, 10_000), (1_000_000, 100_000))
SIZES_QUICK: Final = ((1_000, 100), (10_000, 1_000))

RATIO_MAX: Final = 1.5


class Sized(Struct, frozen=True):
    """A service on a database of that size."""

    filled: Filled
    fairlog: Fairlog

    def job(self, share: float) -> JobId:
        """The job at this share (0 to 1) of all; each is a decision and a submission."""
        return JobId(2 * (1 + int(share * (self.filled.jobs - 1))))


@contextmanager
def sizes(site: Site, *, has_limits: bool = False) -> Iterator[list[Sized]]:
    """All sizes open at once, on MariaDB, filled when they are first asked for.

    With limits, all users are on plans, and a hundredth as many resources are used.
    """
    with ExitStack() as stack:
        opened = []
        for jobs, users in SIZES_QUICK if site.quick else SIZES:
            if has_limits:
                filled = limited(site, "mariadb", jobs, users, max(10, users // 100))
            else:
                filled = queued(site, "mariadb", jobs, users)
            fairlog = stack.enter_context(closing(open_service(filled.url)))
            fairlog.writer.start()
            opened.append(Sized(filled, fairlog))
        yield opened


def compared(
    name: str,
    sized: list[Sized],
    rounds: int,
    ask: Callable[[Sized], Awaitable[object]],
    restore: Callable[[Sized, object], Awaitable[None]] | None = None,
) -> Iterator[Figure]:
    """Milliseconds at each size, medians of as many rounds, each against the smallest size.

    `restore` puts back what asking changed, and is not timed.
    """
    medians = asyncio.run(_medians(sized, rounds, ask, restore))
    smallest = Limit(medians[0], f"{sized[0].filled.jobs:,} jobs")
    for one, milliseconds in zip(sized, medians, strict=True):
        is_smallest = one is sized[0]
        yield Figure(
            f"{name}, {one.filled.jobs:,} jobs",
            milliseconds,
            "ms",
            None if is_smallest else smallest,
            None if is_smallest else ratio_at_most(RATIO_MAX),
        )


async def _medians(
    sized: list[Sized],
    rounds: int,
    ask: Callable[[Sized], Awaitable[object]],
    restore: Callable[[Sized, object], Awaitable[None]] | None,
) -> list[float]:
    found: list[list[float]] = [[] for _ in sized]
    for one in sized:
        one.fairlog.log_watcher.start()  # for claims that wait
    for _ in range(rounds):
        for one, milliseconds in zip(sized, found, strict=True):
            started = time.perf_counter()
            answer = await ask(one)
            milliseconds.append((time.perf_counter() - started) * 1000)
            if restore is not None:
                await restore(one, answer)
    for one in sized:
        await one.fairlog.log_watcher.close()
    return list(map(median, found))
