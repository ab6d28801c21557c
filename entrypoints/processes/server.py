"""`fairlog serve`: the steps from settings to a server that listens.

The port is bound first and listened on last. So a second server that was started by mistake ends
before it recovers the jobs of the first one, and no request is answered before recovery.
"""

import contextlib
import errno
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import structlog
import uvicorn
from litestar import Litestar
from msgspec import Struct

from adapters.doctor import unsafe_settings
from adapters.settings import Settings
from adapters.signing_key import SigningKey, signing_key_of
from domain.decisions.batch import Outcome
from domain.language.commands import EnforceDeadlines
from domain.language.errors import FairlogError, LogUnavailable
from domain.language.identifiers import Kind, ServerId
from entrypoints.composition import prepare
from entrypoints.http.access import open_routes
from entrypoints.http.forwarding import TrustedProxies
from entrypoints.http.protocol import Bounds, bounded_protocol
from entrypoints.processes.app import create_app
from entrypoints.processes.recovery import server_id_of, sole_server
from entrypoints.processes.registration import registered
from entrypoints.processes.welcome import welcome
from entrypoints.runtime.host_names import hosts_of
from entrypoints.runtime.interpreter import tune_interpreter
from entrypoints.runtime.tls import server_tls
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.keys import has_keys
from entrypoints.worker.deliveries import Deliverer, deliverer_of
from entrypoints.worker.handlers import handler_hello
from entrypoints.worker.push_workers import PushOptions, push_options
from fairlog_client.logs.output import output
from fairlog_client.processes.forks import keep_from_children
from fairlog_client.worker.handler_pool import HandlerPool, handler_pool

GRACEFUL_SECONDS_MAX: Final = 10  # for open requests after the signal to stop
_OTHER_FILES: Final = 256  # descriptors for the database, the writer and the program itself
_log = structlog.get_logger()


class ServerOptions(Struct, frozen=True, kw_only=True):
    """The command-line options of one server process."""

    host: str  # name or address to listen on
    port: int  # 0: any free port
    workers: int  # jobs that this server runs at once; 0: it runs none
    is_one_process_each: bool = False  # run each job in its own handler process
    server_id: str | None = None  # see `server_id_of`
    logs_json: bool = False  # the handler processes log JSON lines
    welcomes: bool = False  # a person is there: show what to do first


