"""The errors of the client, as a tree.

    FairlogError
    ├── ServerUnavailable         no answer, or 503: sent again later, the call may succeed
    ├── UnexpectedAnswer          the answer is not one of a Fairlog server
    ├── Refused                   the server refused the request; it has the problem's fields
    │   ├── InvalidRequest        400, 413, 422
    │   │   └── KeyReused         422: the idempotency key belongs to a job with another payload
    │   ├── KeyNotValid           401
    │   ├── NotAllowed            403
    │   ├── NotFound              404
    │   ├── Conflict              409: the job is not in a state that allows this
    │   ├── RateLimited           429
    │   └── ServerFailed          500
    ├── JobEnded                  a job ended without a result
    │   ├── JobFailed
    │   └── JobCancelled
    ├── ResultTimeout             the job had not ended in time; also a TimeoutError
    └── InvalidArguments          a task was submitted with wrong arguments; also a TypeError

A call that raises `ServerUnavailable` or `RateLimited` has already been repeated as its `Retries`
allow.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any


class FairlogError(Exception):
    """The base of all errors of this package. The message is a sentence for people."""


class ServerUnavailable(FairlogError):
    """The server did not answer, or cannot process requests now."""


class UnexpectedAnswer(FairlogError):
    """Something else than a Fairlog server answered, such as a proxy with a page of its own."""


class Refused(FairlogError):
    """The server refused the request, with problem details of RFC 9457."""

    def __init__(self, status: int, detail: str, problem: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.status = status  # of HTTP
        self.detail = detail
        self.problem = problem  # all members of the problem details


class InvalidRequest(Refused):
    """The request is malformed, too large, or contradicts itself."""


class KeyReused(InvalidRequest):
    """The idempotency key identifies a job with another payload."""

    @property
    def job_id(self) -> int | None:
        """The job that the key identifies."""
        return self.problem.get("job_id")


class KeyNotValid(Refused):
    """The API key is missing, unknown, expired or revoked."""


class NotAllowed(Refused):
    """The API key does not have the right that this needs."""


class NotFound(Refused):
    """The job does not exist, or the API key may not see it."""


class Conflict(Refused):
    """The state of the job does not allow this."""


class RateLimited(Refused):
    """Too many submissions or requests. Fields other than `retry_after` are None if the server does
    not say them: then it is not the limit of a window.
    """

    def __init__(
        self, status: int, detail: str, problem: Mapping[str, Any], retry_after: float
    ) -> None:
        super().__init__(status, detail, problem)
        self.retry_after = retry_after  # seconds until it may be sent again

    @property
    def scope(self) -> str | None:
        """The exhausted window: `user`, or `global` for that of all users together."""
        return self.problem.get("scope")

    @property
    def limit(self) -> int | None:
        """The submissions that the window allows."""
        return self.problem.get("limit")

    @property
    def used(self) -> int | None:
        """The submissions that the window has admitted."""
        return self.problem.get("used")

    @property
    def window_seconds(self) -> int | None:
        """The length of the window."""
        return self.problem.get("window_seconds")

    @property
    def resets_at(self) -> datetime | None:
        """The end of the window, in UTC."""
        text = self.problem.get("resets_at")
        if not isinstance(text, str):
            return None
        return datetime.fromisoformat(text.replace("Z", "+00:00"))


class ServerFailed(Refused):
    """The server has a fault."""


class JobEnded(FairlogError):
    """A job ended without a result."""

    def __init__(self, message: str, job_id: int) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobFailed(JobEnded):
    """A job failed, and no attempt follows. The message names its remote error."""

    def __init__(self, job_id: int, error: Any, attempt: int) -> None:  # noqa: ANN401 (any JSON)
        self.error = error  # as the worker reported it; mostly a dict
        self.attempt = attempt  # the latest attempt
        super().__init__(f"Job {job_id} failed: {self._summary()}", job_id)

    @property
    def type(self) -> str:
        """The name of the remote exception's class; "Error" if it is not known."""
        return str(self._member("type") or "Error")

    @property
    def message(self) -> str:
        """The message of the remote exception."""
        if isinstance(self.error, dict):
            return str(self._member("message") or "")
        return "" if self.error is None else str(self.error)

    @property
    def traceback(self) -> str:
        """The traceback of the remote exception; empty if there is none."""
        return str(self._member("traceback") or "")

    def _member(self, name: str) -> Any:  # noqa: ANN401 (any JSON)
        return self.error.get(name) if isinstance(self.error, dict) else None

    def _summary(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class JobCancelled(JobEnded):
    """A job was cancelled, by a call or because it had not started before its `expires_at`."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"Job {job_id} was cancelled.", job_id)


class ResultTimeout(FairlogError, TimeoutError):
    """A job had not ended in the time that was allowed. It goes on."""

    def __init__(self, job_id: int, state: str, seconds: float) -> None:
        super().__init__(f"Job {job_id} is {state} after {seconds:g} s.")
        self.job_id = job_id
        self.state = state


class InvalidArguments(FairlogError, TypeError):
    """The arguments of a task do not fit its function, or JSON cannot hold them."""
