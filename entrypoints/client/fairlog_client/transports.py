"""The only I/O of the client: two transports over httpx, and the two ways to run a flow."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
from msgspec import Struct

from fairlog_client.errors import FairlogError
from fairlog_client.flows import (
    Flow,
    Item,
    Items,
    NoAnswer,
    OpenStream,
    Pause,
    ReadStream,
    Request,
    Response,
    Send,
    Step,
)

CONNECT_SECONDS = 5.0
STREAM_SECONDS = 30.0  # without any byte; a server sends one every 10 s
DEFAULT_SERVER = "http://127.0.0.1:8000"
# Servers keep an idle connection for 75 s, proxies mostly for 60 s.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=50.0)
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

T = TypeVar("T")


class Connection(Struct, frozen=True, kw_only=True):
    """The address of a server, and what is needed to reach it."""

    server: str
    key: str | None = None
    timeout: float = 30.0  # seconds for an answer, without what the server waits for
    ca_file: str | None = None  # PEM file with the authorities to trust; None: public ones

    def options(self) -> dict[str, Any]:
        """Return the arguments of an httpx client."""
        headers = {"Content-Type": "application/json", "User-Agent": "fairlog-client"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return {
            "base_url": self.server,
            "headers": headers,
            "limits": _LIMITS,
            "verify": trusted_by(self.ca_file) or True,
        }

    def timeouts(self, seconds: float) -> httpx.Timeout:
        return httpx.Timeout(self.timeout + seconds, connect=min(CONNECT_SECONDS, self.timeout))


def connection_of(
    server: str | None, key: str | None, timeout: float, ca_file: str | None
) -> Connection:
    """Return how to reach a server. What is None comes from FAIRLOG_SERVER, FAIRLOG_KEY and
    FAIRLOG_CA_FILE. Raises `FairlogError` for an address that is none.
    """
    server = server or os.environ.get("FAIRLOG_SERVER") or DEFAULT_SERVER
    key = key or os.environ.get("FAIRLOG_KEY") or None
    ca_file = ca_file or os.environ.get("FAIRLOG_CA_FILE") or None
    try:
        url = httpx.URL(server)
    except httpx.InvalidURL as error:
        raise FairlogError(f"The server's address is not a URL: {error}.") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise FairlogError(
            f"The server's address is http://… or https://…, such as {DEFAULT_SERVER}."
        )
    if url.userinfo or url.query or url.fragment:
        raise FairlogError("The server's address has no user, query or fragment; a key is `key=`.")
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key):
        raise FairlogError("The API key has characters that no key has: it begins with fl_.")
    return Connection(server=server, key=key, timeout=timeout, ca_file=ca_file)


def trusted_by(ca_file: str | None) -> ssl.SSLContext | None:
    """Return a context that trusts the authorities of a PEM file; None: httpx's own choice.

    Raises `FairlogError` if the file cannot be used.
    """
    if ca_file is None:
        return None
    try:
        Path(ca_file).read_bytes()
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise FairlogError(f"{ca_file} contains no PEM certificate.") from None
    except OSError as error:
        raise FairlogError(f"{ca_file} cannot be read ({error.strerror}).") from None


class SyncTransport:
    """The transport of `Fairlog`. Several threads may use it at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = httpx.Client(**connection.options())

    def close(self) -> None:
        self._client.close()

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end, and return what it returns."""
        try:
            step = next(flow)
            while True:
                step = flow.send(self._take(step))
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]  # a generator's is not typed

    def iterate(self, items: Items[T]) -> Iterator[T]:
        """Run a flow, and yield its items. The caller may end before it does."""
        stream = _SyncStream(self._client)
        try:
            step = next(items)
            while True:
                if isinstance(step, Item):
                    yield step.value
                    step = next(items)
                elif isinstance(step, OpenStream):
                    step = items.send(stream.open(self._request(step.request, STREAM_SECONDS)))
                elif isinstance(step, ReadStream):
                    step = items.send(stream.read())
                else:
                    step = items.send(self._take(step))
        except StopIteration:
            return
        finally:
            items.close()
            stream.close()

    def _take(self, step: Step) -> object:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        assert isinstance(step, Send), step
        try:
            answer = self._client.send(self._request(step.request, step.request.wait_seconds))
        except httpx.RequestError as error:
            return _no_answer(error)
        return Response(answer.status_code, answer.headers, answer.content)

    def _request(self, request: Request, seconds: float) -> httpx.Request:
        return _built(self._client, request, self._connection.timeouts(seconds))


class AsyncTransport:
    """The transport of `AsyncFairlog`, for one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = httpx.AsyncClient(**connection.options())

    async def close(self) -> None:
        await self._client.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end, and return what it returns."""
        try:
            step = next(flow)
            while True:
                step = flow.send(await self._take(step))
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]  # a generator's is not typed

    async def iterate(self, items: Items[T]) -> AsyncGenerator[T, None]:
        """Run a flow, and yield its items. The caller may end before it does."""
        stream = _AsyncStream(self._client)
        try:
            step = next(items)
            while True:
                if isinstance(step, Item):
                    yield step.value
                    step = next(items)
                elif isinstance(step, OpenStream):
                    request = self._request(step.request, STREAM_SECONDS)
                    step = items.send(await stream.open(request))
                elif isinstance(step, ReadStream):
                    step = items.send(await stream.read())
                else:
                    step = items.send(await self._take(step))
        except StopIteration:
            return
        finally:
            items.close()
            await stream.close()

    async def _take(self, step: Step) -> object:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        assert isinstance(step, Send), step
        try:
            answer = await self._client.send(self._request(step.request, step.request.wait_seconds))
        except httpx.RequestError as error:
            return _no_answer(error)
        return Response(answer.status_code, answer.headers, answer.content)

    def _request(self, request: Request, seconds: float) -> httpx.Request:
        return _built(self._client, request, self._connection.timeouts(seconds))


class _SyncStream:
    """One answer that is read piece by piece."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._response: httpx.Response | None = None
        self._pieces: Generator[bytes, None, None] | Iterator[bytes] = iter(())

    def open(self, request: httpx.Request) -> Response | NoAnswer:
        self.close()
        try:
            self._response = answer = self._client.send(request, stream=True)
            if answer.status_code != httpx.codes.OK:
                return Response(answer.status_code, answer.headers, answer.read())
        except httpx.RequestError as error:
            return _no_answer(error)
        self._pieces = answer.iter_bytes()
        return Response(answer.status_code, answer.headers, b"")

    def read(self) -> bytes | None:
        with suppress(httpx.RequestError):
            return next(self._pieces, None)
        return None

    def close(self) -> None:
        if self._response is not None:
            self._response.close()


