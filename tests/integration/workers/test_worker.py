"""The worker runtime on the real service, inside its process and over HTTP."""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx
import msgspec
import pytest

from adapters.log.audit_log import EventFilter
from adapters.settings import Settings
from domain.jobs.job import State
from domain.language.bodies import BODY_BYTES_MAX, body_of
from domain.language.commands import CancelJob, SubmitJob
from domain.language.identifiers import JobId, Kind, ServerId, UserId, WorkerId
from entrypoints.composition import compose
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.views import JobView
from entrypoints.worker.embedded import EmbeddedSource
from fairlog_client import RetryLater
from fairlog_client.handlers.loading import Handler, JobContext
from fairlog_client.worker.http_source import RemoteSource, client_of
from fairlog_client.worker.job_source import JobSource
from fairlog_client.worker.runner import LocalExecutor
from fairlog_client.worker.worker import Worker
from tests.support.prepared import prepare
from tests.support.server import AppServer

DEADLINE_SECONDS = 20.0

Sources = Callable[[str], JobSource]  # by the worker's name
Service = tuple[Fairlog, Sources]


def handlers(*functions: Callable[..., Any], **by_kind: Callable[..., Any]) -> LocalExecutor:
    """Handlers by the kinds that they are called or given."""
    named = {function.__name__: function for function in functions} | by_kind
    return LocalExecutor(
        {
            kind: Handler(
                kind=kind,
                function=function,
                is_async=inspect.iscoroutinefunction(function),
                wants_job="job" in inspect.signature(function).parameters,
                final_exceptions=getattr(function, "final_exceptions", ()),
            )
            for kind, function in named.items()
        }
    )


@contextlib.asynccontextmanager
async def embedded(database_url: str, settings: Settings) -> AsyncIterator[Service]:
    fairlog = compose(msgspec.structs.replace(settings, database_url=database_url))
    prepare(fairlog)
    fairlog.writer.start()
    fairlog.log_watcher.start()
    try:
        yield fairlog, lambda name: EmbeddedSource(fairlog, WorkerId(name), ServerId("here"))
    finally:
        await fairlog.log_watcher.close()
        fairlog.close()


@contextlib.asynccontextmanager
async def over_http(database_url: str, settings: Settings) -> AsyncIterator[Service]:
    with AppServer(database_url, settings) as server:
        async with client_of(httpx.URL(server.url)) as client:
            yield server.fairlog, lambda name: RemoteSource(client, WorkerId(name))


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    worker.start()
    try:
        yield worker
    finally:
        await worker.stop(grace_seconds=0.0)


in_both_places = pytest.mark.parametrize(
    "place",
    [
        pytest.param(embedded, id="embedded", marks=pytest.mark.one_database),
        pytest.param(over_http, id="over_http"),
    ],
)


async def submit(fairlog: Fairlog, kind: str, payload: Any = None, **more: Any) -> JobId:
    command = SubmitJob(
        user_id=UserId("ada"), kind=Kind(kind), payload=body_of(payload, "payload"), **more
    )
    _, view = await fairlog.submit(command)
    return view.id


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():  # noqa: ASYNC110 (the condition is in the database)
            await asyncio.sleep(0.01)


async def ended(fairlog: Fairlog, job_id: JobId) -> JobView:
    async def has_ended() -> bool:
        return (await fairlog.job(job_id)).finished_at is not None

    await eventually(has_ended)
    return await fairlog.job(job_id)


async def history(fairlog: Fairlog, job_id: JobId) -> list[str]:
    page = await fairlog.history(job_id, 0, 100)
    return [event.type for event in page.events]


async def error_of(fairlog: Fairlog, job_id: JobId) -> dict[str, str]:
    job = await ended(fairlog, job_id)
    assert job.state is State.FAILED
    error = msgspec.json.decode(msgspec.json.encode(job))["error"]
    assert isinstance(error, dict)
    return error


