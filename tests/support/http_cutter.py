"""A TCP proxy before an HTTP server that loses a request or its answer when it is told to."""

import contextlib
import socket
import threading
from enum import Enum
from typing import Self

from tests.support.tcp_proxy import end

_CHUNK = 64 * 1024


class Cut(Enum):
    BEFORE = "the request never reaches the server"
    AFTER = "the server processes it, and its answer never reaches the client"
    ANSWER_503 = "the proxy answers in place of the server"


_BAD = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html\r\nContent-Length: 4\r\n"
    b"Connection: close\r\n\r\nbusy"
)


class HttpCutter:
    """A context manager. Requests of up to 64 KiB pass, except those that `cut` named."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._cuts: list[Cut] = []
        self._sockets: list[socket.socket] = []
        self.requests = 0  # that have arrived here

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self, *cuts: Cut) -> None:
        """Lose the next requests, one after the other."""
        self._cuts = list(cuts)

    def drop_connections(self) -> None:
        """End the connections that are open."""
        for one in list(self._sockets):
            end(one)

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
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                answers = threading.Event()  # set: they are passed on
                answers.set()
                for target in (self._to_server, self._to_client):
                    threading.Thread(
                        target=target, args=(client, server, answers), daemon=True
                    ).start()

    def _to_server(
        self, client: socket.socket, server: socket.socket, answers: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_CHUNK):
                is_head = data.split(b" ", 1)[0] in {b"GET", b"POST", b"PUT"}
                self.requests += is_head
                cut = self._cuts.pop(0) if is_head and self._cuts else None
                if cut is Cut.ANSWER_503:
                    client.sendall(_BAD)
                if cut in {Cut.BEFORE, Cut.ANSWER_503}:
                    break
                if cut is Cut.AFTER:
                    answers.clear()
                server.sendall(data)
        if answers.is_set():
            end(client)
            end(server)

    def _to_client(
        self, client: socket.socket, server: socket.socket, answers: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_CHUNK):
                if not answers.is_set():
                    break
                client.sendall(data)
        end(client)
        end(server)
