"""Asks the writer to take the rows of the outbox, with every user's turn in each pass.

A user over their limit is left alone until their window ends, or until a limit changes.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from msgspec.structs import replace

from adapters.log.outbox import USERS_PER_READ_MAX
from adapters.writer.write_path import BatchWritten
from domain.decisions.answers import Answer, OutboxTaken
from domain.language.commands import Command, TakeOutbox
from domain.language.errors import OutboxUnavailable, WriteFailed
from domain.language.identifiers import UserId
from entrypoints.service.submission_limiter import MAKE_ROOM

OUTBOX_SECONDS: Final = 0.3  # between two looks at an outbox that was empty
USERS_PER_COMMAND_MAX: Final = 50
ROWS_PER_COMMAND_MAX: Final = 500
TAKE_SECONDS_MAX: Final = 2.0
PAUSE_SECONDS: Final = 5.0  # after an error of the tables
LOCKED_SECONDS: Final = 1.0  # that a user's rows are left alone while their program holds one
_REFUSED: Final = "The database refuses the job that this row stands for."

_log = structlog.get_logger()


class OutboxTaking:
    """Takes what is in the outbox. One per process, used on one event loop."""

    def __init__(
        self,
        read_users: Callable[[UserId | None, int], Awaitable[Sequence[UserId]]],
        first_row: Callable[[UserId], Awaitable[int | None]],
        execute: Callable[[Command], Awaitable[Answer]],
    ) -> None:
        """`read_users` returns the next users with rows: after a user or None, at most so many.
        `first_row` returns the id of a user's oldest row.
        """
        self._read_users = read_users
        self._first_row = first_row
        self._execute = execute
        self.take_seconds_max = TAKE_SECONDS_MAX
        self._passes = -1
        self._paused_until = 0.0  # time.monotonic(), since the tables cannot be used
        # When to look again, by time.monotonic(), by `_place`; None: all users together.
        self._left_until: dict[UserId | None, float] = {}
        self._limits_changed = False

    def batch_written(self, batch: BatchWritten) -> None:
        """Observe the writer; called in its thread."""
        if batch.has_any(MAKE_ROOM):
            self._limits_changed = True

    async def take(self) -> None:
        """Take rows until only those of users who have to wait are left, or until TAKE_SECONDS_MAX
        have passed: the rest is taken by the next call.
        """
        if time.monotonic() < self._paused_until:
            return
        until = time.monotonic() + self.take_seconds_max
        try:
            while await self._take_once(until) and time.monotonic() < until:
                pass
        except (OutboxUnavailable, WriteFailed):
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            raise

    async def _take_once(self, until: float) -> bool:
        """Visit all users with rows once. Returns True if any row was taken."""
        after: UserId | None = None
        taken = 0
        self._passes += 1
        while not self._is_everybody_left() and time.monotonic() < until:
            users = await self._read_users(after, USERS_PER_READ_MAX)
            due = self._due(users)
            for start in range(0, len(due), USERS_PER_COMMAND_MAX):
                taken += await self._take_of(due[start : start + USERS_PER_COMMAND_MAX])
            if len(users) < USERS_PER_READ_MAX:
                break
            after = users[-1]
        return taken > 0

    def _is_everybody_left(self) -> bool:
        """Forget what has passed, and return True while all users together are over their limit."""
        if self._limits_changed:
            self._limits_changed = False
            self._left_until.clear()
        now = time.monotonic()
        self._left_until = {one: at for one, at in self._left_until.items() if at > now}
        return None in self._left_until

    def _due(self, users: Sequence[UserId]) -> Sequence[UserId]:
        """Return the users whose rows may be taken, each pass beginning with another one: where the
        rows of all do not fit into one command, the last ones wait for the next pass.
        """
        due = [user_id for user_id in users if _place(user_id) not in self._left_until]
        first = self._passes % len(due) if due else 0
        return [*due[first:], *due[:first]]

    async def _take_of(self, users: Sequence[UserId]) -> int:
        """Return how many rows were taken, be it as jobs or as rejected ones."""
        try:
            found = await self._ask(TakeOutbox(users=tuple(users), rows_max=ROWS_PER_COMMAND_MAX))
            if not found.is_locked:
                return _count(found)
        except (OutboxUnavailable, WriteFailed) as error:
            _log.warning("outbox_refused", users=len(users), reason=str(error))
        # One row is to blame: each user's next one is taken alone.
        return sum([await self._take_one(user_id) for user_id in users])

    async def _take_one(self, user_id: UserId) -> int:
        row_id = await self._first_row(user_id)
        if row_id is None:
            return 0
        single = TakeOutbox(users=(user_id,), rows_max=1, row_id=row_id)
        try:
            found = await self._ask(single)
        except (OutboxUnavailable, WriteFailed):
            found = await self._ask(replace(single, rejection=_REFUSED))
        if found.is_locked:
            self._left_until[_place(user_id)] = time.monotonic() + LOCKED_SECONDS
        return _count(found)

    async def _ask(self, command: TakeOutbox) -> OutboxTaken:
        found = await self._execute(command)
        assert isinstance(found, OutboxTaken), found
        now = time.monotonic()
        for user_id, seconds in found.over_limit:
            place = None if user_id is None else _place(user_id)
            self._left_until[place] = now + seconds
        for row_id, reason in found.rejected:
            _log.warning("outbox_row_rejected", row=row_id, reason=reason)
        return found


def _place(user_id: UserId) -> UserId:
    """Return what the database compares: to MySQL and MariaDB, "a" and "a " are the same text."""
    return UserId(user_id.rstrip(" "))


def _count(found: OutboxTaken) -> int:
    return len(found.submitted) + len(found.rejected)
