"""The calls of the API as flows: what each sends, and what it makes of the answer."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

from fairlog_client.answers import (
    ENDED,
    BatchOutcome,
    BatchOutcomes,
    Event,
    EventsPage,
    Explanation,
    JobsPage,
    JobState,
    State,
    decoded,
)
from fairlog_client.callback_calls import CallbackCalls
from fairlog_client.errors import (
    FairlogError,
    JobCancelled,
    JobFailed,
    RateLimited,
    ResultTimeout,
    ServerUnavailable,
    UnexpectedAnswer,
)
from fairlog_client.flows import (
    Budget,
    Flow,
    Item,
    Items,
    OpenStream,
    ReadStream,
    Request,
    Retries,
    answer_of,
    error_of,
    may_repeat,
    paged,
    refusal_of,
)
from fairlog_client.limit_calls import LimitCalls
from fairlog_client.retry_policies import RetryPolicy
from fairlog_client.schedule_calls import ScheduleCalls
from fairlog_client.sse import EventParser
from fairlog_client.submissions import Submission, rfc3339

WAIT_SECONDS = 20.0  # of one request for a result; proxies mostly end a silent one after 60 s
BATCH_JOBS_MAX = 1000  # the server's bound
BATCH_BYTES_MAX = 8 * 1024 * 1024  # half of the server's bound
PAGE_ENTRIES = 200


class Calls(LimitCalls, ScheduleCalls, CallbackCalls):
    """The calls that a client makes, with its retries."""

    def __init__(self, retries: Retries) -> None:
        self.retries = retries

    # Jobs

    def submit(  # noqa: PLR0913 (each is a field of a job)
        self,
        *,
        user_id: str,
        kind: str,
        payload: Any = None,  # noqa: ANN401 (any JSON value)
        idempotency_key: str | None = None,
        deduplicate: bool = False,
        run_at: datetime | None = None,
        expires_at: datetime | None = None,
        timeout_seconds: float | None = None,
        max_attempts: int | None = None,
        retry: RetryPolicy | Mapping[str, Any] | None = None,
        priority: int = 0,
        resources: Sequence[str] = (),
        after: Sequence[int] = (),
        after_failure: Literal["fail", "run", "cancel"] | None = None,
        callback: str | None = None,
        wait_seconds: float = 0.0,
    ) -> Flow[JobState]:
        """Submit a job; see `Submission` for the fields.

        With `wait_seconds` (at most 60), return when it has ended, or after that time as it stands.
        Raises `RateLimited`, `KeyReused`, `InvalidRequest`, `ServerUnavailable` and others.
        """
        submission = Submission(
            user_id=user_id,
            kind=kind,
            payload=payload,
            idempotency_key=idempotency_key,
            deduplicate=deduplicate,
            run_at=run_at,
            expires_at=expires_at,
            timeout_seconds=timeout_seconds,
            max_attempts=max_attempts,
            retry=retry,
            priority=priority,
            resources=resources,
            after=after,
            after_failure=after_failure,
            callback=callback,
        )
        request = Request(
            method="POST",
            path="/v1/jobs",
            params=_wait(wait_seconds),
            content=submission.content(),
            wait_seconds=wait_seconds,
        )
        return (yield from answer_of(request, self.retries, JobState))

    def submit_many(self, submissions: Iterable[Submission]) -> Items[JobState | FairlogError]:
        """Submit any number of jobs in batches, and yield one outcome for each, in order: the job,
        or the error that refused it.

        `submissions` is read as the batches are sent: at most 1,000 jobs or 8 MiB are in memory.
        Jobs over a limit are sent again as `Retries` allow, in a batch of their own. Raises
        `ServerUnavailable` if a batch has no answer; the jobs of it may have been accepted.
        """
        for batch in _batches(submissions):
            for outcome in (yield from self._submitted(batch)):
                yield Item(outcome)

    def _submitted(self, batch: Sequence[bytes]) -> Flow[list["JobState | FairlogError"]]:
        outcomes: dict[int, JobState | FairlogError] = {}
        budget = Budget(self.retries)
        left = list(range(len(batch)))
        while left:
            content = b'{"jobs":[' + b",".join(batch[one] for one in left) + b"]}"
            request = Request(method="POST", path="/v1/jobs/batch", content=content)
            answers = (yield from answer_of(request, self.retries, BatchOutcomes)).jobs
            if len(answers) != len(left):
                raise UnexpectedAnswer(f"{len(answers)} answers for {len(left)} submissions.")
            for one, answer in zip(left, answers, strict=True):
                outcomes[one] = _outcome(answer)
            again = [one for one in left if _is_worth_a_retry(outcomes[one])]
            if len(again) < len(left):
                budget.renew()
            left = again
            if left:
                error = outcomes[left[0]]
                assert isinstance(error, FairlogError), error
                try:
                    yield from budget.pause(error)
                except FairlogError:
                    break
        return [outcomes[one] for one in range(len(batch))]

    def job(self, job_id: int, *, wait_seconds: float = 0.0) -> Flow[JobState]:
        """Return a job. With `wait_seconds` (at most 60), return when it has ended, or after that
        time as it stands. Raises `NotFound`.
        """
        request = Request(
            method="GET",
            path=f"/v1/jobs/{job_id:d}",
            params=_wait(wait_seconds),
            wait_seconds=wait_seconds,
        )
        return (yield from answer_of(request, self.retries, JobState))

    def wait(self, job_id: int, timeout: float | None = None) -> Flow[JobState]:
        """Return a job when it has ended. Raises `ResultTimeout` after `timeout` seconds; None:
        wait for as long as it takes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = WAIT_SECONDS if deadline is None else deadline - time.monotonic()
            job = yield from self.job(job_id, wait_seconds=min(WAIT_SECONDS, max(0.0, left)))
            if job.state in ENDED:
                return job
            if timeout is not None and deadline is not None and time.monotonic() >= deadline:
                raise ResultTimeout(job_id, job.state, timeout)

    def result(self, job_id: int, timeout: float | None = None) -> Flow[Any]:
        """Wait for a job, and return what its handler returned.

        Raises `JobFailed`, `JobCancelled`, and `ResultTimeout` after `timeout` seconds.
        """
        job = yield from self.wait(job_id, timeout)
        return result_of(job)

    def jobs(
        self,
        *,
        user_id: str | None = None,
        state: State | None = None,
        kind: str | None = None,
        error_contains: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        idempotency_key: str | None = None,
        include: Sequence[str] = ("payload",),
    ) -> Items[JobState]:
        """Yield the jobs that match, newest first, reading them page by page.

        `idempotency_key` gives the job that the key of `user_id` identifies. `include` names the
        bodies that they have: payload, result, error. Without error, errors are shortened.
        """
        params = _given(
            user_id=user_id,
            state=state,
            kind=kind,
            error_contains=error_contains,
            since=since,
            until=until,
            idempotency_key=idempotency_key,
            include=",".join(include) or None,
            limit=PAGE_ENTRIES,
        )
        yield from paged("/v1/jobs", params, JobsPage, lambda page: page.jobs, self.retries)

    def cancel(self, job_id: int) -> Flow[JobState]:
        """Cancel a job that has not ended. Raises `NotFound` and `Conflict`."""
        request = Request(method="POST", path=f"/v1/jobs/{job_id:d}/cancel")
        return (yield from answer_of(request, self.retries, JobState))

    def retry(self, job_id: int) -> Flow[JobState]:
        """Retry a failed or cancelled job. It counts as a submission of its user.

        Raises `NotFound`, `Conflict` and `RateLimited`. It is not sent again where the server may
        have received it.
        """
        path = f"/v1/jobs/{job_id:d}/retry"
        request = Request(method="POST", path=path, is_repeatable=False)
        return (yield from answer_of(request, self.retries, JobState))

    def explain(self, job_id: int) -> Flow[Explanation]:
        """Return why a job has not started, or how it ended. Raises `NotFound`."""
        request = Request(method="GET", path=f"/v1/jobs/{job_id:d}/explain")
        return (yield from answer_of(request, self.retries, Explanation))

    # The log

    def audit(
        self,
        *,
        user_id: str | None = None,
        job_id: int | None = None,
        types: Sequence[str] = (),
        by: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int = 0,
    ) -> Items[Event]:
        """Yield the events that match, in log order, reading them page by page.

        `types` are event types, `by` is the name of an API key, and `after` a position.
        """
        params = _given(
            user_id=user_id,
            job_id=job_id,
            type=list(types) or None,
            by=by,
            since=since,
            until=until,
            limit=PAGE_ENTRIES,
            after=after,
        )
        yield from self._events("/v1/audit", params)

    def events(self, job_id: int) -> Items[Event]:
        """Yield the events of a job, in log order. Raises `NotFound`."""
        params = {"after": 0, "limit": PAGE_ENTRIES}
        yield from self._events(f"/v1/jobs/{job_id:d}/events", params)

    def _events(self, path: str, params: Mapping[str, Any]) -> Items[Event]:
        yield from paged(
            path, params, EventsPage, lambda page: page.events, self.retries, cursor="after"
        )

    def stream(
        self,
        *,
        user_id: str | None = None,
        job_id: int | None = None,
        types: Sequence[str] = (),
        by: str | None = None,
        after: int | None = None,
    ) -> Items[Event]:
        """Yield events as they happen, each once and in order, without end.

        `after` is a position; None: new events only. A lost connection is opened again at the
        position that was reached, and raises `ServerUnavailable` once `Retries` are used up.
        """
        params = _given(
            user_id=user_id, job_id=job_id, type=list(types) or None, by=by, after=after
        )
        budget = Budget(self.retries)
        parser = EventParser()
        while True:
            request = Request(method="GET", path="/v1/stream", params=params)
            answer = yield OpenStream(request)
            error = error_of(answer)
            if error is not None:
                if not may_repeat(request, answer, error):
                    raise error
                yield from budget.pause(error)
                continue
            while (piece := (yield ReadStream())) is not None:
                for event in parser.feed(piece):
                    budget.renew()
                    yield Item(event)
            if parser.position is not None:
                params = {**params, "after": parser.position}
            parser = EventParser(parser.position)
            yield from budget.pause(_STREAM_ENDED)


