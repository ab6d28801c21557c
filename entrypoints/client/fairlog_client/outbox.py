"""Submissions by a row of the table `outbox`, in a transaction of the caller's.

The service takes the row into its log when the transaction has committed. Nothing is sent here.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from fairlog_client.errors import InvalidArguments
from fairlog_client.retry_policies import RetryPolicy
from fairlog_client.submissions import Submission, rfc3339

_COLUMNS = (
    "user_id",
    "kind",
    "payload",
    "idempotency_key",
    "run_at",
    "expires_at",
    "priority",
    "max_attempts",
    "timeout_seconds",
    "options",
)
_PLACEHOLDERS = {"qmark": "?", "format": "%s", "pyformat": "%s"}


# SQLAlchemy is known by these methods alone, since this package works without it.
@runtime_checkable
class SqlConnection(Protocol):
    """A `Connection` of SQLAlchemy."""

    @property
    def dialect(self) -> Any: ...  # noqa: ANN401

    def exec_driver_sql(self, statement: str, parameters: Any, /) -> Any: ...  # noqa: ANN401


@runtime_checkable
class SqlSession(Protocol):
    """A `Session` of SQLAlchemy."""

    def connection(self) -> Any: ...  # noqa: ANN401

    def get_bind(self) -> Any: ...  # noqa: ANN401


class DriverConnection(Protocol):
    """A connection of a driver, such as PyMySQL's or the `sqlite3` module's (PEP 249)."""

    def cursor(self) -> Any: ...  # noqa: ANN401 (each driver has its own)


def enqueue(  # noqa: PLR0913 (each is a field of a job)
    session_or_connection: SqlSession | SqlConnection | DriverConnection,
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
    table: str = "outbox",
) -> None:
    """Insert a job into the outbox, in the current transaction of a SQLAlchemy session or
    connection, or of a driver's connection. The caller commits.

    Without `idempotency_key` each call is a job of its own. `table` may name the schema too:
    `fairlog.outbox`. Raises `InvalidArguments`, and the errors of the database. With an
    `AsyncSession`: `await session.run_sync(enqueue, user_id=…, …)`.
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
    values = _values(submission)
    given = session_or_connection
    connection = given.connection() if isinstance(given, SqlSession) else given
    if isinstance(connection, SqlConnection):
        connection.exec_driver_sql(_insert(table, connection.dialect.paramstyle), values)
        return
    statement = _insert(table, _style_of(connection))
    with closing(connection.cursor()) as cursor:
        cursor.execute(statement, values)


def _values(submission: Submission) -> tuple[Any, ...]:
    """Return the values of the columns, in order. Raises `InvalidArguments`."""
    fields = msgspec.json.decode(submission.content(), type=dict[str, msgspec.Raw])
    return (
        submission.user_id,
        submission.kind,
        bytes(fields["payload"]).decode(),
        submission.idempotency_key,
        _time(submission.run_at, "run_at"),
        _time(submission.expires_at, "expires_at"),
        submission.priority,
        submission.max_attempts,
        submission.timeout_seconds,
        _options(submission),
    )


def _options(submission: Submission) -> str | None:
    """Return the fields that have no column as JSON; None: there are none."""
    given: dict[str, Any] = {"deduplicate": True} if submission.deduplicate else {}
    if submission.retry is not None:
        given["retry"] = submission.retry
    if submission.resources:
        given["resources"] = submission.resources
    if submission.after:
        given["after"] = submission.after
    if submission.after_failure is not None:
        given["after_failure"] = submission.after_failure
    if submission.callback is not None:
        given["callback"] = {"url": submission.callback}
    return msgspec.json.encode(given).decode() if given else None


def _time(moment: datetime | None, name: str) -> str | None:
    return None if moment is None else rfc3339(moment, name)


def _insert(table: str, style: str | None) -> str:
    """Return the statement for a driver with this `paramstyle`. Raises `InvalidArguments`."""
    mark = _PLACEHOLDERS.get(style or "")
    if mark is None:
        raise InvalidArguments(
            "enqueue needs a session or connection of SQLAlchemy, or a driver's connection, with "
            f"the placeholders %s or ?; the paramstyle here is {style}."
        )
    marks = ", ".join([mark] * len(_COLUMNS))
    return f"INSERT INTO {table} ({', '.join(_COLUMNS)}) VALUES ({marks})"


def _style_of(connection: DriverConnection) -> str | None:
    """Return the `paramstyle` of the driver that a connection belongs to (PEP 249)."""
    module = type(connection).__module__
    while module:
        style = getattr(sys.modules.get(module), "paramstyle", None)
        if isinstance(style, str):
            return style
        module = module.rpartition(".")[0]
    return None