@in_both_places
@pytest.mark.anyio
async def test_async_and_other_handlers_run_and_their_results_are_recorded(
    place: Any, database_url: str
) -> None:
    async def on_the_loop(payload: Any) -> Any:
        await asyncio.sleep(0)
        return payload

    def in_a_thread(payload: Any, job: JobContext) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return {"payload": payload, "job": [job.id, job.user, job.kind, job.attempt]}

    def awaited_later(payload: Any) -> Any:
        return on_the_loop(payload)

    def nothing(_: Any) -> None:
        pass

    async with place(database_url, Settings()) as (fairlog, source):
        payload = {"text": "a\u202eb \x00 🎉", "big": 10**30, "list": [None, 1.5, True]}
        worker = Worker(source("w"), handlers(on_the_loop, in_a_thread, awaited_later, nothing), 3)
        async with working(worker):
            first = await submit(fairlog, "on_the_loop", payload)
            second = await submit(fairlog, "in_a_thread", payload)
            third = await submit(fairlog, "awaited_later", payload)
            fourth = await submit(fairlog, "nothing", payload)
            results = [
                msgspec.json.decode(msgspec.json.encode(await ended(fairlog, job_id)))["result"]
                for job_id in (first, second, third, fourth)
            ]
        assert results == [
            payload,
            {"payload": payload, "job": [second, "ada", "in_a_thread", 1]},
            payload,
            None,
        ]
        for job_id in (first, second, third, fourth):
            assert (await history(fairlog, job_id))[-2:] == ["JobStarted", "JobCompleted"]


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise SystemExit


RAISED: dict[str, tuple[Callable[[], BaseException], str, str]] = {
    "value": (lambda: ValueError("wrong \ud800 value"), "ValueError", "wrong \\ud800 value"),
    "long": (lambda: RuntimeError("x" * 20_000), "RuntimeError", "x" * 10_000),
    "exit": (lambda: SystemExit(3), "SystemExit", "3"),
    "interrupt": (KeyboardInterrupt, "KeyboardInterrupt", ""),
    "cancel": (lambda: asyncio.CancelledError("by itself"), "CancelledError", "by itself"),
    "unspeakable": (
        UnspeakableError,
        "UnspeakableError",
        "(the exception's message cannot",
    ),
    # Python turns one that leaves a coroutine into this; a thread's must not hang the worker.
    "stop": (lambda: StopIteration("here"), "RuntimeError", "coroutine raised StopIteration"),
}


@in_both_places
@pytest.mark.anyio
async def test_whatever_a_handler_raises_fails_the_attempt_and_the_worker_goes_on(
    place: Any, database_url: str
) -> None:
    async def on_the_loop(payload: str) -> None:
        make, _, _ = RAISED[payload]
        raise make()

    def in_a_thread(payload: str) -> None:
        make, _, _ = RAISED[payload]
        raise make()

    async def fine(_: Any) -> str:
        return "fine"

    async with (
        place(database_url, Settings(max_attempts=1)) as (fairlog, source),
        working(Worker(source("w"), handlers(on_the_loop, in_a_thread, fine), 2)),
    ):
        jobs = [
            (await submit(fairlog, kind, name), kind, *RAISED[name][1:])
            for name in RAISED
            for kind in ("on_the_loop", "in_a_thread")
        ]
        for job_id, kind, type_name, message in jobs:
            error = await error_of(fairlog, job_id)
            assert error["type"] == type_name
            assert error["message"].startswith(message)
            assert len(error["message"]) <= 10_000
            assert len(error["traceback"]) <= 20_000
            assert f"in {kind}\n" in error["traceback"]
            assert "fairlog_client/worker" not in error["traceback"] or type_name == "RuntimeError"
        fine_job = await ended(fairlog, await submit(fairlog, "fine"))
        assert fine_job.state is State.DONE


@pytest.mark.anyio
async def test_an_exception_that_wants_no_retry_ends_the_job_for_good(database_url: str) -> None:
    class GivingUp(Exception):
        retry = False

    def hopeless(_: Any) -> None:
        raise GivingUp

    async with (
        embedded(database_url, Settings(max_attempts=5)) as (fairlog, source),
        working(Worker(source("w"), handlers(hopeless), 1)),
    ):
        job_id = await submit(fairlog, "hopeless")
        assert (await error_of(fairlog, job_id))["type"] == "GivingUp"
        assert (await fairlog.job(job_id)).attempt == 1


@pytest.mark.anyio
async def test_an_exception_that_is_listed_as_final_ends_the_job_for_good(
    database_url: str,
) -> None:
    def picky(payload: str) -> None:
        raise {"final": FileNotFoundError, "other": PermissionError}[payload]

    picky.final_exceptions = (KeyError, FileNotFoundError)  # type: ignore[attr-defined]  # as documented
    async with (
        embedded(database_url, Settings(max_attempts=2)) as (fairlog, source),
        working(Worker(source("w"), handlers(picky), 1)),
    ):
        final = await submit(fairlog, "picky", "final")
        assert (await error_of(fairlog, final))["type"] == "FileNotFoundError"
        assert (await fairlog.job(final)).attempt == 1
        other = await submit(fairlog, "picky", "other")
        await eventually(lambda: has_failed_once(fairlog, other))
        assert (await fairlog.job(other)).state is not State.FAILED


