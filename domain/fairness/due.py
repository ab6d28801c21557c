"""A queue of what is due, taken by users in turns, so that no user delays others: jobs with a due
deadline, or schedules.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from msgspec import Struct

from domain.language.identifiers import JobId, ScheduleName, UserId

V = TypeVar("V", JobId, ScheduleName)

JOBS_PER_USER_MAX: Final = 1_000  # the rest is read again when these are done
JOBS_MAX: Final = 50_000


class Due(Struct, Generic[V], frozen=True, gc=False):
    """Something that is due at a time, from a projection."""

    due_at: int  # Unix time in microseconds
    id: V
    user_id: UserId


DueJob = Due[JobId]
DueSchedule = Due[ScheduleName]


class DueQueue(Generic[V]):
    """A bounded queue. Each user's entries are taken in the order in which they were added."""

    def __init__(self) -> None:
        self._by_user: dict[UserId, deque[V]] = {}  # in order of their turns
        self._ids: set[V] = set()
        self.has_left_out = False  # one was left out, for lack of space, since `clear`

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, jobs: Iterable[Due[V]]) -> None:
        """Add jobs, except those in the queue already and those for which it has no space."""
        for job in jobs:
            if job.id in self._ids:
                continue
            waiting = self._by_user.get(job.user_id, deque())
            if len(waiting) >= JOBS_PER_USER_MAX or len(self._ids) >= JOBS_MAX:
                self.has_left_out = True
                continue
            waiting.append(job.id)
            self._ids.add(job.id)
            self._by_user[job.user_id] = waiting

    def take(self, jobs_max: int) -> list[V]:
        """Take one job of each user, then a second one of each who has more, and so on."""
        taken: list[V] = []
        while self._by_user and len(taken) < jobs_max:
            user_id, waiting = next(iter(self._by_user.items()))
            taken.append(waiting.popleft())
            del self._by_user[user_id]
            if waiting:
                self._by_user[user_id] = waiting  # behind all the others
        self._ids.difference_update(taken)
        return taken

    def clear(self) -> None:
        self._by_user.clear()
        self._ids.clear()
        self.has_left_out = False
