"""The log of a worker's processes: one line per event, to standard error.

A line is JSON, or text for people. A record of another library becomes the event `library` with its
message as a field, and in a process that runs handlers the event `handler_log` with the fields of
the job. A line that cannot be formatted or written affects nothing else.
"""

import json
import logging
import os
import sys
import threading
import traceback
from datetime import datetime, timezone
from typing import Any

from fairlog_client.logs.log import ROOT, Log, fields_of, job_fields
from fairlog_client.logs.output import LogHandler, output, reserve_standard_streams
from fairlog_client.logs.text import TextRenderer

CHARACTERS_MAX = 500  # of a field: values from users can be long
TRACEBACK_CHARACTERS_MAX = 20_000
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_log = Log("process")


def configure_logging(*, as_json: bool, level: int = logging.INFO, runs_handlers: bool) -> None:
    """Configure the standard library's logging for the whole process.

    `as_json` selects JSON lines instead of text for people; records below `level` are dropped, and
    those of libraries below a warning, unless the process `runs_handlers`.
    """
    reserve_standard_streams()
    handler = LogHandler(output)
    handler.setFormatter(_LineFormatter(as_json=as_json, runs_handlers=runs_handlers))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level if runs_handlers else max(level, logging.WARNING))
    logging.getLogger(ROOT).setLevel(level)
    threading.excepthook = _log_thread_end  # the default one writes to standard error and may block


class _LineFormatter(logging.Formatter):
    """Formats a record as a line. It raises nothing, whatever its fields are."""

    def __init__(self, *, as_json: bool, runs_handlers: bool) -> None:
        super().__init__()
        self._as_json = as_json
        self._other = "handler_log" if runs_handlers else "library"
        in_colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        self._text = TextRenderer(in_colour=in_colour)

    def format(self, record: logging.LogRecord) -> str:
        try:
            event = {name: _clipped(name, value) for name, value in self._event(record).items()}
            if self._as_json:
                return json.dumps(event, default=repr)
            return self._text(None, "", event)
        except Exception as error:  # noqa: BLE001 (see the class)
            failed = {"level": "error", "event": "log_line_failed", "about": record.name}
            return json.dumps(failed | {"error": type(error).__name__})

    def _event(self, record: logging.LogRecord) -> dict[str, Any]:
        event: dict[str, Any] = {"event": record.msg}
        fields = fields_of(record)
        if fields is None:
            name = "logger" if self._other == "handler_log" else "library"
            event = {"event": self._other, name: record.name, "message": record.getMessage()}
        event |= {**job_fields.get({}), **(fields or {})}
        event["level"] = record.levelname.lower()
        moment = datetime.fromtimestamp(record.created, timezone.utc)  # noqa: TID251 (of the line)
        event["timestamp"] = moment.isoformat().replace("+00:00", "Z")
        if record.exc_info and record.exc_info[1] is not None:
            event["exception"] = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return event


def _clipped(name: str, value: Any) -> Any:  # noqa: ANN401 (fields have any type)
    characters_max = TRACEBACK_CHARACTERS_MAX if name == "exception" else CHARACTERS_MAX
    if isinstance(value, str) and len(value) > characters_max:
        return f"{value[: characters_max - 1]}…"
    return value


def _log_thread_end(ended: threading.ExceptHookArgs) -> None:
    """Log that a thread ended with an error that it did not catch."""
    if ended.exc_type is SystemExit:
        return
    name = ended.thread.name if ended.thread is not None else None
    _log.error("thread_ended", thread=name, exc_info=ended.exc_value)
