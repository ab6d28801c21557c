"""Text that is safe to show to people in a page, a table or an answer."""

import re
from typing import Final

import msgspec

# Control characters, and those that change the direction of the text after them. In JSON, their
# escapes have the same meaning. Line feeds and tabs remain, since indented JSON contains them.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
CHARACTERS_MAX: Final = 300  # of a summary
SEARCHED_MAX: Final = 200
_THOUSAND: Final = 1000


def size_of(size: float) -> str:
    """Return a size in bytes in the unit that gives one to three digits before the point."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if round(size) < _THOUSAND:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.3g} {unit}"
        size /= _THOUSAND
    return f"{size:,.3g} TB" if size < _THOUSAND else f"{size:,.0f} TB"


def visible(text: str) -> str:
    """Return the text with invisible and direction-changing characters as JSON escapes."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def message_of(error: bytes | None) -> str:
    """Return a summary of a stored error of at most 300 characters, before escaping.

    `error` is a JSON value; None gives an empty text. An object with a `message` is shown as
    `type: message`, a text as it is, and any other value as its JSON.
    """
    if error is None:
        return ""
    name, message = _parts_of(error)
    return visible((message if name is None else f"{name}: {message}")[:CHARACTERS_MAX])


def type_and_message(error: bytes) -> tuple[str, str]:
    """Return the type of a stored error, by default "Error", and at most 300 characters of its
    message.
    """
    name, message = _parts_of(error)
    return (name or "Error")[:CHARACTERS_MAX], message[:CHARACTERS_MAX]


def traceback_of(error: bytes) -> str:
    """Return the traceback of a stored error without its last line, which names the exception;
    empty if it has none.
    """
    value = msgspec.json.decode(error)
    trace = value.get("traceback") if isinstance(value, dict) else None
    if not isinstance(trace, str):
        return ""
    lines = trace.rstrip().split("\n")
    # The exception has the last lines that are not indented: its message may have several.
    end = len(lines)
    while end and lines[end - 1][:1] not in {" ", "\t"}:
        end -= 1
    return visible("\n".join(lines[:end] if end else lines))


def is_plain_error(error: bytes) -> bool:
    """Return True if message and traceback are all that a stored error has."""
    value = msgspec.json.decode(error)
    return isinstance(value, str) or (
        isinstance(value, dict)
        and isinstance(value.get("message"), str)
        and value.keys() <= {"type", "message", "traceback"}
        and len(value["message"]) <= CHARACTERS_MAX
    )


def text_of(error: bytes) -> str:
    """Return at most SEARCHED_MAX characters of a text of the error by which its like are found;
    empty if it has no message.
    """
    value = msgspec.json.decode(error)
    message = value.get("message") if isinstance(value, dict) else value
    return message[:SEARCHED_MAX] if isinstance(message, str) else ""


def _parts_of(error: bytes) -> tuple[str | None, str]:
    value = msgspec.json.decode(error)
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        name = value.get("type")
        return name if isinstance(name, str) else None, value["message"]
    return None, value if isinstance(value, str) else msgspec.json.encode(value).decode()
