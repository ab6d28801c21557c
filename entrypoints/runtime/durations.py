"""Lengths of time as users write them."""

import re
from typing import Final

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}  # in seconds
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])")


def parse_duration(text: str) -> int:
    """Return a length of time like 90d, 12h, 30m or 45s in seconds. Raises `ValueError`."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError("A length of time is a number and a unit: 90d, 12h, 30m or 45s.")
    return int(found[1]) * UNITS[found[2]]
