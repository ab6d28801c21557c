"""Asks the writer to take the rows of the outbox, with every user's turn in each pass.

A user over their limit is left alone until their window ends, or until a limit changes.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from adapters.log.outbox import USERS_PER_READ_MAX
from adapters.writer.writer import BatchWritten
from domain.decisions.answers import Answer, OutboxTaken
from domain.language.commands import Command, TakeOutbox
from domain.language.errors import WriteFailed
from domain.language.events import LimitChanged
from domain.language.identifiers import UserId

OUTBOX_SECONDS: Final = 0.3  # between two looks at an outbox that was empty
ROWS_PER_COMMAND_MAX: Final = 500
LOCKED_SECONDS: Final = 1.0  # that a user's rows are left alone while their program holds one
_REFUSED: Final = "The database refuses the job that this row stands for."

_log = structlog.get_logger()


class OutboxTaking:
    """Takes what is in the outbox. One per process, used on one event loop."""

    def __init__(
        self,
        read_users: Callable[[str | None, int], Awaitable[Sequence[UserId]]],
        execute: Callable[[Command], Awaitable[Answer]],
    ) -> None:
        """`read_users` returns the next users with rows: after a user or None, at most
        so many.
        """
        self._read_users = read_users
        self._execute = execute
        # When to look again, by time.monotonic(); None stands for all users together.
        self._left_until: dict[UserId | None, float] = {}
        self._limits_changed = False

    def batch_written(self, batch: BatchWritten) -> None:
        """Observe the writer; called in its thread."""
        if batch.has_any({LimitChanged.__name__}):
            self._limits_changed = True

    async def take(self) -> None:
        """Take rows until only those of users who have to wait are left."""
        while await self._take_once():
            pass

    async def _take_once(self) -> bool:
        """Visit all users with rows once. Returns True if any row was taken."""
        after: str | None = None
        taken = 0
        while True:
            users = await self._read_users(after, USERS_PER_READ_MAX)
            if due := self._due(users):
                taken += await self._take_of(due)
            if len(users) < USERS_PER_READ_MAX:
                return taken > 0
            after = users[-1]

    def _due(self, users: Sequence[UserId]) -> Sequence[UserId]:
        if self._limits_changed:
            self._limits_changed = False
            self._left_until.clear()
        if self._left_until:
            now = time.monotonic()
            self._left_until = {one: at for one, at in self._left_until.items() if at > now}
            if None in self._left_until:
                return []
        return [user_id for user_id in users if user_id not in self._left_until]

    async def _take_of(self, users: Sequence[UserId]) -> int:
        """Return how many rows were taken, be it as jobs or as rejected ones."""
        try:
            found = await self._ask(TakeOutbox(users=tuple(users), rows_max=ROWS_PER_COMMAND_MAX))
            if not found.is_locked:
                return _count(found)
        except WriteFailed:
            _log.warning("outbox_refused", users=len(users))
        # One row is to blame: each user's next one is taken alone.
        return sum([await self._take_one(user_id) for user_id in users])

    async def _take_one(self, user_id: UserId) -> int:
        single = TakeOutbox(users=(user_id,), rows_max=1)
        try:
            found = await self._ask(single)
        except WriteFailed:
            found = await self._ask(TakeOutbox(users=single.users, rows_max=1, rejection=_REFUSED))
        if found.is_locked:
            self._left_until[user_id] = time.monotonic() + LOCKED_SECONDS
        return _count(found)

    async def _ask(self, command: TakeOutbox) -> OutboxTaken:
        found = await self._execute(command)
        assert isinstance(found, OutboxTaken), found
        now = time.monotonic()
        for user_id, seconds in found.over_limit:
            self._left_until[user_id] = now + seconds
        for row_id, reason in found.rejected:
            _log.warning("outbox_row_rejected", row=row_id, reason=reason)
        return found


def _count(found: OutboxTaken) -> int:
    return len(found.submitted) + len(found.rejected)
