"""Servers to ask over HTTP: the app inside this process, and `fairlog serve` in one of its own."""

import asyncio
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Self

import httpx
import uvicorn
from msgspec.structs import replace

from adapters.settings import Settings
from adapters.signing_key import signing_key_of
from domain.decisions.ports import Clock
from domain.language.identifiers import ServerId
from entrypoints.composition import compose
from entrypoints.http.access import open_routes
from entrypoints.http.edge import EdgeApp
from entrypoints.http.forwarding import TrustedProxies
from entrypoints.http.problem_responses import problems_of
from entrypoints.http.waiting import waiting_since
from entrypoints.processes.app import create_app
from entrypoints.processes.server import uvicorn_config
from entrypoints.runtime.host_names import hosts_of
from entrypoints.runtime.tls import server_tls, trusted_by
from entrypoints.worker.deliveries import deliverer_of
from entrypoints.worker.push_workers import push_options
from tests.support.forked import ForkedCommand
from tests.support.ports import free_port
from tests.support.prepared import prepare
from tests.support.waiting import wait_until

START_SECONDS_MAX = 60.0  # usual: 1
STOP_SECONDS_MAX = 30.0  # usual: 0.2
REQUEST_SECONDS_MAX = 60.0

_FAIRLOG = Path(sys.executable).with_name("fairlog")


class ServerFailed(Exception):
    """A server ended, or did not answer in time; the message ends with what it wrote."""


