"""Checks of every request before routing, and header fields and metrics of every answer."""

import re
import time
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import structlog
from litestar import Litestar
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import HTTPScope, Message

from entrypoints.http.answers import PROBLEM, SAFE_FIELDS, STRICT_TRANSPORT, JsonAnswer, SafeHeaders
from entrypoints.http.csrf import acts_for_another_site
from entrypoints.http.forwarding import TrustedProxies, client_of
from entrypoints.http.metrics import ServerMetrics
from entrypoints.http.problems import INTERNAL_ERROR, http_problem
from entrypoints.http.strict_json import is_utf8
from entrypoints.runtime.host_names import AcceptedHosts, is_accepted_host

PATH_BYTES_MAX: Final = 1024  # a user id of 255 bytes, each percent-encoded
# Fields that may occur once. If one occurs twice, a proxy may have checked the other value.
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
# Paths that end in a name chosen by a client. All other paths need no percent-encoding.
_SCHEDULES: Final = b"/v1/schedules/"
_NAMED: Final = (b"/v1/limits/", b"/v1/kinds/", b"/v1/plans/", b"/v1/resources/", _SCHEDULES)
_SCHEDULE_ACTIONS: Final = (b"/trigger", b"/backfill")
_USER_KINDS: Final = (b"/v1/limits/", b"/kinds/")  # before the user and before the kind
_TILES: Final = b"/tile/"  # whose numbers have leading zeros; `tile_at` accepts one form of each
_PATH: Final = re.compile(rb"/(?:[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*)?")
_NAME: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_ENCODED_LETTER: Final = re.compile(rb"%(?:3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])")
_ODD_SEGMENT: Final = re.compile(rb"/\.{1,2}(?=/|$)")
# Texts that Python's int() accepts although they are not the canonical form of a number.
_ODD_NUMBER: Final = re.compile(rb"/(?:-?0[0-9_]+|-0|-?[0-9]+_[0-9_]*|-?[0-9]{40,})(?=/|$)")

_log = structlog.get_logger()


