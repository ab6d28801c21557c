"""Pages that are bounded in bytes as well as in number."""

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

PAGE_BYTES_MAX: Final = 4 * 1024 * 1024

T = TypeVar("T")


def fitting(entries: Sequence[T], sizes: Iterable[int], bytes_max: int) -> Sequence[T]:
    """Return the first of them that fit together; at least one."""
    total = 0
    for index, size in enumerate(sizes):
        total += size
        if total > bytes_max and index > 0:
            return entries[:index]
    return entries
