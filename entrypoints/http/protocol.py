"""The HTTP/1.1 protocol of a server, with limits on the resources of its clients.

uvicorn's own protocol limits only the number of connections and their idle time. This one limits
the size of a request's head, the time until a request is complete, the time without progress of
an answer, the number of connections, and the total size of request bodies and of unread answers.
At a limit, the server closes the connection that it has waited for longest, so silent clients
cannot keep others out.
"""

import asyncio
import math
import ssl
from http import HTTPStatus
from typing import ClassVar, Final

import msgspec
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from entrypoints.http.answer_cycle import AnswerCycle
from entrypoints.http.answers import SAFE_FIELDS, STRICT_TRANSPORT
from entrypoints.http.problems import http_problem
from entrypoints.http.tls_handshake import TlsHandshake
from entrypoints.http.unread_answers import UnreadAnswers
from entrypoints.http.waiting import waiting_since

HEAD_BYTES_MAX: Final = 64 * 1024  # of the address and all header fields
FIELDS_MAX: Final = 100
URL_BYTES_MAX: Final = 8 * 1024
PIPELINED_MAX: Final = 16  # requests of one connection that wait for earlier answers
_TOO_MANY_BODIES: Final = (
    "The server is receiving too many large bodies; send the request again in a moment."
)
_SWEEP_SECONDS: Final = 0.5  # between two checks of all deadlines
_LINGER_SECONDS: Final = 2.0  # for a refused client to read the answer


class Bounds(Struct, frozen=True, kw_only=True):
    """Limits on the resources that the clients of one server use."""

    connections_max: int  # open connections, at least 1
    # From a request's first byte to its last, above 0. A client that reads nothing of its answer
    # for as long is disconnected.
    request_seconds: float
    # Total bytes of the bodies of unanswered requests. Unread answers may use as many again.
    bodies_bytes_max: int


def bounded_protocol(
    bounds: Bounds, tls: ssl.SSLContext | None = None
) -> type["BoundedProtocol | TlsHandshake"]:
    """Return a protocol class for one server, whose connections share the limits.

    With `tls`, each connection begins with a TLS handshake.
    """

    class Bounded(BoundedProtocol):
        clients = Clients(bounds)

    if tls is None:
        return Bounded

    class Handshake(TlsHandshake):
        clients = Bounded.clients
        protocol = Bounded

    Handshake.context = tls
    return Handshake


