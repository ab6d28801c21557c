import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from adapters import supervision
from adapters.settings import Settings
from adapters.supervision import Part, supervise
from adapters.writer import waiting_calls
from adapters.writer.command_queue import CommandQueue
from adapters.writer.restarts import FAILURES_MAX, Restarts
from adapters.writer.writer_frames import WriterHello, WriterRequest
from adapters.writer.writer_process import WriterProcess
from domain.language.errors import LogUnavailable, QueueFull
from entrypoints.processes.writer_server import _queue_commands
from tests.support.stories import submit


def run_with(
    program: str,
    ask: Callable[[WriterProcess], Awaitable[None]],
    restarts: Restarts | None = None,
) -> None:
    """Run a coroutine with a writer whose process runs a Python program."""
    hello = WriterHello(Settings(database_url=""), logs_json=False)
    writer = WriterProcess([sys.executable, "-c", program], hello, restarts=restarts)

    async def ask_and_stop() -> None:
        await ask(writer)
        await asyncio.to_thread(writer.stop)  # so that the loop sees the end of the connection

    writer.start()
    try:
        uvloop.run(ask_and_stop())
    finally:
        writer.stop()


def test_what_was_to_be_sent_when_the_writer_was_lost_is_refused_or_sent_to_the_next() -> None:
    """Both in one turn of the loop: first a caller comes, then the end of the connection."""
    troubles: list[dict[str, Any]] = []

    async def ask_as_it_is_lost(writer: WriterProcess) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: troubles.append(what))
        await writer.attach()
        waiting = asyncio.create_task(writer.execute(submit()))
        await asyncio.sleep(0)
        late = asyncio.create_task(writer.execute(submit()))
        assert writer._transport is not None
        writer._transport.abort()
        outcomes = await asyncio.gather(waiting, late, return_exceptions=True)
        for one in outcomes:  # of this process, or of the next
            assert isinstance(one, LogUnavailable | QueueFull)
            assert "the same idempotency key" in str(one) or str(one) == "answered"

    run_with(ANSWERS_ALL, ask_as_it_is_lost)
    assert troubles == []


ANSWERS_ALL = """
SECOND = 0
import socket, sys
from adapters.writer.write_path import WriterStats
from adapters.writer.writer_frames import WriterRequest, WriterResponse
from fairlog_client.processes.frames import Frames, encode_frame
from adapters.writer.writer_frames import request_decoder, sent_outcomes
from domain.language.errors import QueueFull

connection = socket.socket(fileno=int(sys.argv[1]))
asked = 0
for frame in Frames(connection, request_decoder()):
    if isinstance(frame, WriterRequest):
        for number, commands in frame.calls:
            asked += 1
            if asked != SECOND:
                outcomes = [(number, sent_outcomes([QueueFull("answered")] * len(commands)))]
                response = WriterResponse(outcomes, [], WriterStats(), None, [])
                connection.sendall(encode_frame(response))
"""


ANSWERS_ALL_BUT_THE_SECOND = ANSWERS_ALL.replace("SECOND = 0", "SECOND = 2")


def test_a_caller_whose_answer_was_lost_hears_it_although_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask(writer: WriterProcess) -> None:
        with pytest.raises(QueueFull, match="answered"):
            await writer.execute(submit())  # and so it has begun
        monkeypatch.setattr(waiting_calls, "LOST_SECONDS_MAX", 0.5)
        lost = asyncio.create_task(writer.execute(submit()))
        await asyncio.sleep(0)
        answered = 0
        while not lost.done():
            with pytest.raises(QueueFull, match="answered"):
                await writer.execute(submit())
            answered += 1
        with pytest.raises(LogUnavailable, match="does not answer"):
            await lost
        assert answered > 1

    run_with(ANSWERS_ALL_BUT_THE_SECOND, ask)


