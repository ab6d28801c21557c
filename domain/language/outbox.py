"""Rows of the outbox: submissions that a program wrote in a transaction of its own.

A program may write what it likes into the columns, so each value is checked here.
"""

import re
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from domain.language import validation
from domain.language.bodies import body_of_json
from domain.language.commands import SubmitJob
from domain.language.errors import InvalidInput
from domain.language.retry_fields import RetryFields

_SQL_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?")


class OutboxRow(Struct, frozen=True):
    """A row of the table `outbox`, as it was written. SQLite stores any value in any column."""

    id: int
    user_id: Any
    kind: Any
    payload: Any  # JSON text
    idempotency_key: Any = None  # None: each row is a job of its own
    run_at: Any = None  # RFC 3339, or without an offset as SQL writes times: UTC
    expires_at: Any = None  # likewise
    priority: Any = None  # -1000 to 1000; None: 0
    max_attempts: Any = None  # 1 to 1000
    timeout_seconds: Any = None  # above 0, at most 604800
    options: Any = None  # JSON text of an object: the fields of a submission without a column


def submission_of(row: OutboxRow) -> SubmitJob:
    """Return the submission that a row stands for. Raises `InvalidInput`."""
    options = _options(row.options)
    key = row.idempotency_key
    return validation.submission(
        SubmitJob(
            user_id=validation.user_id(_text(row.user_id, "user_id")),
            kind=validation.kind(_text(row.kind, "kind")),
            payload=body_of_json(_text(row.payload, "payload").encode(), "payload"),
            idempotency_key=None
            if key is None
            else validation.idempotency_key(_text(key, "idempotency_key")),
            # A transaction writes its rows once, so equal rows are different jobs.
            deduplicate=False
            if key is None and options.deduplicate is None
            else options.deduplicate,
            run_at=_time(row.run_at, "run_at"),
            expires_at=_time(row.expires_at, "expires_at"),
            timeout_seconds=None
            if row.timeout_seconds is None
            else validation.timeout_seconds(_number(row.timeout_seconds, "timeout_seconds")),
            max_attempts=None
            if row.max_attempts is None
            else validation.max_attempts(_whole(row.max_attempts, "max_attempts")),
            retry=None if options.retry is None else options.retry.to_policy(),
            priority=0
            if row.priority is None
            else validation.priority(_whole(row.priority, "priority")),
            resources=validation.resources(options.resources),
            after=validation.after(options.after),
            after_failure=validation.after_failure(
                options.after_failure, has_parents=bool(options.after)
            ),
            callback=None
            if options.callback is None
            else validation.callback_url(options.callback.url),
        )
    )


class _Callback(Struct, forbid_unknown_fields=True):
    url: str


class _Options(Struct):
    deduplicate: bool | None = None
    retry: RetryFields | None = None
    resources: tuple[str, ...] = ()
    after: tuple[int, ...] = ()
    after_failure: str | None = None
    callback: _Callback | None = None


_OPTIONS: Final = _Options.__struct_fields__


def _options(text: Any) -> _Options:  # noqa: ANN401 (of any column)
    if text is None:
        return _Options()
    try:
        given = msgspec.json.decode(_text(text, "options"), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidInput("options is the JSON text of an object.") from None
    for name in given:
        if name not in _OPTIONS:
            raise InvalidInput(
                f"There is no option {name!r}; the options are {', '.join(_OPTIONS)}."
            )
    try:
        return msgspec.convert(given, _Options)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"options: {error}.") from None


def _text(value: Any, column: str) -> str:  # noqa: ANN401 (of any column)
    if not isinstance(value, str):
        raise InvalidInput(f"{column} is a text.")
    return value


def _whole(value: Any, column: str) -> int:  # noqa: ANN401 (of any column)
    if not isinstance(value, int):
        raise InvalidInput(f"{column} is a whole number.")
    return value


def _number(value: Any, column: str) -> float:  # noqa: ANN401 (of any column)
    if not isinstance(value, int | float):
        raise InvalidInput(f"{column} is a number.")
    return value


def _time(value: Any, column: str) -> datetime | None:  # noqa: ANN401 (of any column)
    if value is None:
        return None
    text = _text(value, column)
    if _SQL_TIME.fullmatch(text):
        text = f"{text}Z"
    return validation.time(text, column)
