"""A worker's source on another machine: the calls that workers make to a Fairlog server."""

import socket
from collections.abc import Container, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final, TypeVar

import httpx
import msgspec
from msgspec import Raw, Struct

from adapters.processes.forks import keep_from_children
from domain.language.commands import CompleteJob, FailJob, ReturnJob
from domain.language.errors import FairlogError, InvalidInput, LogUnavailable, Refusal
from domain.language.identifiers import JobId, Kind, WorkerId
from entrypoints.service.views import ClaimedJob
from entrypoints.worker.job_source import JOBS_PER_CALL_MAX, AttemptKey, Outcome

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 15.0  # beyond the time that a claim waits for work
HEARTBEAT_SECONDS_MIN: Final = 1.0  # for the answer to one, where leases are short
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024  # of bodies in one call; the server takes 16 MiB in all
_TEXT_CHARACTERS_MAX: Final = 300
_PROBLEM: Final = "application/problem+json"
# Of our own server alone: what was sent can never be accepted.
_UNREADABLE: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
_NO_LONGER_OURS: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT})

T = TypeVar("T")


def client_of(url: httpx.URL) -> httpx.AsyncClient:
    """Close it when the worker has stopped."""
    return httpx.AsyncClient(
        base_url=url,
        headers={"Content-Type": "application/json", "User-Agent": "fairlog-worker"},
        timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        limits=httpx.Limits(keepalive_expiry=4.0),  # uvicorn closes an idle connection after 5 s
    )


class _Claim(Struct, frozen=True):
    jobs: Sequence[ClaimedJob]
    lease_seconds: float = 30.0  # Fairlog's default, where a server does not tell


class _Lost(Struct, frozen=True):
    id: JobId
    attempt: int


class _Leases(Struct, frozen=True):
    lost_attempts: Sequence[_Lost] = ()


class _SettledJob(Struct, frozen=True):
    status: int  # of HTTP, as the answer to this outcome alone would have had
    detail: str = ""


class _SettledJobs(Struct, frozen=True):
    jobs: Sequence[_SettledJob]


class _Problem(Struct, frozen=True):
    status: int
    detail: str


class _Refused(InvalidInput):
    """Our server cannot read what was sent; sent again, it would answer the same."""


class _NoAnswer(LogUnavailable):
    """Nothing of our protocol came: the server is in trouble, or something else answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; None: there was no answer


class RemoteSource:
    """The calls of the HTTP API that a worker makes, under the name `name`."""

    def __init__(self, client: httpx.AsyncClient, name: WorkerId) -> None:
        self._client = client
        self._name = name
        self._lease_seconds = _Claim(()).lease_seconds
        self._connections = _Connections()

    @property
    def lease_seconds(self) -> float:
        return self._lease_seconds

    async def claim(
        self, max_jobs: int, kinds: Sequence[Kind], wait_seconds: float, claim_id: str, begins: int
    ) -> Sequence[ClaimedJob]:
        asked = {
            "max": max_jobs,
            "kinds": kinds,
            "wait_seconds": wait_seconds,
            "claim_id": claim_id,
            "begins": begins,
        }
        claim = await self._post("/v1/claims", asked, _Claim, wait_seconds + ANSWER_SECONDS)
        self._lease_seconds = claim.lease_seconds
        return claim.jobs

    async def recall(self, claim_id: str) -> Sequence[ClaimedJob]:
        # There are no jobs of a kind with a random name, so nothing new is given.
        return await self.claim(1, (Kind(claim_id),), 0, claim_id, 0)

    async def heartbeat(
        self, held: Sequence[AttemptKey], begun: Sequence[AttemptKey]
    ) -> Sequence[AttemptKey]:
        have_begun = set(begun)
        lost: list[AttemptKey] = []
        for start in range(0, len(held), JOBS_PER_CALL_MAX):
            named = held[start : start + JOBS_PER_CALL_MAX]
            lost += await self._heartbeat({"jobs": [_named(key, have_begun) for key in named]})
        return lost

    async def listen(self, held: Sequence[AttemptKey], seconds: float) -> Sequence[AttemptKey]:
        named = [_named(key, ()) for key in held[:JOBS_PER_CALL_MAX]]  # heard of are all
        fields = {"jobs": named, "wait_seconds": seconds}
        return await self._heartbeat(fields, seconds + ANSWER_SECONDS)

    async def _heartbeat(
        self, fields: dict[str, Any], seconds: float | None = None
    ) -> Sequence[AttemptKey]:
        """Wait no longer for an answer than leaves time to ask again, over another connection: a
        proxy that was replaced may have forgotten this one without a word. What extends a lease is
        the heartbeat at two thirds of it.
        """
        if seconds is None:
            seconds = min(ANSWER_SECONDS, max(HEARTBEAT_SECONDS_MIN, self._lease_seconds / 6))
        leases = await self._post("/v1/claims/heartbeat", fields, _Leases, seconds)
        return [(one.id, one.attempt) for one in leases.lost_attempts]

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Exception | None]:
        returned = [one for one in outcomes if isinstance(one, ReturnJob)]
        ended = [one for one in outcomes if not isinstance(one, ReturnJob)]
        answers: dict[AttemptKey, Exception | None] = {}
        for path, batch in [
            *(("/v1/claims/return", batch) for batch in _batches(returned)),
            *(("/v1/claims/complete", batch) for batch in _batches(ended)),
        ]:
            told = await self._settle(path, batch)
            answers |= zip(map(_key, batch), told, strict=True)
        return [answers[_key(outcome)] for outcome in outcomes]

    async def _settle(self, path: str, batch: Sequence[Outcome]) -> Sequence[Exception | None]:
        """A failure of the call is the answer of each outcome in it, so that the other calls count.

        One outcome that the server cannot read, or that is too large for what stands before it,
        must not hold up the others: they are sent alone.
        """
        try:
            settled = await self._post(path, {"jobs": [_told(one) for one in batch]}, _SettledJobs)
        except (_Refused, _NoAnswer) as error:
            is_too_large = (
                isinstance(error, _NoAnswer) and error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            )
            if not is_too_large and isinstance(error, _NoAnswer):
                return [error] * len(batch)
            if len(batch) > 1:
                return [answer for one in batch for answer in await self._settle(path, [one])]
            if is_too_large and isinstance(batch[0], CompleteJob):
                return [InvalidInput(str(error))]
            return [error]
        if len(settled.jobs) != len(batch):
            wrong = _NoAnswer(f"{path} answers for {len(settled.jobs)} jobs, not {len(batch)}.")
            return [wrong] * len(batch)
        return [_answer(one) for one in settled.jobs]

    async def _post(
        self, path: str, fields: dict[str, Any], answer: type[T], seconds: float = ANSWER_SECONDS
    ) -> T:
        """Raises `_Refused`, and `_NoAnswer` for all that is no answer of our own protocol: a proxy
        may answer anything, while the server starts anew or its address is moved.
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
            said = f"{status} {response.reason_phrase}, not as a Fairlog server does"
            raise _NoAnswer(f"{response.url} answers {said}: {_text(response)}", status)
        said = f"{response.url} answers {status}: {_one_line(problem.detail)}"
        if status in _UNREADABLE:
            raise _Refused(said)
        raise _NoAnswer(said, status)


