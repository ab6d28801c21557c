"""The request of every route: it decodes its JSON strictly, and its path exactly."""

import asyncio
import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from litestar import Request
from litestar.exceptions import ClientException
from litestar.exceptions.http_exceptions import InternalServerException, RequestEntityTooLarge
from litestar.status_codes import HTTP_415_UNSUPPORTED_MEDIA_TYPE
from litestar.types import Empty

from entrypoints.http.strict_json import (
    BYTES_ON_THE_LOOP_MAX,
    RequestBatch,
    off_the_loop,
    read_batch,
    read_json,
)

# The types that a browser sends to another site without asking it first (Fetch, "CORS-safelisted
# request-header"). Without a type, programs send JSON.
_SIMPLE_TYPE: Final = re.compile(
    rb"(?:text/plain|application/x-www-form-urlencoded|multipart/form-data)\b", re.IGNORECASE
)


class WrongMediaType(ClientException):
    """The request's Content-Type is none of JSON."""

    status_code = HTTP_415_UNSUPPORTED_MEDIA_TYPE
    detail = "This route accepts JSON; send it with `Content-Type: application/json`."


class StrictRequest(Request[Any, Any, Any]):
    """A request whose JSON must have the handler's types: Litestar converts "3" to a number."""

    async def json(self) -> Any:  # noqa: ANN401 (as the handler's `data` is annotated)
        """Decode the body to the type of the handler's `data`.

        Raises `InvalidInput`, and `WrongMediaType` for a type that a page of any site may send.
        """
        for name, value in self.scope["headers"]:
            if name == b"content-type" and _SIMPLE_TYPE.match(value):
                raise WrongMediaType
        field = self.route_handler.parsed_data_field
        expected = Any if field is None else field.annotation
        body = await self.body()
        if len(body) <= BYTES_ON_THE_LOOP_MAX:
            return _read(body, expected)
        return await off_the_loop(len(body), lambda: _read(body, expected))

    async def body(self) -> bytes:
        """Return the whole body. Raises `RequestEntityTooLarge`, by Content-Length if it is sent.

        Litestar's method uses an asynchronous generator and converts all header fields, which costs
        an eighth of a refused submission.
        """
        known = self._connection_state.body
        if known is not Empty:
            return known
        bytes_max = self.route_handler.resolve_request_max_body_size() or math.inf
        for name, value in self.scope["headers"]:
            if name == b"content-length" and int(value) > bytes_max:  # the parser checked it
                raise RequestEntityTooLarge
        parts, size, more_body = [], 0, True
        while more_body:
            message: Any = await self.receive()
            if message["type"] == "http.disconnect":
                raise InternalServerException("client disconnected prematurely")
            part = message["body"]
            size += len(part)
            if size > bytes_max:
                raise RequestEntityTooLarge
            parts.append(part)
            more_body = message["more_body"]
        self._connection_state.body = body = parts[0] if len(parts) == 1 else b"".join(parts)
        return body


def _read(body: bytes, expected: Any) -> Any:  # noqa: ANN401 (a type, and a value of that type)
    if isinstance(expected, type) and issubclass(expected, RequestBatch):
        return read_batch(body, expected)
    return read_json(body, expected)


@contextlib.contextmanager
def disconnection(request: Request[Any, Any, Any]) -> Iterator[asyncio.Event]:
    """Yield an event that is set when the client disconnects. Use it after reading the body."""
    disconnected = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        disconnected.set()

    watcher = asyncio.create_task(watch(), name="disconnection")
    try:
        yield disconnected
    finally:
        watcher.cancel()
