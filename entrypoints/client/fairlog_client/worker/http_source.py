"""A job source over HTTP: the calls that workers make to a Fairlog server."""

import socket
import ssl
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

import httpx
import msgspec
from msgspec import Raw, Struct

from fairlog_client.processes.forks import keep_from_children
from fairlog_client.worker.job_source import (
    JOBS_PER_CALL_MAX,
    AttemptLost,
    KindsRefused,
    SourceAway,
    SourceError,
    SourceRefused,
)
from fairlog_client.worker.outcomes import (
    AttemptKey,
    ClaimedJob,
    Completed,
    Failed,
    Outcome,
    ProgressReport,
    Returned,
)

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 15.0  # in addition to the time that a claim waits for work
HEARTBEAT_SECONDS_MIN: Final = 1.0  # for an answer, where leases are short
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024  # of bodies in a request; a server accepts 16 MiB in all
_TEXT_CHARACTERS_MAX: Final = 300
_PROBLEM: Final = "application/problem+json"  # RFC 9457
# From a Fairlog server these mean that the request can never be accepted.
_UNACCEPTABLE: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
_LOST_ATTEMPT: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT})

NO_PROGRESS: Final[Mapping[AttemptKey, ProgressReport]] = {}

T = TypeVar("T")


def client_of(
    url: httpx.URL, trust: ssl.SSLContext | None = None, key: str | None = None
) -> httpx.AsyncClient:
    """Return an HTTP client for a server; `trust` is as `trusted_by` returns it, and `key` is the
    secret of an API key. The caller closes the client.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "fairlog-worker"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return httpx.AsyncClient(
        base_url=url,
        verify=trust or True,
        headers=headers,
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(keepalive_expiry=4.0),  # uvicorn closes an idle connection after 5 s
    )


class _Claim(Struct, frozen=True):
    jobs: Sequence[ClaimedJob]
    lease_seconds: float = 30.0  # Fairlog's default, for a server whose answer lacks it


class _Lost(Struct, frozen=True):
    id: int
    attempt: int


class _Leases(Struct, frozen=True):
    lost_attempts: Sequence[_Lost] = ()


class _ReportedJob(Struct, frozen=True):
    status: int  # the HTTP status that this outcome alone would have had
    detail: str = ""


class _ReportedJobs(Struct, frozen=True):
    jobs: Sequence[_ReportedJob]


class _Problem(Struct, frozen=True):
    status: int
    detail: str
    kinds: Sequence[str] = ()  # that the API key is for, if the request was for another one


class _RequestRejected(SourceRefused):
    """A Fairlog server cannot accept the request, however often it is sent."""


class _NoAnswer(SourceAway):
    """The server has an error, or the answer is not a Fairlog server's."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; None: there was no response


