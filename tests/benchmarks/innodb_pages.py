"""The pages of InnoDB's files that hold something, by index, as the files lie after a shutdown.

The server's own statistics count reserved pages with the used ones, which for small indexes is most
of them.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PAGE_BYTES: Final = 16 * 1024
_TYPE: Final = slice(24, 26)
_INDEX: Final = 0x45BF
_LONG_VALUES: Final = frozenset({10, 11, 12})  # columns that lie outside of their rows
_INDEX_ID: Final = slice(66, 74)
_PAGES_PER_EXTENT: Final = 64
# Of the first page of a file, and of each 16,384th: 256 entries, each with two bits for a page.
_EXTENTS_PER_MAP: Final = 256
_MAP_AT: Final = 150
_ENTRY_BYTES: Final = 40
_BITS: Final = slice(24, 40)  # of an entry


def used_pages(file: Path) -> tuple[Counter[int], int]:
    """Return the used pages of a table's file by the ids of its indexes, and those of long values.

    The server must not run.
    """
    by_index: Counter[int] = Counter()
    of_long_values = 0
    for page in _allocated(file):
        kind = int.from_bytes(page[_TYPE])
        if kind == _INDEX:
            by_index[int.from_bytes(page[_INDEX_ID])] += 1
        elif kind in _LONG_VALUES:
            of_long_values += 1
    return by_index, of_long_values


def _allocated(file: Path) -> Iterator[bytes]:
    entries = b""
    with file.open("rb") as pages:
        number = 0
        while page := pages.read(PAGE_BYTES):
            if number % (_EXTENTS_PER_MAP * _PAGES_PER_EXTENT) == 0:
                entries = page[_MAP_AT : _MAP_AT + _EXTENTS_PER_MAP * _ENTRY_BYTES]
            extent, within = divmod(number, _PAGES_PER_EXTENT)
            start = extent % _EXTENTS_PER_MAP * _ENTRY_BYTES
            bits = int.from_bytes(entries[start : start + _ENTRY_BYTES][_BITS], "little")
            if not bits >> 2 * within & 1:  # the bit says that it is free
                yield page
            number += 1
