"""The TLS handshake of a connection, within the limits of the connection that follows."""

import asyncio
import math
import ssl
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from entrypoints.http.protocol import BoundedProtocol, Clients

_SHUTDOWN_SECONDS: Final = 2.0  # for a client to read the last answer and end TLS


class TlsHandshake(asyncio.Protocol):
    """A connection until its TLS handshake is complete; a `BoundedProtocol` then takes its place.

    uvicorn would begin the protocol only after the handshake, so that clients which send none could
    open any number of connections.
    """

    clients: ClassVar["Clients"]
    protocol: ClassVar[type["BoundedProtocol"]]
    context: ClassVar[ssl.SSLContext]
    body_bytes = 0

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 (uvicorn's)
        self._protocol = self.protocol(**arguments)
        self._received = bytearray()
        self._is_ending = False
        self._is_complete = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.loop = asyncio.get_running_loop()
        self.awaited_since = self.loop.time()
        if self.clients.add(self):
            self._task = self.loop.create_task(self._shake_hands(), name="tls-handshake")
        else:
            self._end()

    def data_received(self, data: bytes) -> None:
        self._received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_ending = True
        self.clients.remove(self)
        if self._is_complete:
            self._protocol.connection_lost(exc)

    def check_deadlines(self, now: float) -> None:
        """Do nothing: the handshake has its own time-out."""

    def evict(self, reason: str) -> None:  # noqa: ARG002 (no message can be read yet)
        """Close the connection in favour of others."""
        self._end()

    def _end(self) -> None:
        self._is_ending = True
        self.awaited_since = math.inf
        self.clients.remove(self)
        # Later, since uvloop logs an error if a transport ends while `start_tls` prepares it.
        self.loop.call_soon(self.transport.abort)

    async def _shake_hands(self) -> None:
        if self._has_ended():
            return
        self.loop.call_soon(self._pass_on_received)  # runs before the handshake begins
        try:
            transport: Any = await self.loop.start_tls(
                self.transport,
                self,
                self.context,
                server_side=True,
                ssl_handshake_timeout=self.clients.bounds.request_seconds,
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except (OSError, RuntimeError):  # not TLS, none in common, disconnected, or too slow
            self._end()
            return
        if self._has_ended():
            return
        self._is_complete = True
        self.clients.remove(self)
        transport.set_protocol(self._protocol)
        self._protocol.connection_made(transport)
        if self._received:  # decrypted before this task continued
            self._protocol.data_received(bytes(self._received))

    def _has_ended(self) -> bool:
        return self._is_ending

    def _pass_on_received(self) -> None:
        """Pass to TLS what was received before its protocol was set."""
        received, self._received = self._received, bytearray()
        if received:
            tls: Any = self.transport.get_protocol()
            tls.get_buffer(len(received))[: len(received)] = received
            tls.buffer_updated(len(received))
