"""Threads for handlers that are not async.

Not a ThreadPoolExecutor: the interpreter joins its threads at exit, so one handler that hangs would
keep a stopped worker from ending. These are daemons; what they ran has been given back by then.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from msgspec import Struct

from adapters.forks import end_if_child

_Answer = tuple[Any, BaseException | None]


class _Call(Struct, frozen=True):
    function: Callable[[], Any]
    reply: asyncio.Future[_Answer]


class HandlerThreads:
    """Made as they are needed, one for each call that runs at once; use it on one event loop."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads = 0
        self._busy = 0

    async def run(self, function: Callable[[], Any]) -> Any:  # noqa: ANN401 (whatever it returns)
        """Call `function` in a thread; what it raises, SystemExit among it, is raised here."""
        reply: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._busy += 1
        try:
            if self._busy > self._threads:
                self._start_one()
            self._calls.put(_Call(function, reply))
            value, error = await reply
        finally:
            self._busy -= 1
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """Let the threads end as soon as they are free. Waits for none."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _start_one(self) -> None:
        self._threads += 1
        name = f"fairlog-handler-{self._threads}"
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            answer: _Answer
            try:
                answer = (call.function(), None)
            except BaseException as error:  # noqa: BLE001 (a handler may raise anything)
                answer = (None, error)
            end_if_child(answer[1])
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                call.reply.get_loop().call_soon_threadsafe(_resolve, call.reply, answer)
            del call, answer  # or an idle thread would keep a payload and a result alive


def _resolve(reply: asyncio.Future[_Answer], answer: _Answer) -> None:
    if not reply.done():  # whoever waited was cancelled
        reply.set_result(answer)
