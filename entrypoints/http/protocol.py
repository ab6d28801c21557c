"""The HTTP/1.1 protocol of a server, with bounds on what a client may hold of it.

uvicorn's own bounds only connections together and idle ones. Here are bounded the size of a
request's head, the time that a request may take to arrive and an answer to be read, connections,
and the bodies of all requests together. Where too many connections or bodies are open, those that
the server waits for longest make room: a server that is full of silent clients answers others.
"""

import asyncio
import math
from http import HTTPStatus
from typing import Any, ClassVar, Final

import msgspec
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from entrypoints.http.unread_answers import UnreadAnswers
from entrypoints.http.waiting import waits_since

HEAD_BYTES_MAX: Final = 64 * 1024  # the address and all header fields
FIELDS_MAX: Final = 100
URL_BYTES_MAX: Final = 8 * 1024
PIPELINED_MAX: Final = 16  # requests of a connection that wait for the answers before theirs
_TOO_MANY_BODIES: Final = "Too many large bodies are under way; send it again in a moment."
_SWEEP_SECONDS: Final = 0.5  # between two looks for clients whose time is over
_LINGER_SECONDS: Final = 2.0  # for a refused client to read why


class Bounds(Struct, frozen=True, kw_only=True):
    """What the clients of one server may hold together, and how long one may take."""

    connections_max: int
    request_seconds: float  # from a request's first byte to its last, and for an answer to move on
    # Of all requests that are not answered yet, and as much of answers that are not read yet.
    bodies_bytes_max: int


def bounded_protocol(bounds: Bounds) -> type["BoundedProtocol"]:
    """Return the protocol class of one server."""

    class Bounded(BoundedProtocol):
        clients = Clients(bounds)

    return Bounded


