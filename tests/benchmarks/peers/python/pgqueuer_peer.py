"""`python pgqueuer_peer.py prepare|submit|work URL JOBS JOBS_PER_BATCH CONCURRENCY`."""

import asyncio
import json
import sys
import time
from datetime import timedelta

import asyncpg
from pgqueuer import AsyncpgPoolDriver, PgQueuer, Queries

ROLE, URL = sys.argv[1:3]
JOBS, JOBS_PER_BATCH, CONCURRENCY = map(int, sys.argv[3:6])


async def prepare(pool: asyncpg.Pool) -> None:
    await Queries(AsyncpgPoolDriver(pool)).install()


async def submit(pool: asyncpg.Pool) -> None:
    queries = Queries(AsyncpgPoolDriver(pool))
    for first in range(0, JOBS, JOBS_PER_BATCH):
        numbers = range(first, min(JOBS, first + JOBS_PER_BATCH))
        payloads = [b'{"image": "%d", "width": 640}' % number for number in numbers]
        await queries.enqueue(["noop"] * len(payloads), payloads, [0] * len(payloads))


async def work(pool: asyncpg.Pool) -> None:
    worker = PgQueuer(AsyncpgPoolDriver(pool))
    done = 0

    @worker.entrypoint("noop")
    async def noop(_job: object) -> None:
        nonlocal done
        done += 1
        if done == JOBS:
            worker.shutdown.set()  # `run` returns when the last outcomes are written

    await worker.run(
        batch_size=JOBS_PER_BATCH,
        dequeue_timeout=timedelta(milliseconds=20),
        max_concurrent_tasks=JOBS_PER_BATCH * 2,
    )


async def main() -> None:
    started = time.time()
    async with asyncpg.create_pool(URL, min_size=2, max_size=8) as pool:
        await {"prepare": prepare, "submit": submit, "work": work}[ROLE](pool)
        ended = time.time()
    print(json.dumps({"started": started * 1000, "ended": ended * 1000}))


asyncio.run(main())
