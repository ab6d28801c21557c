"""The worker in a process of its own, on any machine, until a signal stops it."""

import asyncio
import os
import secrets
import signal
import socket
from typing import Final

import httpx
import structlog

from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.identifiers import WorkerId
from entrypoints.worker.execution import Executor
from entrypoints.worker.http_source import RemoteSource, client_of
from entrypoints.worker.worker import Worker

GRACE_SECONDS: Final = 30.0

_log = structlog.get_logger()


def run_remote_worker(
    server_url: str,
    executor: Executor,
    concurrency: int,
    *,
    worker_name: str | None = None,
    prefetch: int = 0,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Work until SIGTERM or SIGINT; a second one ends the process at once. Blocks.

    Raises `InvalidInput` for a URL or a name that is none, and when the server refuses the claims.
    A server that is away is waited for.
    """
    url = _checked(server_url)
    worker = validation.worker_id(
        f"{worker_name or f'{socket.gethostname()}/{os.getpid()}'}/{secrets.token_hex(6)}"
    )
    asyncio.run(_run(url, worker, executor, concurrency, prefetch, grace_seconds))


async def _run(
    url: httpx.URL,
    name: WorkerId,
    executor: Executor,
    concurrency: int,
    prefetch: int,
    grace_seconds: float,
) -> None:
    async with client_of(url) as client:
        worker = Worker(RemoteSource(client, name), executor, concurrency, prefetch=prefetch)
        worker.start()
        _log.info(
            "worker_started",
            worker=name,
            server=str(url),
            kinds=sorted(executor.kinds),
            concurrency=concurrency,
        )
        told_to_stop = asyncio.create_task(_wait_for_signal(), name="worker-signals")
        claims_end = asyncio.create_task(worker.claims_end(), name="worker-end")
        await asyncio.wait({told_to_stop, claims_end}, return_when=asyncio.FIRST_COMPLETED)
        told_to_stop.cancel()
        await worker.stop(grace_seconds)
        refused = await claims_end
        _log.info("worker_stopped", worker=name)
        if refused is not None:
            raise refused


async def _wait_for_signal() -> None:
    """Wait for a signal; from then on signals do again what they do by default."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, told.set)
    try:
        await told.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _checked(server_url: str) -> httpx.URL:
    try:
        url = httpx.URL(server_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host or "%" in url.host:
        raise InvalidInput(f"{server_url!r} is not a server's URL, like http://127.0.0.1:8000.")
    return url
