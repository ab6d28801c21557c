"""A TCP proxy before a MySQL or MariaDB server that cuts a connection at its COMMIT.

So the outcome of the COMMIT is unknown to the client: it was carried out, or it never arrived.
"""

import contextlib
import socket
import threading
from enum import Enum
from typing import Self

from sqlalchemy import make_url

# A packet of the protocol: 3 bytes of length, a sequence number, COM_QUERY and the statement.
_COMMIT = b"\x07\x00\x00\x00\x03COMMIT"
_CHUNK = 64 * 1024


class Cut(Enum):
    BEFORE = "the COMMIT never reaches the server"
    AFTER = "the server carries it out, and its answer never reaches the client"


class CommitCutter:
    """A context manager. It passes everything on until it is told to cut, then once does."""

    def __init__(self, server_url: str) -> None:
        self._server = make_url(server_url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._cut: Cut | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.cuts = 0

    @property
    def url(self) -> str:
        """The server's, by way of the proxy, which could not see a COMMIT within TLS."""
        port = self._listener.getsockname()[1]
        url = self._server.set(host="127.0.0.1", port=port)
        return url.update_query_dict({"ssl_disabled": "1"}).render_as_string(hide_password=False)

    def cut_next(self, cut: Cut) -> None:
        """Arm it for the next COMMIT of whatever connection."""
        with self._lock:
            self._cut = cut

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for one in [self._listener, *self._sockets]:
            end(one)
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]  # a method
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            server = socket.create_connection((self._server.host, self._server.port or 3306))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.append(one)
            is_muted = threading.Event()
            self._start(self._pump_to_server, client, server, is_muted)
            self._start(self._pump_to_client, client, server, is_muted)

    def _pump_to_server(
        self, client: socket.socket, server: socket.socket, is_muted: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_CHUNK):
                cut = self._cut_of(data)
                if cut is Cut.BEFORE:
                    break
                if cut is Cut.AFTER:
                    is_muted.set()
                server.sendall(data)
        if not is_muted.is_set():
            end(client)
            end(server)

    def _pump_to_client(
        self, client: socket.socket, server: socket.socket, is_muted: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_CHUNK):
                if is_muted.is_set():  # this is the answer to the COMMIT: it has been carried out
                    break
                client.sendall(data)
        end(client)
        end(server)

    def _cut_of(self, data: bytes) -> Cut | None:
        if not data.endswith(_COMMIT):
            return None
        with self._lock:
            cut, self._cut = self._cut, None
            self.cuts += cut is not None
        return cut


class SwitchingProxy:
    """A context manager: an address whose new connections go where it was told last, while those
    that there are stay where they went.
    """

    def __init__(self, server_url: str) -> None:
        self._server = make_url(server_url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return self._server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)

    def switch(self, server_url: str) -> None:
        """Databases are named by the client: both servers need one of the name in `url`."""
        self._server = make_url(server_url)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in [self._listener, *self._sockets]:
            end(one)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._server.host, self._server.port or 3306))
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.append(one)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    end(source)
    end(target)


def end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
