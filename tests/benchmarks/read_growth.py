"""Questions at 1 thousand, 100 thousand and 1 million waiting jobs, as in `claim_growth`.

The service is asked in this process, where HTTP would hide some of the growth; lists have 100
entries. "heavy" is the user who owns half of all jobs, "light" one with about five. The sizes are
asked in turn; medians.
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from adapters.log.audit_log import EventFilter
from domain.jobs.job import State
from domain.language.identifiers import UserId
from tests.benchmarks.figures import Figure
from tests.benchmarks.growth import Sized, compared, sizes
from tests.benchmarks.history import HEAVY
from tests.benchmarks.site import Site

ENTRIES: Final = 100


def run(site: Site) -> Iterator[Figure]:
    with sizes(site) as sized:
        for name, ask in QUESTIONS.items():
            yield from compared(name, sized, 20 if site.quick else 200, ask)


async def _job(one: Sized) -> object:
    return await one.fairlog.job(one.job(random.random()))


async def _heavy_jobs(one: Sized) -> object:
    return await one.fairlog.newest_jobs(HEAVY, None, None, ENTRIES)


async def _heavy_jobs_deep(one: Sized) -> object:
    """A page from the middle."""
    return await one.fairlog.newest_jobs(HEAVY, None, one.job(0.5), ENTRIES)


async def _light_jobs(one: Sized) -> object:
    return await one.fairlog.newest_jobs(_light_user(one), None, None, ENTRIES)


async def _queued_jobs(one: Sized) -> object:
    return await one.fairlog.newest_jobs(None, State.QUEUED, None, ENTRIES)


async def _audit_by_job(one: Sized) -> object:
    return await one.fairlog.history(one.job(random.random()), 0, ENTRIES)


async def _audit_by_heavy_user(one: Sized) -> object:
    return await one.fairlog.events(EventFilter(user_id=HEAVY), 0, ENTRIES)


async def _audit_by_light_user(one: Sized) -> object:
    return await one.fairlog.events(EventFilter(user_id=_light_user(one)), 0, ENTRIES)


async def _stats(one: Sized) -> object:
    return await one.fairlog.stats()


def _light_user(one: Sized) -> UserId:
    return UserId(f"user-{random.randrange(1, one.filled.users)}")


QUESTIONS: Final[Mapping[str, Callable[[Sized], Awaitable[object]]]] = {
    "job by id": _job,
    "heavy user's jobs": _heavy_jobs,
    "heavy user's jobs, middle page": _heavy_jobs_deep,
    "light user's jobs": _light_jobs,
    "queued jobs": _queued_jobs,
    "audit by job": _audit_by_job,
    "audit by heavy user": _audit_by_heavy_user,
    "audit by light user": _audit_by_light_user,
    "stats": _stats,
}
