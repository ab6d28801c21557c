"""What holds for every request before any route sees it, and for every answer on its way out."""

import re
import time
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import structlog
from litestar import Litestar
from litestar.types import HTTPScope, Message

from entrypoints.http.answers import PROBLEM, SAFE_FIELDS, JsonAnswer, SafeHeaders
from entrypoints.http.csrf import acts_for_another_site
from entrypoints.http.metrics import ServerMetrics
from entrypoints.http.problems import http_problem
from entrypoints.http.strict_json import is_utf8
from entrypoints.runtime.host_names import is_asked_by_name

PATH_BYTES_MAX: Final = 1024  # a user id of 255 bytes, each written with three
# Of these a client sends one. With two of them it is open which one a proxy has looked at.
SINGLE_FIELDS: Final = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"host",
        b"hx-request",
        b"idempotency-key",
        b"last-event-id",
        b"origin",
        b"sec-fetch-site",
        b"x-fairlog-position",
    }
)
# Paths that end in a name that somebody has chosen. All others need no percent-encoding.
_NAMED: Final = (b"/v1/limits/", b"/v1/kinds/")
_PATH: Final = re.compile(rb"/(?:[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*)?")
_NAME: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_ENCODED_LETTER: Final = re.compile(rb"%(?:3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])")
_ODD_SEGMENT: Final = re.compile(rb"/\.{1,2}(?=/|$)")
# What Python's int() takes for a number, but for the one way in which an id is written.
_ODD_NUMBER: Final = re.compile(rb"/(?:-?0[0-9_]+|-0|-?[0-9]+_[0-9_]*|-?[0-9]{40,})(?=/|$)")

_log = structlog.get_logger()


class EdgeApp(Litestar):
    """The application behind its edge.

    A middleware would cost each request two more layers, its own and one for its errors.
    """

    figures: ServerMetrics
    served_names: frozenset[str] | None = None  # see `hosts_of`

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 (ASGI's shapes)
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        began = time.perf_counter()
        is_head = scope["method"] == "HEAD"
        status = 0  # of the answer, once it has begun
        ended = False

        async def answering(message: Message) -> None:
            nonlocal status, ended
            if ended:
                return
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_safe_fields(message.get("headers", ()))
            elif message["type"] == "http.response.body":
                if is_head:  # no part of the body, also where it would go on for ever
                    message = {"type": "http.response.body", "body": b"", "more_body": False}
                ended = not message.get("more_body", False)
            await send(message)

        if problem := refusal(scope, self.served_names):
            await JsonAnswer(problem["status"], problem, (), PROBLEM)(scope, receive, answering)
            return
        # Whatever can be asked for can be asked about.
        asked: Any = {**scope, "method": "GET"} if is_head else scope
        try:
            await super().__call__(asked, receive, answering)
        except Exception:
            _log.exception("request_failed")
            if status:
                raise
            problem = http_problem(
                HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong on our side."
            )
            await JsonAnswer(problem["status"], problem, (), PROBLEM)(scope, receive, answering)
        finally:
            if path := asked.get("path_template"):  # a route took it
                seconds = time.perf_counter() - began
                self.figures.request_answered(asked["method"], path, status, seconds)


def refusal(scope: HTTPScope, names: frozenset[str] | None) -> dict[str, Any] | None:
    """Return the problem with a request's head, if there is one that no route could excuse."""
    headers = scope["headers"]
    fields = dict(headers)
    if len(fields) != len(headers) and (twice := _sent_twice(headers)):  # type: ignore[arg-type]  # it is a list
        detail = f"The header {twice.decode()} is there more than once; send one."
        return http_problem(HTTPStatus.BAD_REQUEST, detail)
    host = fields.get(b"host")
    if host is not None and names is not None and not is_asked_by_name(host, names):
        detail = (
            "This server is not asked by that name; use the address that it listens on, or "
            "start it with --allowed-host NAME."
        )
        return http_problem(HTTPStatus.MISDIRECTED_REQUEST, detail)
    if acts_for_another_site(scope["method"], fields):
        detail = "A page of another site may not act here; send the request from your own program."
        return http_problem(HTTPStatus.FORBIDDEN, detail)
    if not is_utf8(scope["raw_path"]):
        detail = "The path is not valid UTF-8, percent-encoded."
        return http_problem(HTTPStatus.BAD_REQUEST, detail)
    if not is_canonical(scope["raw_path"]):
        detail = (
            "There is nothing at this address: a path is written in one way, like /v1/jobs/42, "
            "without empty, dotted or needlessly encoded parts; /schema lists the calls."
        )
        return http_problem(HTTPStatus.NOT_FOUND, detail)
    return None


def _sent_twice(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return one of the single fields that is not."""
    sent = Counter(name for name, _ in headers)
    return next((name for name in SINGLE_FIELDS if sent[name] > 1), None)


@lru_cache
def is_canonical(path: bytes) -> bool:
    """Say whether it is the one way to write it: what a proxy has let through is what is served."""
    if len(path) > PATH_BYTES_MAX or _ODD_SEGMENT.search(path):
        return False
    for prefix in _NAMED:
        if path.startswith(prefix):
            name = path.removeprefix(prefix)
            return (
                _NAME.fullmatch(name) is not None
                and _ENCODED_LETTER.search(name) is None
                and not name.startswith(b"/")
                and not name.endswith(b"/")
                and b"//" not in name
            )
    return _PATH.fullmatch(path) is not None and _ODD_NUMBER.search(path) is None


def _with_safe_fields(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without them a browser guesses what an answer is, and caches keep it."""
    if isinstance(headers, SafeHeaders):
        return headers
    given = {name for name, _ in headers}
    return [*headers, *(field for field in SAFE_FIELDS if field[0] not in given)]
