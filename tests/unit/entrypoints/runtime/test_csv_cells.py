"""No cell of a CSV is a formula, numbers stay numbers, and what was written can be told again."""

import csv
import io
import re

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec import Raw

from entrypoints.runtime.csv_cells import csv_lines


def read(line: str) -> list[str]:
    [row] = csv.reader(io.StringIO(line))
    return row


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://x")',
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\uff1d1",
        "\uff0b1+1",
        "\uff20x",
        "-",
        "+",
        "=",
        "--1",
        "+-1",
    ],
)
def test_a_text_that_begins_like_a_formula_is_a_text(text: str) -> None:
    assert read(csv_lines([[text]])) == [f"'{text}"]


@pytest.mark.parametrize("text", ["-5", "+5", "-5.25", "1e-9", "-1E+9", "0"])
def test_a_number_stays_a_number(text: str) -> None:
    assert csv_lines([[text, Raw(text.encode())]]) == f"{text},{text}\n"


def test_what_is_not_a_text_stays_as_it_is() -> None:
    assert csv_lines([[-5, None, 1.5, True]]) == "-5,,1.5,True\n"


def test_other_texts_stay_as_they_are() -> None:
    for text in ("alice", "a=b", "'quoted'", "{}", '{"a":"=1"}', "it's", ""):
        assert read(csv_lines([[text, "x"]])) == [text, "x"]


@for_all(st.text(alphabet="'=+-@ab1\t"))
def test_the_apostrophe_can_be_taken_off_without_a_doubt(text: str) -> None:
    [written, _] = read(csv_lines([[text, "x"]]))
    told = written[1:] if re.match("'+[=+\\-@\t]", written) else written
    assert told == text
