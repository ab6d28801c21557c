"""Our errors as problem details (RFC 9457): the one place where they meet HTTP."""

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
    BodiesAreNeeded,
    FairlogError,
    HeldByAnother,
    InvalidInput,
    JobHasEnded,
    JobHasMovedOn,
    JobHasNotEnded,
    JobWasErased,
    KeyReusedWithOtherPayload,
    LeaseHasEnded,
    LogFileReplaced,
    LogTooNew,
    LogUnavailable,
    NotTheCurrentAttempt,
    QueueFull,
    RateLimited,
    Refusal,
    ReturnedTooOften,
    TimeWasUp,
    TooManyKinds,
    UnknownJob,
)
from domain.language.events import RateLimitDecided
from domain.language.identifiers import UserId
from domain.language.moments import later
from entrypoints.http.answers import PROBLEM, JsonAnswer, encoded
from entrypoints.http.rate_limit_fields import rate_limit_fields, seconds_until

QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_RETRY_SECONDS = "1"
_MESSAGE_CHARACTERS_MAX = 500
_DETAIL_CHARACTERS_MAX = 2_000  # a sentence may name what was sent, like a field of megabytes
_STATUS: dict[type[FairlogError], HTTPStatus] = {
    RateLimited: HTTPStatus.TOO_MANY_REQUESTS,
    KeyReusedWithOtherPayload: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManyKinds: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnknownJob: HTTPStatus.NOT_FOUND,
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
    InvalidInput: HTTPStatus.BAD_REQUEST,
    LogUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    LogFileReplaced: HTTPStatus.SERVICE_UNAVAILABLE,
    LogTooNew: HTTPStatus.SERVICE_UNAVAILABLE,
    QueueFull: HTTPStatus.SERVICE_UNAVAILABLE,
}
# Where a parameter of ours has another name than on the wire.
_WIRE_NAMES = {"data": "the body", "job_state": "state", "event_type": "type"}
_MESSAGES = {"'data'": "a JSON object is expected, and there is none"}
_log = structlog.get_logger()

Problem = dict[str, Any]
AnyRequest = Request[Any, Any, Any]


def problem_of(error: Exception) -> Problem:
    """The body of the answer; its `status` is the answer's."""
    if not isinstance(error, FairlogError):
        return http_problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong on our side.")
    if isinstance(error, InvalidInput) and error.is_too_large:
        return http_problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error))
    known = (_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS)
    problem = http_problem(next(known, HTTPStatus.INTERNAL_SERVER_ERROR), str(error))
    if isinstance(error, RateLimited):
        problem |= {
            "type": QUOTA_EXCEEDED,
            "violated-policies": [str(error.scope)],
            "scope": str(error.scope),
            "limit": error.limit,
            "used": error.used,
            "window_seconds": error.window_seconds,
            "resets_at": error.resets_at,
        }
    if isinstance(error, KeyReusedWithOtherPayload | UnknownJob | NotTheCurrentAttempt):
        problem["job_id"] = error.job_id
    return problem


def headers_of(error: Exception) -> dict[str, str]:
    headers: dict[str, str] = {}
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(seconds_until(error.resets_at, error.decided_at))
    elif isinstance(error, LogUnavailable | QueueFull | LogTooNew):
        headers["Retry-After"] = _RETRY_SECONDS
    if isinstance(error, Refusal) and error.decision is not None and error.decided_at is not None:
        headers |= rate_limit_fields(error.decision, error.decided_at)
    return headers


def refusal_answer(error: RateLimited) -> JsonAnswer:
    """As `answer_error`, without raising through the framework.

    It may be asked for ten thousand times a second, and is the same for a user within a second.
    """
    seconds = seconds_until(error.resets_at, error.decided_at)
    return _refusal_answer(error.user_id, error.decision, seconds)


@lru_cache(maxsize=4096)
def _refusal_answer(user_id: UserId, decision: RateLimitDecided, seconds: int) -> JsonAnswer:
    error = RateLimited(decision, later(decision.resets_at, -seconds), user_id)
    problem = problem_of(error)
    return JsonAnswer(problem["status"], problem, encoded(headers_of(error)), PROBLEM)


def answer_error(_: AnyRequest, error: Exception) -> Response[Problem]:
    """The exception handler of every route."""
    if isinstance(error, HTTPException):
        return _answer(_problem_of_litestar(error), _headers_of_litestar(error))
    problem = problem_of(error)
    if problem["status"] == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("request_failed", exc_info=error)
    return _answer(problem, headers_of(error))


def _problem_of_litestar(error: HTTPException) -> Problem:
    match error:
        case ValidationException():
            detail = _validation_sentence(error) or error.detail
        case NotFoundException():
            detail = "There is nothing at this address; /schema lists the calls."
        case MethodNotAllowedException():
            allowed = _headers_of_litestar(error).get("allow", "other methods")
            detail = f"This address takes {allowed}; /schema lists the calls."
        case _ if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            detail = "The body is larger than this call takes; send less at once."
        case _:
            detail = error.detail
    return http_problem(HTTPStatus(error.status_code), detail[:_MESSAGE_CHARACTERS_MAX])


def _headers_of_litestar(error: HTTPException) -> dict[str, str]:
    headers = dict(error.headers or {})
    if "GET" in headers.get("allow", ""):
        headers["allow"] += ", HEAD"  # see `EdgeApp`
    return headers


def _validation_sentence(error: ValidationException) -> str:
    """What Litestar found, for each place one clause."""
    found = error.extra if isinstance(error.extra, list) else []
    clauses = [_clause(item) for item in found if isinstance(item, dict)]
    return f"Not accepted: {'; '.join(clauses)}." if clauses else ""


def _clause(found: dict[str, Any]) -> str:
    place = str(found.get("key", "the request"))
    message = str(found.get("message", "not valid"))
    return f"{_WIRE_NAMES.get(place, place)}: {_MESSAGES.get(message, message)}"


def http_problem(status: HTTPStatus, detail: str) -> Problem:
    if len(detail) > _DETAIL_CHARACTERS_MAX:
        detail = f"{detail[: _DETAIL_CHARACTERS_MAX - 1]}…"
    return {"type": "about:blank", "title": status.phrase, "status": int(status), "detail": detail}


def _answer(problem: Problem, headers: dict[str, str] | None = None) -> Response[Problem]:
    return Response(
        problem,
        status_code=problem["status"],
        headers=headers,
        media_type="application/problem+json",
    )
