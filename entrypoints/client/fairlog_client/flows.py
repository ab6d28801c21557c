"""Calls without I/O: a flow yields steps, and is sent what came of each.

A flow is a generator, so the synchronous and the asynchronous client run the same one (see
`fairlog_client.transports`). Each knows what to send, which answers to retry after which pause, and
what to return. Tests can run it without a network.
"""

import random
from collections.abc import Callable, Generator, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from msgspec import Struct

from fairlog_client.errors import (
    Conflict,
    InvalidRequest,
    KeyNotValid,
    KeyReused,
    NotAllowed,
    NotFound,
    RateLimited,
    Refused,
    ServerFailed,
    ServerUnavailable,
    UnexpectedAnswer,
)

T = TypeVar("T")


class _Page(Protocol):
    """A page of a list."""

    @property
    def next(self) -> str | int | None:
        """The cursor of the next page; None: this is the last one."""


P = TypeVar("P", bound=_Page)

_PROBLEM = "application/problem+json"
_TEXT_CHARACTERS_MAX = 200
_ERRORS: Mapping[int, type[Refused]] = {
    HTTPStatus.UNAUTHORIZED: KeyNotValid,
    HTTPStatus.FORBIDDEN: NotAllowed,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.BAD_REQUEST: InvalidRequest,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: InvalidRequest,
    HTTPStatus.UNPROCESSABLE_ENTITY: InvalidRequest,
    HTTPStatus.INTERNAL_SERVER_ERROR: ServerFailed,
}


class Request(Struct, frozen=True, kw_only=True):
    """A request to the server."""

    method: str
    path: str
    params: Mapping[str, Any] = {}
    content: bytes | None = None  # JSON
    wait_seconds: float = 0.0  # that the server may take in addition to an answer's usual time
    # True: the server does the same if it receives it twice. Otherwise it is not sent again where
    # the server may have processed it.
    is_repeatable: bool = True


class Response(Struct, frozen=True):
    """An answer."""

    status: int
    headers: Mapping[str, str]  # looked up without regard to case
    content: bytes


class NoAnswer(Struct, frozen=True):
    """A request without an answer."""

    reason: str  # in a few words
    was_sent: bool  # the server may have received it


class Send(Struct, frozen=True):
    """Step: send a request. Its result is a `Response` or `NoAnswer`."""

    request: Request


class Pause(Struct, frozen=True):
    """Step: wait. Its result is None."""

    seconds: float


class OpenStream(Struct, frozen=True):
    """Step: send a request whose answer is read piece by piece. Its result is a `Response` without
    content if the status is 200, else a whole one, or `NoAnswer`.
    """

    request: Request


class ReadStream(Struct, frozen=True):
    """Step: read the stream. Its result is a piece, or None when the stream has ended."""


class Item(Struct, Generic[T], frozen=True):
    """Step: hand a value to the caller of an iterator. Its result is None."""

    value: T


Step = Send | Pause | OpenStream | ReadStream
Flow = Generator[Step, Any, T]
Items = Generator[Step | Item[T], Any, None]


class Retries(Struct, frozen=True, kw_only=True):
    """A rule for sending requests again: those without an answer, and those answered by 429 or 503.

    A pause is drawn from the upper half of one that doubles from `first_seconds` to
    `seconds_max`, and is at least as long as the server asks for. A request is not sent again if
    its pauses would take more than `total_seconds` together.
    """

    total_seconds: float = 30.0  # 0: never
    first_seconds: float = 0.1
    seconds_max: float = 5.0

    def pause(self, failures: int, spent: float, asked: float | None) -> float | None:
        """Return the seconds to wait after the failure of this number, from 0; None: give up.

        `spent` are the seconds of earlier pauses, `asked` those that the server asks for.
        """
        full = min(self.seconds_max, self.first_seconds * 2.0 ** min(failures, 30))
        seconds = full * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries)
        if asked is not None:
            # Jitter on top: all who were refused in a window would come back in the same moment.
            seconds += asked
        return seconds if spent + seconds <= self.total_seconds else None


