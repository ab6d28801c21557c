"""`Fairlog` and `AsyncFairlog`: the same calls, run by one transport or the other.

Each method of both is made from one flow of `Calls` or `JobCalls`, and has its signature and
docstring. So there is nothing in which the two could differ.
"""

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from datetime import datetime
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from msgspec import UNSET
from typing_extensions import Self

from fairlog_client.answers import (
    ENDED,
    Event,
    Explanation,
    Failure,
    JobState,
    Progress,
    State,
    decoded,
)
from fairlog_client.calls import Calls, result_of
from fairlog_client.errors import FairlogError
from fairlog_client.flows import Flow, Items, Retries
from fairlog_client.transports import AsyncTransport, SyncTransport, connection_of

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
C = TypeVar("C")
F = TypeVar("F", bound="Fairlog")
A = TypeVar("A", bound="AsyncFairlog")

TIMEOUT_SECONDS = 30.0  # for an answer, unless the client says otherwise


class JobCalls:
    """The calls about one job, as flows. Each updates `state`."""

    def __init__(self, calls: Calls, state: JobState) -> None:
        self.calls = calls
        self.state = state

    def refresh(self) -> Flow[None]:
        """Read the job again."""
        self.state = yield from self.calls.job(self.state.id)

    def wait(self, timeout: float | None = None) -> Flow[None]:
        """Wait until the job has ended. Raises `ResultTimeout` after `timeout` seconds; None: wait
        for as long as it takes.
        """
        if self.state.state not in ENDED or self.state.result is UNSET:
            self.state = yield from self.calls.wait(self.state.id, timeout)

    def result(self, timeout: float | None = None) -> Flow[Any]:
        """Wait for the job, and return what its handler returned.

        Raises `JobFailed`, `JobCancelled`, and `ResultTimeout` after `timeout` seconds.
        """
        yield from self.wait(timeout)
        return result_of(self.state)

    def cancel(self) -> Flow[None]:
        """Cancel the job. Raises `Conflict` if it has ended."""
        self.state = yield from self.calls.cancel(self.state.id)

    def retry(self) -> Flow[None]:
        """Retry the job, which has failed or was cancelled. Raises `Conflict` and `RateLimited`."""
        self.state = yield from self.calls.retry(self.state.id)

    def explain(self) -> Flow[Explanation]:
        """Return why the job has not started, or how it ended."""
        return self.calls.explain(self.state.id)

    def events(self) -> Items[Event]:
        """Yield the events of the job, in log order."""
        return self.calls.events(self.state.id)


class _JobFields:
    """A job as the server described it last; `refresh` and `wait` read it again."""

    def __init__(self, flows: JobCalls, transport: Any) -> None:
        self._flows = flows
        self._transport = transport

    @property
    def id(self) -> int:
        """The job's id: the position of its submission in the log."""
        return self._flows.state.id

    @property
    def user_id(self) -> str:
        return self._flows.state.user_id

    @property
    def kind(self) -> str:
        return self._flows.state.kind

    @property
    def state(self) -> State:
        """queued, scheduled or running; if it has ended, done, failed or cancelled."""
        return self._flows.state.state

    @property
    def has_ended(self) -> bool:
        return self._flows.state.state in ENDED

    @property
    def attempt(self) -> int:
        """The latest attempt, from 1; 0: it was never claimed."""
        return self._flows.state.attempt

    @property
    def payload(self) -> Any:
        """The input of its handler. None, too, if a list that was to leave it out gave the job."""
        return decoded(self._flows.state.payload)

    @property
    def error(self) -> Any:
        """The error of the latest failed attempt, as its worker reported it; None: none failed."""
        return decoded(self._flows.state.error)

    @property
    def failure(self) -> Failure | None:
        """The latest attempt that failed or was lost."""
        return self._flows.state.failure

    @property
    def progress(self) -> Progress | None:
        """The latest report of how far the handler is; None: it has made none."""
        return self._flows.state.progress

    @property
    def idempotency_key(self) -> str:
        """Its key, or the hexadecimal digest of its content."""
        return self._flows.state.idempotency_key

    @property
    def is_duplicate(self) -> bool:
        """True if this submission was one that had been received before."""
        return self._flows.state.is_duplicate

    @property
    def submitted_at(self) -> datetime:
        return self._flows.state.submitted_at

    @property
    def finished_at(self) -> datetime | None:
        """The time of its end; None: it has not ended."""
        return self._flows.state.finished_at

    @property
    def details(self) -> JobState:
        """All fields, as the server sent them."""
        return self._flows.state

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id}, kind={self.kind!r}, state={self.state!r})"


