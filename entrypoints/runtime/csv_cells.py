r"""CSV whose cells a spreadsheet shows as text and does not run as formulas.

A text that begins like a formula gets an apostrophe prefix, which spreadsheets read as "this is
text". Numbers are not changed. A text that already has apostrophes before such a beginning gets one
more, so that a program can reverse it: it removes one apostrophe from `^'+[=+\-@…]`.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec import Raw

_FORMULA: Final = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # and full-width forms
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Return the rows as CSV, each line ending with a line feed. Times must be UTC."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%S.%fZ}"
    if isinstance(value, Raw):
        value = bytes(value).decode(errors="replace")
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