class EdgeApp(Litestar):
    """The application, with checks before routing and metrics of each answer.

    A middleware would add two layers to each request, its own and one for its errors.
    """

    metrics: ServerMetrics
    hosts: AcceptedHosts
    proxies: TrustedProxies

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        """Leave out those of Pydantic and attrs: where these are installed, they would be imported,
        0.1 s at each start, although no type here is one of theirs.
        """
        return [*plugins, MsgspecDIPlugin()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 (ASGI's shapes)
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        began = time.perf_counter()
        self.proxies.apply(scope)
        is_head = scope["method"] == "HEAD"
        status = 0  # of the answer; 0 until it starts
        ended = False

        async def send_answer(message: Message) -> None:
            nonlocal status, ended
            if ended:
                return
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_safe_fields(message.get("headers", ()), scope["scheme"])
            elif message["type"] == "http.response.body":
                if is_head:  # no body, even if it would never end
                    message = {"type": "http.response.body", "body": b"", "more_body": False}
                ended = not message.get("more_body", False)
            await send(message)

        if problem := refusal(scope, self.hosts):
            await JsonAnswer(problem["status"], problem, (), PROBLEM)(scope, receive, send_answer)
            return
        # Every route for GET also answers HEAD.
        routed: Any = {**scope, "method": "GET"} if is_head else scope
        if scope["raw_path"].startswith(_NAMED):
            routed["path"] = named_path(scope["raw_path"])
        try:
            await super().__call__(routed, receive, send_answer)
        except Exception:
            _log.exception("request_failed", client=client_of(scope))
            if status:
                raise
            problem = http_problem(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
            await JsonAnswer(problem["status"], problem, (), PROBLEM)(scope, receive, send_answer)
        finally:
            if path := routed.get("path_template"):  # a route was found
                seconds = time.perf_counter() - began
                self.metrics.request_answered(routed["method"], path, status, seconds)


def refusal(scope: HTTPScope, hosts: AcceptedHosts) -> dict[str, Any] | None:
    """Return the problem details if no route may receive the request; None if it is acceptable."""
    headers = scope["headers"]
    fields = dict(headers)
    if len(fields) != len(headers) and (repeated := _repeated_field(headers)):  # type: ignore[arg-type]  # it is a list
        detail = f"The header {repeated.decode()} occurs more than once; send it once."
        return http_problem(HTTPStatus.BAD_REQUEST, detail)
    host = fields.get(b"host")
    if host is not None and not is_accepted_host(host, hosts):
        detail = (
            "The server does not accept this host name; use the address that it listens on, or "
            "start it with --allowed-host NAME."
        )
        return http_problem(HTTPStatus.MISDIRECTED_REQUEST, detail)
    if acts_for_another_site(scope["method"], scope["scheme"], fields):
        detail = "A page of another site may not send this request; send it from your own program."
        return http_problem(HTTPStatus.FORBIDDEN, detail)
    if not is_utf8(scope["raw_path"]):
        detail = "The path is not percent-encoded UTF-8."
        return http_problem(HTTPStatus.BAD_REQUEST, detail)
    if not is_canonical(scope["raw_path"]):
        detail = (
            "There is no resource at this address: a path has one form, like /v1/jobs/42, without "
            "empty, dotted or needlessly encoded parts; /schema lists the routes."
        )
        return http_problem(HTTPStatus.NOT_FOUND, detail)
    return None


def _repeated_field(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the name of a field that occurs more than once although it must not."""
    sent = Counter(name for name, _ in headers)
    return next((name for name in SINGLE_FIELDS if sent[name] > 1), None)


@lru_cache
def is_canonical(path: bytes) -> bool:
    """Return True if a path is in its only accepted form, so that a proxy and we read it alike."""
    if len(path) > PATH_BYTES_MAX or _ODD_SEGMENT.search(path):
        return False
    for prefix in _NAMED:
        if path.startswith(prefix):
            name = path.removeprefix(prefix)
            return (
                bool(name or prefix == _USER_KINDS[0])
                and _NAME.fullmatch(name) is not None
                and _ENCODED_LETTER.search(name) is None
                and not name.startswith(b"/")
                and not name.endswith(b"/")
                and b"//" not in name
            )
    return _PATH.fullmatch(path) is not None and (
        path.startswith(_TILES) or _ODD_NUMBER.search(path) is None
    )


def named_path(path: bytes) -> str:
    """Return a path that ends in a name as it is routed: with the name as one encoded part.

    A name may contain slashes, encoded or not. Only `/kinds/` after a user id, and `/trigger` and
    `/backfill` after a schedule, are of the path.
    """
    prefix = next(prefix for prefix in _NAMED if path.startswith(prefix))
    before_user, before_kind = _USER_KINDS
    name = path.removeprefix(prefix)
    action = b""
    if prefix == _SCHEDULES:
        action = next((one for one in _SCHEDULE_ACTIONS if name.endswith(one)), b"")
        name = name.removesuffix(action)
    user, divider, kind = name.partition(before_kind)
    names = [user, kind] if prefix == before_user and divider and user and kind else [name]
    if not all(unquote_to_bytes(one).strip(b"/") for one in names):
        return unquote_to_bytes(path).decode()  # no route has an empty name
    encoded = before_kind.join(quote(unquote_to_bytes(one), safe="").encode() for one in names)
    return (prefix + encoded + action).decode()


def _with_safe_fields(
    headers: Iterable[tuple[bytes, bytes]], scheme: str
) -> list[tuple[bytes, bytes]]:
    """Add SAFE_FIELDS that an answer lacks, and over HTTPS the one that forbids plain HTTP."""
    if not isinstance(headers, SafeHeaders):
        present = {name for name, _ in headers}
        headers = [*headers, *(field for field in SAFE_FIELDS if field[0] not in present)]
    return [*headers, STRICT_TRANSPORT] if scheme == "https" else headers
