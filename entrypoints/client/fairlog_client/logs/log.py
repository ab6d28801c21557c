"""The loggers of the worker.

A line is a fixed event name with fields. It is a record of the standard library whose message is
the name and whose attribute `fairlog_fields` has the fields, so that any program may format it: the
service does so with its own lines, `fairlog-worker` with `fairlog_client.logs.configuration`.
"""

import logging
from contextvars import ContextVar
from typing import Any

ROOT = "fairlog"  # the logger above all others

# The fields of the job whose handler runs: each line that the handler logs has them.
job_fields: ContextVar[dict[str, Any]] = ContextVar("fairlog_job_fields")


class Log:
    """A logger of events. Fields have any values that can be shown as text."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{ROOT}.{name}")

    def debug(self, event: str, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log an error with the exception that is being handled."""
        self._write(logging.ERROR, event, {**fields, "exc_info": True})

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            error = fields.pop("exc_info", None)
            self._logger.log(level, event, exc_info=error, extra={"fairlog_fields": fields})


def fields_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return the fields of a record that a `Log` wrote; None for any other record."""
    fields: dict[str, Any] | None = getattr(record, "fairlog_fields", None)
    return fields
