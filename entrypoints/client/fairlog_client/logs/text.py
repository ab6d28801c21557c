"""Log lines for people on a terminal: time, level, event and fields, and a traceback below them."""

import json
from collections.abc import MutableMapping, Sequence
from typing import Any, Final

_COLOURS: Final = {"debug": "2", "warning": "33", "error": "31", "critical": "31"}
_EVENT_CHARACTERS: Final = 20  # the usual width, so that fields are below each other


class TextRenderer:
    """A formatter of lines; see `__call__`. It can end a chain of processors of structlog."""

    def __init__(self, *, in_colour: bool) -> None:
        """`in_colour`: the level and the names of fields have colours (ANSI)."""
        self._in_colour = in_colour

    def __call__(self, _: object, __: str, event: MutableMapping[str, Any]) -> str:
        """Return one line, and the lines of a traceback. Control characters are escaped."""
        time = f"{str(event.pop('timestamp', ''))[:19]:<19}Z"
        level = str(event.pop("level", ""))
        name = _printable(str(event.pop("event", "")).replace("_", " "))
        trace = str(event.pop("exception", ""))
        fields = "  ".join(
            f"{self._painted(f'{_printable(key)}=', '2')}{_value(value)}"
            for key, value in event.items()
        )
        shown_level = self._painted(f"{level:<7}", _COLOURS.get(level, "32"))
        line = f"{self._painted(time, '2')} {shown_level} {name:<{_EVENT_CHARACTERS}}  {fields}"
        below = [f"    {_printable(one)}" for one in trace.splitlines()]
        return "\n".join([line.rstrip(), *below])

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._in_colour else text


def _value(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return ",".join(map(_value, value)) or "none"
    text = _printable(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text else text


def _printable(text: str) -> str:
    """Escape what could move the cursor, turn the reading direction, or start another line."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )
