"""Calls that bring very many commands at once go to the writer in slices, a few at a time.

Each command costs the event loop a task and an answer: twenty calls of a thousand would hold up all
others for seconds. Slices of all calls take turns, so that none waits for another's last one. They
are as large as the writer's batches: with one being written, the next is there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from domain.language.commands import Command
from domain.language.errors import LogUnavailable, QueueFull, fresh_copy, without_traceback

SLICE: Final = 256  # commands
SLICES_AT_ONCE: Final = 4  # of all calls
SLICES_PER_CALL: Final = 2  # of which; the next waits for the writer, and not the writer for it
SMALL_MAX: Final = 16  # a call of so few waits for no turn
WAIT_SECONDS_MAX: Final = 5.0  # for a turn
_BUSY: Final = "Too many large batches are under way; try again shortly."

R = TypeVar("R")


class Slices:
    """One a process, used on one event loop at a time."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(SLICES_AT_ONCE)

    async def run(
        self, commands: Sequence[Command | Exception], ask: Callable[[Any], Awaitable[R]]
    ) -> list[R | Exception]:
        """Ask for each command; one outcome for each, in order. What is an error already takes a
        place as it is.

        Where the log does not answer, the rest is not asked for: its outcome is a `LogUnavailable`
        with `nothing_was_recorded`. It is `QueueFull` where no turn comes in time.
        """
        own = asyncio.Semaphore(SLICES_PER_CALL)
        failed: Exception | None = None

        async def outcomes_of(some: Sequence[Command | Exception]) -> list[R | Exception]:
            nonlocal failed
            async with own:
                if failed is None and not await self._has_turn(len(commands)):
                    failed = QueueFull(_BUSY)
                if failed is not None:
                    error = failed
                    return [
                        one if isinstance(one, Exception) else fresh_copy(error) for one in some
                    ]
                try:
                    found = await _ask_all(some, ask)
                finally:
                    self._end_turn(len(commands))
                failed = failed or next(map(_rest_of, filter(_is_away, found)), None)
                return found

        starts = range(0, len(commands), SLICE)
        parts = await asyncio.gather(*(outcomes_of(commands[at : at + SLICE]) for at in starts))
        return [outcome for part in parts for outcome in part]

    async def _has_turn(self, commands: int) -> bool:
        if commands <= SMALL_MAX:
            return True
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await self._places.acquire()
        except TimeoutError:
            return False
        return True

    def _end_turn(self, commands: int) -> None:
        if commands > SMALL_MAX:
            self._places.release()


async def _ask_all(
    commands: Sequence[Command | Exception], ask: Callable[[Any], Awaitable[R]]
) -> list[R | Exception]:
    async def one(command: Command | Exception) -> R:
        if isinstance(command, Exception):
            raise fresh_copy(command)
        return await ask(command)

    outcomes = await asyncio.gather(*map(one, commands), return_exceptions=True)
    found: list[R | Exception] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, Exception):
                raise outcome
            found.append(without_traceback(outcome))
        else:
            found.append(outcome)
    return found


def _is_away(outcome: object) -> bool:
    return isinstance(outcome, LogUnavailable)


def _rest_of(error: object) -> Exception:
    return LogUnavailable(str(error), nothing_was_recorded=True)
