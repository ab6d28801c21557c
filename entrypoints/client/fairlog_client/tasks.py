"""Jobs by decorator: a kind's name, defaults and parameters stand at its function.

    jobs = Jobs()

    @jobs.task(kind="thumbnail", max_attempts=5, timeout=60)
    def thumbnail(path: str, size: int = 200) -> str: ...

    job = thumbnail.submit(user="alice", path="/pictures/1.png")

The payload is an object with the function's parameters. A worker that is given the module runs the
function with them.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from fairlog_client.clients import AsyncFairlog, AsyncJob, Fairlog, Job
from fairlog_client.errors import InvalidArguments
from fairlog_client.outbox import DriverConnection, SqlConnection, SqlSession, enqueue
from fairlog_client.retry_policies import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
_JOB = "job"  # the parameter that gets the job in a worker, and is no part of the payload


class Options(Struct, frozen=True, kw_only=True):
    """Options of a submission; see `Submission` for the fields."""

    max_attempts: int | None = None
    retry: RetryPolicy | Mapping[str, Any] | None = None
    timeout_seconds: float | None = None
    priority: int = 0
    resources: Sequence[str] = ()
    after: Sequence[int] = ()
    after_failure: Literal["fail", "run", "cancel"] | None = None
    callback: str | None = None
    idempotency_key: str | None = None
    run_at: datetime | None = None
    expires_at: datetime | None = None
    wait_seconds: float = 0.0


class Jobs:
    """The tasks of an application. `client` submits them; None: a `Fairlog()` that is made when the
    first job is submitted, from FAIRLOG_SERVER and FAIRLOG_KEY. `outbox` is the table that their
    `enqueue` inserts into, with its schema if that is another one: `fairlog.outbox`.
    """

    def __init__(self, client: Fairlog | None = None, *, outbox: str = "outbox") -> None:
        self.tasks: dict[str, Task[Any, Any]] = {}  # by kind
        self.outbox = outbox
        self._client = client

    @property
    def client(self) -> Fairlog:
        if self._client is None:
            self._client = Fairlog()
        return self._client

    @client.setter
    def client(self, client: Fairlog) -> None:
        self._client = client

    def task(
        self,
        *,
        kind: str | None = None,
        max_attempts: int | None = None,
        retry: RetryPolicy | Mapping[str, Any] | None = None,
        timeout: float | None = None,
        priority: int = 0,
        resources: Sequence[str] = (),
        final_exceptions: tuple[type[BaseException], ...] = (),
    ) -> "Callable[[Callable[P, R]], Task[P, R]]":
        """Make a function a kind of job, by default of its own name.

        `timeout` is the longest run of an attempt in seconds, `max_attempts` how many may fail, and
        `retry` when another follows; None: as the kind says, else the server. `resources` are what
        its jobs use. After one of `final_exceptions` no further attempt follows.
        Raises `InvalidArguments` for a function that cannot be one, and for a kind that exists.
        """
        options = Options(
            max_attempts=max_attempts,
            retry=retry,
            timeout_seconds=timeout,
            priority=priority,
            resources=resources,
        )

        def decorate(function: Callable[P, R]) -> Task[P, R]:
            name = kind or str(getattr(function, "__name__", ""))
            if name in self.tasks:
                raise InvalidArguments(f"There is another task of the kind {name!r}.")
            task = Task(self, function, name, options, final_exceptions)
            self.tasks[name] = task
            return task

        return decorate


class Task(Generic[P, R]):
    """A function that is a kind of job. Called, it runs here and now, as the function would."""

    is_fairlog_task = True  # by which a worker knows it

    def __init__(
        self,
        jobs: Jobs,
        function: Callable[P, R],
        kind: str,
        options: Options,
        final_exceptions: tuple[type[BaseException], ...] = (),
    ) -> None:
        functools.update_wrapper(self, function)
        self.kind = kind
        self.function = function
        self.timeout_seconds = options.timeout_seconds
        self.final_exceptions = final_exceptions
        self._jobs = jobs
        self._options = options
        self._signature = inspect.signature(function)
        self._parameters = _parameters_of(self._signature, kind)
        self.wants_job = _JOB in self._signature.parameters

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.kind!r}>"

    def options(self, **changed: Any) -> "Task[P, R]":  # noqa: ANN401 (fields of `Options`)
        """Return the task with other options, such as `idempotency_key` or `run_at`: the fields of
        `Options`. Raises `InvalidArguments` for one that does not exist, and for a longer time-out
        than the task's own, at which its worker stops it.
        """
        unknown = sorted(changed.keys() - set(Options.__struct_fields__))
        if unknown:
            names = ", ".join(Options.__struct_fields__)
            raise InvalidArguments(f"There is no option {unknown[0]!r}; the options are {names}.")
        longest, asked = self.timeout_seconds, changed.get("timeout_seconds")
        if longest is not None and asked is not None and asked > longest:
            raise InvalidArguments(
                f"{self.kind!r} runs at most {longest:g} s, as its timeout says: "
                f"timeout_seconds={asked:g} would change nothing."
            )
        return Task(
            self._jobs,
            self.function,
            self.kind,
            replace(self._options, **changed),
            self.final_exceptions,
        )

    def submit(self, user: str, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Submit a job with these arguments for a user. Raises `InvalidArguments` if they do not
        fit the function, and what `Fairlog.submit` raises.
        """
        return self._jobs.client.submit(**self._submission(user, args, kwargs))

    async def submit_async(
        self, client: AsyncFairlog, user: str, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncJob:
        """Submit a job like `submit`, with an asynchronous client."""
        return await client.submit(**self._submission(user, args, kwargs))

    def enqueue(
        self,
        session_or_connection: SqlSession | SqlConnection | DriverConnection,
        user: str,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Insert a job with these arguments into the outbox, in the current transaction of a
        session or connection. Raises `InvalidArguments`; see `enqueue`.
        """
        submission = self._submission(user, args, kwargs)
        del submission["wait_seconds"]
        enqueue(session_or_connection, **submission, table=self._jobs.outbox)

    def payload(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """Return the payload of a job with these arguments. Raises `InvalidArguments`."""
        return self._payload(args, kwargs)

    def call_with(self, payload: object, job: object) -> object:
        """Run the function in a worker, and return its result or an awaitable of it."""
        if not isinstance(payload, dict):
            raise InvalidArguments(
                f"The payload of {self.kind!r} is an object with its parameters, not a "
                f"{type(payload).__name__}."
            )
        given = {**payload, _JOB: job} if self.wants_job else payload
        try:
            self._signature.bind(**given)
        except TypeError as error:
            raise InvalidArguments(f"The payload does not fit {self.kind!r}: {error}.") from None
        return self.function(**given)  # type: ignore[call-arg]  # just bound

    def _submission(
        self, user: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        options = {name: getattr(self._options, name) for name in Options.__struct_fields__}
        payload = self._payload(args, kwargs)
        return {"user_id": user, "kind": self.kind, "payload": payload, **options}

    def _payload(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            bound = self._parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(f"{self.kind!r} cannot be submitted so: {error}.") from None
        payload: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if self._parameters.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                payload |= value
            else:
                payload[name] = value
        return payload


def _parameters_of(signature: inspect.Signature, kind: str) -> inspect.Signature:
    """Return the signature without the parameter `job`. Raises `InvalidArguments` for parameters
    that have no name to be called by.
    """
    for name, parameter in signature.parameters.items():
        if parameter.kind in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}:
            raise InvalidArguments(
                f"The task {kind!r} cannot have the parameter {name!r}: a payload has its "
                "parameters by name."
            )
    return signature.replace(
        parameters=[one for name, one in signature.parameters.items() if name != _JOB]
    )
