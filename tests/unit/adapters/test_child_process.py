import sys
import time
from collections.abc import Sequence

import pytest

from adapters.processes.child_process import run_child
from domain.language.errors import FairlogError, LogTooNew

_SPEAKS = """
import sys
from multiprocessing.connection import Connection
from adapters.processes.child_process import serve_parent
from domain.language.errors import LogTooNew

class Odd(Exception):
    def __init__(self):
        super().__init__("odd")
        self.what = lambda: None

def words(begin):
{words}

serve_parent(Connection(int(sys.argv[1])), words)
"""


def saying(*words: str) -> Sequence[str]:
    body = "\n".join(f"    {line}" for line in words)
    return [sys.executable, "-c", _SPEAKS.replace("{words}", body)]


def test_what_it_says_is_heard_in_order() -> None:
    with run_child(saying("yield begin", "yield begin + 1"), 41) as words:
        assert [next(words), next(words)] == [41, 42]


def test_an_error_that_ends_it_is_raised_here() -> None:
    with (
        run_child(saying("yield 1", "raise LogTooNew('too new')"), None) as words,
        pytest.raises(LogTooNew, match="too new"),
    ):
        list(words)


def test_an_error_that_cannot_be_sent_is_told() -> None:
    with (
        run_child(saying("yield 1", "raise Odd"), None) as words,
        pytest.raises(FairlogError, match="odd"),
    ):
        list(words)


def test_a_process_that_ends_without_a_word_is_an_error() -> None:
    with (
        run_child([sys.executable, "-c", "pass"], None) as words,
        pytest.raises(FairlogError, match="has ended"),
    ):
        next(words)


def test_it_ends_when_nobody_hears_it_any_more() -> None:
    started = time.monotonic()
    with run_child(saying("while True: yield bytes(1000)"), None) as words:
        next(words)
    assert time.monotonic() - started < 10
