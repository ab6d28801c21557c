"""An HTTP endpoint on loopback that answers as a test says, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from msgspec import Struct


def secret_key_file(folder: Path, key: str = "k" * 44) -> Path:
    """Write the key that secrets are derived from to a file, as `callback_key_file` needs it."""
    file = folder / "callback.key"
    file.write_text(key)
    file.chmod(0o600)
    return file


class Asked(Struct, frozen=True):
    """A request that came."""

    path: str  # with the query
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def job(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Answer(Struct, frozen=True):
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Hang(Struct, frozen=True):
    """No answer, until the endpoint ends or `let_go` is resolved."""

    let_go: "Future[Answer]"


class Break(Struct, frozen=True):
    """The connection is closed without an answer."""


Reply = Answer | Hang | Break


class Endpoint:
    """A server on a loopback port, one thread a request. A context manager."""

    def __init__(self, reply: Callable[[Asked], Reply]) -> None:
        self._reply = reply
        self._lock = threading.Lock()
        self.asked: list[Asked] = []
        self.open = 0
        self.open_max = 0

    def __enter__(self) -> Self:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                endpoint._answer(self, Asked(self.path, headers, body))

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                """Say nothing: clients that go away are what tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set_result(None)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)
            self.open += 1
            self.open_max = max(self.open, self.open_max)
        reply: Reply = Break()
        try:
            reply = self._reply(asked)
            if isinstance(reply, Hang):
                let_go = reply.let_go
                self._ended.add_done_callback(lambda _: let_go.cancel())
                reply = let_go.result()
        finally:
            with self._lock:
                self.open -= 1
        if isinstance(reply, Answer):
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(reply.body)))
            handler.end_headers()
            handler.wfile.write(reply.body)
        handler.close_connection = True
