"""Answers of the routes that are called thousands of times per second.

Litestar's Response looks up, merges and encodes each header field; for three fields that costs as
much as the rest of a submission's answer. Here they are encoded only once.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

Headers = Sequence[tuple[bytes, bytes]]

JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"
# Every answer has these fields unless it sets them itself; see `EdgeApp`. Without them browsers
# guess the media type, caches store the answer, and other sites may embed it.
SAFE_FIELDS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
)
# RFC 6797: a year in which a browser asks for this host name over HTTPS alone.
STRICT_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000")
_SAFE_LINES: Final = b"".join(b"%s: %s\r\n" % field for field in SAFE_FIELDS)
_encode = msgspec.json.Encoder().encode


class SafeHeaders(list[tuple[bytes, bytes]]):
    """Header fields that include SAFE_FIELDS, also as they are sent; see `AnswerCycle`."""

    sent: bytes  # the lines of all fields
    content_length: int


class JsonAnswer(ASGIResponse):
    """An answer with a value as JSON and header fields that are already encoded.

    The members of a mapping are sent in its order, those of a struct in the order of its fields.
    """

    def __init__(  # the parent's does the work that this class avoids
        self,
        status: int,
        value: object,
        headers: Headers = (),
        media_type: bytes = JSON,
    ) -> None:
        self._status = status
        self._body = _encode(value)
        size = len(self._body)
        self._headers = SafeHeaders(
            (
                (b"content-type", media_type),
                (b"content-length", b"%d" % size),
                *SAFE_FIELDS,
                *headers,
            )
        )
        self._headers.content_length = size
        self._headers.sent = b"content-type: %s\r\ncontent-length: %d\r\n%s%s" % (
            media_type,
            size,
            _SAFE_LINES,
            b"".join(b"%s: %s\r\n" % field for field in headers),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send(
            {"type": "http.response.start", "status": self._status, "headers": self._headers}
        )
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def encoded(headers: dict[str, str]) -> Headers:
    """Encode header fields, with names in lower case as ASGI requires."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
