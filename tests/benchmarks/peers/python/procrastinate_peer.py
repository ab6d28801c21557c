"""`python procrastinate_peer.py prepare|submit|work URL JOBS JOBS_PER_BATCH CONCURRENCY`."""

import asyncio
import json
import logging
import sys
import time

from procrastinate import App, PsycopgConnector

ROLE, URL = sys.argv[1:3]
JOBS, JOBS_PER_BATCH, CONCURRENCY = map(int, sys.argv[3:6])

logging.getLogger("procrastinate").setLevel(logging.ERROR)
app = App(connector=PsycopgConnector(conninfo=URL))
done = 0
all_done = asyncio.Event()


@app.task(name="noop")
async def noop(image: str, width: int) -> None:  # noqa: ARG001 (the payload)
    global done  # noqa: PLW0603 (a task is a function of its module)
    done += 1
    if done == JOBS:
        all_done.set()


async def prepare() -> None:
    await app.schema_manager.apply_schema_async()


async def submit() -> None:
    for first in range(0, JOBS, JOBS_PER_BATCH):
        numbers = range(first, min(JOBS, first + JOBS_PER_BATCH))
        await noop.batch_defer_async(*[{"image": str(one), "width": 640} for one in numbers])


async def work() -> None:
    worker = asyncio.create_task(
        app.run_worker_async(
            concurrency=CONCURRENCY,
            fetch_job_polling_interval=0.02,
            install_signal_handlers=False,
            listen_notify=True,
            delete_jobs="successful",
        )
    )
    await all_done.wait()
    worker.cancel()  # it ends when the last outcomes are written
    await asyncio.gather(worker, return_exceptions=True)


async def main() -> None:
    started = time.time()
    async with app.open_async():
        await {"prepare": prepare, "submit": submit, "work": work}[ROLE]()
        ended = time.time()
    print(json.dumps({"started": started * 1000, "ended": ended * 1000}))


asyncio.run(main())