async def has_failed_once(fairlog: Fairlog, job_id: JobId) -> bool:
    return (await fairlog.job(job_id)).failures == 1


@in_both_places
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(3000, 3000), (0.5, 0.5), (-1, None), (True, None), ("60", None), (float("nan"), None)],
    ids=str,
)
async def test_an_exception_may_say_when_to_try_again(
    place: Any, database_url: str, asked: object, seconds: float | None
) -> None:
    class Later(Exception):
        retry_in_seconds = asked

    def busy(_: Any) -> None:
        raise Later

    async with (
        place(database_url, Settings()) as (fairlog, source),
        working(Worker(source("w"), handlers(busy), 1)),
    ):
        job_id = await submit(fairlog, "busy")
        await eventually(lambda: has_failed_once(fairlog, job_id))
        page = await fairlog.history(job_id, 0, 100)
        failed = next(event for event in page.events if event.type == "JobFailed")
        retry_at = msgspec.json.decode(failed.data, type=dict[str, Any])["retry_at"]
        delay = (datetime.fromisoformat(retry_at) - failed.recorded_at).total_seconds()
        assert delay == seconds if seconds is not None else 0.4 < delay < 1.1


@pytest.mark.anyio
async def test_a_handler_may_raise_when_to_try_again(database_url: str) -> None:
    def busy(_: Any) -> None:
        raise RetryLater(after=60, message="429 Too Many Requests")

    async with (
        embedded(database_url, Settings()) as (fairlog, source),
        working(Worker(source("w"), handlers(busy), 1)),
    ):
        job_id = await submit(fairlog, "busy")
        await eventually(lambda: has_failed_once(fairlog, job_id))
        failure = (await fairlog.job(job_id)).failure
        assert failure is not None
        assert (failure.type, failure.message) == ("RetryLater", "429 Too Many Requests")
        page = await fairlog.history(job_id, 0, 100)
        failed = next(event for event in page.events if event.type == "JobFailed")
        assert msgspec.json.decode(failed.data)["retry_in_seconds"] == 60


@in_both_places
@pytest.mark.anyio
async def test_a_result_that_json_cannot_hold_fails_the_job_at_once_and_says_where(
    place: Any, database_url: str
) -> None:
    deep: list[Any] = []
    for _ in range(40):
        deep = [deep]
    results: dict[str, tuple[Any, str]] = {
        "nan": ({"loss": float("nan")}, "result.loss is NaN, which JSON cannot hold."),
        "decimal": (
            [Decimal("NaN")],
            "result[0] is of type Decimal",
        ),
        "set": ({"ids": {1}}, "result.ids is of type set"),
        "object": (object(), "result is of type object, which JSON cannot hold as it is"),
        "surrogate": ({"a": ["x", "\ud800"]}, "result.a[1] has a lone surrogate, which"),
        "surrogate key": ([{"\udc80": 1}], "result[0] has a key with a lone surrogate"),
        "deep": (deep, "nested more than 32 deep"),
        "large": ("x" * BODY_BYTES_MAX, f"at most {BODY_BYTES_MAX}"),
    }

    def give(payload: str) -> Any:
        return results[payload][0]

    async with (
        place(database_url, Settings(max_attempts=3)) as (fairlog, source),
        working(Worker(source("w"), handlers(give), 2)),
    ):
        for name, (_, words) in results.items():
            job_id = await submit(fairlog, "give", name)
            error = await error_of(fairlog, job_id)
            assert error["type"] == "ValueError"
            assert words in error["message"]
            assert (await fairlog.job(job_id)).attempt == 1


@pytest.mark.anyio
async def test_a_worker_claims_only_kinds_that_it_has_handlers_for(database_url: str) -> None:
    async def known(_: Any) -> None:
        pass

    async with (
        embedded(database_url, Settings()) as (fairlog, source),
        working(Worker(source("w"), handlers(known), 2)),
    ):
        other = await submit(fairlog, "other")
        assert (await ended(fairlog, await submit(fairlog, "known"))).state is State.DONE
        assert (await fairlog.job(other)).state is State.QUEUED


