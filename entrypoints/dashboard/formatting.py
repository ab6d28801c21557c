"""Numbers, durations and JSON as text on a page."""

from datetime import datetime
from typing import Any, Final

import msgspec

from entrypoints.runtime.text import visible

JSON_CHARACTERS_MAX: Final = 20_000
BRIEF_CHARACTERS_MAX: Final = 200
_SHOWN_ELSEWHERE: Final = frozenset({"type", "user_id"})
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))


def duration(seconds: float | None) -> str:
    """Format a duration in seconds, minutes, hours or days: 0.85 s, 4.2 s, 12 s, 3 m 20 s, 2 d 4 h.

    There is no smaller unit, so that the durations of a page can be compared at a glance.
    """
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 0.01:  # noqa: PLR2004 (two digits would be 0.00)
        return "0 s" if seconds == 0 else f"{seconds:.3f} s"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:  # noqa: PLR2004 (below that, tenths matter)
        return f"{seconds:.1f} s"
    return _in_two_units(round(seconds))


def exact(seconds: float | None) -> str:
    """Format a duration in seconds with milliseconds, as in 12,345.678 s; None: not known."""
    return "not known" if seconds is None else f"{max(0.0, seconds):,.3f} s"


def age(since: datetime, until: datetime) -> str:
    """Format the time since a moment in whole seconds, rounded down, as the script goes on to."""
    return _in_two_units(max(0, int((until - since).total_seconds())))


def seconds_between(since: datetime, until: datetime) -> float:
    return (until - since).total_seconds()


def _in_two_units(whole: int) -> str:
    for index, (size, unit) in enumerate(_UNITS):
        if whole >= size:
            count, rest = divmod(whole, size)
            lower, lower_unit = (_UNITS[index + 1]) if index + 1 < len(_UNITS) else (1, "s")
            behind = rest // lower
            return f"{count} {unit} {behind} {lower_unit}" if behind else f"{count} {unit}"
    return f"{whole} s"


def count(number: float) -> str:
    """Format with separators, as in 12,345."""
    return f"{number:,.0f}"


def counted(number: int, one: str, many: str) -> str:
    """Format a number with its noun, and verb: "1 job waits", "2,000 jobs wait"."""
    return f"{number:,} {one if number == 1 else many}"


def rate(number: float) -> str:
    """Format a rate per second with two or three significant digits."""
    if number == 0:
        return "0"
    return f"{number:.2f}" if number < 1 else f"{number:.1f}" if number < 100 else count(number)  # noqa: PLR2004


def share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def pretty_json(data: bytes) -> tuple[str, bool]:
    """Indent JSON and clip it if it is long; returns the text, and True if it was clipped."""
    text = msgspec.json.format(data, indent=2).decode()
    clipped = text[:JSON_CHARACTERS_MAX]
    return visible(clipped), len(text) > len(clipped)


def excerpt(beginning: bytes, bytes_max: int) -> str:
    """Return the beginning of a JSON value on one line. It was cut off if it has `bytes_max`."""
    text = visible(beginning.decode(errors="ignore"))
    return f"{text}…" if len(beginning) >= bytes_max else text


def brief_json(event: bytes) -> str:
    """Format the fields of an event, except its type and user, on one line."""
    fields = msgspec.json.decode(event, type=dict[str, Any])
    shown = {name: value for name, value in fields.items() if name not in _SHOWN_ELSEWHERE}
    text = " ".join(f"{name}={_plain(value)}" for name, value in shown.items())
    return visible(text[:BRIEF_CHARACTERS_MAX])


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
