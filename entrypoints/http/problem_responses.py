"""The error answers of each call in the page /schema: problem details (RFC 9457).

Errors that belong to one call are listed in `REFUSALS`. All others follow from the call: its key,
its path and its body.
"""

import inspect
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct, UnsetType, field

from domain.language.errors import (
    BackfillGoesOn,
    BeyondLimits,
    FairlogError,
    JobArchived,
    JobHasEnded,
    JobHasNotEnded,
    JobWasErased,
    KeyExists,
    KeyHasEnded,
    KeyReusedWithOtherPayload,
    NothingToBackfill,
    NotTheCurrentAttempt,
    PlanInUse,
    RateLimited,
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
    UnknownPlan,
    UnknownSchedule,
)
from domain.language.ranges import JOB_ID, Count
from entrypoints.http.access import PUBLIC, rule_of
from entrypoints.http.problems import QUOTA_EXCEEDED, status_of
from entrypoints.service.change_limits import TooManyChanges
from entrypoints.use_cases.signed_checkpoints import NoSigningKey, UnknownTile

MEDIA_TYPE: Final = "application/problem+json"
_SUBMISSION: Final = (
    RateLimited,
    KeyReusedWithOtherPayload,
    TooManyKinds,
    TooManyQueues,
    BeyondLimits,
)
_OUTCOME: Final = (UnknownJob, JobArchived, NotTheCurrentAttempt)
# By method and path of the route. The calls that are not here have only errors of their request.
REFUSALS: Final[Mapping[tuple[str, str], tuple[type[FairlogError], ...]]] = {
    ("POST", "/v1/jobs"): _SUBMISSION,
    ("GET", "/v1/jobs/{job_id}"): (UnknownJob, JobArchived),
    ("GET", "/v1/jobs/{job_id}/events"): (UnknownJob, JobArchived),
    ("GET", "/v1/jobs/{job_id}/explain"): (UnknownJob, JobArchived),
    ("POST", "/v1/jobs/{job_id}/cancel"): (UnknownJob, JobArchived, JobHasEnded, TooManyChanges),
    ("POST", "/v1/jobs/{job_id}/retry"): (
        UnknownJob,
        JobArchived,
        JobHasNotEnded,
        JobWasErased,
        RateLimited,
        TooManyChanges,
    ),
    ("POST", "/v1/jobs/{job_id}/complete"): _OUTCOME,
    ("POST", "/v1/jobs/{job_id}/fail"): _OUTCOME,
    ("PUT", "/v1/limits/{user_id}"): (UnknownPlan,),
    ("PUT", "/v1/limits/{user_id}/kinds/{kind}"): (TooManyLimits,),
    ("GET", "/v1/plans/{name}"): (UnknownPlan,),
    ("PUT", "/v1/plans/{name}"): (TooManyLimits,),
    ("DELETE", "/v1/plans/{name}"): (UnknownPlan, PlanInUse),
    ("PUT", "/v1/kinds/{kind}"): (TooManyLimits,),
    ("PUT", "/v1/resources/{name}"): (TooManyLimits,),
    ("GET", "/v1/callbacks/{name}"): (UnknownCallback,),
    ("PUT", "/v1/callbacks/{name}"): (TooManyCallbacks,),
    ("DELETE", "/v1/callbacks/{name}"): (UnknownCallback,),
    ("POST", "/v1/callbacks/{name}/rotate"): (UnknownCallback,),
    ("GET", "/v1/schedules/{name}"): (UnknownSchedule,),
    ("DELETE", "/v1/schedules/{name}"): (UnknownSchedule,),
    ("POST", "/v1/schedules/{name}/trigger"): (
        UnknownSchedule,
        RateLimited,
        TooManyKinds,
        TooManyQueues,
    ),
    ("POST", "/v1/schedules/{name}/backfill"): (
        UnknownSchedule,
        BackfillGoesOn,
        NothingToBackfill,
        TooManyTimes,
    ),
    ("POST", "/v1/keys"): (KeyExists, TooManyKeys),
    ("POST", "/v1/keys/{name}/rotate"): (UnknownKey, KeyHasEnded, TooManySecrets),
    ("DELETE", "/v1/keys/{name}"): (UnknownKey,),
    ("GET", "/checkpoint"): (NoSigningKey,),
    ("GET", "/tile/{path}"): (UnknownTile,),
    ("POST", "/jobs/submit_job"): (RateLimited, TooManyKinds),
}
_ANY_CALL: Final = {
    HTTPStatus.BAD_REQUEST: "A parameter, a header field or the body is not accepted.",
    HTTPStatus.REQUEST_TIMEOUT: "The request was not complete in time.",
    HTTPStatus.REQUEST_URI_TOO_LONG: "The address is too long.",
    HTTPStatus.MISDIRECTED_REQUEST: "The server does not accept this host name.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests wait on the connection.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "The header fields are too many or too large.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The server failed.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The server or its database cannot answer now; try again.",
}
_WITH_KEY: Final = {
    HTTPStatus.UNAUTHORIZED: "The server requires an API key, and the one sent is not valid.",
    HTTPStatus.FORBIDDEN: "The API key may not do this.",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests with wrong API keys came from this address.",
}
_WITH_NAME_IN_PATH: Final = {HTTPStatus.NOT_FOUND: "There is no resource at this address."}
_WITH_BODY: Final = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body, or a value in it, is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not sent as JSON.",
}
_RETRY_AFTER: Final = {
    "Retry-After": {
        "description": "Seconds to wait before the request is sent again.",
        "schema": {"type": "integer", "minimum": 0},
    }
}
_CHALLENGE: Final = {
    "WWW-Authenticate": {"description": "See RFC 6750.", "schema": {"type": "string"}}
}
_HEADERS: Final[Mapping[HTTPStatus, Mapping[str, Any]]] = {
    HTTPStatus.UNAUTHORIZED: _CHALLENGE,
    HTTPStatus.FORBIDDEN: _CHALLENGE,
    HTTPStatus.TOO_MANY_REQUESTS: _RETRY_AFTER,
    HTTPStatus.SERVICE_UNAVAILABLE: _RETRY_AFTER,
}


