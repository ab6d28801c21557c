"""Calls with very many commands, which are sent to the writer in slices, a few at a time.

Twenty calls of a thousand commands at once would delay all others for seconds. The slices of all
calls take turns, so that no call waits for all of another. Two slices make a batch: while it is
written, others are in the queue.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from domain.decisions.batch import Outcome
from domain.language.commands import Command
from domain.language.errors import LogUnavailable, QueueFull, fresh_copy

SLICE: Final = 256  # commands
SLICES_AT_ONCE: Final = 8  # of all calls
SLICES_PER_CALL: Final = 2  # one is written while the next waits in the queue
SMALL_MAX: Final = 16  # a call of so few commands does not wait for a turn
WAIT_SECONDS_MAX: Final = 5.0  # for a turn
_BUSY: Final = "Too many large batches are under way; try again shortly."

C = TypeVar("C", bound=Command)


class Slices:
    """The slices of all calls of a process. Use it on one event loop at a time."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(SLICES_AT_ONCE)

    async def run(
        self,
        commands: Sequence[C | Exception],
        execute_each: Callable[[Sequence[C]], Awaitable[Sequence[Outcome]]],
    ) -> list[Outcome]:
        """Call `execute_each` for each slice, and return one outcome for each command, in order.

        An error among the commands is its own outcome. After a `LogUnavailable`, the remaining
        slices are not sent: their outcome is a `LogUnavailable` with `nothing_was_recorded`. It is
        `QueueFull` if a slice gets no turn within WAIT_SECONDS_MAX.
        """
        own = asyncio.Semaphore(SLICES_PER_CALL)
        failed: Exception | None = None

        async def outcomes_of(some: Sequence[C | Exception]) -> list[Outcome]:
            nonlocal failed
            async with own:
                if failed is None and not await self._take_turn(len(commands)):
                    failed = QueueFull(_BUSY)
                if failed is not None:
                    error = failed
                    return [
                        one if isinstance(one, Exception) else fresh_copy(error) for one in some
                    ]
                try:
                    found = await _executed(some, execute_each)
                finally:
                    self._end_turn(len(commands))
                failed = failed or next(map(_error_of_rest, filter(_is_unavailable, found)), None)
                return found

        starts = range(0, len(commands), SLICE)
        parts = await asyncio.gather(*(outcomes_of(commands[at : at + SLICE]) for at in starts))
        return [outcome for part in parts for outcome in part]

    async def _take_turn(self, commands: int) -> bool:
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


async def _executed(
    some: Sequence[C | Exception],
    execute_each: Callable[[Sequence[C]], Awaitable[Sequence[Outcome]]],
) -> list[Outcome]:
    commands = [one for one in some if not isinstance(one, Exception)]
    outcomes = iter(await execute_each(commands) if commands else ())
    return [one if isinstance(one, Exception) else next(outcomes) for one in some]


def _is_unavailable(outcome: object) -> bool:
    return isinstance(outcome, LogUnavailable)


def _error_of_rest(error: object) -> Exception:
    return LogUnavailable(str(error), nothing_was_recorded=True)
