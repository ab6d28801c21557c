"""Turns an exception into the error of a failed attempt: type, message and traceback."""

import traceback
from types import TracebackType
from typing import Final

import msgspec

from fairlog_client.worker.bodies import encoded

MESSAGE_CHARACTERS_MAX: Final = 10_000  # the rest is cut off
TRACEBACK_CHARACTERS_MAX: Final = 20_000  # the middle is cut out
SUMMARY_CHARACTERS_MAX: Final = 300
_TYPE_CHARACTERS_MAX: Final = 200
_OWN_MODULES: Final = ("fairlog_client.",)


def error_of(error: BaseException) -> bytes:
    return error_body(type(error).__name__, _message_of(error), traceback_of(error))


def error_body(type_name: str, message: str, trace: str = "") -> bytes:
    """Return the error's JSON, shortened so that no exception is too large for the log."""
    return encoded(
        {
            "type": _clean(type_name)[:_TYPE_CHARACTERS_MAX],
            "message": _clean(message)[:MESSAGE_CHARACTERS_MAX],
            "traceback": _without_middle(_clean(trace), TRACEBACK_CHARACTERS_MAX),
        },
        "error",
    )


def summary_of(error: bytes) -> str:
    """Return an error as one line, of at most SUMMARY_CHARACTERS_MAX characters."""
    fields = msgspec.json.decode(error, type=dict[str, str])
    return f"{fields['type']}: {fields['message']}"[:SUMMARY_CHARACTERS_MAX]


def traceback_of(error: BaseException) -> str:
    """Return the traceback as Python prints it, beginning with the handler's own code."""
    try:
        return "".join(
            traceback.format_exception(type(error), error, _user_part(error.__traceback__))
        )
    except Exception:  # noqa: BLE001 (an exception's own code may do anything)
        return ""


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 (see traceback_of)
        return "(the exception's message cannot be read)"


def _user_part(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None:
        if not trace.tb_frame.f_globals.get("__name__", "").startswith(_OWN_MODULES):
            break
        trace = trace.tb_next
    return trace


def _without_middle(text: str, characters_max: int) -> str:
    if len(text) <= characters_max:
        return text
    cut = "\n[…]\n"
    half = (characters_max - len(cut)) // 2
    return text[:half] + cut + text[-half:]


def _clean(text: str) -> str:
    """Escape lone surrogates, which JSON cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