class _Connections:
    """The sockets to the server. A forked child must not keep them: the server would go on waiting
    for a worker that has died, and give it jobs.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        keep_from_children(self)

    def descriptors(self) -> Iterable[int]:
        return [one.fileno() for one in self._sockets]

    async def note(self, event: str, details: dict[str, Any]) -> None:
        """Hear what becomes of a request (httpcore's `trace`)."""
        if event == "connection.connect_tcp.complete":
            self._sockets = [one for one in self._sockets if one.fileno() >= 0]
            self._sockets.append(details["return_value"].get_extra_info("socket"))


def _batches(outcomes: Sequence[Outcome]) -> Iterator[Sequence[Outcome]]:
    """Bounded in number and in bytes."""
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
        case CompleteJob(result=body) | FailJob(error=body) if body is not None:
            return body.size
        case _:
            return 0


def _key(outcome: Outcome) -> AttemptKey:
    return outcome.job_id, outcome.attempt


def _named(key: AttemptKey, begun: Container[AttemptKey]) -> dict[str, Any]:
    job_id, attempt = key
    fields: dict[str, Any] = {"id": job_id, "attempt": attempt}
    return fields | {"started": True} if key in begun else fields


def _told(outcome: Outcome) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": outcome.job_id, "attempt": outcome.attempt}
    match outcome:
        case CompleteJob(result=body) if body is not None:
            fields["result"] = Raw(body.data)
        case ReturnJob(begun=begun, suspect=suspect):
            fields |= {"started": True} if begun else {}
            fields |= {"suspect": True} if suspect else {}
        case FailJob(error=body, may_retry=may_retry):
            fields |= {"error": Raw(body.data), "retry": may_retry}
        case _:
            pass
    return fields


def _answer(settled: _SettledJob) -> Exception | None:
    """As `JobSource.settle` promises it."""
    if settled.status == HTTPStatus.OK:
        return None
    if settled.status in _NO_LONGER_OURS:
        return Refusal(settled.detail)
    if settled.status in _UNREADABLE:
        return InvalidInput(settled.detail)
    if settled.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return FairlogError(settled.detail)
    return LogUnavailable(settled.detail)


def _problem_of(response: httpx.Response) -> _Problem | None:
    """The problem details of a Fairlog server; None: something else answered."""
    if not response.headers.get("Content-Type", "").startswith(_PROBLEM):
        return None
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return problem if problem.status == response.status_code else None


def _text(response: httpx.Response) -> str:
    """The beginning of what was answered, in one line."""
    return _one_line(response.content[: 4 * _TEXT_CHARACTERS_MAX].decode(errors="replace")) or "-"


def _one_line(text: str) -> str:
    printable = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(printable.split())[:_TEXT_CHARACTERS_MAX]
