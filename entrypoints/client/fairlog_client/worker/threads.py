"""Threads for handlers that are not async.

No ThreadPoolExecutor is used: the interpreter joins its threads at exit, so that one hanging
handler would keep a stopped worker from ending. These are daemon threads, whose jobs have been
returned by then.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from msgspec import Struct

from fairlog_client.processes.forks import end_if_child

_Answer = tuple[Any, BaseException | None]


class NoThreadLeft(Exception):
    """This process has reached its limit of threads."""


class ThreadCall(Struct, eq=False):
    """A function that is called in a thread."""

    function: Callable[[], Any]
    context: contextvars.Context
    reply: asyncio.Future[_Answer]
    is_given_up: bool = False  # its thread has been replaced


class HandlerThreads:
    """Threads, started on demand, one for each concurrent call. Use it on one event loop."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[ThreadCall | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0
        self._made = 0
        self._is_closed = False

    def begin(self, function: Callable[[], Any]) -> ThreadCall:
        """Call `function` in a thread, with the caller's context variables.

        Raises NoThreadLeft, or RuntimeError if not even the first thread can be started.
        """
        reply: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        call = ThreadCall(function, contextvars.copy_context(), reply)
        if self._busy >= self._threads:
            try:
                self._start_one()
            except (RuntimeError, MemoryError) as error:
                if self._made == 0:
                    raise
                raise NoThreadLeft(str(error)) from error
        self._busy += 1
        self._calls.put(call)
        return call

    async def end(self, call: ThreadCall) -> Any:  # noqa: ANN401 (whatever it returns)
        """Wait for a call and return its value, or raise whatever it raises, also SystemExit.

        A cancel, as by a handler that cancels every task, is ignored: the thread runs on too.
        """
        try:
            while not (call.reply.done() or call.is_given_up or self._is_closed):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([call.reply])
            value, error = await call.reply
            if error is not None:
                raise error
            return value
        finally:
            if not call.is_given_up:
                self._busy -= 1
            # The error's traceback holds this frame. If the frame held the error too, the handler's
            # variables would live until the next garbage collection.
            value, error = None, None
            del call

    def give_up(self, call: ThreadCall) -> None:
        """Replace the thread of a call; it ends with its call, if ever."""
        if not call.reply.done() and not call.is_given_up:
            call.is_given_up = True
            self._threads -= 1
            self._busy -= 1

    def close(self) -> None:
        """Have the threads end when they are idle. Does not wait for them."""
        self._is_closed = True
        for _ in range(self._threads):
            self._calls.put(None)

    def _start_one(self) -> None:
        name = f"fairlog-handler-{self._made + 1}"
        threading.Thread(target=self._serve, name=name, daemon=True).start()
        self._threads += 1
        self._made += 1

    def _serve(self) -> None:
        call: ThreadCall | None = None
        try:
            while (call := self._calls.get()) is not None:
                answer: _Answer
                try:
                    answer = (call.context.run(call.function), None)
                except BaseException as error:  # noqa: BLE001 (a handler may raise anything)
                    answer = (None, error)
                end_if_child(answer[1])
                _call_on_loop(call, _resolve, call.reply, answer)
                is_given_up = call.is_given_up
                call = None  # or an idle thread would keep a payload and a result alive
                del answer
                if is_given_up:
                    return
        except BaseException as error:  # raised by what a handler set, such as a trace function
            if call is not None:
                _call_on_loop(call, self._end_with_thread, call, error)
            raise

    def _end_with_thread(self, call: ThreadCall, error: BaseException) -> None:
        if not call.is_given_up:
            self._threads -= 1
        _resolve(call.reply, (None, error))
        if self._busy > self._threads:  # a call may wait for it
            with contextlib.suppress(RuntimeError, MemoryError):  # the next one tries again
                self._start_one()


def _call_on_loop(call: ThreadCall, function: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        call.reply.get_loop().call_soon_threadsafe(function, *arguments)


def _resolve(reply: asyncio.Future[_Answer], answer: _Answer) -> None:
    if not reply.done():  # done: the waiting task was cancelled
        reply.set_result(answer)