class Clients:
    """The open connections of one server. Used on its event loop alone."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.bodies_bytes = 0
        self.unread = UnreadAnswers(bounds.bodies_bytes_max)
        self._open: set[BoundedProtocol | TlsHandshake] = set()
        self._is_swept = False

    def add(self, connection: "BoundedProtocol | TlsHandshake") -> bool:
        """Register a connection. Return False if no other can be closed to make space for it.

        Closes the one that has kept the server waiting longest, else the one that has waited
        longest for news (see `entrypoints.http.waiting`), whose client connects again. A connection
        whose request is being processed is never closed.
        """
        self._open.add(connection)
        if not self._is_swept:
            self._is_swept = True
            connection.loop.call_later(_SWEEP_SECONDS, self._sweep, connection.loop)
        if len(self._open) > self.bounds.connections_max:
            others = [other for other in self._awaited() if other is not connection]
            if others:
                others[0].evict(
                    "Too many connections are open; send the request again on a new one."
                )
            elif waiting := self._longest_waiting_for_news():
                self._open.discard(waiting)
                waiting.transport.close()
            else:
                return False
        return True

    def remove(self, connection: "BoundedProtocol | TlsHandshake") -> None:
        self._open.discard(connection)

    def limit_bodies(self, latest: "BoundedProtocol") -> None:
        """Refuse incomplete requests with bodies, the oldest first, until the others fit.

        If complete requests alone exceed the limit, refuse `latest`, which has just received bytes.
        """
        for one in self._awaited():
            if self.bodies_bytes <= self.bounds.bodies_bytes_max:
                return
            if one.body_bytes:
                one.evict(_TOO_MANY_BODIES)
        if self.bodies_bytes > self.bounds.bodies_bytes_max:
            latest.evict(_TOO_MANY_BODIES)

    def _awaited(self) -> "list[BoundedProtocol | TlsHandshake]":
        """Return the connections whose next request is not complete, the longest awaited first."""
        awaited = [one for one in self._open if one.awaited_since < math.inf]
        return sorted(awaited, key=lambda one: one.awaited_since)

    def _longest_waiting_for_news(self) -> "BoundedProtocol | None":
        waiting = [
            (since, id(one), one)
            for one in self._open
            if isinstance(one, BoundedProtocol)
            and one.cycle is not None
            and (since := waiting_since(one.cycle.scope)) is not None
        ]
        return min(waiting)[-1] if waiting else None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for one in list(self._open):
            one.check_deadlines(now)
        self._is_swept = bool(self._open)
        if self._is_swept:
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol for httptools, which counts bytes and keeps deadlines in each callback."""

    clients: ClassVar[Clients]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.body_bytes = 0  # of unanswered requests
        # The loop.time() since which the server waits for a request; infinite while it processes
        # one.
        self.awaited_since = self.loop.time()
        self._head_bytes = 0  # received since the latest complete head
        self._is_in_head = False
        self._is_refused = False
        self._refusal = (HTTPStatus.BAD_REQUEST, "This is not an HTTP request.")
        self._deadline = self.awaited_since + self.clients.bounds.request_seconds
        self._unread_deadline = math.inf
        self._unread_bytes = 0
        self._body_parts: list[bytes] = []  # parsed, but not yet passed to uvicorn
        self._defers_next = False  # starts the next request only when the client reads
        if not self.clients.add(self):
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many connections are open; try again in a moment.",
                lingers=False,
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self.clients.remove(self)
        self.clients.unread.remove(self.transport)
        self._release_bodies()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._body_parts:
            self._pass_on_body()
        # The parser reports only complete fields, so these bytes include an incomplete one.
        if self._is_in_head and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(*_TOO_LARGE)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED_MAX:
            self._stop_parsing(
                HTTPStatus.TOO_MANY_REQUESTS,
                "Too many requests wait for answers on this connection.",
            )
        super().on_message_begin()
        self._is_in_head = True
        self._deadline = self.loop.time() + self.clients.bounds.request_seconds

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if len(self.url) > URL_BYTES_MAX:
            self._stop_parsing(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"The address is longer than {URL_BYTES_MAX} bytes.",
            )
        if len(self.headers) > FIELDS_MAX or (
            self._head_bytes > HEAD_BYTES_MAX and self._is_head_too_large()
        ):
            self._stop_parsing(*_TOO_LARGE)
        self._head_bytes = 0
        super().on_headers_complete()
        self.cycle.__class__ = AnswerCycle  # uvicorn has no other way to name one's own

    def _is_head_too_large(self) -> bool:
        """Return True if the head alone, without a body or another request, is too large."""
        fields = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.url) + fields > HEAD_BYTES_MAX

    def on_body(self, body: bytes) -> None:
        self._body_parts.append(body)

    def _pass_on_body(self) -> None:
        """Pass the parts of the body to uvicorn as one: it copies the whole body for each part."""
        body = self._body_parts[0] if len(self._body_parts) == 1 else b"".join(self._body_parts)
        self._body_parts.clear()
        if self._is_refused:
            return
        super().on_body(body)
        if not self.cycle.response_complete:
            self.body_bytes += len(body)
            self.clients.bodies_bytes += len(body)
            if self.clients.bodies_bytes > self.clients.bounds.bodies_bytes_max:
                self.clients.limit_bodies(self)

    def on_message_complete(self) -> None:
        if self._body_parts:
            self._pass_on_body()
        super().on_message_complete()
        self._head_bytes = 0  # the bytes so far belonged to the body
        if self._is_refused:
            return
        if self.cycle.response_complete:  # it was answered before it was complete
            self._deadline = self.loop.time() + self.timeout_keep_alive
        else:
            self._deadline = self.awaited_since = math.inf

    def on_response_complete(self) -> None:
        """Replace uvicorn's method, which starts a timer after each answer: the sweep is enough."""
        self.server_state.total_requests += 1
        if self.body_bytes:
            self._release_bodies()
        if self.transport.is_closing():
            return
        if not (self.pipeline or self._is_refused):
            self.awaited_since = self.loop.time()
        if self.flow.write_paused:
            self._defers_next = True
        else:
            self._start_next()

    def pause_writing(self) -> None:
        """Read and start no further request: its answer would add to those that are unread."""
        super().pause_writing()
        self.flow.pause_reading()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._unread_deadline = self.loop.time() + self.clients.bounds.request_seconds
        self.clients.unread.add(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.clients.unread.remove(self.transport)
        self._unread_deadline = math.inf
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._defers_next:
            self._defers_next = False
            self._start_next()

    def _start_next(self) -> None:
        """Start the next request that was received, or read on."""
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if self.pipeline:  # read on only when all received requests have started
                self.flow.pause_reading()
        elif not self._is_refused and self._deadline == math.inf:  # no byte of the next request
            self._deadline = self.loop.time() + self.timeout_keep_alive

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (the same text for every error)
        self._refuse(*self._refusal)

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: any client may ask for an upgrade, and is answered without one."""

    def check_deadlines(self, now: float) -> None:
        """Refuse an overdue request, close an idle connection, abort an answer that is not read.

        `now` is a time of loop.time().
        """
        if now >= self._deadline:
            if self._is_refused:
                self.transport.abort()
            elif self.flow.read_paused:  # it waits for an earlier answer
                self._deadline = now + self.clients.bounds.request_seconds
            elif not self._is_in_head and (self.cycle is None or self.cycle.response_complete):
                self.transport.close()  # idle: no request is incomplete or unanswered
            else:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request was not complete in time.")
        elif now >= self._unread_deadline:
            unread = self.transport.get_write_buffer_size()
            if unread >= self._unread_bytes:
                self.transport.abort()
            self._unread_bytes = unread
            self._unread_deadline = now + self.clients.bounds.request_seconds

    def evict(self, reason: str) -> None:
        """Close the connection, whose next request is not complete, in favour of others.

        A client that has sent a part of a request receives the reason, a sentence.
        """
        if self._is_in_head or self.body_bytes:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, reason, lingers=False)
        else:
            self._stop_awaiting()
            self.transport.close()

    def _stop_parsing(self, status: HTTPStatus, detail: str) -> None:
        """Stop the parser by an error; uvicorn then calls `send_400_response`."""
        self._refusal = (status, detail)
        raise ValueError(detail)

    def _refuse(self, status: HTTPStatus, detail: str, *, lingers: bool = True) -> None:
        """Answer, close, and drop whatever is received meanwhile.

        A client that is still sending cannot read an answer from a connection that is closed at
        once, so a connection with `lingers` stays open for _LINGER_SECONDS.
        """
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._stop_awaiting()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if cycle.response_started or not cycle.more_body:
                return  # let that answer finish; then the connection is closed
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_answer(status, detail, self.scheme))
        if lingers and self.transport.can_write_eof():
            self._deadline = self.loop.time() + _LINGER_SECONDS
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()

    def _stop_awaiting(self) -> None:
        """Await no request any more, and release the bodies."""
        self._deadline = self.awaited_since = math.inf
        self._release_bodies()

    def _release_bodies(self) -> None:
        self.clients.bodies_bytes -= self.body_bytes
        self.body_bytes = 0


_TOO_LARGE: Final = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"A request's head has at most {HEAD_BYTES_MAX} bytes and {FIELDS_MAX} fields.",
)


def _answer(status: HTTPStatus, detail: str, scheme: str | None) -> bytes:
    body = msgspec.json.encode(http_problem(status, detail))
    fields = SAFE_FIELDS if scheme != "https" else (*SAFE_FIELDS, STRICT_TRANSPORT)
    retry = b"retry-after: 1\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else b""
    return (
        b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
        + b"content-type: application/problem+json\r\ncontent-length: %d\r\n" % len(body)
        + b"".join(b"%s: %s\r\n" % field for field in fields)
        + retry
        + b"connection: close\r\n\r\n"
        + body
    )
