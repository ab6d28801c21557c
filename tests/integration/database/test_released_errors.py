"""An error holds the frames that it left: once it has been answered, nothing of it may be left.

The garbage collector is off meanwhile, since it comes seldom to a process that serves: what only it
would find counts as kept.
"""

import asyncio
import contextlib
import gc
import tracemalloc
import weakref
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

from adapters.settings import Settings
from adapters.writer.command_queue import CommandQueue
from adapters.writer.writer_process import WriterProcess
from domain.jobs.job import State
from domain.language.commands import CompleteJob, SubmitJob
from domain.language.errors import FairlogError, JobHasNotEnded, LogUnavailable, Refusal
from domain.language.identifiers import JobId, ServerId
from entrypoints.composition import compose, compose_server, prepare
from entrypoints.dashboard.shared_answers import SharedAnswers
from entrypoints.service.fairlog import Fairlog
from entrypoints.worker.embedded import EmbeddedSource
from fairlog_client.handlers.loading import Handler
from fairlog_client.worker.runner import LocalExecutor
from fairlog_client.worker.worker import Worker
from tests.support.clock import LONGEST_WINDOW, NOON, ManualClock
from tests.support.server import AppServer, exchange
from tests.support.stories import ALICE, BOB, ECHO, WORKER, body
from tests.support.waiting import wait_until

TIMES = 12
BYTES = 300_000
BYTES_KEPT_MAX = 3 * BYTES  # of TIMES as much that was asked
Wire = Callable[[Settings], Fairlog]
in_both_processes = pytest.mark.parametrize(
    "wire", [compose, partial(compose_server, logs_json=False)], ids=["thread", "process"]
)


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Neither an error of ours nor what it was about."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        known = {id(one) for one in errors()}
        before, _ = tracemalloc.get_traced_memory()
        yield

        def is_let_go() -> bool:
            after, _ = tracemalloc.get_traced_memory()
            return after - before < BYTES_KEPT_MAX and {id(one) for one in errors()} <= known

        wait_until(is_let_go, "nothing is kept")  # the writer's thread may be a little behind
    finally:
        tracemalloc.stop()
        gc.enable()


def errors() -> list[Exception]:
    return [one for one in gc.get_objects() if isinstance(one, FairlogError)]


@contextlib.contextmanager
def running(wire: Wire, database_url: str, **settings: Any) -> Iterator[Fairlog]:
    fairlog = wire(Settings(database_url=database_url, **settings))
    try:
        prepare(fairlog)
        fairlog.writer.start()
        yield fairlog
    finally:
        fairlog.close()


def large(number: int, key: str | None = None, user: Any = ALICE) -> SubmitJob:
    return SubmitJob(
        user_id=user, kind=ECHO, payload=body("x" * BYTES + str(number)), idempotency_key=key
    )


async def refused(work: Awaitable[object]) -> None:
    with contextlib.suppress(FairlogError):
        await work
        pytest.fail("it was accepted")


def asked(fairlog: Fairlog, first: Awaitable[object], ask: Callable[[int], Any]) -> None:
    async def ask_all() -> None:
        await first
        await refused(ask(0))
        with nothing_kept():
            for number in range(1, TIMES):
                await refused(ask(number))
            await asyncio.sleep(0.0)  # the loop still has what woke this task
        if isinstance(fairlog.writer, WriterProcess) and fairlog.writer._transport:
            fairlog.writer._transport.abort()
            await asyncio.sleep(0.0)

    asyncio.run(ask_all())


@in_both_processes
def test_of_a_refusal_by_the_log(database_url: str, wire: Wire) -> None:
    with running(wire, database_url) as fairlog:
        asked(
            fairlog,
            fairlog.submit(large(0, "key")),
            lambda number: fairlog.submit(large(number + 1, "key")),
        )


@in_both_processes
def test_of_a_refusal_at_the_door(database_url: str, wire: Wire) -> None:
    with running(wire, database_url, user_limit=1, window_seconds=LONGEST_WINDOW) as fairlog:
        asked(
            fairlog,
            fairlog.submit(large(0)),
            lambda number: fairlog.submit(large(number + 1)),
        )


