"""A log line that cannot be written costs nothing else."""

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from entrypoints.runtime.logging import configure_logging
from fairlog_client.logs import output as log_output
from fairlog_client.logs.output import LogOutput, output
from tests.support.waiting import wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        try:
            os.close(end)
        except OSError:
            continue


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lines = LogOutput(writing)
    for number in range(100):
        lines.write(f"line {number}\n")
    assert lines.flush(10)
    assert os.read(reading, 10_000).decode().splitlines() == [f"line {n}" for n in range(100)]
    assert lines.dropped == 0


def test_a_full_device_takes_no_line_and_harms_nobody() -> None:
    with Path("/dev/full").open("wb", buffering=0) as device:
        lines = LogOutput(device.fileno())
        for _ in range(10):
            lines.write("line\n")
        assert lines.flush(10)
        assert lines.dropped == 10


def test_a_closed_descriptor_takes_no_line_and_harms_nobody(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    lines = LogOutput(writing)
    os.close(writing)
    lines.write("line\n")
    assert lines.flush(10)
    assert lines.dropped == 1


def test_a_pipe_that_nobody_reads_blocks_nobody_and_is_bounded(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lines = LogOutput(writing)
    for _ in range(4 * log_output.LINES_MAX):  # some are written, and as many again are on the way
        lines.write("x" * 100 + "\n")
    assert not lines.flush(0.05)
    assert lines.dropped >= log_output.LINES_MAX
    lines.write("the last\n")  # dropped too, or behind all that wait

    read = bytearray()

    def reads_on() -> bool:
        read.extend(os.read(reading, 1 << 20))
        lines.write("again\n")
        return b"again" in read

    wait_until(reads_on, "lines are written again once somebody reads")
    assert all(
        line in {b"x" * 100, b"again", b"the last"} for line in bytes(read).splitlines()[:-1]
    )
    while not lines.flush(0.05):  # or the rest goes to whichever file has the descriptor next
        os.read(reading, 1 << 20)


def test_a_child_after_a_fork_writes_its_own_lines(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lines = LogOutput(writing)
    lines.write("parent\n")
    assert lines.flush(10)
    child = os.fork()
    if child == 0:
        lines.write("child\n")
        os._exit(0 if lines.flush(10) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reading, 1000).split() == [b"parent", b"child"]


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")

    __str__ = __repr__


@pytest.mark.parametrize("as_json", [True, False])
def test_a_value_that_cannot_be_shown_costs_its_line_alone(
    as_json: bool,  # noqa: FBT001 (a parameter of the test)
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(output, "write", said.append)
    root = logging.getLogger()
    before = structlog.get_config(), root.handlers[:], root.level, threading.excepthook
    try:
        configure_logging(as_json=as_json)
        log = structlog.get_logger()
        log.error("first", value=Hostile())
        log.error("second", **{"a name with spaces": 1})
        log.error("third")
    finally:
        structlog.configure(**before[0])
        root.handlers[:], root.level, threading.excepthook = before[1:]
    assert len(said) == 3
    assert json.loads(said[0])["event"] == "log_line_failed"
    assert "third" in said[2]
