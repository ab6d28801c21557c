"""Answers of the calls that are made thousands of times a second.

Litestar's Response looks each header up, merges and encodes it: with three headers of its own that
is as much work as all the rest of a submission's answer. Here they are bytes from the start.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

Headers = Sequence[tuple[bytes, bytes]]

JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"
# Every answer has these, but where it has others of the same names; see `EdgeApp`.
SAFE_FIELDS: Final = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
_encode = msgspec.json.Encoder().encode


class SafeHeaders(list[tuple[bytes, bytes]]):
    """Header fields with SAFE_FIELDS among them."""


class JsonAnswer(ASGIResponse):
    """A value as JSON, with header fields that are already encoded."""

    def __init__(  # the parent's does what this one is there to avoid
        self,
        status: int,
        value: object,
        headers: Headers = (),
        media_type: bytes = JSON,
    ) -> None:
        self._status = status
        self._body = _encode(value)
        self._headers = SafeHeaders(
            (
                (b"content-type", media_type),
                (b"content-length", b"%d" % len(self._body)),
                *SAFE_FIELDS,
                *headers,
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send(
            {"type": "http.response.start", "status": self._status, "headers": self._headers}
        )
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def encoded(headers: dict[str, str]) -> Headers:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
