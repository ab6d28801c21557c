"""A claim of 100 jobs, durable, with 1 thousand, 100 thousand and 1 million jobs waiting.

On MariaDB. There are a tenth as many users as jobs, and one of them owns half. The service is asked
in this process, through its writer and with the payloads read, as `POST /v1/claims` does; the jobs
are then given back, so that as many wait for the next claim. The sizes are asked in turn; medians.

Then the same with all users on plans: a tenth of them are held by a throttle, the jobs use a
hundredth as many resources (1,000 for 100,000 users), and a tenth of these are paused.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from domain.language.commands import ClaimJobs, ReturnJob
from domain.language.identifiers import WorkerId
from entrypoints.service.views import ClaimedJob
from tests.benchmarks.figures import Figure
from tests.benchmarks.growth import Sized, compared, sizes
from tests.benchmarks.site import Site

JOBS_PER_CLAIM: Final = 100


def run(site: Site) -> Iterator[Figure]:
    with sizes(site) as sized:
        yield from compared(
            f"claim {JOBS_PER_CLAIM} jobs", sized, 5 if site.quick else 40, _claim, _give_back
        )
    with sizes(site, has_limits=True) as sized:
        yield from compared(
            f"claim {JOBS_PER_CLAIM} jobs of users on plans",
            sized,
            5 if site.quick else 40,
            _claim,
            _give_back,
        )


async def _claim(one: Sized) -> Sequence[ClaimedJob]:
    claimed = await one.fairlog.claim(ClaimJobs(worker=WorkerId("bench"), max_jobs=JOBS_PER_CLAIM))
    if len(claimed) != JOBS_PER_CLAIM:
        raise RuntimeError(f"{len(claimed)} jobs were claimed, not {JOBS_PER_CLAIM}")
    return claimed


async def _give_back(one: Sized, claimed: object) -> None:
    assert isinstance(claimed, list)
    outcomes = await one.fairlog.advance_all(
        [ReturnJob(job_id=job.id, attempt=job.attempt) for job in claimed]
    )
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
