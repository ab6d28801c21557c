"""Check that JSON can represent a payload or a result exactly, and say where it cannot.

An encoder that turns NaN into null, or a set into a list, would silently record something else than
the program gave. Only tuples are converted, to lists.
"""

import math
from typing import Any, Final

from msgspec import Struct

from fairlog_client.worker.bodies import DEPTH_MAX, InvalidValue

PLACES_MAX: Final = 1024 * 1024  # values nested in one value; each takes at least a byte of JSON
_PLAIN: Final = frozenset({bool, int, str})
_PATH_CHARACTERS_MAX: Final = 200
_TYPE_CHARACTERS_MAX: Final = 60
_INSTEAD: Final = {
    "Decimal": "use str() or float() of it",
    "datetime": "use its isoformat()",
    "date": "use its isoformat()",
    "time": "use its isoformat()",
    "UUID": "use str() of it",
    "set": "use sorted() or list() of it",
    "frozenset": "use sorted() or list() of it",
    "bytes": "use a text, such as base64 of it",
    "bytearray": "use a text, such as base64 of it",
}

_Link = tuple["_Link | None", object]  # a linked list of keys and indexes, innermost first


class _Held(Struct):
    """A container at one depth of the value, and how many times it occurs there."""

    link: _Link
    value: Any
    times: int


def check_json(value: Any, what: str) -> None:  # noqa: ANN401 (any value)
    """Raise `InvalidValue` unless JSON represents the value. `what` names it in the message.

    Accepted are None, bool, int, finite float and str (not their subclasses), lists, unnamed tuples
    and dicts with str keys. A value that contains itself is nested too deep; one that occurs many
    times counts each time, and is checked once per depth.
    """
    level = {id(value): _Held((None, what), value, 1)}
    places = 0
    for _ in range(DEPTH_MAX + 1):
        below: dict[int, _Held] = {}
        for held in level.values():
            if problem := _problem(held.value):
                raise InvalidValue(f"{_path(held.link)} {problem}.")
            if isinstance(held.value, dict | list | tuple):
                places += held.times * len(held.value)
                if places > PLACES_MAX:
                    raise InvalidValue(
                        f"The {what} has more than {PLACES_MAX} values in it. Store it elsewhere "
                        "and return a reference."
                    )
                _collect(held, below)
        level = below
        if not level:
            return
    raise InvalidValue(f"The {what} is nested more than {DEPTH_MAX} deep; flatten it.")


def find_invalid_unicode(value: Any, what: str) -> str | None:  # noqa: ANN401 (any value)
    """Say where a value that `check_json` accepted has a lone surrogate; None if nowhere."""
    waiting: list[tuple[_Link, Any]] = [((None, what), value)]
    while waiting:
        link, held = waiting.pop()
        if isinstance(held, str) and not _is_unicode(held):
            return f"{_path(link)} has a lone surrogate, which JSON cannot hold."
        if isinstance(held, dict):
            if any(not _is_unicode(key) for key in held):
                return f"{_path(link)} has a key with a lone surrogate, which JSON cannot hold."
            waiting += [((link, key), child) for key, child in held.items()]
        elif isinstance(held, list | tuple):
            waiting += [((link, index), child) for index, child in enumerate(held)]
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _collect(held: _Held, below: dict[int, _Held]) -> None:
    """Add the children of a container to the next level, except plain strings and numbers."""
    children = held.value.items() if isinstance(held.value, dict) else enumerate(held.value)
    for key, child in children:
        if child is None or type(child) in _PLAIN:
            continue
        known = below.get(id(child))
        if known is None:
            below[id(child)] = _Held((held.link, key), child, held.times)
        else:
            known.times += held.times


def _problem(value: Any) -> str | None:  # noqa: ANN401 (any value)
    """Say why JSON cannot represent the value, apart from its children; None if it can."""
    match value:
        case None:
            return None
        case float() if type(value) is float:
            return None if math.isfinite(value) else f"is {_named(value)}, which JSON cannot hold"
        case _ if type(value) in _PLAIN:
            return None
        case dict():
            wrong = [key for key in value if type(key) is not str]
            if not wrong:
                return None
            return f"has a key of type {_type_of(wrong[0])}, and the keys of JSON are texts"
        case list():
            return None
        case tuple() if not hasattr(value, "_fields"):
            return None
    instead = _INSTEAD.get(type(value).__name__, "use what JSON holds in its place")
    return f"is of type {_type_of(value)}, which JSON cannot hold as it is; {instead}"


def _path(link: _Link) -> str:
    """Format a path, as in `result.rows[3].loss`; a long one keeps its two ends."""
    steps: list[str] = []
    at: _Link | None = link
    while at is not None:
        at, key = at
        if at is None:
            steps.append(str(key))
        elif isinstance(key, str) and key.isidentifier():
            steps.append(f".{key}")
        else:
            steps.append(f"[{key!r}]")
    path = "".join(reversed(steps))
    if len(path) <= _PATH_CHARACTERS_MAX:
        return path
    half = _PATH_CHARACTERS_MAX // 2
    return f"{path[:half]}…{path[-half:]}"


def _named(number: float) -> str:
    return "NaN" if math.isnan(number) else f"{'-' if number < 0 else ''}Infinity"


def _type_of(value: object) -> str:
    return type(value).__name__[:_TYPE_CHARACTERS_MAX]
