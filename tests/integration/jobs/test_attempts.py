"""The beginning and end of attempts at a real worker, inside its server and over HTTP."""

import asyncio
from typing import Any

import msgspec
import pytest

from adapters.settings import Settings
from domain.jobs.job import Job, State
from domain.language.commands import CancelJob, ChangeLimit
from domain.language.events import Scope
from domain.language.identifiers import UserId
from entrypoints.composition import compose
from fairlog_client.handlers.loading import JobContext
from fairlog_client.worker.worker import Worker
from tests.integration.workers.test_worker import (
    ended,
    eventually,
    handlers,
    history,
    in_both_places,
    submit,
    working,
)

ADA = UserId("ada")
# Heartbeats are 20 s apart: what is heard before a test's deadline, none of them has brought.
LONG_LEASE = Settings(lease_seconds=60)


@in_both_places
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "through_another_process"])
@pytest.mark.anyio
async def test_a_cancelled_job_is_told_at_once_and_holds_its_place_until_its_handler_has_ended(
    place: Any, database_url: str, *, elsewhere: bool
) -> None:
    steps: list[str] = []

    async def on_the_loop(payload: str) -> None:
        steps.append(f"{payload} begins")
        if payload == "second":
            return
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.6)  # longer than another server takes to look
            steps.append(f"{payload} ends")

    async with place(database_url, LONG_LEASE) as (fairlog, source):
        await fairlog.change_limit(ChangeLimit(scope=Scope.USER, user_id=ADA, running=1))
        async with working(Worker(source("w"), handlers(on_the_loop), 2)):
            first = await submit(fairlog, "on_the_loop", "first")
            second = await submit(fairlog, "on_the_loop", "second")

            async def has_begun() -> bool:
                return bool(steps)

            await eventually(has_begun)
            other = compose(msgspec.structs.replace(LONG_LEASE, database_url=database_url))
            other.writer.start()
            try:
                through = other if elsewhere else fairlog
                [job] = await through.advance_all([CancelJob(job_id=first)])
            finally:
                other.close()
            assert isinstance(job, Job)
            assert job.state is State.CANCELLED
            assert (await ended(fairlog, second)).state is State.DONE
            assert steps == ["first begins", "first ends", "second begins"]
            assert (await history(fairlog, first))[-2:] == ["JobCancelled", "AttemptEnded"]


@in_both_places
@pytest.mark.anyio
async def test_a_thread_that_is_cancelled_sees_it_at_once(place: Any, database_url: str) -> None:
    seen: list[bool] = []

    def in_a_thread(_: Any, job: JobContext) -> None:
        seen.append(False)
        while not job.cancelled:
            job.cancellation.wait(0.1)
        seen.append(True)

    async with (
        place(database_url, LONG_LEASE) as (fairlog, source),
        working(Worker(source("w"), handlers(in_a_thread), 1)),
    ):
        job = await submit(fairlog, "in_a_thread")

        async def has_begun() -> bool:
            return bool(seen)

        async def has_seen() -> bool:
            return seen[-1]

        await eventually(has_begun)
        await fairlog.advance_all([CancelJob(job_id=job)])
        await eventually(has_seen)


@in_both_places
@pytest.mark.anyio
async def test_no_job_times_out_while_it_waits_for_a_slot_of_the_worker_that_claimed_it(
    place: Any, database_url: str
) -> None:
    async def rest(payload: float) -> None:
        await asyncio.sleep(payload)

    async with place(database_url, Settings(lease_seconds=3)) as (fairlog, source):
        jobs = [await submit(fairlog, "rest", 0.5 + n / 100, timeout_seconds=1.5) for n in range(6)]
        worker = Worker(source("w"), handlers(rest), 1, prefetch=5)
        async with working(worker):

            async def have_ended_while_the_clock_acts() -> bool:
                await fairlog.enforce_deadlines()
                views = [await fairlog.job(job_id) for job_id in jobs]
                return all(view.finished_at is not None for view in views)

            await eventually(have_ended_while_the_clock_acts)
        for job_id in jobs:
            view = await fairlog.job(job_id)
            assert (view.state, view.attempt, view.failures) == (State.DONE, 1, 0)
            assert view.starts == 1
        assert "AttemptBegun" in await history(fairlog, jobs[-1])
