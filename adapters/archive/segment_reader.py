"""Reads one segment: rows, events and bodies by position, and positions by what events are about.

Only the groups and columns that an answer needs are read. Each page of the file has a checksum,
which is checked as it is read.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from typing import Any, BinaryIO, Final, Self

import msgspec

from adapters.archive.segment_format import (
    BODY,
    COLUMNS,
    FOOTER_KEY,
    FORMAT,
    SegmentContent,
    StoredState,
    arrow,
    decode_content,
    decompressed,
    rows_of,
)
from domain.language.errors import SegmentUnusable
from domain.language.events import Recorded
from domain.log.stored_log import StoredRow, recorded

GROUPS_KEPT: Final = 4  # of a segment, in memory; each has up to 5,000 rows
BODIES_PER_READ: Final = 200  # rows of which the bodies are in memory at once


class SegmentReader:
    """An open segment. To be closed, best as a context manager."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Raises `SegmentUnusable` if the file is no segment, or cut short."""
        self.name = name
        self._file = file
        base, parquet, *_ = arrow()
        self._errors = (base.ArrowException, OSError, ValueError, KeyError, msgspec.MsgspecError)
        try:
            self._parquet: Any = parquet.ParquetFile(
                base.PythonFile(file, mode="r"), page_checksum_verification=True
            )
            self.content = self._content()
            self._firsts = self._first_positions()
        except self._errors as error:
            file.close()
            raise self._unusable("is not a segment, or was cut short or changed", error) from None
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._kept_bodies: tuple[int, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._parquet.close()
        self._file.close()

    def rows(self, after: int, limit: int) -> list[StoredRow]:
        """Return up to `limit` rows after a position, in log order, as the log's table has them."""
        found: list[StoredRow] = []
        position = max(after + 1, self.content.first)
        while len(found) < limit and position <= self.content.last:
            group, start = self._group_of(position)
            table = self._group(group)
            part = table.slice(position - start, limit - len(found))
            found += rows_of(part)
            position = start + table.num_rows
        return found

    def state(self) -> StoredState | None:
        """Return the state of the system after the last event; None if the file has none. Raises
        `SegmentUnusable` if it was changed.
        """
        part = self.content.state
        if part is None:
            return None
        try:
            self._file.seek(part.offset)
            data = decompressed(self._file.read(part.size))
            if sha256(data).hexdigest() != part.sha256:
                raise ValueError("the digest of its state differs")
        except self._errors as error:
            raise self._unusable("was changed", error) from None
        return StoredState(part.format, data)

    def events(self, after: int, limit: int) -> list[Recorded]:
        """Return up to `limit` events after a position, in log order."""
        return [recorded(row) for row in self.rows(after, limit)]

    def rows_at(self, positions: Sequence[int]) -> list[StoredRow]:
        """Return the rows at some positions, all of them in this segment, in their order."""
        found: list[StoredRow] = []
        for group, start, some in self._by_group(positions):
            table = self._group(group)
            found += rows_of(table.take([position - start for position in some]))
        return found

    def bodies(self, positions: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies at those positions, as far as they exist here."""
        found: dict[int, bytes] = {}
        for group, start, some in self._by_group(self._inside(positions)):
            column = self._bodies(group)
            for position in some:
                body = column[position - start].as_py()
                if body is not None:
                    found[position] = body
        return found

    def with_bodies(self, positions: Sequence[int]) -> list[int]:
        """Return those of the positions that have a body here, rising."""
        compute = arrow().compute
        found: list[int] = []
        for group, start, some in self._by_group(self._inside(positions)):
            places = [position - start for position in some]
            has_body = compute.is_valid(self._bodies(group)).take(places).to_pylist()
            found += [position for position, has in zip(some, has_body, strict=True) if has]
        return found

    def bodies_between(self, after: int, up_to: int) -> Iterator[tuple[int, bytes]]:
        """Yield the bodies after a position, in log order, with one group of rows in memory."""
        position, end = max(after + 1, self.content.first), min(up_to, self.content.last)
        while position <= end:
            group, start = self._group_of(position)
            column = self._bodies(group)
            for at in range(position - start, min(len(column), end + 1 - start), BODIES_PER_READ):
                part = column.slice(at, min(BODIES_PER_READ, end + 1 - start - at))
                for offset, body in enumerate(part.to_pylist()):
                    if body is not None:
                        yield start + at + offset, body
            position = start + len(column)

    def by_job(self, job_id: int) -> list[int]:
        """Return the positions of the events about a job, rising."""
        return [place for page in self.matching("job_id", [job_id]) for place in page]

    def by_user(self, user_id: str) -> list[int]:
        """Return the positions of the events about a user, rising."""
        return [place for page in self.matching("user_id", [user_id]) for place in page]

    def matching(
        self,
        column: str,
        values: Collection[str | int],
        *,
        after: int = 0,
        up_to: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[list[int]]:
        """Yield the positions where a column has one of the values, group by group.

        `column` is `type`, `user_id` or `job_id`; `up_to` is inclusive, None: the end.
        """
        base, _, compute, schema = arrow()
        kind = schema.field(column).type
        wanted = base.array(sorted(set(values)), kind)
        end = self.content.last if up_to is None else min(up_to, self.content.last)
        for group, start in self._groups_between(after, end, newest_first=newest_first):
            if not self._may_hold(group, column, values):
                continue
            mask = compute.is_in(self._read(group, [column])[column], value_set=wanted)
            places = compute.indices_nonzero(mask).to_pylist()
            found = [start + one for one in places if after < start + one <= end]
            if newest_first:
                found.reverse()
            if found:
                yield found

    def _content(self) -> SegmentContent:
        metadata = self._parquet.metadata
        content = decode_content((metadata.metadata or {})[FOOTER_KEY])
        if content.format != FORMAT:
            raise ValueError(f"its format is {content.format}, and this release knows {FORMAT}")
        if metadata.num_rows != content.last - content.first + 1:
            raise ValueError(f"it has {metadata.num_rows} events")
        return content

    def _first_positions(self) -> list[int]:
        metadata = self._parquet.metadata
        firsts, position = [], self.content.first
        for group in range(metadata.num_row_groups):
            firsts.append(position)
            position += metadata.row_group(group).num_rows
        return firsts

    def _group_of(self, position: int) -> tuple[int, int]:
        """Return the group of a position, and the first position of that group."""
        group = bisect_right(self._firsts, position) - 1
        return group, self._firsts[group]

    def _groups_between(
        self, after: int, end: int, *, newest_first: bool
    ) -> Iterator[tuple[int, int]]:
        if end < self.content.first or after >= self.content.last or after >= end:
            return
        begin, _ = self._group_of(max(after + 1, self.content.first))
        last, _ = self._group_of(end)
        groups = range(begin, last + 1)
        for group in reversed(groups) if newest_first else groups:
            yield group, self._firsts[group]

    def _may_hold(self, group: int, column: str, values: Collection[str | int]) -> bool:
        """Return False if the statistics of a group say that it has none of the values."""
        index = COLUMNS.index(column)
        statistics = self._parquet.metadata.row_group(group).column(index).statistics
        if statistics is None or not statistics.has_min_max:
            return True
        least, most = statistics.min, statistics.max
        return any(least <= value <= most for value in values)

    def _inside(self, positions: Sequence[int]) -> list[int]:
        first, last = self.content.first, self.content.last
        return sorted({one for one in positions if first <= one <= last})

    def _by_group(self, positions: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
        """Yield positions together that are neighbours in one group, in their order."""
        some: list[int] = []
        current: tuple[int, int] | None = None
        for position in positions:
            place = self._group_of(position)
            if current is not None and place != current:
                yield *current, some
                some = []
            current = place
            some.append(position)
        if current is not None:
            yield *current, some

    def _group(self, group: int) -> Any:  # noqa: ANN401 (see `Arrow`)
        """Return a group without bodies; the latest ones are kept."""
        table = self._kept.pop(group, None)
        if table is None:
            table = self._read(group, list(COLUMNS))
        self._kept[group] = table
        if len(self._kept) > GROUPS_KEPT:
            self._kept.popitem(last=False)
        return table

    def _bodies(self, group: int) -> Any:  # noqa: ANN401 (see `Arrow`)
        """Return the bodies of a group; those of the latest one are kept."""
        if self._kept_bodies is None or self._kept_bodies[0] != group:
            column = self._read(group, [BODY])[BODY].cast(arrow().base.binary())
            self._kept_bodies = group, column
        return self._kept_bodies[1]

    def _read(self, group: int, columns: list[str]) -> Any:  # noqa: ANN401 (see `Arrow`)
        try:
            return self._parquet.read_row_group(group, columns=columns, use_threads=False)
        except self._errors as error:
            raise self._unusable("was changed", error) from None

    def _unusable(self, what: str, error: Exception) -> SegmentUnusable:
        reason = " ".join(str(error).split())
        return SegmentUnusable(
            f"The file {self.name} {what} ({reason}): bring it back from a copy, and run `fairlog "
            "verify --archive`."
        )
