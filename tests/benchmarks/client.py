"""A small HTTP/1.1 client on asyncio, for more requests a second than the usual ones can send."""

import asyncio
from typing import Any, Final, Self

import msgspec

_LENGTH: Final = b"\r\ncontent-length: "


class Client:
    """One connection, one request at a time. An asynchronous context manager."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._port, limit=64 * 1024 * 1024
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def post(self, path: str, content: object) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        body = msgspec.json.encode(content)
        self._writer.write(
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        start = head.index(_LENGTH) + len(_LENGTH)
        length = int(head[start : head.index(b"\r\n", start)])
        return int(head[9:12]), await self._reader.readexactly(length)

    async def ask(self, path: str, content: object) -> Any:
        """POST and return the decoded JSON. Raises `RuntimeError` unless the status is 2xx."""
        status, body = await self.post(path, content)
        if not 200 <= status < 300:
            raise RuntimeError(f"POST {path}: {status} {body.decode()}")
        return msgspec.json.decode(body)
