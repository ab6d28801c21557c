"""Text as people are shown it, wherever: in a page, a table or an answer."""

import re
from typing import Final

import msgspec

# Control characters, and those that turn the direction of the text behind them. In JSON their
# escapes mean the same. Ends of lines and tabs are left, which indented JSON has.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def visible(text: str) -> str:
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def message_of(error: bytes | None) -> str:
    """The one line that says what an error was."""
    if error is None:
        return ""
    value = msgspec.json.decode(error)
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        name = value.get("type")
        value = f"{name}: {value['message']}" if isinstance(name, str) else value["message"]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return visible(text[:300])
