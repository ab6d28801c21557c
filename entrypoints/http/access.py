"""Authentication and authorization of requests: the one table of which route needs which right.

A guard of the framework checks a request on the route that was matched, before its body is read. A
route without a rule is refused. Whose jobs a key may see is checked where jobs are read, and under
the head lock where they change.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Final, TypeVar

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from msgspec.structs import replace

from adapters.settings import Settings
from domain.access.decisions import check_submission
from domain.access.keys import ApiKey
from domain.access.rights import Right
from domain.language import validation
from domain.language.commands import ClaimJobs, Command, SubmitJob
from domain.language.errors import KeyNotValid, MissingRight, NotAllowed
from domain.language.identifiers import JobId
from domain.language.moments import to_micros
from entrypoints.http.csrf import is_from_own_page
from entrypoints.http.forwarding import client_of
from entrypoints.http.session_cookie import is_use, token_of
from entrypoints.http.strict_request import StrictRequest, disconnection
from entrypoints.http.wrong_keys import WrongKeys
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.key_ring import Access, KeyRing
from entrypoints.service.sessions import Sessions

_Rule = frozenset[Right]  # one of them is enough

PUBLIC: Final[_Rule] = frozenset()  # no key is needed
_READ: Final = frozenset({Right.READ})
_READ_ALL: Final = frozenset({Right.READ_ALL})
_SUBMIT: Final = frozenset({Right.SUBMIT})
_CHANGE_JOBS: Final = frozenset({Right.CHANGE_JOBS})
_WORK: Final = frozenset({Right.WORK})
_OPERATE: Final = frozenset({Right.OPERATE})
_KEYS: Final = frozenset({Right.KEYS})

# By method and path of the route, with the names of its parameters. HEAD has the rule of GET.
_API: Final[Mapping[tuple[str, str], _Rule]] = {
    ("GET", "/livez"): PUBLIC,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/schema"): PUBLIC,
    ("GET", "/schema/{path}"): PUBLIC,
    ("GET", "/schema/openapi.json"): PUBLIC,
    ("GET", "/metrics"): _READ_ALL,
    ("POST", "/v1/jobs"): _SUBMIT,
    ("POST", "/v1/jobs/batch"): _SUBMIT,
    ("GET", "/v1/jobs"): _READ,
    ("GET", "/v1/jobs/{job_id}"): _READ,
    ("GET", "/v1/jobs/{job_id}/events"): _READ,
    ("GET", "/v1/jobs/{job_id}/explain"): _READ,
    ("POST", "/v1/jobs/{job_id}/cancel"): _CHANGE_JOBS,
    ("POST", "/v1/jobs/{job_id}/retry"): _CHANGE_JOBS,
    ("POST", "/v1/jobs/retry"): _OPERATE,
    ("POST", "/v1/claims"): _WORK,
    ("POST", "/v1/claims/heartbeat"): _WORK,
    ("POST", "/v1/claims/complete"): _WORK,
    ("POST", "/v1/claims/return"): _WORK | _OPERATE,
    ("POST", "/v1/claims/take-back"): _OPERATE,
    ("POST", "/v1/jobs/{job_id}/complete"): _WORK,
    ("POST", "/v1/jobs/{job_id}/fail"): _WORK,
    ("GET", "/v1/audit"): _READ,
    ("GET", "/v1/stream"): _READ,
    # About no single user: hashes of all events, and how many there are.
    ("GET", "/checkpoint"): _READ_ALL,
    ("GET", "/tile/{path}"): _READ_ALL,
    ("GET", "/v1/stats"): _READ,
    ("GET", "/v1/limits"): _READ_ALL,
    ("PUT", "/v1/limits"): _OPERATE,
    ("GET", "/v1/limits/{user_id}"): _READ,
    ("PUT", "/v1/limits/{user_id}"): _OPERATE,
    ("GET", "/v1/limits/{user_id}/kinds/{kind}"): _READ,
    ("PUT", "/v1/limits/{user_id}/kinds/{kind}"): _OPERATE,
    ("GET", "/v1/plans"): _READ_ALL,
    ("GET", "/v1/plans/{name}"): _READ_ALL,
    ("PUT", "/v1/plans/{name}"): _OPERATE,
    ("DELETE", "/v1/plans/{name}"): _OPERATE,
    ("GET", "/v1/kinds"): _READ_ALL,
    ("GET", "/v1/kinds/{kind}"): _READ_ALL,
    ("PUT", "/v1/kinds/{kind}"): _OPERATE,
    ("GET", "/v1/resources"): _READ_ALL,
    ("GET", "/v1/resources/{name}"): _READ_ALL,
    ("PUT", "/v1/resources/{name}"): _OPERATE,
    ("GET", "/v1/schedules"): _READ,
    ("GET", "/v1/schedules/{name}"): _READ,
    ("PUT", "/v1/schedules/{name}"): _OPERATE,
    ("DELETE", "/v1/schedules/{name}"): _OPERATE,
    ("POST", "/v1/schedules/{name}/trigger"): _OPERATE,
    ("POST", "/v1/schedules/{name}/backfill"): _OPERATE,
    ("GET", "/v1/callbacks"): _READ_ALL,
    ("GET", "/v1/callbacks/{name}"): _READ_ALL,
    ("PUT", "/v1/callbacks/{name}"): _OPERATE,
    ("DELETE", "/v1/callbacks/{name}"): _OPERATE,
    ("POST", "/v1/callbacks/{name}/rotate"): _OPERATE,
    ("GET", "/v1/keys"): _KEYS,
    ("POST", "/v1/keys"): _KEYS,
    ("POST", "/v1/keys/{name}/rotate"): _KEYS,
    ("DELETE", "/v1/keys/{name}"): _KEYS,
    ("POST", "/jobs/submit_job"): _SUBMIT,
    ("GET", "/jobs/job_status/{job_id}"): _READ,
    ("GET", "/jobs/dashboard"): _READ,
}
_DASHBOARD: Final[Mapping[tuple[str, str], _Rule]] = {
    ("GET", "/login"): PUBLIC,
    ("POST", "/login"): PUBLIC,
    ("POST", "/logout"): PUBLIC,
    ("GET", "/"): _READ,
    ("GET", "/charts.json"): _READ_ALL,
    ("GET", "/fairness"): _READ_ALL,
    ("GET", "/limits"): _READ_ALL,
    ("POST", "/limits/change"): _OPERATE,
    ("GET", "/schedules"): _READ,
    ("GET", "/callbacks"): _READ_ALL,
    ("GET", "/jobs"): _READ,
    ("GET", "/find"): _READ,
    ("GET", "/jobs/{job_id}"): _READ,
    ("GET", "/jobs/{job_id}/whole/{name}"): _READ,
    ("POST", "/jobs/cancel"): _CHANGE_JOBS,
    ("POST", "/jobs/retry"): _CHANGE_JOBS,
    ("POST", "/jobs/retry-matching"): _OPERATE,
    ("GET", "/audit"): _READ,
    ("GET", "/audit/state"): _READ_ALL,
    ("GET", "/pulse"): _READ,
}
RULES: Final = {**_API, **_DASHBOARD}
# The routes that accept a session of the dashboard in place of an API key.
WITH_SESSION: Final = frozenset({*_DASHBOARD, ("GET", "/v1/stream")})
_METRICS: Final = "/metrics"
# The routes that a setting opens to everybody, by the setting's name.
_OPENED_BY: Final = {
    "public_metrics": frozenset({_METRICS}),
    "public_checkpoints": frozenset({"/checkpoint", "/tile/{path}"}),
}
_KEY_PATHS: Final = "/v1/keys"
# The dashboard's files, whose path has a digest. The path is the route's, not the request's.
_FILES: Final = "/static/"
_ACCESS: Final = "fairlog_access"  # in the scope of a request
_BEARER: Final = "bearer "

C = TypeVar("C", bound=Command)
T = TypeVar("T")


def open_routes(settings: Settings) -> frozenset[str]:
    """Return the routes that need no key because a setting says so."""
    return frozenset().union(*(_OPENED_BY[name] for name in _OPENED_BY if getattr(settings, name)))


def rule_of(method: str, path: str) -> _Rule | None:
    """Return the rule of a route; None: it has none, and is refused."""
    if method == "OPTIONS" or (path.startswith(_FILES) and method in {"GET", "HEAD"}):
        return PUBLIC
    return RULES.get(("GET" if method == "HEAD" else method, path))


class Guard:
    """The check of each request, as a guard of Litestar."""

    def __init__(
        self,
        key_ring: KeyRing,
        sessions: Sessions,
        wrong_keys: WrongKeys,
        open_to_all: frozenset[str],
    ) -> None:
        """`open_to_all`: see `open_routes`."""
        self._key_ring = key_ring
        self._sessions = sessions
        self._wrong_keys = wrong_keys
        self._open_to_all = open_to_all

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
    ) -> None:
        """Let the request pass, with its key in the scope.

        Raises `KeyNotValid`, `NotAllowed`, `TooManyWrongKeys`, and `LogUnavailable` while the keys
        cannot be read.
        """
        scope: Any = connection.scope
        path = scope["path_template"]
        rule = rule_of(scope["method"], path)
        if rule is None:
            raise NotAllowed("This route has no rule that says who may use it.")
        if not rule or path in self._open_to_all:
            return
        if path == _METRICS:
            await self._key_ring.try_to_be_current()
        else:
            await self._key_ring.require_current()
        if not self._key_ring.are_required:
            if path.startswith(_KEY_PATHS):
                raise KeyNotValid(
                    "Create the first key on the database itself: `fairlog keys create --name root "
                    "--role admin`."
                )
            return
        access = await self._authenticate(connection)
        if access.key.rights.isdisjoint(rule):
            raise MissingRight(access.key.name, access.key.role.value, sorted(rule))
        scope[_ACCESS] = access

    async def _authenticate(self, connection: ASGIConnection[Any, Any, Any, Any]) -> Access:
        given = _authorization(connection)
        if given is None and (access := await self._of_session(connection.scope)):
            return access
        if given is None:
            raise KeyNotValid("This server requires an API key: `Authorization: Bearer fl_…`.")
        client = client_of(connection.scope) or ""
        may_read = not self._wrong_keys.is_limited(client)
        access = await self._key_ring.recognize(given, may_read=may_read)
        if access is None:
            self._wrong_keys.refused(client, self._key_ring.now)
            raise KeyNotValid("The API key is unknown, malformed, expired or revoked.")
        return access

    async def _of_session(self, scope: Any) -> Access | None:  # noqa: ANN401 (ASGI's shape)
        """Return the API key of the session that a request of the dashboard belongs to.

        Raises `NotAllowed` for a change that no page of this server sends: a browser says which
        page sends a request, and only browsers have sessions.
        """
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if (method, scope["path_template"]) not in WITH_SESSION:
            return None
        token = token_of(scope)
        if token is None:
            return None
        if method != "GET" and not is_from_own_page(scope):
            raise NotAllowed("A browser has to say that a page of this server sends the request.")
        return await self._sessions.access_of(token, is_use=is_use(scope))


def _authorization(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    """Return what the request sends as a key; None if it sends none."""
    for name, value in connection.scope["headers"]:
        if name == b"authorization":
            text = value.decode("latin-1")
            return text[len(_BEARER) :].strip() if text[:7].lower() == _BEARER else ""
    return None


def access_of(request: ASGIConnection[Any, Any, Any, Any]) -> Access | None:
    """Return the key of a request that passed the guard; None: no key is required."""
    return request.scope.get(_ACCESS)  # type: ignore[return-value]  # a key of ours


def key_of(request: StrictRequest) -> ApiKey | None:
    """Return the key that limits what a request may see; None: it may see everything."""
    access = access_of(request)
    if access is None or Right.READ_ALL in access.key.rights:
        return None
    return access.key


def count_change(request: StrictRequest, fairlog: Fairlog, job_id: int) -> JobId:
    """Count a cancellation or retry of the caller, and return the job's id.

    Raises `TooManyChanges` and `InvalidInput`.
    """
    valid = validation.job_id(job_id)
    access = access_of(request)
    if access is not None:
        fairlog.change_limits.count(access.key, to_micros(fairlog.key_ring.now))
    return valid


def limited_claim(request: StrictRequest, command: ClaimJobs) -> ClaimJobs:
    """Return a claim of any kind as a claim of the kinds that the caller's key is for."""
    access = access_of(request)
    if access is None or command.kinds is not None or not access.key.created.kinds:
        return command
    return replace(command, kinds=access.key.created.kinds)


