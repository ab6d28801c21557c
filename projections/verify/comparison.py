"""The comparison of two generations of a table, row by row.

Both are read in the order of their primary key, a page at a time, and whole pages are compared
before single rows are: equal tables cost little more than reading them. MySQL returns only digests
of the rows at first, see `projections.verify.row_digests`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from domain.log.stored_log import UNREADABLE
from projections.storage.rows import FIELDS, ROW_BYTES, Row, placeholder
from projections.verify.findings import Difference
from projections.verify.row_digests import SEPARATOR, digest_of, digests_expression

ROWS_PER_PAGE: Final = 1000
BYTES_PER_PAGE: Final = 1024 * 1024
_SHOWN_CHARACTERS_MAX: Final = 200  # of a value in a finding

_Key = tuple[Any, ...]


class Side(NamedTuple):
    """A generation of the projections' tables in one database."""

    connection: Connection
    generation: int


def differences(
    projection: str, table: sa.Table, live: Side, from_log: Side, rows_per_page: int = ROWS_PER_PAGE
) -> Iterator[Difference]:
    """Yield the rows that differ; memory holds one or two pages of each side."""
    rows_per_page = max(1, min(rows_per_page, BYTES_PER_PAGE // table.info.get(ROW_BYTES, 1)))
    names = [column.name for column in table.columns][1:]
    keys = [column.name for column in table.primary_key.columns][1:]
    at = [names.index(key) for key in keys]
    live_pages, log_pages = (
        _RowPages(live, table, names, keys),
        _RowPages(from_log, table, names, keys),
    )
    after: _Key | None = None
    if live.connection.dialect.name != "sqlite":
        after, are_equal = _equal_digests(live_pages, log_pages, rows_per_page)
        if are_equal:
            return
    while True:
        live_page = live_pages.read(after, rows_per_page)
        log_page = log_pages.read(after, rows_per_page)
        last = _end(live_page, log_page, at, rows_per_page)
        if live_page != log_page:
            for key, live_row, log_row in _unequal(live_page, log_page, at, last):
                yield Difference(
                    projection,
                    table.name,
                    _named(keys, key),
                    *_shown_rows(list(table.columns)[1:], live_row, log_row),
                )
        if last is None:
            return
        after = last


def _equal_digests(
    live: "_RowPages", from_log: "_RowPages", rows_per_page: int
) -> tuple[_Key | None, bool]:
    """Return the key up to which pages have equal digests, and True if all of them have."""
    with ThreadPoolExecutor(1, thread_name_prefix="fairlog-verify") as thread:
        after: _Key | None = None
        page = live.page(after, rows_per_page)
        while True:
            up_to, digests = page
            # The database computes the next digests while this process computes those to compare.
            ahead = None if up_to is None else thread.submit(live.page, up_to, rows_per_page)
            rows = from_log.between(after, up_to)
            if digests != SEPARATOR.join(map(digest_of, rows)):
                return after, False
            if ahead is None:
                return up_to, True
            after, page = up_to, ahead.result()


class _RowPages:
    """Pages of one generation, by key.

    `(a, b) > (x, y)` is written as OR of ANDs: row values are no index range on MariaDB.
    """

    def __init__(
        self, side: Side, table: sa.Table, names: Sequence[str], keys: Sequence[str]
    ) -> None:
        self._side = side
        mark = placeholder(side.connection)
        self._beyond = _bound(keys, ">", ">", mark)
        self._up_to = _bound(keys, "<", "<=", mark)
        of = f" FROM {table.name} WHERE generation = {mark}"
        self._rows = f"SELECT {', '.join(names)}{of}"
        self._keys = f"SELECT {', '.join(keys)}{of}"
        self._digests = f"SELECT {digests_expression(list(table.columns)[1:])}{of}"
        self._order = f" ORDER BY {', '.join(keys)}"
        self._page = f"{self._order} LIMIT {mark}"
        self._last = f"{self._order} LIMIT 1 OFFSET {mark}"

    def read(self, after: _Key | None, limit: int) -> list[Row]:
        """Return up to `limit` rows after a key, without the generation."""
        return list(map(tuple, self._ask(self._rows, after, None, self._page, limit).all()))

    def end(self, after: _Key | None, limit: int) -> _Key | None:
        """Return the last key of the page after a key; None if the table ends before it is full."""
        found = self._ask(self._keys, after, None, self._last, limit - 1).one_or_none()
        return None if found is None else tuple(found)

    def between(self, after: _Key | None, up_to: _Key | None) -> "sa.CursorResult[Any]":
        """Return the rows after a key, up to another one or to the end, without the generation."""
        return self._ask(self._rows, after, up_to, self._order)

    def page(self, after: _Key | None, limit: int) -> tuple[_Key | None, str]:
        """Return the last key of a page and the digests of its rows. MySQL only."""
        up_to = self.end(after, limit)
        digests = self._ask(self._digests, after, up_to).scalar_one()
        return up_to, digests or ""

    def _ask(
        self, select: str, after: _Key | None, up_to: _Key | None, order: str = "", *limits: int
    ) -> "sa.CursorResult[Any]":
        connection, generation = self._side
        values: list[Any] = [generation]
        for bound, condition in ((after, self._beyond), (up_to, self._up_to)):
            if bound is not None:
                select += condition
                values += [value for index in range(len(bound)) for value in bound[: index + 1]]
        return connection.exec_driver_sql(select + order, (*values, *limits))


def _bound(keys: Sequence[str], each: str, last: str, mark: str) -> str:
    """Return a condition on a compound key; `each` and `last` compare a column with its bound."""
    cases = [
        "".join(f"{key} = {mark} AND " for key in keys[:index])
        + f"{keys[index]} {last if index == len(keys) - 1 else each} {mark}"
        for index in range(len(keys))
    ]
    return f" AND ({' OR '.join(cases)})"


def _end(
    live_page: list[Row], log_page: list[Row], at: Sequence[int], rows_per_page: int
) -> _Key | None:
    """Return the last key that both pages cover; None when both tables end with them."""
    lasts = [_key(page[-1], at) for page in (live_page, log_page) if len(page) == rows_per_page]
    return min(lasts, key=_in_order, default=None)


def _unequal(
    live_page: list[Row], log_page: list[Row], at: Sequence[int], last: _Key | None
) -> Iterator[tuple[_Key, Row | None, Row | None]]:
    """Yield rows that differ or that one page lacks, in the order of their keys up to `last`."""
    live_rows = {_key(row, at): row for row in live_page}
    log_rows = {_key(row, at): row for row in log_page}
    for key in sorted(live_rows.keys() | log_rows.keys(), key=_in_order):
        if last is not None and _in_order(key) > _in_order(last):
            return
        live_row, log_row = live_rows.get(key), log_rows.get(key)
        if live_row != log_row:
            yield key, live_row, log_row


def _key(row: Row, at: Sequence[int]) -> _Key:
    return tuple(row[index] for index in at)


def _in_order(key: _Key) -> tuple[tuple[int, Any], ...]:
    """Return a sort key that gives the order of both databases.

    SQLite sorts NULL before numbers before texts before bytes, whatever a column is declared as.
    """
    return tuple((_rank(value), value) for value in key)


def _rank(value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, int | float):
        return 1
    return 2 if isinstance(value, str) else 3


def _named(keys: Sequence[str], key: _Key) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in zip(keys, key, strict=True))


def _shown_rows(
    columns: Sequence[sa.Column[Any]], live: Row | None, from_log: Row | None
) -> tuple[str, str]:
    """Return both sides as text, by the columns that differ."""
    if live is None or from_log is None:
        return (
            "no row" if live is None else _shown_row(columns, live),
            "no row" if from_log is None else _shown_row(columns, from_log),
        )
    texts: list[list[str]] = [[], []]
    for column, *values in zip(columns, live, from_log, strict=True):
        if values[0] != values[1]:
            for side, text in zip(texts, _both_shown(column, *values), strict=True):
                side.append(text)
    return ", ".join(texts[0]), ", ".join(texts[1])


def _shown_row(columns: Sequence[sa.Column[Any]], row: Row) -> str:
    return ", ".join(
        f"{column.name}={_shown(value)}" for column, value in zip(columns, row, strict=True)
    )


def _both_shown(column: sa.Column[Any], live: object, from_log: object) -> tuple[str, str]:
    """Return a column's values as text, and of two documents only the fields that differ."""
    name = column.name
    fields_of = column.info.get(FIELDS, _json_fields)
    documents = (_document(live, fields_of), _document(from_log, fields_of))
    first, second = documents
    if first is None or second is None or first == second:
        return f"{name}={_shown(live)}", f"{name}={_shown(from_log)}"
    fields = [field for field in {**first, **second} if first.get(field) != second.get(field)]
    live_text, log_text = (
        ", ".join(f"{name}.{field}={_shown(document.get(field))}" for field in fields)
        for document in (first, second)
    )
    return live_text, log_text


def _document(
    value: object, fields_of: Callable[[bytes], Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    if not isinstance(value, bytes | str):
        return None
    try:
        return fields_of(value.encode() if isinstance(value, str) else value)
    except UNREADABLE:
        return None


_json_fields: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _shown(value: object) -> str:
    """Return a value as text: bytes as UTF-8 if they are, else in hex."""
    if isinstance(value, bytes):
        try:
            text = repr(value.decode())
        except UnicodeDecodeError:
            text = value.hex()
    else:
        text = "NULL" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[: _SHOWN_CHARACTERS_MAX - 1] + "…"