class Call(Generic[P, R]):
    """A method that is made of a flow. `run` gets its instance, and the flow for the arguments."""

    def __init__(self, make: Callable[..., Any], run: Callable[[Any, Any], R]) -> None:
        self._make = make
        self._run = run
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> "Call[P, R]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        make, run = self._make, self._run

        @functools.wraps(make)
        def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return run(instance, make(instance._flows, *args, **kwargs))

        return method


# The synchronous methods


def _sync(make: Callable[Concatenate[C, P], Flow[T]]) -> Call[P, T]:
    return Call(make, lambda owner, flow: owner._transport.run(flow))


def _sync_items(make: Callable[Concatenate[C, P], Items[T]]) -> Call[P, Iterator[T]]:
    return Call(make, lambda owner, items: owner._transport.iterate(items))


def _sync_job(make: Callable[Concatenate[Calls, P], Flow[JobState]]) -> "Call[P, Job]":
    return Call(make, lambda owner, flow: owner._job(owner._transport.run(flow)))


def _sync_jobs(make: Callable[Concatenate[Calls, P], Items[JobState]]) -> "Call[P, Iterator[Job]]":
    return Call(make, lambda owner, items: map(owner._job, owner._transport.iterate(items)))


def _sync_outcomes(
    make: Callable[Concatenate[Calls, P], Items[JobState | FairlogError]],
) -> "Call[P, Iterator[Job | FairlogError]]":
    return Call(make, lambda owner, items: map(owner._outcome, owner._transport.iterate(items)))


class Job(_JobFields):
    """A job of a `Fairlog`."""

    refresh = _sync(JobCalls.refresh)
    wait = _sync(JobCalls.wait)
    result = _sync(JobCalls.result)
    cancel = _sync(JobCalls.cancel)
    retry = _sync(JobCalls.retry)
    explain = _sync(JobCalls.explain)
    events = _sync_items(JobCalls.events)


# The asynchronous methods


def _async(make: Callable[Concatenate[C, P], Flow[T]]) -> Call[P, Coroutine[Any, Any, T]]:
    return Call(make, lambda owner, flow: owner._transport.run(flow))


def _async_items(make: Callable[Concatenate[C, P], Items[T]]) -> Call[P, AsyncIterator[T]]:
    return Call(make, lambda owner, items: owner._transport.iterate(items))


def _async_job(
    make: Callable[Concatenate[Calls, P], Flow[JobState]],
) -> "Call[P, Coroutine[Any, Any, AsyncJob]]":
    async def run(owner: "AsyncFairlog", flow: Flow[JobState]) -> "AsyncJob":
        return owner._job(await owner._transport.run(flow))

    return Call(make, run)


def _async_jobs(
    make: Callable[Concatenate[Calls, P], Items[JobState]],
) -> "Call[P, AsyncIterator[AsyncJob]]":
    async def run(owner: "AsyncFairlog", items: Items[JobState]) -> "AsyncIterator[AsyncJob]":
        async with aclosing(owner._transport.iterate(items)) as states:
            async for state in states:
                yield owner._job(state)

    return Call(make, run)


def _async_outcomes(
    make: Callable[Concatenate[Calls, P], Items[JobState | FairlogError]],
) -> "Call[P, AsyncIterator[AsyncJob | FairlogError]]":
    async def run(
        owner: "AsyncFairlog", items: Items[JobState | FairlogError]
    ) -> "AsyncIterator[AsyncJob | FairlogError]":
        async with aclosing(owner._transport.iterate(items)) as outcomes:
            async for outcome in outcomes:
                yield owner._outcome(outcome)

    return Call(make, run)


class AsyncJob(_JobFields):
    """A job of an `AsyncFairlog`."""

    refresh = _async(JobCalls.refresh)
    wait = _async(JobCalls.wait)
    result = _async(JobCalls.result)
    cancel = _async(JobCalls.cancel)
    retry = _async(JobCalls.retry)
    explain = _async(JobCalls.explain)
    events = _async_items(JobCalls.events)


