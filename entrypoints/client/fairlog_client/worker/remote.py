"""A worker in a process of its own, on any machine, which runs until a signal stops it."""

import asyncio
import os
import re
import secrets
import signal
import socket
import ssl
from typing import Final

import httpx

from fairlog_client.logs.log import Log
from fairlog_client.worker.execution import Executor
from fairlog_client.worker.http_source import RemoteSource, client_of
from fairlog_client.worker.job_source import SourceRefused
from fairlog_client.worker.worker import Worker

_KEY: Final = re.compile("fl_[0-9A-Za-z]{11}_[0-9A-Za-z]{49}")
GRACE_SECONDS: Final = 30.0  # for running handlers, after a signal

_log = Log("worker")


def run_remote_worker(
    server_url: str,
    executor: Executor,
    concurrency: int,
    *,
    worker_name: str | None = None,
    prefetch: int | None = None,
    trust: ssl.SSLContext | None = None,
    key: str | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> None:
    """Run jobs until SIGTERM or SIGINT; a second signal ends the process at once. Blocks.

    Runs `concurrency` jobs at once and claims `prefetch` more ahead of time; None: as many as its
    handlers lately ended in a moment. `worker_name` defaults to host name and process id; a random
    suffix is added. After a signal, handlers have `grace_seconds` to end, then their jobs are
    returned. While the server is away it is retried.
    `trust` has the only trusted authorities; None: those of the environment. `key` is the secret of
    an API key; None: the server requires none.
    Raises `SourceRefused` for a wrong URL or key, and when the server refuses the claims.
    """
    client = client_of(_checked(server_url), trust, _checked_key(key))
    own_name = worker_name or f"{socket.gethostname()}/{os.getpid()}"
    worker = f"{own_name}/{secrets.token_hex(6)}"
    asyncio.run(_run(client, worker, executor, concurrency, prefetch, grace_seconds))


async def _run(
    client: httpx.AsyncClient,
    name: str,
    executor: Executor,
    concurrency: int,
    prefetch: int | None,
    grace_seconds: float,
) -> None:
    async with client:
        worker = Worker(
            RemoteSource(client, name), executor, concurrency, prefetch=prefetch, logs_failures=True
        )
        worker.start()
        _log.info(
            "worker_started",
            worker=name,
            server=str(client.base_url),
            kinds=sorted(executor.kinds),
            concurrency=concurrency,
        )
        stop_signal = asyncio.create_task(_wait_for_signal(), name="worker-signals")
        claims_end = asyncio.create_task(worker.claims_end(), name="worker-end")
        await asyncio.wait({stop_signal, claims_end}, return_when=asyncio.FIRST_COMPLETED)
        stop_signal.cancel()
        await worker.stop(grace_seconds)
        refused = await claims_end
        _log.info("worker_stopped", worker=name)
        if refused is not None:
            raise refused


async def _wait_for_signal() -> None:
    """Wait for a stop signal, then restore the signals' default handlers."""
    loop = asyncio.get_running_loop()
    received = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, received.set)
    try:
        await received.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _checked_key(key: str | None) -> str | None:
    if key is not None and _KEY.fullmatch(key) is None:
        raise SourceRefused(
            "FAIRLOG_KEY is no API key, or a mistyped one: it has the form fl_<id>_<random>."
        )
    return key


def _checked(server_url: str) -> httpx.URL:
    try:
        url = httpx.URL(server_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host or "%" in url.host:
        raise SourceRefused(f"{server_url!r} is not a server's URL, like http://127.0.0.1:8000.")
    return url
