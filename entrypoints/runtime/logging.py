"""The process's log: one line per event, to standard error.

A line is a fixed event name with fields, as JSON or as text for people. Records of libraries become
the event `library` with their message as a field. A line that cannot be formatted or written
affects nothing else (see `fairlog_client.logs.output`).
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from fairlog_client.logs.log import ROOT, fields_of
from fairlog_client.logs.output import LogHandler, output, reserve_standard_streams
from fairlog_client.logs.text import TextRenderer

CHARACTERS_MAX: Final = 500  # of a field: values from users can be long
_TRACEBACK_CHARACTERS_MAX: Final = 20_000

_log = structlog.get_logger()


def configure_logging(
    *,
    as_json: bool,
    level: int = logging.INFO,
    tracebacks: bool = True,
) -> None:
    """Configure structlog and the standard library's logging for the whole process.

    `as_json` selects JSON lines instead of text for people; records below `level` are dropped.
    Without `tracebacks`, an error is shown in one line.
    """
    reserve_standard_streams()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    finish: list[Processor] = [
        structlog.processors.format_exc_info if tracebacks else _name_error,
        _clip,
        structlog.processors.JSONRenderer()
        if as_json
        else TextRenderer(in_colour=sys.stderr.isatty() and not os.environ.get("NO_COLOR")),
    ]
    structlog.configure(
        processors=[_Guarded([*shared, *finish])],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(),
    )
    handler = LogHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _name_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries log warnings and errors only.
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger(ROOT).setLevel(level)  # the worker's own lines
    threading.excepthook = _log_thread_end  # the default one writes to standard error and may block


def level_of(name: str) -> int:
    """Return the level with this name, such as "info"."""
    return logging.getLevelNamesMapping()[name.upper()]


class _Lines:
    """The logger that structlog calls with finished lines; it has one method for each level."""

    def msg(self, line: str) -> None:
        output.write(f"{line}\n")

    debug = info = warning = error = critical = exception = msg


class _Guarded:
    """A chain of processors that raises nothing, even if formatting a value raises an error."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        self._processors = processors

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> Any:  # noqa: ANN401 (the return type of structlog)
        name = event.get("event")
        line: Any = event
        try:
            for processor in self._processors:
                line = processor(logger, method, line)
        except Exception as error:  # noqa: BLE001 (see the class)
            return json.dumps(
                {
                    "level": "error",
                    "event": "log_line_failed",
                    "about": _shown(name),
                    "error": type(error).__name__,
                }
            )
        return line


def _shown(name: object) -> str:
    return name if isinstance(name, str) else type(name).__name__


def _log_thread_end(ended: threading.ExceptHookArgs) -> None:
    """Log that a thread ended with an error that it did not catch."""
    if ended.exc_type is SystemExit:
        return
    name = ended.thread.name if ended.thread is not None else None
    _log.error("thread_ended", thread=name, exc_info=ended.exc_value)


def _name_library(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    fields = fields_of(record)
    if fields is None:
        event.update(event="library", library=record.name, message=event["event"])
    else:
        event.update(fields)
    return event


def _name_error(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    raised = event.pop("exc_info", None)
    error = raised[1] if isinstance(raised, tuple) else raised
    if isinstance(error, BaseException):
        first_line = str(error).partition("\n")[0]
        event["error"] = f"{type(error).__name__}: {first_line}"
    return event


def _clip(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        characters_max = _TRACEBACK_CHARACTERS_MAX if name == "exception" else CHARACTERS_MAX
        if isinstance(value, str) and len(value) > characters_max:
            event[name] = f"{value[: characters_max - 1]}…"
    return event