def test_a_call_of_more_commands_than_may_wait_is_sent_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting_calls, "COMMANDS_MAX", 3)

    async def ask(writer: WriterProcess) -> None:
        calls = [
            asyncio.create_task(writer.execute_each([submit()] * commands)) for commands in (2, 3)
        ]
        answered, refused = await asyncio.gather(*calls)
        assert [str(one) for one in answered] == ["answered"] * 2
        assert [isinstance(one, QueueFull) for one in refused] == [True] * 3
        assert [str(one) == "answered" for one in refused] == [True, False, False]
        assert writer.waiting() == 0
        assert await writer.execute_each([]) == []

    run_with(ANSWERS_ALL, ask)


ENDS_AT_FIRST = (
    """
import pathlib, sys
if not (seen := pathlib.Path("SEEN")).exists():
    seen.touch()
    sys.exit(3)
"""
    + ANSWERS_ALL
)


def test_a_process_that_ended_is_started_again_and_answers(tmp_path: Path) -> None:
    async def ask(writer: WriterProcess) -> None:
        await writer.attach()
        [may_have_been_sent] = await writer.execute_each([submit()])
        assert isinstance(may_have_been_sent, LogUnavailable | QueueFull)
        for _ in range(2):
            with pytest.raises(QueueFull, match="answered"):
                await writer.execute(submit())
        assert writer.stats.restarts == 1
        assert writer.fatal is None

    program = ENDS_AT_FIRST.replace("SEEN", str(tmp_path / "seen"))
    run_with(program, ask)


def test_a_command_that_was_not_sent_waits_for_the_next_process() -> None:
    """It comes when the end of the process is known, and before the next one is there."""

    async def ask(writer: WriterProcess) -> None:
        with pytest.raises(QueueFull, match="answered"):
            await writer.execute(submit())
        assert writer._child is not None
        writer._child.process.kill()
        assert writer._transport is not None
        writer._transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert writer._lost_at
        with pytest.raises(QueueFull, match="answered"):
            await writer.execute(submit())

    run_with(ANSWERS_ALL, ask)


def test_a_server_ends_when_its_writers_end_before_they_answer() -> None:
    async def ask(writer: WriterProcess) -> None:
        await writer.attach()
        for _ in range(FAILURES_MAX + 1):
            with pytest.raises(LogUnavailable, match=r"sent again|is stopping"):
                await writer.execute(submit())
        assert "again and again" in str(writer.fatal)
        with pytest.raises(LogUnavailable, match="is stopping"):
            await writer.execute(submit())
        assert writer.waiting() == 0

    restarts = Restarts(first_pause_seconds=0.001)
    run_with("raise SystemExit(3)", ask, restarts)
    assert restarts.total == FAILURES_MAX - 1


class _NoMemoryAtFirst(Iterator[WriterHello | WriterRequest]):
    def __init__(self) -> None:
        self._frames = [WriterRequest([], 0.0)]
        self._is_first = True

    def __next__(self) -> WriterHello | WriterRequest:
        if self._is_first:
            self._is_first = False
            raise MemoryError
        if not self._frames:
            raise StopIteration
        return self._frames.pop()


def test_the_writer_s_socket_works_again_once_there_is_memory_for_a_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE_SECONDS", 0.001)
    part, incoming, queue = Part("writer_socket"), _NoMemoryAtFirst(), CommandQueue()
    responder = cast("Any", None)  # nobody is to be answered
    supervise(
        part, lambda: _queue_commands(incoming, queue, responder, part, 0.0), threading.Event()
    )
    assert part.failures == 1
    assert part.trouble() is None


def test_a_server_ends_when_its_writer_cannot_be_started_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(_: WriterProcess) -> int:
        raise RuntimeError("can't start new thread")

    async def ask(writer: WriterProcess) -> None:
        monkeypatch.setattr(WriterProcess, "_reap", no_thread)
        await writer.attach()
        with pytest.raises(LogUnavailable):
            await writer.execute(submit())
        assert writer._restarting is not None
        await writer._restarting
        assert "cannot be started" in str(writer.fatal)

    run_with("raise SystemExit(3)", ask)