class _AsyncStream:
    """One answer that is read piece by piece."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] = _no_pieces()

    async def open(self, request: httpx.Request) -> Response | NoAnswer:
        await self.close()
        try:
            self._response = answer = await self._client.send(request, stream=True)
            if answer.status_code != httpx.codes.OK:
                return Response(answer.status_code, answer.headers, await answer.aread())
        except httpx.RequestError as error:
            return _no_answer(error)
        self._pieces = answer.aiter_bytes()
        return Response(answer.status_code, answer.headers, b"")

    async def read(self) -> bytes | None:
        with suppress(httpx.RequestError, StopAsyncIteration):
            return await self._pieces.__anext__()
        return None

    async def close(self) -> None:
        if self._response is not None:
            await self._response.aclose()


async def _no_pieces() -> AsyncGenerator[bytes, None]:
    return
    yield  # makes it a generator


def _built(
    client: httpx.Client | httpx.AsyncClient, request: Request, timeout: httpx.Timeout
) -> httpx.Request:
    return client.build_request(
        request.method,
        request.path,
        params=request.params or None,
        content=request.content,
        timeout=timeout,
    )


def _no_answer(error: httpx.RequestError) -> NoAnswer:
    reason = f"{type(error).__name__} {error}".strip()
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        reason += "; name the authority of its certificate with ca_file"
    return NoAnswer(reason, was_sent=not isinstance(error, _UNSENT))