@contextlib.contextmanager
def held_open(request: StrictRequest, fairlog: Fairlog) -> Iterator[asyncio.Event]:
    """Yield an event that is set when the client disconnects or its key ends."""
    with (
        disconnection(request) as ended,
        fairlog.key_ring.ending(access_of(request), ended),
    ):
        yield ended


async def until_ended(
    fairlog: Fairlog, access: Access | None, items: AsyncGenerator[T]
) -> AsyncGenerator[T]:
    """Yield the items until the key ends, even while none comes."""
    async with contextlib.aclosing(items):
        if access is None:
            async for item in items:
                yield item
            return
        ended = asyncio.Event()
        waiting = asyncio.create_task(ended.wait(), name="key_end")
        with fairlog.key_ring.ending(access, ended):
            following: asyncio.Future[Any] = waiting
            try:
                while fairlog.key_ring.holds(access):
                    following = asyncio.ensure_future(anext(items, None))
                    await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
                    if ended.is_set() or (item := following.result()) is None:
                        break
                    yield item
            finally:
                waiting.cancel()
                following.cancel()
                await asyncio.gather(waiting, following, return_exceptions=True)


def require_still(request: StrictRequest, fairlog: Fairlog) -> None:
    """Raise `KeyNotValid` if the key of a request that has waited has ended."""
    access = access_of(request)
    if access is not None and not fairlog.key_ring.holds(access):
        raise KeyNotValid


def sent_by(request: StrictRequest, command: C) -> C:
    """Return a command as the request's caller sends it.

    Raises `NotAllowed` for a submission beyond what the caller's key may ask for: the log would
    refuse it too, but only after the refusal cache has answered for another user.
    """
    access = access_of(request)
    if access is None:
        return command
    if isinstance(command, SubmitJob):
        check_submission(access.key, command)
    return replace(command, by=access.caller)
