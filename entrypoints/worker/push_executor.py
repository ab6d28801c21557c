"""Runs the jobs of a kind by posting them to its endpoint: the answer is the outcome."""

import email.utils
import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from adapters.clock import SystemClock
from adapters.outgoing.address_rules import origin_of, parsed_url
from adapters.outgoing.sender import Response, Sender
from adapters.outgoing.signatures import SecretKey, signed_headers
from domain.language.bodies import BODY_BYTES_MAX, body_of_json
from domain.language.errors import InvalidInput
from domain.language.identifiers import Kind
from domain.language.limits import PushEndpoint
from domain.language.validation import RETRY_IN_SECONDS_MAX, TIMEOUT_SECONDS_MAX
from entrypoints.worker.request_executor import SUCCESS, RequestExecutor, failed
from fairlog_client.worker.error_bodies import error_body
from fairlog_client.worker.execution import RunResult
from fairlog_client.worker.outcomes import ClaimedJob

_ANSWER_BYTES_MAX: Final = 2 * BODY_BYTES_MAX  # a result may have white space, and escapes


def push_secret_name(kind: Kind) -> str:
    """Return the name that the secret of a kind's endpoint is derived from."""
    return f"push/{kind}"


class PushExecutor(RequestExecutor):
    """Posts jobs of one kind, `slots` at once. `endpoint` may be replaced at any time."""

    def __init__(
        self, kind: Kind, endpoint: PushEndpoint, sender: Sender, key: SecretKey, slots: int
    ) -> None:
        super().__init__(slots)
        self.endpoint = endpoint
        self._kind = kind
        self._sender = sender
        self._key = key
        self._clock = SystemClock()

    @property
    def kinds(self) -> Mapping[str, float | None]:
        """The kind, with the time-out of a request."""
        return {self._kind: self.endpoint.timeout_seconds}

    async def send(self, job: ClaimedJob) -> RunResult:
        endpoint = self.endpoint
        answer = await self._sender.send(
            endpoint.url,
            *self._request(job, endpoint.secret_version),
            # The attempt is timed by the worker, so that its error is that of any time-out.
            timeout=TIMEOUT_SECONDS_MAX,
            body_bytes_max=_ANSWER_BYTES_MAX,
        )
        if answer.status in SUCCESS:
            return _result(answer)
        return self._refused(answer, origin_of(parsed_url(endpoint.url)))

    def _request(self, job: ClaimedJob, version: int) -> tuple[bytes, Mapping[str, str]]:
        body = msgspec.json.encode(
            {
                "id": job.id,
                "attempt": job.attempt,
                "user_id": job.user_id,
                "kind": job.kind,
                "payload": job.payload,
            }
        )
        name = push_secret_name(self._kind)
        # The secret before stays valid until the next rotation: receivers change in their own time.
        secrets = [self._key.secret(name, one) for one in range(version, max(0, version - 2), -1)]
        message_id = f"job_{job.id}_{job.attempt}"
        return body, {
            "Content-Type": "application/json",
            **signed_headers(secrets, message_id, self._clock.now(), body),
        }

    def _refused(self, answer: Response, origin: str) -> RunResult:
        """Return the failure that an answer other than a success describes."""
        problem = _problem(answer.body)
        type_name, title, detail = (problem.get(name) for name in ("type", "title", "detail"))
        if not isinstance(type_name, str) or type_name in {"", "about:blank"}:
            type_name = f"HTTP{answer.status}"
        message = next(
            (
                one
                for one in (detail, problem.get("message"), title)
                if isinstance(one, str) and one
            ),
            f"{origin} answered {answer.status} {_phrase(answer.status)}".rstrip() + ".",
        )
        return RunResult(
            error=error_body(type_name, message),
            may_retry=problem.get("retry") is not False,
            retry_in_seconds=self._delay(answer.headers.get("retry-after")),
        )

    def _delay(self, retry_after: str | None) -> float | None:
        """Return the seconds of a Retry-After field; None: it says nothing that can be read."""
        if retry_after is None:
            return None
        try:
            if retry_after.strip().isdecimal():
                seconds = float(retry_after)
            else:
                at = email.utils.parsedate_to_datetime(retry_after)
                seconds = (at - self._clock.now()).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
        return min(max(0.0, seconds), RETRY_IN_SECONDS_MAX) if math.isfinite(seconds) else None


def _result(answer: Response) -> RunResult:
    """Return the result that a successful answer has; without a body it is null."""
    if answer.is_cut:
        return failed("InvalidResult", f"The answer has more than {_ANSWER_BYTES_MAX} bytes.")
    if not answer.body.strip():
        return RunResult()
    try:
        _require_json(answer.body)
        result = body_of_json(answer.body, "result").data
    except InvalidInput as error:
        return failed("InvalidResult", str(error))
    return RunResult(result=None if result == b"null" else result)


def _require_json(text: bytes) -> None:
    """Raise `InvalidInput` unless the text has the syntax of JSON."""
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput(
            "The answer is no JSON: a result is a JSON value, and 204 stands for null."
        ) from None


def _problem(body: bytes) -> Mapping[str, Any]:
    """Return the members of a problem, or of any JSON object; none if the body is no object."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in {one.value for one in HTTPStatus} else ""
