r"""CSV that a spreadsheet shows and does not run.

A text that begins like a formula gets an apostrophe in front, which spreadsheets take for "this is
text". Numbers stay as they are. So that a program can take it off again without a doubt, a text
that has apostrophes before such a beginning gets one more: `^'+[=+\-@…]` loses one.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec import Raw

_FORMULA: Final = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # and their wide forms
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines, each with its end."""
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
