"""The conversion of errors to problem details (RFC 9457); errors themselves know no HTTP."""

import math
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)

from domain.language.errors import (
    BackfillGoesOn,
    BeyondLimits,
    BodiesAreNeeded,
    EntryRefused,
    EventsArchived,
    FairlogError,
    HeldByAnother,
    InvalidInput,
    JobArchived,
    JobHasEnded,
    JobHasMovedOn,
    JobHasNotEnded,
    JobWasErased,
    KeyExists,
    KeyHasEnded,
    KeyNotValid,
    KeyReusedWithOtherPayload,
    LeaseHasEnded,
    LogFileReplaced,
    LogTooNew,
    LogUnavailable,
    NotAllowed,
    NotForKind,
    NothingToBackfill,
    NotTheCurrentAttempt,
    PlanInUse,
    QueueFull,
    RateLimited,
    Refusal,
    ReturnedTooOften,
    TimeWasUp,
    TooManyCallbacks,
    TooManyKeys,
    TooManyKinds,
    TooManyLimits,
    TooManyQueues,
    TooManySecrets,
    TooManyTimes,
    UnknownCallback,
    UnknownJob,
    UnknownKey,
    UnknownParent,
    UnknownPlan,
    UnknownSchedule,
)
from domain.language.events import RateLimitDecided
from domain.language.identifiers import UserId
from domain.language.moments import later
from entrypoints.http.answers import PROBLEM, JsonAnswer, encoded
from entrypoints.http.forwarding import client_of
from entrypoints.http.rate_limit_fields import rate_limit_fields, seconds_until
from entrypoints.http.wrong_keys import TooManyWrongKeys
from entrypoints.service.change_limits import TooManyChanges
from entrypoints.use_cases.signed_checkpoints import NoSigningKey, UnknownTile

INTERNAL_ERROR = "The server failed to process the request."
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_RETRY_SECONDS = "1"  # after an error that passes by itself
_MESSAGE_CHARACTERS_MAX = 500  # of Litestar's messages
_DETAIL_CHARACTERS_MAX = 2_000  # a message may quote a value of megabytes
_STATUS: dict[type[FairlogError], HTTPStatus] = {
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    KeyReusedWithOtherPayload: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManyKinds: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManyQueues: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnknownParent: HTTPStatus.UNPROCESSABLE_ENTITY,
    EntryRefused: HTTPStatus.FAILED_DEPENDENCY,
    UnknownJob: HTTPStatus.NOT_FOUND,
    JobArchived: HTTPStatus.GONE,
    EventsArchived: HTTPStatus.GONE,
    NotTheCurrentAttempt: HTTPStatus.CONFLICT,
    LeaseHasEnded: HTTPStatus.CONFLICT,
    TimeWasUp: HTTPStatus.CONFLICT,
    HeldByAnother: HTTPStatus.CONFLICT,
    ReturnedTooOften: HTTPStatus.CONFLICT,
    JobHasEnded: HTTPStatus.CONFLICT,
    JobHasNotEnded: HTTPStatus.CONFLICT,
    JobWasErased: HTTPStatus.CONFLICT,
    BodiesAreNeeded: HTTPStatus.CONFLICT,
    JobHasMovedOn: HTTPStatus.CONFLICT,
    KeyNotValid: HTTPStatus.UNAUTHORIZED,
    NotAllowed: HTTPStatus.FORBIDDEN,
    TooManyWrongKeys: HTTPStatus.TOO_MANY_REQUESTS,
    TooManyChanges: HTTPStatus.TOO_MANY_REQUESTS,
    KeyExists: HTTPStatus.CONFLICT,
    KeyHasEnded: HTTPStatus.CONFLICT,
    TooManyKeys: HTTPStatus.CONFLICT,
    TooManySecrets: HTTPStatus.CONFLICT,
    UnknownKey: HTTPStatus.NOT_FOUND,
    UnknownPlan: HTTPStatus.NOT_FOUND,
    PlanInUse: HTTPStatus.CONFLICT,
    UnknownCallback: HTTPStatus.NOT_FOUND,
    TooManyCallbacks: HTTPStatus.CONFLICT,
    UnknownSchedule: HTTPStatus.NOT_FOUND,
    BackfillGoesOn: HTTPStatus.CONFLICT,
    NothingToBackfill: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManyTimes: HTTPStatus.UNPROCESSABLE_ENTITY,
    BeyondLimits: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManyLimits: HTTPStatus.CONFLICT,
    InvalidInput: HTTPStatus.BAD_REQUEST,
    LogUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    LogFileReplaced: HTTPStatus.SERVICE_UNAVAILABLE,
    LogTooNew: HTTPStatus.SERVICE_UNAVAILABLE,
    NoSigningKey: HTTPStatus.NOT_FOUND,
    UnknownTile: HTTPStatus.NOT_FOUND,
    QueueFull: HTTPStatus.SERVICE_UNAVAILABLE,
}
# Names in requests of parameters that have another name in code.
_NAMES_IN_REQUESTS = {"data": "the body", "job_state": "state", "event_type": "type"}
_MESSAGES = {"'data'": "a JSON object is required"}
_log = structlog.get_logger()

Problem = dict[str, Any]
AnyRequest = Request[Any, Any, Any]