_STREAM_ENDED = ServerUnavailable("The stream has ended, and could not be opened again.")


def result_of(job: JobState) -> Any:  # noqa: ANN401 (any JSON value)
    """Return the result of a job that has ended. Raises `JobFailed` and `JobCancelled`."""
    if job.state == "failed":
        raise JobFailed(job.id, decoded(job.error), job.attempt)
    if job.state == "cancelled":
        raise JobCancelled(job.id)
    return decoded(job.result)


def _outcome(answer: BatchOutcome) -> "JobState | FairlogError":
    if answer.job is not None:
        return answer.job
    problem: Mapping[str, Any] = answer.problem or {"status": answer.status, "detail": ""}
    error = refusal_of(problem, _seconds_until(problem.get("resets_at")))
    assert isinstance(error, FairlogError), error
    return error


def _seconds_until(moment: object) -> float | None:
    """Return the seconds until a window's end by this machine's clock, at least one."""
    if not isinstance(moment, str):
        return None
    try:
        end = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    except ValueError:
        return None
    now = datetime.now(timezone.utc)  # noqa: TID251 (no log is here; an error costs a refusal)
    return max(1.0, (end - now).total_seconds())


def _is_worth_a_retry(outcome: "JobState | FairlogError") -> bool:
    return isinstance(outcome, RateLimited | ServerUnavailable)


def _batches(submissions: Iterable[Submission]) -> Iterator[Sequence[bytes]]:
    """Split submissions into batches that are bounded in number and in bytes."""
    batch: list[bytes] = []
    size = 0
    for submission in submissions:
        content = submission.content()
        if batch and (len(batch) == BATCH_JOBS_MAX or size + len(content) > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(content)
        size += len(content)
    if batch:
        yield batch


def _wait(seconds: float) -> Mapping[str, Any]:
    return {"wait_seconds": f"{seconds:.3f}"} if seconds > 0 else {}


def _given(**params: Any) -> dict[str, Any]:  # noqa: ANN401 (values of several types)
    """Return the parameters that are not None; times as RFC 3339."""
    return {
        name: rfc3339(value, name) if isinstance(value, datetime) else value
        for name, value in params.items()
        if value is not None
    }
