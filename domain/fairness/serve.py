"""Fair order: the next job is the first one of the waiting user with the oldest turn.

While the same users wait, no two of them differ by more than one job served. A claim for more jobs
than there are users serves them in rounds. Order is by log position, never by time.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, NamedTuple

from domain.fairness.known_line import Lane, Unread, WaitingJob
from domain.fairness.line import Line
from domain.language.identifiers import Kind, UserId

USERS_PER_READ_MAX: Final = 250


class Served(NamedTuple):
    """The jobs that a claim starts."""

    jobs: Sequence[WaitingJob]  # in fair order
    unread: Unread | None  # rows to read before the next job is known; None: no more follow


def serve(line: Line, kinds: Iterable[Kind], jobs_max: int, next_position: int) -> Served:
    """Return the jobs to start. The JobStarted of the first gets `next_position`.

    Stops where the order depends on unread rows, since skipping a user is never fair. Stops before
    a suspect job, too, which is claimed alone.
    """
    view = _ClaimView(line, kinds)
    served: list[WaitingJob] = []
    in_turn = view.users_in_turn()
    again: deque[tuple[int, UserId]] = deque()  # users served once by this claim, in turn
    while len(served) < jobs_max:
        found = next(in_turn, None) or (again.popleft() if again else None)
        turn, user_id = found or (math.inf, None)
        if beyond := view.kinds_beyond(turn):
            return Served(served, Unread(jobs=jobs_max - len(served), kinds=beyond))
        if user_id is None:
            break
        job = view.next_job(user_id)
        if isinstance(job, WaitingJob):
            if job.is_suspect:
                return Served(served or [job], None)
            served.append(job)
            if view.has_more(user_id):
                again.append((next_position + len(served) - 1, user_id))
        elif job is _UNREAD:
            jobs_left = jobs_max - len(served)
            users = chain([user_id], (other for _, other in chain(in_turn, again)))
            return Served(served, Unread(jobs=jobs_left, lanes=view.cut_lanes(users, jobs_left)))
    return Served(served, None)


class _Unread:
    """Type of a sentinel: the user's next job has not been read."""


_UNREAD = _Unread()


class _ClaimView:
    """The line as one claim sees it: without the jobs that it has served already."""

    def __init__(self, line: Line, kinds: Iterable[Kind]) -> None:
        assert line.known is not None, "claims are decided by this line"
        self._line = line
        self._known = line.known
        self._capacity = {kind: free for kind in kinds if (free := _capacity(line, kind)) > 0}
        self._runs: dict[UserId, int] = {}
        self._taken: dict[Lane, int] = {}
        self._lanes: dict[Lane, Iterator[WaitingJob]] = {}
        self._heads: dict[Lane, WaitingJob | None] = {}
        self._unread_after = {
            kind: horizon
            for kind in self._capacity
            if (horizon := line.known.horizon(kind)) < math.inf
        }

    def users_in_turn(self) -> Iterator[tuple[int, UserId]]:
        """Yield the users with known jobs of these kinds, each once, by turn."""
        latest = None
        for turn, user_id in heapq.merge(*map(self._users_of, self._capacity)):
            if turn != latest:  # else another kind of the same user
                latest = turn
                yield turn, user_id

    def _users_of(self, kind: Kind) -> Iterator[tuple[int, UserId]]:
        for user in self._known.users_in_turn(kind):
            if self._capacity[kind] <= 0:
                return
            yield user

    def kinds_beyond(self, turn: float) -> frozenset[Kind]:
        """Return the kinds below their caps that may have an unread lane with an older turn."""
        if not self._unread_after:
            return frozenset()
        return frozenset(
            kind
            for kind, horizon in self._unread_after.items()
            if horizon < turn and self._capacity[kind] > 0
        )

    def cut_lanes(self, users: Iterable[UserId], jobs_max: int) -> frozenset[Lane]:
        """Return the lanes of the first of these users whose next job is unread."""
        return frozenset(
            (user_id, kind)
            for user_id in islice(users, min(jobs_max, USERS_PER_READ_MAX))
            for kind in self._kinds_of(user_id)
            if self._head((user_id, kind)) is None
        )

    def next_job(self, user_id: UserId) -> WaitingJob | _Unread | None:
        """Take the user's first job; None if all kinds of their jobs are at their caps."""
        first: WaitingJob | None = None
        for kind in self._kinds_of(user_id):
            head = self._head((user_id, kind))
            if head is None:
                return _UNREAD
            if first is None or head.order < first.order:
                first = head
        if first is None:
            return None
        del self._heads[user_id, first.kind]
        self._capacity[first.kind] -= 1
        self._runs[user_id] = self._runs.get(user_id, 0) + 1
        self._taken[user_id, first.kind] = self._taken.get((user_id, first.kind), 0) + 1
        return first

    def has_more(self, user_id: UserId) -> bool:
        user = self._line.users[user_id]
        runs = self._runs[user_id]
        if user.running_limit is not None and user.running + runs >= user.running_limit:
            return False
        return user.waiting > runs

    def _kinds_of(self, user_id: UserId) -> Iterator[Kind]:
        """Yield the claim's kinds below their caps of which the user has more jobs."""
        for kind, waiting in self._line.lanes[user_id].items():
            if waiting > self._taken.get((user_id, kind), 0) and self._capacity.get(kind, 0) > 0:
                yield kind

    def _head(self, lane: Lane) -> WaitingJob | None:
        """Return the first job of a lane that has one; None if it is unread."""
        if lane not in self._heads:
            if lane not in self._lanes:
                known = self._known.lanes.get(lane)
                waiting = self._line.lanes[lane[0]][lane[1]]
                self._lanes[lane] = iter(()) if known is None else known.in_order(waiting)
            self._heads[lane] = next(self._lanes[lane], None)
        return self._heads[lane]


def _capacity(line: Line, kind: Kind) -> float:
    """Return how many more jobs of the kind may run."""
    load = line.kinds.get(kind)
    if load is None or load.running_limit is None:
        return math.inf
    return load.running_limit - load.running


def rounds(waiting: Sequence[int], jobs_max: int) -> list[int]:
    """Return how many jobs each user gets at most if `jobs_max` are served in rounds.

    `waiting` has the number of waiting jobs of each user, oldest turn first. The result is how much
    of each lane has to be read: `rounds([5, 1, 3], 6) == [3, 1, 2]`.
    """
    given = [0] * len(waiting)
    left = jobs_max
    unserved = [index for index, count in enumerate(waiting) if count > 0]
    while left > 0 and unserved:
        share = max(1, left // len(unserved))
        for index in unserved:
            take = min(share, waiting[index] - given[index], left)
            given[index] += take
            left -= take
        unserved = [index for index in unserved if given[index] < waiting[index]]
    return given