class Clients:
    """The connections of one server, used on its event loop."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.bodies_bytes = 0
        self.unread = UnreadAnswers(bounds.bodies_bytes_max)
        self._open: set[BoundedProtocol] = set()
        self._is_swept = False

    def add(self, one: "BoundedProtocol") -> bool:
        """False where there are too many, and each of them has a request that is worked on.

        One that waits for news (see `entrypoints.http.waiting`) is not: its client comes back.
        """
        self._open.add(one)
        if not self._is_swept:
            self._is_swept = True
            one.loop.call_later(_SWEEP_SECONDS, self._sweep, one.loop)
        if len(self._open) > self.bounds.connections_max:
            others = [other for other in self._awaited() if other is not one]
            if others:
                others[0].give_up("Too many connections are open; send it again on a new one.")
            elif waiting := self._waits_longest():
                self._open.discard(waiting)
                waiting.transport.close()
            else:
                return False
        return True

    def remove(self, one: "BoundedProtocol") -> None:
        self._open.discard(one)

    def make_room(self, newcomer: "BoundedProtocol") -> None:
        """Drop bodies that are still coming, the longest first, until the others fit."""
        for one in self._awaited():
            if self.bodies_bytes <= self.bounds.bodies_bytes_max:
                return
            if one.body_bytes:
                one.give_up(_TOO_MANY_BODIES)
        if self.bodies_bytes > self.bounds.bodies_bytes_max:
            newcomer.give_up(_TOO_MANY_BODIES)

    def _awaited(self) -> "list[BoundedProtocol]":
        """Return those from which a request is awaited or still coming, the longest first."""
        awaited = [one for one in self._open if one.awaited_since < math.inf]
        return sorted(awaited, key=lambda one: one.awaited_since)

    def _waits_longest(self) -> "BoundedProtocol | None":
        waiting = [
            (since, id(one), one)
            for one in self._open
            if one.cycle is not None and (since := waits_since(one.cycle.scope)) is not None
        ]
        return min(waiting)[-1] if waiting else None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for one in list(self._open):
            one.look_at_the_time(now)
        self._is_swept = bool(self._open)
        if self._is_swept:
            loop.call_later(_SWEEP_SECONDS, self._sweep, loop)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol for httptools, each of whose callbacks is counted and timed."""

    clients: ClassVar[Clients]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.body_bytes = 0  # of requests that are not answered yet
        # When a request began to be awaited (loop.time()); infinite while one is worked on.
        self.awaited_since = self.loop.time()
        self._head_bytes = 0  # that have come since a head was complete
        self._is_in_head = False
        self._is_refused = False
        self._refusal = (HTTPStatus.BAD_REQUEST, "This is no HTTP request.")
        self._due = self.awaited_since + self.clients.bounds.request_seconds
        self._unread_due = math.inf
        self._unread_bytes = 0
        self._pieces: list[bytes] = []  # of the body, in the bytes that are being read
        self._holds_back = False  # the next request, until the answers before are read
        if not self.clients.add(self):
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Too many connections are open; try again in a moment.",
                lingers=False,
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self.clients.remove(self)
        self.clients.unread.remove(self.transport)
        self._let_go_of_bodies()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._pieces:
            self._take_pieces()
        # A field is told only when it is whole: what has come of one so far is in these bytes.
        if self._is_in_head and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(*_TOO_LARGE)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= PIPELINED_MAX:
            self._stop_parsing(
                HTTPStatus.TOO_MANY_REQUESTS, "Too many requests wait for answers on a connection."
            )
        super().on_message_begin()
        self._is_in_head = True
        self._due = self.loop.time() + self.clients.bounds.request_seconds

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

    def _is_head_too_large(self) -> bool:
        """Add it up only where so much has come: other bytes of the chunk are no part of it."""
        fields = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.url) + fields > HEAD_BYTES_MAX

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def _take_pieces(self) -> None:
        """Together: uvicorn copies the whole body for each, and there may be one for each byte."""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._is_refused:
            return
        super().on_body(body)
        if not self.cycle.response_complete:
            self.body_bytes += len(body)
            self.clients.bodies_bytes += len(body)
            if self.clients.bodies_bytes > self.clients.bounds.bodies_bytes_max:
                self.clients.make_room(self)

    def on_message_complete(self) -> None:
        if self._pieces:
            self._take_pieces()
        super().on_message_complete()
        self._head_bytes = 0  # a body's are none
        if self._is_refused:
            return
        if self.cycle.response_complete:  # it was answered before it had come whole
            self._due = self.loop.time() + self.timeout_keep_alive
        else:
            self._due = self.awaited_since = math.inf

    def on_response_complete(self) -> None:
        """As uvicorn's, which would start a timer after each answer; here the sweep looks."""
        self.server_state.total_requests += 1
        if self.body_bytes:
            self._let_go_of_bodies()
        if self.transport.is_closing():
            return
        if not (self.pipeline or self._is_refused):
            self.awaited_since = self.loop.time()
        if self.flow.write_paused:
            self._holds_back = True
        else:
            self._begin_next()

    def pause_writing(self) -> None:
        """Its client does not read: no further request is read from it, nor begun, whose answer
        would be held beside those that are unread.
        """
        super().pause_writing()
        self.flow.pause_reading()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._unread_due = self.loop.time() + self.clients.bounds.request_seconds
        self.clients.unread.add(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.clients.unread.remove(self.transport)
        self._unread_due = math.inf
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._holds_back:
            self._holds_back = False
            self._begin_next()

    def _begin_next(self) -> None:
        """Go on with what has come, or read on."""
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            if self.pipeline:  # reads on only when those that have come are begun
                self.flow.pause_reading()
        elif not self._is_refused and self._due == math.inf:  # nothing of the next request has come
            self._due = self.loop.time() + self.timeout_keep_alive

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's one word for all)
        self._refuse(*self._refusal)

    def _unsupported_upgrade_warning(self) -> None:
        """Write no lines for what any client may send; it is answered as if it had not asked."""

    def look_at_the_time(self, now: float) -> None:
        """Give up what is overdue."""
        if now >= self._due:
            if self._is_refused:
                self.transport.abort()
            elif self.flow.read_paused:  # it waits for the answer to the request before
                self._due = now + self.clients.bounds.request_seconds
            elif not self._is_in_head and (self.cycle is None or self.cycle.response_complete):
                self.transport.close()  # nothing has come that waits for an answer
            else:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request did not come in time.")
        elif now >= self._unread_due:
            unread = self.transport.get_write_buffer_size()
            if unread >= self._unread_bytes:
                self.transport.abort()
            self._unread_bytes = unread
            self._unread_due = now + self.clients.bounds.request_seconds

    def give_up(self, why: str) -> None:
        """Make room for others. For one whose request has not come whole."""
        if self._is_in_head or self.body_bytes:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, why, lingers=False)
        else:
            self._forget()
            self.transport.close()

    def _stop_parsing(self, status: HTTPStatus, detail: str) -> None:
        """Raise what the parser takes for an error, and uvicorn answers."""
        self._refusal = (status, detail)
        raise ValueError(detail)

    def _refuse(self, status: HTTPStatus, detail: str, *, lingers: bool = True) -> None:
        """Answer and close; what comes meanwhile is dropped.

        A client that is still sending reads no answer from a connection that is closed at once, so
        it gets a moment, unless room is needed.
        """
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._forget()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if cycle.response_started or not cycle.more_body:
                return  # that answer is not to be cut; it closes the connection
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_answer(status, detail))
        if lingers and self.transport.can_write_eof():
            self._due = self.loop.time() + _LINGER_SECONDS
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()

    def _forget(self) -> None:
        """It counts no more among those that are awaited."""
        self._due = self.awaited_since = math.inf
        self._let_go_of_bodies()

    def _let_go_of_bodies(self) -> None:
        self.clients.bodies_bytes -= self.body_bytes
        self.body_bytes = 0


_TOO_LARGE: Final = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"A request's head has at most {HEAD_BYTES_MAX} bytes and {FIELDS_MAX} fields.",
)


def _answer(status: HTTPStatus, detail: str) -> bytes:
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": detail,
    }
    body = msgspec.json.encode(problem)
    again = b"retry-after: 1\r\n" if status is HTTPStatus.SERVICE_UNAVAILABLE else b""
    return (
        b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode())
        + b"content-type: application/problem+json\r\ncontent-length: %d\r\n" % len(body)
        + b"x-content-type-options: nosniff\r\ncache-control: no-store\r\n"
        + again
        + b"connection: close\r\n\r\n"
        + body
    )
