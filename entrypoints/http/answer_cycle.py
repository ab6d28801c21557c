"""uvicorn's cycle of a request and its answer, which sends the head of a `JsonAnswer` as it is.

uvicorn checks the name and value of each field by regular expressions. With the security fields of
every answer that takes 10 µs, a tenth of a refused submission. These fields are our own, so they
need no check.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from entrypoints.http.answers import SafeHeaders


class AnswerCycle(RequestResponseCycle):
    async def send(self, message: Any) -> None:  # noqa: ANN401 (ASGI's shape)
        headers = None if self.response_started else message.get("headers")
        if not isinstance(headers, SafeHeaders) or self.flow.write_paused or self.disconnected:
            await super().send(message)
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        self.chunked_encoding = False
        self.expected_content_length = headers.content_length
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[message["status"]] + headers.sent + end)