class Budget:
    """The retries of one call."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._failures = 0
        self._spent = 0.0

    def pause(self, error: Exception) -> Flow[None]:
        """Wait before the next try. Raises `error` if there is none."""
        asked = error.retry_after if isinstance(error, RateLimited) else None
        if isinstance(error, _Busy):
            asked = error.retry_after
        seconds = self._retries.pause(self._failures, self._spent, asked)
        if seconds is None:
            raise error
        self._failures += 1
        self._spent += seconds
        yield Pause(seconds)

    def renew(self) -> None:
        """Count from the beginning, after a success."""
        self._failures, self._spent = 0, 0.0


class _Busy(ServerUnavailable):
    """The server answered 503."""

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def answered(request: Request, retries: Retries) -> Flow[Response]:
    """Send a request until it has a successful answer, and return that.

    Raises the error of the last answer.
    """
    budget = Budget(retries)
    while True:
        answer = yield Send(request)
        error = error_of(answer)
        if error is None:
            return answer  # type: ignore[no-any-return]  # `error_of` has seen what it is
        if not may_repeat(request, answer, error):
            raise error
        yield from budget.pause(error)


def answer_of(request: Request, retries: Retries, expected: type[T]) -> Flow[T]:
    """Send a request until it has a successful answer, and return what that says.

    Raises the error of the last answer, and `UnexpectedAnswer`.
    """
    return read((yield from answered(request, retries)), expected)


def paged(
    path: str,
    params: Mapping[str, Any],
    expected: type[P],
    entries: Callable[[P], Iterable[T]],
    retries: Retries,
    cursor: str = "cursor",
) -> Items[T]:
    """Yield the entries of a list, reading it page by page. `cursor` is the parameter that says
    where a page begins.
    """
    while True:
        request = Request(method="GET", path=path, params=params)
        page = yield from answer_of(request, retries, expected)
        for entry in entries(page):
            yield Item(entry)
        if page.next is None:
            return
        params = {**params, cursor: page.next}


def may_repeat(request: Request, answer: Response | NoAnswer, error: Exception) -> bool:
    """Return True if a failed request may be sent again."""
    if isinstance(answer, NoAnswer):
        return request.is_repeatable or not answer.was_sent
    if isinstance(error, RateLimited):
        return True
    return isinstance(error, ServerUnavailable) and request.is_repeatable


def error_of(answer: Response | NoAnswer) -> Exception | None:
    """Return the error of an answer; None for a successful one."""
    if isinstance(answer, NoAnswer):
        return ServerUnavailable(f"The server does not answer: {answer.reason}")
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    retry_after = _seconds(answer.headers.get("retry-after"))
    problem = _problem_of(answer)
    if problem is None:
        text = _text(answer.content)
        if answer.status in _GATEWAY:
            return _Busy(f"The server is not available ({answer.status}): {text}", retry_after)
        return UnexpectedAnswer(
            f"The answer {answer.status} is not one of a Fairlog server: {text}"
        )
    return refusal_of(problem, retry_after)


# From a proxy these mean that it does not reach the server.
_GATEWAY = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)


def refusal_of(problem: Mapping[str, Any], retry_after: float | None) -> Exception:
    """Return the error that problem details stand for."""
    status, detail = int(problem.get("status", 0)), str(problem.get("detail", ""))
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return _Busy(detail, retry_after)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimited(status, detail, problem, 1.0 if retry_after is None else retry_after)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY and "job_id" in problem:
        return KeyReused(status, detail, problem)
    return _ERRORS.get(status, Refused)(status, detail, problem)


def read(response: Response, expected: type[T]) -> T:
    """Decode an answer. Raises `UnexpectedAnswer`."""
    try:
        return msgspec.json.decode(response.content, type=expected)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(
            f"The answer is not one of a Fairlog server ({error}): {_text(response.content)}"
        ) from None


def _problem_of(response: Response) -> Mapping[str, Any] | None:
    """Return the problem details of a Fairlog server; None if something else answered."""
    if not response.headers.get("content-type", "").startswith(_PROBLEM):
        return None
    try:
        problem = msgspec.json.decode(response.content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return problem if problem.get("status") == response.status else None


def _seconds(header: str | None) -> float | None:
    """Parse a `Retry-After` in seconds; None for a date, which no Fairlog server sends."""
    return float(header) if header is not None and header.isdecimal() else None


def _text(content: bytes) -> str:
    """Return the beginning of an answer's content as one line."""
    text = content[: 4 * _TEXT_CHARACTERS_MAX].decode(errors="replace")
    printable = "".join(one if one.isprintable() else " " for one in text)
    return " ".join(printable.split())[:_TEXT_CHARACTERS_MAX] or "(empty)"
