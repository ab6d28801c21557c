import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import pytest
from msgspec import Struct

from adapters.processes.child_process import run_child
from adapters.processes.sent_errors import SentError
from domain.language.errors import FairlogError, LogTooNew

_CHILD: Final = """
import socket, sys
from msgspec import Struct
from adapters.processes.child_process import serve_parent
from domain.language.errors import LogTooNew

class Number(Struct, frozen=True, tag=True):
    value: int

class Odd(Exception):
    def __init__(self):
        super().__init__("odd")
        self.what = lambda: None

def serve(hello):
{body}

serve_parent(socket.socket(fileno=int(sys.argv[1])), Number, serve)
"""


class Number(Struct, frozen=True, tag=True):
    value: int


DECODE: Final[Callable[[bytes], Number | SentError]] = msgspec.msgpack.Decoder(
    Number | SentError
).decode


def child_that_runs(*lines: str) -> Sequence[str]:
    body = "\n".join(f"    {line}" for line in lines)
    return [sys.executable, "-c", _CHILD.replace("{body}", body)]


def test_messages_arrive_in_order() -> None:
    command = child_that_runs("yield hello", "yield Number(hello.value + 1)")
    with run_child(command, Number(41), DECODE) as messages:
        assert [next(messages), next(messages)] == [Number(41), Number(42)]


def test_an_error_that_ends_the_child_is_raised_here() -> None:
    command = child_that_runs("yield Number(1)", "raise LogTooNew('too new')")
    with (
        run_child(command, Number(0), DECODE) as messages,
        pytest.raises(LogTooNew, match="too new"),
    ):
        list(messages)


def test_an_error_that_is_not_ours_is_named() -> None:
    command = child_that_runs("yield Number(1)", "raise Odd")
    with (
        run_child(command, Number(0), DECODE) as messages,
        pytest.raises(RuntimeError, match="odd"),
    ):
        list(messages)


def test_a_child_that_ends_without_a_message_is_an_error() -> None:
    with (
        run_child([sys.executable, "-c", "pass"], Number(0), DECODE) as messages,
        pytest.raises(FairlogError, match="has ended"),
    ):
        next(messages)


def test_a_child_ends_when_nobody_reads_its_messages_any_more() -> None:
    started = time.monotonic()
    with run_child(child_that_runs("while True: yield Number(7)"), Number(0), DECODE) as messages:
        next(messages)
    assert time.monotonic() - started < 10
