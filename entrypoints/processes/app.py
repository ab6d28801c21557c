"""The Litestar application, with the periodic tasks and the worker that run while it does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from litestar import Litestar, Request, Response
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig

from adapters.signing_key import SigningKey
from adapters.supervision import Trouble, repeat
from domain.language.errors import FairlogError
from domain.language.identifiers import ServerId
from entrypoints.dashboard.reference import reference_page
from entrypoints.dashboard.router import dashboard
from entrypoints.http.access import Guard
from entrypoints.http.audit import audit
from entrypoints.http.callbacks import CallbackController
from entrypoints.http.claims import ClaimController, OutcomeController
from entrypoints.http.edge import EdgeApp
from entrypoints.http.forwarding import TrustedProxies
from entrypoints.http.health import livez, readyz, stats
from entrypoints.http.jobs import JobController
from entrypoints.http.keys import KeyController
from entrypoints.http.legacy import LegacyController
from entrypoints.http.limits import LIMIT_CONTROLLERS
from entrypoints.http.metrics import ServerMetrics, metrics
from entrypoints.http.problems import answer_error
from entrypoints.http.query import check_query
from entrypoints.http.schedules import ScheduleController
from entrypoints.http.schema import SchemaPage, StructSchemas
from entrypoints.http.stream import EncodedEvents, stream
from entrypoints.http.strict_request import StrictRequest
from entrypoints.http.tiles import checkpoint, tile
from entrypoints.http.wrong_keys import REPORT_SECONDS as WRONG_KEYS_SECONDS
from entrypoints.http.wrong_keys import WrongKeys
from entrypoints.runtime.host_names import AcceptedHosts
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.job_log import WRITE_SECONDS, JobLog
from entrypoints.service.key_ring import REFRESH_SECONDS
from entrypoints.service.outbox_taking import OUTBOX_SECONDS
from entrypoints.service.sessions import FRESH_SECONDS
from entrypoints.service.submission_limiter import REPORT_SECONDS, WATCH_SECONDS
from entrypoints.service.worker_polls import SHARE_SECONDS
from entrypoints.use_cases.signed_checkpoints import SignedCheckpoints
from entrypoints.worker.deliveries import Deliverer
from entrypoints.worker.embedded import EmbeddedWorker
from entrypoints.worker.push_workers import REFRESH_SECONDS as PUSH_SECONDS
from entrypoints.worker.push_workers import PushOptions, PushWorkers
from fairlog_client.worker.handler_pool import HandlerPool

CLOCK_SECONDS = 0.5  # between two checks for due jobs
BODY_BYTES_MAX = 1024 * 1024  # of requests without a payload; a claim of a thousand kinds fits
GRACE_SECONDS = 8.0  # for running jobs when the server stops


def create_app(  # noqa: PLR0913 (the parts of one server)
    fairlog: Fairlog,
    *,
    server_id: ServerId,
    workers: int,
    executor: HandlerPool | None = None,
    hosts: AcceptedHosts,
    proxies: TrustedProxies,
    open_to_all: frozenset[str] = frozenset(),
    signing_key: SigningKey | None = None,
    push: PushOptions | None = None,
    deliverer: Deliverer | None = None,
) -> Litestar:
    """Create the app of one server process. It uses the database and the writer of `fairlog`.

    With an `executor`, a worker inside it runs up to `workers` jobs at once. `server_id` is the
    name under which recovery finds these jobs. `open_to_all`: see `open_routes`. `signing_key`
    signs checkpoints; None: there are none. `push`: it posts the jobs of kinds with endpoints.
    `deliverer`: it sends callbacks; None: this server sends none.
    """

    async def report_wrong_keys() -> None:
        if report := wrong_keys.take_report():
            await fairlog.writer.execute(report)

    async def share_polls() -> None:
        share = fairlog.worker_polls.share
        await asyncio.to_thread(share, fairlog.database, fairlog.log, server_id)

    @contextlib.asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await fairlog.writer.attach()
        fairlog.log_watcher.start()
        tasks = [
            _periodic(fairlog, "due_jobs", fairlog.watch_deadlines, CLOCK_SECONDS),
            _periodic(fairlog, "refusal_reports", fairlog.limiter.begin_report, REPORT_SECONDS),
            _periodic(fairlog, "job_log", job_log.write, WRITE_SECONDS),
            _periodic(fairlog, "keys", fairlog.key_ring.keep_current, REFRESH_SECONDS),
            _periodic(fairlog, "wrong_keys", report_wrong_keys, WRONG_KEYS_SECONDS),
            _periodic(fairlog, "sessions", fairlog.sessions.refresh, FRESH_SECONDS),
            _periodic(fairlog, "worker_polls", share_polls, SHARE_SECONDS),
            _periodic(fairlog, "limit_changes", fairlog.limiter.watch_limits, WATCH_SECONDS),
            _periodic(fairlog, "outbox", fairlog.outbox.take, OUTBOX_SECONDS),
        ]
        worker = EmbeddedWorker(fairlog, executor, workers, server_id) if executor else None
        if worker is not None:
            worker.start()
        pushing = PushWorkers(fairlog, push, server_id, GRACE_SECONDS) if push else None
        if pushing is not None:
            tasks.append(_periodic(fairlog, "push", pushing.refresh, PUSH_SECONDS))
        sender = None
        if deliverer is not None:
            sender = EmbeddedWorker(fairlog, deliverer, deliverer.slots, server_id, delivers=True)
            sender.start()
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            fairlog.release_listeners()
            running = [one.stop(GRACE_SECONDS) for one in (worker, sender) if one is not None]
            if pushing is not None:
                running.append(pushing.stop())
            await asyncio.gather(*running)
            await fairlog.log_watcher.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(FairlogError):  # the database does not answer
                await fairlog.limiter.report_all()
                await report_wrong_keys()

    job_log = JobLog(fairlog)
    if executor is not None:
        fairlog.handler_note = executor.note
        fairlog.supervisor.add_probe(partial(_handlers_trouble, executor))
    server_metrics = ServerMetrics(fairlog, executor)
    wrong_keys = WrongKeys()
    guard = Guard(fairlog.key_ring, fairlog.sessions, wrong_keys, open_to_all)
    signed = SignedCheckpoints(signing_key)
    is_public = "/checkpoint" in open_to_all
    encoded, structs = EncodedEvents(), StructSchemas()
    app = EdgeApp(
        route_handlers=[
            JobController,
            OutcomeController,
            ClaimController,
            *LIMIT_CONTROLLERS,
            ScheduleController,
            CallbackController,
            KeyController,
            LegacyController,
            audit,
            checkpoint,
            tile,
            livez,
            readyz,
            stats,
            metrics,
            stream,
            *dashboard(fairlog, wrong_keys),
        ],
        dependencies={
            "fairlog": Provide(lambda: fairlog, sync_to_thread=False),
            "server_metrics": Provide(lambda: server_metrics, sync_to_thread=False),
            "encoded": Provide(lambda: encoded, sync_to_thread=False),
            "signed_checkpoints": Provide(lambda: signed, sync_to_thread=False),
            "checkpoints_are_public": Provide(lambda: is_public, sync_to_thread=False),
        },
        guards=[guard],
        exception_handlers={Exception: answer_error},
        request_class=StrictRequest,
        before_request=_before_request,
        lifespan=[lifespan],
        openapi_config=OpenAPIConfig(
            title="Fairlog",
            version="1",
            description=(
                "An answer to a request that changes something means that it is on disk. Every "
                "read sees all that was answered before it, whichever server answered."
            ),
            use_handler_docstrings=True,
            render_plugins=[SchemaPage(structs)],  # Litestar's own pages load scripts from a CDN
        ),
        plugins=[structs],
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
    )
    app.hosts, app.proxies, app.metrics = hosts, proxies, server_metrics
    return app


def _handlers_trouble(handlers: HandlerPool) -> Trouble | None:
    trouble = handlers.trouble()
    return None if trouble is None else Trouble("handlers", trouble.reason, trouble.seconds)


async def _before_request(request: Request[Any, Any, Any]) -> Response[str] | None:
    """Answer a browser that asks for the API's reference, and check the query of all others."""
    page = reference_page(request)
    if page is None:
        await check_query(request)
    return page


def _periodic(
    fairlog: Fairlog, name: str, call: Callable[[], Awaitable[object]], seconds: float
) -> asyncio.Task[None]:
    """Start a supervised task that calls `call` with a pause of about `seconds` between calls."""
    return asyncio.create_task(repeat(fairlog.supervisor.part(name), call, seconds), name=name)
