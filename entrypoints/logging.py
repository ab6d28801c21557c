"""What the process says of itself: one line an event, to standard error.

A line is a fixed event name with fields, as JSON or as `key=value`. What libraries log goes the
same way, as the event `library` with their message as a field.
"""

import logging
import sys
from typing import Final

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

CHARACTERS_MAX: Final = 500  # of a field: what users put in can be long
_TRACEBACK_CHARACTERS_MAX: Final = 20_000


def configure_logging(*, as_json: bool, level: int = logging.INFO, tracebacks: bool = True) -> None:
    """Set up both our own logging and the standard library's, for the whole process.

    Without `tracebacks`, an error is named in one line.
    """
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    finish: list[Processor] = [
        structlog.processors.format_exc_info if tracebacks else _name_error,
        _clip,
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
    ]
    structlog.configure(
        processors=[*shared, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _name_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))  # libraries speak only when something is wrong


def _name_library(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    event.update(event="library", library=record.name, message=event["event"])
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
        most = _TRACEBACK_CHARACTERS_MAX if name == "exception" else CHARACTERS_MAX
        if isinstance(value, str) and len(value) > most:
            event[name] = f"{value[: most - 1]}…"
    return event
