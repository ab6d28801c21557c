"""Pages that are limited in bytes as well as in entries."""

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

PAGE_BYTES_MAX: Final = 4 * 1024 * 1024  # of bodies or events; one entry may exceed it alone

T = TypeVar("T")


def fitting(entries: Sequence[T], sizes: Iterable[int], bytes_max: int) -> Sequence[T]:
    """Return the first entries whose sizes add up to at most `bytes_max`, but at least one.

    `sizes` are the sizes of the entries in bytes, in order.
    """
    total = 0
    for index, size in enumerate(sizes):
        total += size
        if total > bytes_max and index > 0:
            return entries[:index]
    return entries