def run_server(fairlog: Fairlog, settings: Settings, options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT; a second SIGINT does not wait for open requests. Blocks.

    Raises `HandlersError`, and any `FairlogError` that prevents the start or stops the writer.
    """
    server_id = server_id_of(fairlog, options.server_id)
    tls = server_tls(settings)
    signing_key = signing_key_of(settings)
    push = push_options(settings)
    deliverer = deliverer_of(fairlog, settings)
    with (
        _handlers(settings, options) as executor,
        _bound_port(options.host, options.port) as listener,
        sole_server(fairlog),
        contextlib.closing(fairlog),  # the writer ends before the lock is released
    ):
        fairlog.database.create_file()
        for finding in unsafe_settings(fairlog.database):
            _log.error(
                "unsafe_database_setting",
                check=finding.check,
                found=finding.found,
                mend=finding.mend,
            )
        built = prepare(fairlog)
        if built:
            _log.info("projections_built", projections=built)
        with registered(fairlog, server_id, fairlog.end_with):
            try:
                _serve(
                    fairlog,
                    settings,
                    options,
                    server_id,
                    executor,
                    listener,
                    tls,
                    signing_key,
                    push=push,
                    deliverer=deliverer,
                )
            finally:
                fairlog.writer.stop()  # before another server can take the name


def _serve(  # noqa: PLR0913 (the parts of one server)
    fairlog: Fairlog,
    settings: Settings,
    options: ServerOptions,
    server_id: ServerId,
    executor: HandlerPool | None,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    signing_key: SigningKey | None,
    *,
    push: PushOptions | None,
    deliverer: Deliverer | None,
) -> None:
    fairlog.writer.start()
    recovered = fairlog.recover(server_id)
    _log.info("recovered", jobs=len(recovered), server=server_id)
    _await_writer(fairlog)
    app = create_app(
        fairlog,
        server_id=server_id,
        workers=options.workers,
        executor=executor,
        hosts=hosts_of(options.host, settings.allowed_hosts),
        proxies=TrustedProxies(settings.trusted_proxies),
        open_to_all=open_routes(settings),
        signing_key=signing_key,
        push=push,
        deliverer=deliverer,
    )
    tune_interpreter()
    allow_files(settings.max_connections)
    scheme = "http" if tls is None else "https"
    server = _Server(uvicorn_config(app, settings, tls), fairlog, options, listener, scheme)
    if options.welcomes:
        kinds = None if executor is None else [Kind(kind) for kind in executor.kinds]
        needs_key = settings.require_keys or has_keys(fairlog)
        server.on_listening = lambda url: output.write(
            welcome(url, settings, kinds, needs_key=needs_key)
        )
    with _signals_left_to(server):
        server.run(sockets=[listener])
    if fairlog.writer.fatal is not None:
        raise fairlog.writer.fatal
    if not server.started:
        raise FairlogError("The server could not start; the log lines above say why.")
    _log.info("stopped")


def _await_writer(fairlog: Fairlog) -> None:
    """Wait until the writer answers, so that a server that says it listens can write.

    A server whose writer cannot work now starts all the same, and is not ready until it can.
    """
    answer: Outcome
    try:
        [answer] = fairlog.writer.execute_all([EnforceDeadlines(jobs=[])])
    except LogUnavailable as error:
        answer = error
    if isinstance(answer, Exception):
        _log.warning("writer_not_ready", reason=str(answer))


def uvicorn_config(
    app: Litestar, settings: Settings, tls: ssl.SSLContext | None = None
) -> uvicorn.Config:
    """Return the configuration of uvicorn, with the limits of the settings. None: without TLS."""
    bounds = Bounds(
        connections_max=settings.max_connections,
        request_seconds=settings.request_seconds,
        bodies_bytes_max=settings.bodies_mib * 1024 * 1024,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_worth_logging)
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=bounded_protocol(bounds, tls),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=GRACEFUL_SECONDS_MAX,
    )


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Filter out uvicorn's line for a malformed request, of which a client may send any number."""
    return record.msg != "Invalid HTTP request received."


def allow_files(connections: int) -> None:
    """Raise the soft limit of open files to what the connections need, up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


@contextlib.contextmanager
def _handlers(settings: Settings, options: ServerOptions) -> Iterator[HandlerPool | None]:
    """Yield the pool of handler processes; None if this server runs no jobs."""
    if not options.workers:
        yield None
        return
    hello = handler_hello(settings, logs_json=options.logs_json)
    with handler_pool(hello, options.workers, is_one_each=options.is_one_process_each) as processes:
        yield processes


class _Server(uvicorn.Server):
    """A server that logs its address, and stops after a fatal error of the writer."""

    def __init__(
        self,
        config: uvicorn.Config,
        fairlog: Fairlog,
        options: ServerOptions,
        listener: socket.socket,
        scheme: str,
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._scheme = scheme
        self.on_listening: Callable[[str], None] = lambda _: None  # with the address
        keep_from_children(self)
        self._fairlog = fairlog
        self._options = options

    def descriptors(self) -> Iterable[int]:
        """Yield the sockets of the port and of the clients.

        A child process must not keep them open: clients could not see that the server has died.
        """
        yield self._listener.fileno()
        for connection in list(self.server_state.connections):
            transport = connection.transport
            if transport is not None and (client := transport.get_extra_info("socket")):
                yield client.fileno()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            url = f"{self._scheme}://{shown}:{port}"
            _log.info("listening", url=url, workers=self._options.workers)
            self.on_listening(url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._fairlog.release_listeners()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._fairlog.writer.fatal is not None


def unavailable(host: str, port: int, error: OSError) -> str:
    """Return why the server cannot listen on a port, and what to do."""
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return (
                f"This account may not use port {port}: choose one from 1024 on with --port, and "
                "put a proxy before it, or give the account CAP_NET_BIND_SERVICE."
            )
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine: name another with --host."
        case _:
            return (
                f"Port {port} on {host} is not available ({error.strerror}); stop the program that "
                "uses it, or choose another with --port."
            )


@contextlib.contextmanager
def _bound_port(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that is bound, so that no other program gets the port, but not listening yet.

    Raises `FairlogError`.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise FairlogError(f"The server cannot listen on the host {host!r} ({error}).") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise FairlogError(unavailable(host, port, error)) from error
        yield listener


@contextlib.contextmanager
def _signals_left_to(server: uvicorn.Server) -> Iterator[None]:
    """Have the server handle SIGTERM and SIGINT for the block.

    After its shutdown uvicorn raises the signal again, which then has no effect.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, server.handle_exit) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
