"""The Litestar application, and what lives as long as it does."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from adapters.handlers import Handlers
from domain.errors import FairlogError
from domain.identifiers import ServerId
from entrypoints.http.audit import audit
from entrypoints.http.claims import ClaimController, OutcomeController
from entrypoints.http.jobs import JobController
from entrypoints.http.limits import LimitController
from entrypoints.http.operations import livez, readyz, stats
from entrypoints.http.original import OriginalController
from entrypoints.http.problems import answer_error
from entrypoints.service import Fairlog
from entrypoints.worker.embedded import EmbeddedWorker

CLOCK_SECONDS = 0.5  # between two looks at what the clock alone changes
GRACE_SECONDS = 8.0  # for jobs in hand when the server stops

_log = structlog.get_logger()


def create_app(
    fairlog: Fairlog, *, server_id: ServerId, workers: int, handlers: Handlers
) -> Litestar:
    """The app of one server process. Its start opens nothing that `fairlog` has not opened."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        fairlog.work.start()
        clock = asyncio.create_task(_keep_time(fairlog.wake_due_jobs), name="clock")
        worker = EmbeddedWorker(fairlog, handlers, workers, server_id) if workers else None
        if worker is not None:
            worker.start()
        try:
            yield
        finally:
            clock.cancel()
            if worker is not None:
                await worker.stop(GRACE_SECONDS)
            await fairlog.work.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await clock

    return Litestar(
        route_handlers=[
            JobController, OutcomeController, ClaimController, LimitController,
            OriginalController, audit, livez, readyz, stats,
        ],
        dependencies={"fairlog": Provide(lambda: fairlog, sync_to_thread=False)},
        exception_handlers={Exception: answer_error},
        lifespan=[lifespan],
        openapi_config=OpenAPIConfig(
            title="Fairlog", version="1",
            render_plugins=[JsonRenderPlugin(path="/")],  # the pages would load scripts from a CDN
        ),
        logging_config=None,
    )  # fmt: skip


async def _keep_time(wake: Callable[[], Awaitable[int]]) -> None:
    """Look a little irregularly, so that servers do not all look at once."""
    while True:
        await asyncio.sleep(CLOCK_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
        try:
            await wake()
        except FairlogError as error:
            _log.warning("clock_missed", reason=str(error))