@in_both_places
@pytest.mark.anyio
async def test_a_cancelled_job_is_told_at_the_next_heartbeat_and_reports_nothing(
    place: Any, database_url: str
) -> None:
    told: list[str] = []
    started: list[str] = []

    async def on_the_loop(_: Any) -> None:
        started.append("loop")
        try:
            await asyncio.sleep(60)
        finally:
            told.append("loop")

    def in_a_thread(_: Any, job: JobContext) -> str:
        started.append("thread")
        assert job.cancellation.wait(60)
        assert job.cancelled
        told.append("thread")
        return "too late"

    async def all_started() -> bool:
        return len(started) == 2

    async def all_told() -> bool:
        return len(told) == 2

    async with (
        place(database_url, Settings(lease_seconds=1)) as (fairlog, source),
        working(Worker(source("w"), handlers(on_the_loop, in_a_thread), 2)),
    ):
        jobs = [await submit(fairlog, "on_the_loop"), await submit(fairlog, "in_a_thread")]
        await eventually(all_started)
        await fairlog.advance_all([CancelJob(job_id=job_id) for job_id in jobs])
        await eventually(all_told)
        for job_id in jobs:

            async def has_ended(job_id: JobId = job_id) -> bool:
                return (await history(fairlog, job_id))[-1] == "AttemptEnded"

            await eventually(has_ended)
            told_of = (await history(fairlog, job_id))[-3:]
            assert told_of == ["JobStarted", "JobCancelled", "AttemptEnded"]


@pytest.mark.anyio
async def test_a_job_that_outlasts_its_lease_is_kept_by_heartbeats(database_url: str) -> None:
    async def long(_: Any) -> str:
        await asyncio.sleep(2.6)
        return "done"

    async with (
        embedded(database_url, Settings(lease_seconds=2)) as (fairlog, source),
        working(Worker(source("w"), handlers(long), 1)),
    ):
        job_id = await submit(fairlog, "long")

        async def is_done_while_the_clock_acts() -> bool:
            await fairlog.enforce_deadlines()
            return (await fairlog.job(job_id)).state is State.DONE

        await eventually(is_done_while_the_clock_acts)
        assert (await fairlog.job(job_id)).attempt == 1
        extended = await fairlog.events(EventFilter(types=["LeasesExtended"]), 0, 100)
        assert 1 <= len(extended.events) <= 3  # not every heartbeat is an event


@pytest.mark.anyio
async def test_a_handler_is_stopped_at_its_time_out_and_the_attempt_fails(
    database_url: str,
) -> None:
    async def on_the_loop(_: Any) -> None:
        await asyncio.sleep(60)

    def in_a_thread(_: Any, job: JobContext) -> str:
        assert job.cancellation.wait(60)
        return "part of it"

    async def own(_: Any) -> None:
        raise TimeoutError("of a connection")

    async with (
        embedded(database_url, Settings(max_attempts=1)) as (fairlog, source),
        working(Worker(source("w"), handlers(on_the_loop, in_a_thread, own), 2)),
    ):
        jobs = [
            await submit(fairlog, kind, timeout_seconds=0.2)
            for kind in ("on_the_loop", "in_a_thread")
        ]
        for job_id in jobs:
            error = await error_of(fairlog, job_id)
            assert error["type"] == "TimeoutError"
            assert "0.2 s" in error["message"]  # of the worker, or of the server if that was first
        error = await error_of(fairlog, await submit(fairlog, "own", timeout_seconds=30.0))
        assert error["message"] == "of a connection"