class AppServer:
    """The real app on a loopback port, in a thread of this process. A context manager.

    `settings` are all but the database's URL. Without workers, jobs run only where a test claims
    them. `clock` replaces the log's own. `send_buffer_bytes` bounds what the system takes of an
    answer that nobody reads; None: it may take megabytes, and not always as many. `ca_file` is the
    authority that `client` trusts, for a server with TLS.
    """

    def __init__(
        self,
        database_url: str,
        settings: Settings | None = None,
        clock: Clock | None = None,
        *,
        send_buffer_bytes: int | None = None,
        ca_file: str | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._settings = replace(settings or Settings(), database_url=database_url)
        self._clock = clock
        self._send_buffer_bytes = send_buffer_bytes

    def __enter__(self) -> Self:
        self.fairlog = compose(self._settings, clock=self._clock)
        prepare(self.fairlog)
        self.fairlog.writer.start()
        self.fairlog.projector_runner.start()
        self.fairlog.recover(None)
        self.app = app = create_app(
            self.fairlog,
            server_id=ServerId("test"),
            workers=0,
            hosts=hosts_of("127.0.0.1", self._settings.allowed_hosts),
            proxies=TrustedProxies(self._settings.trusted_proxies),
            open_to_all=open_routes(self._settings),
            signing_key=signing_key_of(self._settings),
            push=push_options(self._settings),
            deliverer=deliverer_of(self.fairlog, self._settings),
        )
        tls = server_tls(self._settings)
        config = uvicorn_config(app, self._settings, tls)
        config.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        if self._send_buffer_bytes is not None:  # connections inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer_bytes)
        self.port: int = listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="app-server"
        )
        self._thread.start()
        wait_until(lambda: self._server.started or not self._thread.is_alive(), "the app starts")
        self.client = httpx.Client(
            base_url=self.url, timeout=REQUEST_SECONDS_MAX, verify=trusted_by(self._ca_file) or True
        )
        return self

    @property
    def connections_open(self) -> int:
        return len(self._server.server_state.connections)

    @property
    def connections_waiting(self) -> int:
        """The connections whose requests wait for news."""
        return sum(1 for one in self._cycles() if waiting_since(one.scope) is not None)

    @property
    def connections_worked_on(self) -> int:
        """The connections whose requests are complete and have no answer yet."""
        return sum(1 for one in self._cycles() if not one.more_body and not one.response_complete)

    @property
    def connections_unread(self) -> int:
        """The connections that cannot be written to, since their clients do not read."""
        protocols: list[Any] = list(self._server.server_state.connections)
        return sum(1 for one in protocols if one.flow.write_paused)

    def _cycles(self) -> list[Any]:
        protocols: list[Any] = list(self._server.server_state.connections)
        return [one.cycle for one in protocols if one.cycle is not None]

    def __exit__(self, failed: object, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()
        self.fairlog.close()
        assert failed or not (found := self._undescribed_errors()), found

    def _undescribed_errors(self) -> set[tuple[str, str, str]]:
        """Return method, path and status of the errors of the API that /schema does not have.

        A 404 of a path without parameters is about another address, which was routed there.
        """
        assert isinstance(self.app, EdgeApp)
        return {
            (method, path, status)
            for method, path, status in self.app.metrics._requests
            if path.startswith("/v1/")
            and ("{" in path or int(status) != HTTPStatus.NOT_FOUND)
            and int(status) >= HTTPStatus.BAD_REQUEST
            and HTTPStatus(int(status))
            not in problems_of(method, path, has_body=method in {"POST", "PUT"})
        }


class FairlogServer:
    """A `fairlog serve` process on a loopback port of its own. A context manager.

    `settings` are FAIRLOG_* variables without the prefix, in lower case. What the server writes
    goes to a file that `output` reads; `redirection`, as a shell has it, sends it elsewhere. It
    ends with the process that started it, so that none outlives a killed test run. `ca_file` is the
    authority of its certificate, if it has one. `is_fresh`: in an interpreter of its own, as users
    start it, instead of one that is forked (see `ForkedCommand`).
    """

    def __init__(
        self,
        database_url: str,
        *,
        workers: int = 0,
        server_id: str | None = None,
        options: Sequence[str] = (),
        settings: Mapping[str, object] | None = None,
        redirection: str | None = None,
        ca_file: str | None = None,
        is_fresh: bool = False,
    ) -> None:
        self.port = free_port()
        self.url = f"{'https' if ca_file else 'http'}://127.0.0.1:{self.port}"
        self._home = Path(tempfile.mkdtemp(prefix="fairlog-server-"))
        self._is_fresh = is_fresh or redirection is not None
        self._command = [
            "serve",
            "--port",
            str(self.port),
            "--workers",
            str(workers),
            *([] if server_id is None else ["--server-id", server_id]),
            *options,
        ]
        if self._is_fresh:
            self._command = [*ending_with_us(), str(_FAIRLOG), *self._command]
        if redirection is not None:
            self._command = ["sh", "-c", f'exec "$0" "$@" {redirection}', *self._command]
        self._environment = without_settings(os.environ) | {
            f"FAIRLOG_{name.upper()}": str(value)
            for name, value in {"database_url": database_url, **(settings or {})}.items()
        }
        self._process: subprocess.Popen[bytes] | ForkedCommand | None = None
        self.client = httpx.Client(
            base_url=self.url, timeout=REQUEST_SECONDS_MAX, verify=trusted_by(ca_file) or True
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id, and that of its group."""
        return self._running().pid

    def writers(self) -> list[int]:
        """The process ids of its writers that run: one, or none for a moment after it has ended."""
        found = subprocess.run(
            [
                "pgrep",
                "-r",
                "S,R,D,T",
                "-P",
                f"{self.pid}",
                "-f",
                "entrypoints.processes.writer_main",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return [int(line) for line in found.stdout.split()]

    @property
    def writer_pid(self) -> int:
        """The process id of its writer, which runs."""
        [writer] = self.writers()
        return writer

    @property
    def output(self) -> str:
        """Both of its streams, from the first start on."""
        file = self._home / "output.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self) -> None:
        """Start on the same port and database as before; return when it is ready."""
        file = self._home / "output.log"
        if self._is_fresh:
            with file.open("ab") as output:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=self._home,  # where no fairlog.toml is
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        else:
            self._process = ForkedCommand(
                self._command, cwd=self._home, env=self._environment, output=file, errors=file
            )
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        wait_until(self._is_ready, "the server is ready", START_SECONDS_MAX)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would; return when it has ended."""
        process = self._running()
        process.kill()
        process.wait()
        self._process = None

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); return when it has. Raises ServerFailed unless it ends well."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"no end within {STOP_SECONDS_MAX} s\n{self.output}") from None
        self._process = None
        if code != 0:
            raise ServerFailed(f"it ended with {code}\n{self.output}")

    def has_ended(self) -> bool:
        """Returns True if it was killed, or ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        return self._process is None

    def wait_until_ended(self) -> int:
        """Wait until it ends by itself or by a signal; return its exit code."""
        code = self._running().wait(STOP_SECONDS_MAX)
        self._process = None
        return code

    def restart(self) -> None:
        self.terminate()
        self.start()

    def close(self) -> None:
        """Kill it if it runs, and remove what it wrote."""
        self.client.close()
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def _running(self) -> "subprocess.Popen[bytes] | ForkedCommand":
        if self._process is None:
            raise ServerFailed("it does not run: start() it first")
        return self._process

    def _is_ready(self) -> bool:
        code = self._running().poll()
        if code is not None:
            self._process = None
            raise ServerFailed(f"it ended with {code} at its start\n{self.output}")
        try:
            return self.client.get("/readyz").is_success
        except httpx.TransportError:
            return False


def ending_with_us() -> list[str]:
    """Return a prefix that makes the system end a command with the thread that starts it."""
    setpriv = shutil.which("setpriv")  # of util-linux
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


@contextmanager
def talking(*command: str) -> "Iterator[subprocess.Popen[str]]":
    """A process whose streams are one pipe, killed at the end if it has not ended by then."""
    process = subprocess.Popen(
        [*ending_with_us(), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which nothing is set for Fairlog."""
    return {name: value for name, value in environment.items() if not name.startswith("FAIRLOG_")}


def exchange(port: int, request: bytes) -> httpx.Response:
    """Send bytes that no client library would, and read the one answer."""
    with socket.create_connection(("127.0.0.1", port), REQUEST_SECONDS_MAX) as connection:
        connection.sendall(request)
        answer = HTTPResponse(connection)
        answer.begin()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check that an answer is a problem (RFC 9457) with a sentence that helps, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert isinstance(body, dict)
    assert body["status"] == status
    assert {"type", "title", "detail"} <= set(body)
    assert body["detail"].endswith((".", "…")), body["detail"]
    assert len(body["detail"].split()) > 2, body["detail"]
    return body


def post_at_once(
    servers: Sequence[str], bodies: Sequence[Mapping[str, Any]], connections: int
) -> list[httpx.Response]:
    """Submit all over so many connections, shared out among the servers; the answers in order."""
    answers: dict[int, httpx.Response] = {}
    waiting = iter(enumerate(bodies))

    async def one_after_the_other(client: httpx.AsyncClient, url: str) -> None:
        for number, body in waiting:
            answers[number] = await client.post(f"{url}/v1/jobs", json=body)

    async def post_all() -> None:
        turns = itertools.islice(itertools.cycle(servers), connections)
        limits = httpx.Limits(max_keepalive_connections=connections)
        async with httpx.AsyncClient(timeout=REQUEST_SECONDS_MAX, limits=limits) as client:
            await asyncio.gather(*(one_after_the_other(client, url) for url in turns))

    asyncio.run(post_all())
    return [answers[number] for number in range(len(bodies))]


def submit(client: httpx.Client, user_id: str = "ada", **fields: Any) -> dict[str, Any]:
    """Submit a job that must be accepted, by default an echo of null; the job."""
    response = client.post(
        "/v1/jobs", json={"user_id": user_id, "kind": "echo", "payload": None, **fields}
    )
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def claim(
    client: httpx.Client, most: int = 1, worker: str = "w1", **fields: Any
) -> list[dict[str, Any]]:
    """Claim jobs, in the order given."""
    response = client.post("/v1/claims", json={"worker": worker, "max": most, **fields})
    assert response.status_code == 200, response.text
    jobs: list[dict[str, Any]] = response.json()["jobs"]
    return jobs


def log_position(client: httpx.Client) -> int:
    """Return the position of the latest event."""
    return int(client.get("/v1/stats").json()["position"])


def audit(client: httpx.Client, **filters: Any) -> list[dict[str, Any]]:
    """All events that the filters let through, in log order."""
    events: list[dict[str, Any]] = []
    after = 0
    while True:
        page = client.get("/v1/audit", params={"limit": 1000, **filters, "after": after})
        assert page.status_code == 200, page.text
        events += page.json()["events"]
        if page.json()["next"] is None:
            return events
        after = page.json()["next"]