class RemoteSource:
    """A `JobSource` over HTTP, for the worker `name`."""

    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self._client = client
        self._name = name
        self._lease_seconds = _Claim(()).lease_seconds
        self._connections = _Connections()
        self._takes_progress = True

    @property
    def lease_seconds(self) -> float:
        return self._lease_seconds

    async def claim(
        self, max_jobs: int, kinds: Sequence[str], wait_seconds: float, claim_id: str, begins: int
    ) -> Sequence[ClaimedJob]:
        fields = {
            "max": max_jobs,
            "kinds": kinds,
            "wait_seconds": wait_seconds,
            "claim_id": claim_id,
            "begins": begins,
        }
        claim = await self._post("/v1/claims", fields, _Claim, wait_seconds + ANSWER_SECONDS)
        self._lease_seconds = claim.lease_seconds
        return claim.jobs

    async def recall(self, claim_id: str) -> Sequence[ClaimedJob]:
        try:
            # The kind has a random name and so no jobs, which is why nothing new is claimed.
            return await self.claim(1, (claim_id,), 0, claim_id, 0)
        except KindsRefused as refused:
            # Servers of earlier releases, which do not raise this, refuse a claim of 0 jobs.
            return await self.claim(0, refused.allowed, 0, claim_id, 0)

    async def heartbeat(
        self,
        held: Sequence[AttemptKey],
        begun: Sequence[AttemptKey],
        progress: Mapping[AttemptKey, ProgressReport] = NO_PROGRESS,
    ) -> Sequence[AttemptKey]:
        if not self._takes_progress:
            progress = NO_PROGRESS
        have_begun = set(begun)
        lost: list[AttemptKey] = []
        for start in range(0, len(held), JOBS_PER_CALL_MAX):
            keys = held[start : start + JOBS_PER_CALL_MAX]
            jobs = [_lease_fields(key, have_begun, progress.get(key)) for key in keys]
            try:
                lost += await self._heartbeat({"jobs": jobs})
            except _RequestRejected:
                if not progress:
                    raise
                # A server of an earlier release does not know the field. Leases matter more.
                self._takes_progress = False
                return await self.heartbeat(held, begun)
        return lost

    async def wait_for_cancellation(
        self, held: Sequence[AttemptKey], seconds: float
    ) -> Sequence[AttemptKey]:
        # A cancel of any job of this worker ends the wait, also of one that is not listed.
        jobs = [_lease_fields(key, ()) for key in held[:JOBS_PER_CALL_MAX]]
        fields = {"jobs": jobs, "wait_seconds": seconds}
        return await self._heartbeat(fields, seconds + ANSWER_SECONDS)

    async def _heartbeat(
        self, fields: dict[str, Any], seconds: float | None = None
    ) -> Sequence[AttemptKey]:
        """Send a heartbeat, with a time-out that leaves time for another one within the lease, over
        a new connection: a replaced proxy may have dropped this one silently.
        """
        if seconds is None:
            seconds = min(ANSWER_SECONDS, max(HEARTBEAT_SECONDS_MIN, self._lease_seconds / 6))
        leases = await self._post("/v1/claims/heartbeat", fields, _Leases, seconds)
        return [(one.id, one.attempt) for one in leases.lost_attempts]

    async def report(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
        returned = [one for one in outcomes if isinstance(one, Returned)]
        ended = [one for one in outcomes if not isinstance(one, Returned)]
        answers: dict[AttemptKey, Exception | None] = {}
        for path, batch in [
            *(("/v1/claims/return", batch) for batch in _batches(returned)),
            *(("/v1/claims/complete", batch) for batch in _batches(ended)),
        ]:
            answers |= zip(map(_key, batch), await self._report(path, batch), strict=True)
        return [answers[_key(outcome)] for outcome in outcomes]

    async def _report(self, path: str, batch: Sequence[Outcome]) -> Sequence[Exception | None]:
        """Report a batch. A failed request is the error of each of its outcomes, not of others.

        If the server rejects the request, or a proxy finds it too large, each outcome is sent
        alone, so that the one at fault does not hold up the others.
        """
        fields = {"jobs": [_outcome_fields(one) for one in batch]}
        try:
            reported = await self._post(path, fields, _ReportedJobs)
        except (_RequestRejected, _NoAnswer) as error:
            is_too_large = (
                isinstance(error, _NoAnswer) and error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            )
            if not is_too_large and isinstance(error, _NoAnswer):
                return [error] * len(batch)
            if len(batch) > 1:
                return [answer for one in batch for answer in await self._report(path, [one])]
            if is_too_large and isinstance(batch[0], Completed):
                return [SourceRefused(str(error))]
            return [error]
        if len(reported.jobs) != len(batch):
            wrong = _NoAnswer(f"{path} answers for {len(reported.jobs)} jobs, not {len(batch)}.")
            return [wrong] * len(batch)
        return [_error_of(one) for one in reported.jobs]

    async def _post(
        self, path: str, fields: dict[str, Any], answer: type[T], seconds: float = ANSWER_SECONDS
    ) -> T:
        """Send a request. Raises `_RequestRejected`, and `_NoAnswer` for any other failure: a proxy
        may answer anything while the server restarts or its address moves.
        """
        try:
            response = await self._client.post(
                path,
                content=msgspec.json.encode({"worker": self._name, **fields}),
                timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
                extensions={"trace": self._connections.note},
            )
        except httpx.RequestError as error:
            reason = f"{type(error).__name__} {error}".strip()
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                reason += "; name the authority of its certificate with --ca-file"
            raise _NoAnswer(f"{self._client.base_url} does not answer: {reason}") from error
        status = response.status_code
        if status == HTTPStatus.OK:
            try:
                return msgspec.json.decode(response.content, type=answer)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                raise _NoAnswer(
                    f"{response.url} does not answer as a Fairlog server does: {_text(response)}",
                    status,
                ) from None
        problem = _problem_of(response)
        if problem is None:
            answer_line = f"{status} {response.reason_phrase}, not as a Fairlog server does"
            raise _NoAnswer(f"{response.url} answers {answer_line}: {_text(response)}", status)
        message = f"{response.url} answers {status}: {_one_line(problem.detail)}"
        if status in _UNACCEPTABLE:
            raise _RequestRejected(message)
        if problem.kinds:
            raise KindsRefused(message, problem.kinds)
        raise _NoAnswer(message, status)


class _Connections:
    """The sockets to the server, which a forked child must not keep: the server would go on waiting
    for a worker that has died, and give it jobs.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        keep_from_children(self)

    def descriptors(self) -> Iterable[int]:
        return [one.fileno() for one in self._sockets]

    async def note(self, event: str, details: dict[str, Any]) -> None:
        """Remember the sockets that requests open (a callback for httpcore's `trace`)."""
        if event == "connection.connect_tcp.complete":
            self._sockets = [one for one in self._sockets if one.fileno() >= 0]
            self._sockets.append(details["return_value"].get_extra_info("socket"))


def _batches(outcomes: Sequence[Outcome]) -> Iterator[Sequence[Outcome]]:
    """Split outcomes into batches that are bounded in number and in bytes."""
    batch: list[Outcome] = []
    size = 0
    for outcome in outcomes:
        added = _body_bytes(outcome)
        if batch and (len(batch) == JOBS_PER_CALL_MAX or size + added > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(outcome)
        size += added
    if batch:
        yield batch


def _body_bytes(outcome: Outcome) -> int:
    match outcome:
        case Completed(result=body) | Failed(error=body) if body is not None:
            return len(body)
        case _:
            return 0


def _key(outcome: Outcome) -> AttemptKey:
    return outcome.job_id, outcome.attempt


def _lease_fields(
    key: AttemptKey, begun: Container[AttemptKey], progress: ProgressReport | None = None
) -> dict[str, Any]:
    job_id, attempt = key
    fields: dict[str, Any] = {"id": job_id, "attempt": attempt}
    if key in begun:
        fields["started"] = True
    if progress is not None:
        fields["progress"] = progress
    return fields


def _outcome_fields(outcome: Outcome) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": outcome.job_id, "attempt": outcome.attempt}
    match outcome:
        case Completed(result=body) if body is not None:
            fields["result"] = Raw(body)
        case Returned(begun=begun, suspect=suspect):
            fields |= {"started": True} if begun else {}
            fields |= {"suspect": True} if suspect else {}
        case Failed(error=body, may_retry=may_retry, retry_in_seconds=seconds):
            fields |= {"error": Raw(body), "retry": may_retry}
            if seconds is not None:  # a server of an earlier release does not know the field
                fields["retry_in_seconds"] = seconds
        case _:
            pass
    return fields


def _error_of(reported: _ReportedJob) -> Exception | None:
    """Return the error that `JobSource.report` promises; None for an outcome that is recorded."""
    if reported.status == HTTPStatus.OK:
        return None
    if reported.status in _LOST_ATTEMPT:
        return AttemptLost(reported.detail)
    if reported.status in _UNACCEPTABLE:
        return SourceRefused(reported.detail)
    if reported.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return SourceError(reported.detail)
    return SourceAway(reported.detail)


def _problem_of(response: httpx.Response) -> _Problem | None:
    """Return the problem details of a Fairlog server; None if something else answered."""
    if not response.headers.get("Content-Type", "").startswith(_PROBLEM):
        return None
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return problem if problem.status == response.status_code else None


def _text(response: httpx.Response) -> str:
    """Return the beginning of the response's content as one line."""
    return _one_line(response.content[: 4 * _TEXT_CHARACTERS_MAX].decode(errors="replace")) or "-"


def _one_line(text: str) -> str:
    printable = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(printable.split())[:_TEXT_CHARACTERS_MAX]
