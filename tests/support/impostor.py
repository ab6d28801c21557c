"""Something that answers in place of a server, as a proxy does whose server is away."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import httpx


class Impostor:
    """Stands before a server, and gives answers of its own first: each to one call of every sort
    that a worker makes.
    """

    def __init__(self, url: str, statuses: Sequence[int]) -> None:
        left: dict[str, list[int]] = defaultdict(lambda: list(statuses))
        client = httpx.Client(base_url=url, timeout=60)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if left[self.path]:
                    self._answer(left[self.path].pop(0), "text/html", b"<html>nobody home</html>")
                    return
                found = client.post(
                    self.path, content=body, headers={"Content-Type": "application/json"}
                )
                self._answer(found.status_code, found.headers["Content-Type"], found.content)

            def _answer(self, status: int, media_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._client = client
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._client.close()
