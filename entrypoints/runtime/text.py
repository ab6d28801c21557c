"""Text that is safe to show to people in a page, a table or an answer."""

import re
from typing import Final

import msgspec

# Control characters, and those that change the direction of the text after them. In JSON, their
# escapes have the same meaning. Line feeds and tabs remain, since indented JSON contains them.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


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
    value = msgspec.json.decode(error)
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        name = value.get("type")
        value = f"{name}: {value['message']}" if isinstance(name, str) else value["message"]
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return visible(text[:300])