_JobId = Annotated[int, JOB_ID]
_Seconds = Annotated[int, Meta(ge=1)]


class ProblemDetails(Struct, kw_only=True, omit_defaults=True):
    """An error as problem details of RFC 9457. The last members are those of some errors only."""

    type: Annotated[
        str,
        Meta(description=f"`about:blank`, or for a used up limit `{QUOTA_EXCEEDED}`."),
    ]
    title: Annotated[str, Meta(description="The name of the status.")]
    status: Annotated[int, Meta(description="The HTTP status.", ge=400, le=599)]
    detail: Annotated[str, Meta(description="A sentence that says what is wrong, and what to do.")]
    violated_policies: Annotated[
        list[str] | UnsetType,
        Meta(description="The limit that is used up, as in the field RateLimit-Policy."),
    ] = field(default=UNSET, name="violated-policies")
    scope: Annotated[
        str | UnsetType, Meta(description="Whose limit is used up: user or global.")
    ] = UNSET
    limit: Annotated[Count | UnsetType, Meta(description="The limit: submissions per window.")] = (
        UNSET
    )
    used: Annotated[Count | UnsetType, Meta(description="The submissions in the window.")] = UNSET
    window_seconds: Annotated[
        _Seconds | UnsetType, Meta(description="The length of the window in seconds.")
    ] = UNSET
    resets_at: Annotated[
        datetime | UnsetType, Meta(description="The end of the window, RFC 3339.")
    ] = UNSET
    job_id: Annotated[_JobId | UnsetType, Meta(description="The job that the error is about.")] = (
        UNSET
    )
    kinds: Annotated[
        list[str] | UnsetType,
        Meta(description="The kinds of job that the API key is for, if it is not for this one."),
    ] = UNSET


def problems_of(method: str, path: str, *, has_body: bool) -> dict[HTTPStatus, str]:
    """Return the statuses of the errors of a call, in order, with their meanings.

    `path` is that of the route, with the names of its parameters.
    """
    meanings: defaultdict[HTTPStatus, list[str]] = defaultdict(list)

    def add(found: Mapping[HTTPStatus, str]) -> None:
        for status, meaning in found.items():
            meanings[status].append(meaning)

    for error in REFUSALS.get((method, path), ()):
        add({status_of(error): _first_sentence(error)})
    if rule_of(method, path) != PUBLIC:
        add(_WITH_KEY)
    if method != "GET":
        add({HTTPStatus.FORBIDDEN: "A page of another site sent the request."})
    if "{" in path:
        add(_WITH_NAME_IN_PATH)
    if has_body:
        add(_WITH_BODY)
    add(_ANY_CALL)
    return {status: " ".join(meanings[status]) for status in sorted(meanings)}


def describe_problems(paths: Mapping[str, Mapping[str, Any]], problem: Mapping[str, Any]) -> None:
    """Add the error answers to the calls of an OpenAPI document; `problem` is their schema.

    An error answer that a route describes itself keeps its own media type beside this one.
    Litestar's description of a 400 is replaced.
    """
    for path, calls in paths.items():
        for method, call in calls.items():
            responses = call["responses"]
            responses.pop(str(HTTPStatus.BAD_REQUEST.value), None)
            found = problems_of(method.upper(), path, has_body="requestBody" in call)
            for status, meaning in found.items():
                own = responses.get(str(status.value), {})
                responses[str(status.value)] = {
                    "description": own.get("description", meaning),
                    "headers": dict(_HEADERS.get(status, {})),
                    "content": {**own.get("content", {}), MEDIA_TYPE: {"schema": problem}},
                }
            call["responses"] = dict(sorted(responses.items()))


def _first_sentence(error: type[FairlogError]) -> str:
    text, *_ = (inspect.getdoc(error) or "").split("\n\n")
    return " ".join(text.split())