def problem_of(error: Exception) -> Problem:
    """Return the problem details of an error; `status` is the status of the answer."""
    if not isinstance(error, FairlogError):
        return http_problem(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR)
    if isinstance(error, InvalidInput) and error.is_too_large:
        return http_problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
    problem = http_problem(status_of(type(error)), str(error))
    if isinstance(error, RateLimited):
        problem |= {
            "type": QUOTA_EXCEEDED,
            "violated-policies": [error.decision.window_name],
            "scope": str(error.scope),
            "limit": error.limit,
            "used": error.used,
            "window_seconds": error.window_seconds,
            "resets_at": error.resets_at,
        }
    about_job = KeyReusedWithOtherPayload | UnknownParent | UnknownJob | NotTheCurrentAttempt
    if isinstance(error, about_job) and error.job_id is not None:
        problem["job_id"] = error.job_id
    if isinstance(error, JobArchived):
        problem["segment"] = error.segment
    if isinstance(error, NotForKind):
        problem["kinds"] = error.kinds
    return problem


def status_of(error: type[FairlogError]) -> HTTPStatus:
    """Return the status of the answer to an error of this class."""
    known = (_STATUS[cls] for cls in error.__mro__ if cls in _STATUS)
    return next(known, HTTPStatus.INTERNAL_SERVER_ERROR)


def headers_of(error: Exception) -> dict[str, str]:
    """Return the header fields of the answer to an error: rate limits, and when to retry."""
    headers: dict[str, str] = {}
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(seconds_until(error.resets_at, error.decided_at))
    elif isinstance(error, KeyNotValid):
        headers["WWW-Authenticate"] = 'Bearer realm="fairlog"'
    elif isinstance(error, NotAllowed):
        headers["WWW-Authenticate"] = 'Bearer realm="fairlog", error="insufficient_scope"'
    elif isinstance(error, TooManyWrongKeys | TooManyChanges):
        headers["Retry-After"] = str(math.ceil(error.seconds))
    elif isinstance(error, LogUnavailable | QueueFull | LogTooNew):
        headers["Retry-After"] = _RETRY_SECONDS
    if isinstance(error, Refusal) and error.decision is not None and error.decided_at is not None:
        headers |= rate_limit_fields(error.decision, error.decided_at)
    return headers


def refusal_answer(error: RateLimited) -> JsonAnswer:
    """Return the answer of `answer_error` without an exception that passes through Litestar.

    It is requested up to ten thousand times per second, and cached: it changes for a user only once
    per second.
    """
    seconds = seconds_until(error.resets_at, error.decided_at)
    return _refusal_answer(error.user_id, error.decision, seconds)


@lru_cache(maxsize=4096)
def _refusal_answer(user_id: UserId, decision: RateLimitDecided, seconds: int) -> JsonAnswer:
    error = RateLimited(decision, later(decision.resets_at, -seconds), user_id)
    problem = problem_of(error)
    return JsonAnswer(problem["status"], problem, encoded(headers_of(error)), PROBLEM)


def answer_error(request: AnyRequest, error: Exception) -> Response[Problem]:
    """Convert an exception of any route to an answer; log it if it is unexpected."""
    if isinstance(error, HTTPException):
        return _answer(_problem_of_litestar(error), _headers_of_litestar(error))
    problem = problem_of(error)
    if problem["status"] == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("request_failed", client=client_of(request.scope), exc_info=error)
    return _answer(problem, headers_of(error))


def _problem_of_litestar(error: HTTPException) -> Problem:
    match error:
        case ValidationException():
            detail = _validation_sentence(error) or error.detail
        case NotFoundException():
            detail = "There is no resource at this address; /schema lists the routes."
        case MethodNotAllowedException():
            allowed = _headers_of_litestar(error).get("allow", "other methods")
            detail = f"This address accepts {allowed}; /schema lists the routes."
        case _ if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            detail = "The body is larger than this route accepts; send less in one request."
        case _:
            detail = error.detail
    return http_problem(HTTPStatus(error.status_code), detail[:_MESSAGE_CHARACTERS_MAX])


def _headers_of_litestar(error: HTTPException) -> dict[str, str]:
    headers = dict(error.headers or {})
    if "GET" in headers.get("allow", ""):
        headers["allow"] += ", HEAD"  # see `EdgeApp`
    return headers


def _validation_sentence(error: ValidationException) -> str:
    """Return one clause per error that Litestar found, as a sentence; empty if it lists none."""
    found = error.extra if isinstance(error.extra, list) else []
    clauses = [_clause(item) for item in found if isinstance(item, dict)]
    return f"Not accepted: {'; '.join(clauses)}." if clauses else ""


def _clause(found: dict[str, Any]) -> str:
    place = str(found.get("key", "the request"))
    message = str(found.get("message", "not valid"))
    return f"{_NAMES_IN_REQUESTS.get(place, place)}: {_MESSAGES.get(message, message)}"


def http_problem(status: HTTPStatus, detail: str) -> Problem:
    """Return problem details of no special type, with a detail of at most 2,000 characters."""
    if len(detail) > _DETAIL_CHARACTERS_MAX:
        detail = f"{detail[: _DETAIL_CHARACTERS_MAX - 1]}…"
    # All problem details are built here, so this is the order of their members in every answer.
    # Members that `problem_of` adds follow in the order in which it adds them.
    return {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}


def _answer(problem: Problem, headers: dict[str, str] | None = None) -> Response[Problem]:
    return Response(
        problem,
        status_code=problem["status"],
        headers=headers,
        media_type="application/problem+json",
    )