class Fairlog:
    """A client of a Fairlog server, which any number of threads may share.

    A context manager, or `close` it. Each submission has an idempotency key, so that it is safe to
    send it again.
    """

    def __init__(
        self,
        server: str | None = None,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retries: Retries | None = None,
        ca_file: str | None = None,
    ) -> None:
        """`server` is the address, by default FAIRLOG_SERVER, else http://127.0.0.1:8000; `key` the
        secret of an API key, by default FAIRLOG_KEY. `timeout` is in seconds, for each answer.
        `ca_file` is a PEM file with the authorities to trust, by default FAIRLOG_CA_FILE.

        Raises `FairlogError` for an address or a file that cannot be used.
        """
        self._flows = Calls(Retries() if retries is None else retries)
        self._transport = SyncTransport(connection_of(server, key, timeout, ca_file))

    submit = _sync_job(Calls.submit)
    submit_many = _sync_outcomes(Calls.submit_many)
    job = _sync_job(Calls.job)
    jobs = _sync_jobs(Calls.jobs)
    result = _sync(Calls.result)
    cancel = _sync_job(Calls.cancel)
    retry = _sync_job(Calls.retry)
    explain = _sync(Calls.explain)
    limits = _sync(Calls.limits)
    global_limits = _sync(Calls.global_limits)
    set_limits = _sync(Calls.set_limits)
    plans = _sync_items(Calls.plans)
    plan = _sync(Calls.plan)
    set_plan = _sync(Calls.set_plan)
    delete_plan = _sync(Calls.delete_plan)
    kind = _sync(Calls.kind)
    set_kind = _sync(Calls.set_kind)
    schedules = _sync_items(Calls.schedules)
    schedule = _sync(Calls.schedule)
    set_schedule = _sync(Calls.set_schedule)
    delete_schedule = _sync(Calls.delete_schedule)
    trigger_schedule = _sync(Calls.trigger_schedule)
    backfill_schedule = _sync(Calls.backfill_schedule)
    callbacks = _sync(Calls.callbacks)
    callback = _sync(Calls.callback)
    set_callback = _sync(Calls.set_callback)
    delete_callback = _sync(Calls.delete_callback)
    rotate_callback_secret = _sync(Calls.rotate_callback_secret)
    audit = _sync_items(Calls.audit)
    events = _sync_items(Calls.events)
    stream = _sync_items(Calls.stream)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _job(self, state: JobState) -> Job:
        return Job(JobCalls(self._flows, state), self._transport)

    def _outcome(self, outcome: JobState | FairlogError) -> Job | FairlogError:
        return outcome if isinstance(outcome, FairlogError) else self._job(outcome)


class AsyncFairlog:
    """`Fairlog` for asyncio: each method returns an awaitable, each iterator is asynchronous.

    An instance belongs to one event loop.
    """

    def __init__(
        self,
        server: str | None = None,
        key: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retries: Retries | None = None,
        ca_file: str | None = None,
    ) -> None:
        """Take the arguments of `Fairlog`."""
        self._flows = Calls(Retries() if retries is None else retries)
        self._transport = AsyncTransport(connection_of(server, key, timeout, ca_file))

    submit = _async_job(Calls.submit)
    submit_many = _async_outcomes(Calls.submit_many)
    job = _async_job(Calls.job)
    jobs = _async_jobs(Calls.jobs)
    result = _async(Calls.result)
    cancel = _async_job(Calls.cancel)
    retry = _async_job(Calls.retry)
    explain = _async(Calls.explain)
    limits = _async(Calls.limits)
    global_limits = _async(Calls.global_limits)
    set_limits = _async(Calls.set_limits)
    plans = _async_items(Calls.plans)
    plan = _async(Calls.plan)
    set_plan = _async(Calls.set_plan)
    delete_plan = _async(Calls.delete_plan)
    kind = _async(Calls.kind)
    set_kind = _async(Calls.set_kind)
    schedules = _async_items(Calls.schedules)
    schedule = _async(Calls.schedule)
    set_schedule = _async(Calls.set_schedule)
    delete_schedule = _async(Calls.delete_schedule)
    trigger_schedule = _async(Calls.trigger_schedule)
    backfill_schedule = _async(Calls.backfill_schedule)
    callbacks = _async(Calls.callbacks)
    callback = _async(Calls.callback)
    set_callback = _async(Calls.set_callback)
    delete_callback = _async(Calls.delete_callback)
    rotate_callback_secret = _async(Calls.rotate_callback_secret)
    audit = _async_items(Calls.audit)
    events = _async_items(Calls.events)
    stream = _async_items(Calls.stream)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _job(self, state: JobState) -> AsyncJob:
        return AsyncJob(JobCalls(self._flows, state), self._transport)

    def _outcome(self, outcome: JobState | FairlogError) -> AsyncJob | FairlogError:
        return outcome if isinstance(outcome, FairlogError) else self._job(outcome)