@in_both_places
@pytest.mark.anyio
async def test_a_stop_finishes_what_it_can_and_gives_back_the_rest(
    place: Any, database_url: str
) -> None:
    release = threading.Event()
    started: list[str] = []

    async def soon(_: Any) -> str:
        started.append("soon")
        await asyncio.sleep(0.2)
        return "in time"

    async def never(_: Any) -> None:
        started.append("never")
        await asyncio.sleep(60)

    def deaf(_: Any) -> None:  # looks at nothing, so that it outlasts the worker
        started.append("deaf")
        assert release.wait(60)

    async def quick(_: Any) -> str:
        return "by another worker"

    async def all_started() -> bool:
        return len(started) == 3

    async with place(database_url, Settings()) as (fairlog, source):
        worker = Worker(source("w"), handlers(soon, never, deaf), 3, prefetch=2)
        worker.start()
        soon_job, never_job, deaf_job = [
            await submit(fairlog, kind) for kind in ("soon", "never", "deaf")
        ]
        await eventually(all_started)
        ahead = [await submit(fairlog, "never", number) for number in range(2)]

        async def are_claimed_ahead() -> bool:
            return all([(await fairlog.job(one)).state is State.RUNNING for one in ahead])

        await eventually(are_claimed_ahead)
        await worker.stop(grace_seconds=0.5)
        done = await fairlog.job(soon_job)
        assert (done.state, msgspec.json.decode(done.result)) == (State.DONE, "in time")
        for job_id in (never_job, deaf_job, *ahead):
            assert (await fairlog.job(job_id)).state is State.QUEUED
            found = await history(fairlog, job_id)
            begun = {"AttemptBegun"}  # said of one that got the slot of the first
            assert [one for one in found if one not in begun][-2:] == [
                "JobStarted",
                "JobRequeued",
            ]
        release.set()
        async with working(Worker(source("other"), handlers(never=quick, deaf=quick), 2)):
            for job_id in (never_job, deaf_job, *ahead):
                assert (await ended(fairlog, job_id)).attempt == 2
        for job_id in (never_job, deaf_job, *ahead):
            assert (await history(fairlog, job_id)).count("JobCompleted") == 1


@in_both_places
@pytest.mark.anyio
async def test_jobs_claimed_ahead_by_a_worker_whose_handlers_turn_slow_are_run_by_another(
    place: Any, database_url: str
) -> None:
    release = asyncio.Event()

    async def quick(_: Any) -> None:
        """Return at once."""

    async def wait(_: Any) -> None:
        await release.wait()

    async with place(database_url, Settings()) as (fairlog, source):
        for number in range(100):
            await submit(fairlog, "quick", number)
        held_up = [await submit(fairlog, "slow", number) for number in range(8)]
        slow_worker = Worker(source("w"), handlers(quick=quick, slow=wait), 2, prefetch=None)
        async with working(slow_worker):

            async def two_have_begun() -> bool:
                stats = await fairlog.stats()
                return bool(stats.jobs[State.DONE] == 100 and stats.jobs[State.RUNNING] >= 2)

            await eventually(two_have_begun)
            async with working(Worker(source("other"), handlers(slow=quick), 8)):

                async def all_but_two_are_done() -> bool:
                    return bool((await fairlog.stats()).jobs[State.DONE] == 106)

                await eventually(all_but_two_are_done)
                release.set()
                for job_id in held_up:
                    assert (await ended(fairlog, job_id)).state is State.DONE
        for job_id in held_up:
            assert (await history(fairlog, job_id)).count("JobCompleted") == 1


@in_both_places
@pytest.mark.anyio
async def test_a_worker_that_stops_while_it_waits_for_work_leaves_no_job_running(
    place: Any, database_url: str
) -> None:
    async def quick(_: Any) -> str:
        return "done"

    async with place(database_url, Settings()) as (fairlog, source):
        for number in range(6):
            worker = Worker(source(f"w{number}"), handlers(quick), 1)
            worker.start()
            before = await submit(fairlog, "quick", [number, "before"])
            await ended(fairlog, before)  # so that it waits for the next
            meanwhile, _ = await asyncio.gather(
                submit(fairlog, "quick", [number, "meanwhile"]), worker.stop(grace_seconds=5.0)
            )
            after = await submit(fairlog, "quick", [number, "after"])
            assert (await fairlog.job(meanwhile)).state in {State.DONE, State.QUEUED}
            async with working(Worker(source(f"next{number}"), handlers(quick), 1)):
                for job_id in (meanwhile, after):
                    assert (await ended(fairlog, job_id)).state is State.DONE
            assert (await fairlog.job(after)).attempt == 1


@pytest.mark.anyio
async def test_a_job_that_gives_no_time_out_has_the_services(database_url: str) -> None:
    async def long(_: Any) -> None:
        await asyncio.sleep(60)

    async with (
        embedded(database_url, Settings(max_attempts=1, timeout_seconds=1)) as (
            fairlog,
            source,
        ),
        working(Worker(source("w"), handlers(long), 2)),
    ):
        without = await submit(fairlog, "long")
        own = await submit(fairlog, "long", "own", timeout_seconds=0.5)
        assert (await fairlog.job(without)).timeout_seconds == 1
        assert (await fairlog.job(own)).timeout_seconds == 0.5
        assert "longer than the job's 1 s" in (await error_of(fairlog, without))["message"]