@in_both_processes
def test_of_refusals_in_a_batch(database_url: str, wire: Wire) -> None:
    async def ask(fairlog: Fairlog, number: int) -> None:
        [late, taken] = await fairlog.advance_all(
            [
                CompleteJob(job_id=JobId(2), attempt=7, result=large(number).payload),
                JobHasNotEnded(JobId(2), "queued"),
            ]
        )
        assert isinstance(late, Refusal)
        assert isinstance(taken, JobHasNotEnded)
        [(outcome)] = await fairlog.submit_all([large(number + 1, "key")])
        assert isinstance(outcome, Refusal)
        del late, taken, outcome
        raise FairlogError("As the others.")

    with running(wire, database_url) as fairlog:
        asked(fairlog, fairlog.submit(large(0, "key")), partial(ask, fairlog))


def test_of_a_queue_that_is_full(database_url: str) -> None:
    async def nothing() -> None: ...

    queue = CommandQueue(commands_max=0, submissions_max=0)
    with running(partial(compose, queue=queue), database_url) as fairlog:
        asked(fairlog, nothing(), lambda number: fairlog.submit(large(number)))


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_of_refusals_over_http(database_url: str) -> None:
    with AppServer(database_url, Settings(window_seconds=86_400), ManualClock(NOON)) as server:
        assert server.client.put(f"/v1/limits/{ALICE}", json={"limit": 1}).is_success

        def post(path: str, number: int, body_name: str = "payload", **fields: Any) -> int:
            """Fail as httpx does, which keeps what it sends."""
            content = msgspec.json.encode(fields | {body_name: "x" * BYTES + str(number)})
            head = f"POST {path} HTTP/1.1\r\nHost: localhost:{server.port}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
            return exchange(server.port, head.encode() + content).status_code

        def ask_all(number: int) -> list[int]:
            return [
                post("/v1/jobs", number, user_id=ALICE, kind=ECHO),
                post("/v1/jobs", number, user_id=BOB, kind=ECHO, idempotency_key="key"),
                post("/v1/jobs/1000/complete", number, "result", attempt=1),
                post("/v1/jobs/batch", number, jobs=[{"user_id": BOB}]),
            ]

        ask_all(0)
        assert ask_all(1) == [429, 422, 404, 400]
        with nothing_kept():
            for number in range(2, TIMES):
                ask_all(number)


class Held:
    """Data that a handler held."""


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("how", ["thread", "loop", "future"])
def test_of_a_handler_that_fails(database_url: str, how: str) -> None:
    held: weakref.WeakSet[Held] = weakref.WeakSet()

    def fails(_: object) -> None:
        mine = Held()
        held.add(mine)
        raise ValueError("It failed.")

    async def fails_on_the_loop(payload: object) -> None:
        fails(payload)

    def fails_in_a_future(payload: object) -> "asyncio.Task[None]":
        return asyncio.ensure_future(fails_on_the_loop(payload))

    function, is_async = {
        "thread": (fails, False),
        "loop": (fails_on_the_loop, True),
        "future": (fails_in_a_future, True),
    }[how]
    handlers = {"echo": Handler(kind=ECHO, function=function, is_async=is_async, wants_job=False)}

    async def run_all(fairlog: Fairlog) -> None:
        fairlog.log_watcher.start()
        source = EmbeddedSource(fairlog, WORKER, ServerId("here"))
        worker = Worker(source, LocalExecutor(handlers), 2)
        worker.start()
        for number in range(TIMES):
            await fairlog.submit(
                SubmitJob(user_id=ALICE, kind=ECHO, payload=body(number), max_attempts=1)
            )
        async with asyncio.timeout(60):
            while (await fairlog.stats()).jobs[State.FAILED] < TIMES:  # noqa: ASYNC110 (in the database)
                await asyncio.sleep(0.01)
        assert len(held) == 0
        await worker.stop(0.0)
        await fairlog.log_watcher.close()

    with running(compose, database_url) as fairlog:
        gc.collect()
        gc.disable()
        try:
            asyncio.run(run_all(fairlog))
        finally:
            gc.enable()


def test_of_an_answer_that_is_shared() -> None:
    held: weakref.WeakSet[Held] = weakref.WeakSet()

    async def make() -> Any:
        mine = Held()
        held.add(mine)
        raise LogUnavailable("The database does not answer.")

    async def ask_all() -> None:
        shared: SharedAnswers[str] = SharedAnswers(lambda: 0)
        for number in range(TIMES):
            await refused(shared.get(f"/{number}", 0, make))
        await asyncio.sleep(0)
        assert len(held) == 0

    gc.collect()
    gc.disable()
    try:
        asyncio.run(ask_all())
    finally:
        gc.enable()
