"""Fair order: the next job is the first one of the waiting user with the oldest turn.

While the same users wait, no two of them differ by more than one job served. A claim for more jobs
than there are users serves them in rounds. Order is by log position, never by time.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from domain.fairness.line import Lane, Line, Unread, WaitingJob
from domain.language.identifiers import Kind, UserId


class Served(NamedTuple):
    """The jobs that a claim starts."""

    jobs: Sequence[WaitingJob]  # in fair order
    unread: Unread | None  # rows to read before the next job is known; None: no more follow


def serve(line: Line, kinds: Iterable[Kind], jobs_max: int, next_position: int) -> Served:
    """Return the jobs to start. The JobStarted of the first gets `next_position`.

    Stops where the order depends on unread rows, since skipping a user is never fair. Stops before
    a suspect job, too, which is claimed alone.
    """
    service = _ClaimView(line, kinds)
    served: list[WaitingJob] = []
    turns = service.turns()
    heapq.heapify(turns)
    while turns and len(served) < jobs_max:
        turn, user_id = heapq.heappop(turns)
        if beyond := service.kinds_beyond(turn):
            return Served(served, Unread(jobs=jobs_max - len(served), kinds=beyond))
        job = service.next_job(user_id)
        if isinstance(job, WaitingJob):
            if job.is_suspect:
                return Served(served or [job], None)
            served.append(job)
            if service.has_more(user_id):
                heapq.heappush(turns, (next_position + len(served) - 1, user_id))
        elif job is _UNREAD:
            # All lanes seen with unread jobs, since the others may be needed next.
            return Served(served, Unread(jobs=jobs_max - len(served), lanes=service.cut_lanes()))
    beyond = service.kinds_beyond(math.inf)
    if len(served) == jobs_max or not beyond:
        return Served(served, None)
    return Served(served, Unread(jobs=jobs_max - len(served), kinds=beyond))


class _Unread:
    """Type of a sentinel: the user's next job has not been read."""


_UNREAD = _Unread()


class _ClaimView:
    """The line as one claim sees it: without the jobs that it has served already."""

    def __init__(self, line: Line, kinds: Iterable[Kind]) -> None:
        self._line = line
        self._capacity = {kind: _capacity(line, kind) for kind in kinds}
        self._kinds = [kind for kind, free in self._capacity.items() if free > 0]
        self._runs: dict[UserId, int] = {}
        self._lanes: dict[Lane, Iterator[WaitingJob]] = {}
        self._heads: dict[Lane, WaitingJob | None] = {}
        self._cut: set[Lane] = set()  # with unread jobs
        self._horizon = {
            kind: line.ahead.horizon[kind] for kind in self._kinds if kind in line.ahead.horizon
        }

    def turns(self) -> list[tuple[int, UserId]]:
        """Return the turns of the users that were read and of those that this batch changed."""
        turns = []
        for user_id in self._line.ahead.users.union(self._line.changed_users):
            lanes = self._line.lanes.get(user_id, {})
            if any(lanes.get(kind, 0) > 0 for kind in self._kinds):
                turn = self._line.users[user_id].turn
                if turn is not None:
                    turns.append((turn, user_id))
        return turns

    def kinds_beyond(self, turn: float) -> frozenset[Kind]:
        """Return the kinds below their caps that may have an unread lane with an older turn."""
        return frozenset(
            kind
            for kind, horizon in self._horizon.items()
            if horizon < turn and self._capacity[kind] > 0
        )

    def cut_lanes(self) -> frozenset[Lane]:
        """Return the lanes seen so far that have unread jobs."""
        return frozenset(self._cut)

    def next_job(self, user_id: UserId) -> WaitingJob | _Unread | None:
        """Take the user's first job; None if all kinds of their jobs are at their caps."""
        heads = []
        for kind in self._kinds:
            if self._capacity[kind] <= 0 or not self._line.lanes[user_id].get(kind):
                continue
            lane = (user_id, kind)
            head = self._head(lane)
            if head is not None:
                heads.append(head)
            elif lane in self._cut:
                return _UNREAD
        if not heads:
            return None
        job = min(heads, key=lambda head: head.order)
        self._heads.pop((user_id, job.kind))
        self._capacity[job.kind] -= 1
        self._runs[user_id] = self._runs.get(user_id, 0) + 1
        return job

    def has_more(self, user_id: UserId) -> bool:
        user = self._line.users[user_id]
        runs = self._runs[user_id]
        if user.running_limit is not None and user.running + runs >= user.running_limit:
            return False
        return user.waiting > runs

    def _head(self, lane: Lane) -> WaitingJob | None:
        if lane not in self._heads:
            if lane not in self._lanes:
                queue, has_unread = _queue(self._line, lane)
                self._lanes[lane] = iter(queue)
                if has_unread:
                    self._cut.add(lane)
            self._heads[lane] = next(self._lanes[lane], None)
        return self._heads[lane]


def _capacity(line: Line, kind: Kind) -> float:
    """Return how many more jobs of the kind may run."""
    load = line.kinds.get(kind)
    if load is None or load.running_limit is None:
        return math.inf
    return load.running_limit - load.running


def _queue(line: Line, lane: Lane) -> tuple[Sequence[WaitingJob], bool]:
    """Return the front of a lane, in order, and True if the lane has unread jobs after it.

    The front is the jobs that were read, without those that left, with those that entered.
    """
    user_id, kind = lane
    read = line.ahead.queues.get(lane, [])
    queue = [job for job in read if job.job_id not in line.left]
    newcomers = list(line.entered.get(lane, {}).values())
    has_unread = line.lanes[user_id][kind] > len(queue) + len(newcomers)
    if has_unread:  # unread jobs may come between the last read one and these
        newcomers = [job for job in newcomers if read and job.order < read[-1].order]
    if newcomers:
        queue = sorted([*queue, *newcomers], key=lambda job: job.order)
    return queue, has_unread


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
