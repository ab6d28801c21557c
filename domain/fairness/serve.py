"""Fair order: the next job is the first one of the waiting user who is first in line.

While the same users of equal weights wait, no two of them differ by more than one job served. A
claim for more jobs than there are users serves them in rounds. Order is by log position, never by
time.

For example, alice was served last at position 10, bob at 12, and carol joined the line at 15. Alice
has three jobs, bob one and carol two. A claim for five jobs that are recorded from position 20 on
starts those of alice (20), bob (21), carol (22), alice (23) and carol (24): each start puts its
user behind those who wait.

What all users share is not a matter of a user's place in line: a claim takes nothing from a queue
whose kind or one of whose resources is paused, at its cap or beyond its throttle (`Capacity`).
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, NamedTuple

from domain.fairness.capacity import Capacity
from domain.fairness.known_line import Front, Unread, WaitingJob
from domain.fairness.line import Line
from domain.fairness.queues import Lane, QueueName, kind_of, queue_of
from domain.fairness.strides import next_pass, order_of
from domain.language.identifiers import Kind, UserId

USERS_PER_READ_MAX: Final = 250
QUEUES_READ_AHEAD: Final = 100


class Served(NamedTuple):
    """The jobs that a claim starts."""

    jobs: Sequence[WaitingJob]  # in fair order
    # Rows to read before the next job is known; None: nothing has to be read.
    unread: Unread | None = None
    # When more jobs may start because of the time, as far as is known; Unix time in microseconds.
    resumes_at: int | None = None
    stops_at_suspect: bool = False  # nothing more starts, whatever else is read


def serve(line: Line, kinds: Iterable[Kind], jobs_max: int, next_position: int, now: int) -> Served:
    """Return the jobs to start. The JobStarted of the first gets `next_position`.

    Stops where the order depends on unread rows of these kinds, so that no user of them is skipped.
    Kinds that are not in memory are left out: a claim of any kind reads further ones only while
    jobs are missing (ADR 7 and 22). Stops before a suspect job, too, which is claimed alone. `now`
    is Unix time in microseconds.
    """
    view = _ClaimView(line, kinds, now)
    served: list[WaitingJob] = []
    in_line = view.users_in_order()
    found = next(in_line, None)
    again: list[tuple[int, UserId]] = []  # heap: users served by this claim who have more jobs
    while len(served) < jobs_max:
        is_again = bool(again) and (found is None or again[0] < found)
        order, user_id = again[0] if is_again else found or (math.inf, None)
        if queues := view.queues_unread_before(order):
            return Served(served, Unread(jobs=jobs_max - len(served), queues=queues))
        if user_id is None:
            break
        job = view.next_job(user_id)
        if isinstance(job, _JobUnread):
            jobs_left = jobs_max - len(served)
            ahead = [found] if is_again and found is not None else []
            users = chain([user_id], (other for _, other in chain(ahead, in_line, sorted(again))))
            return Served(served, Unread(jobs=jobs_left, lanes=view.cut_lanes(users, jobs_left)))
        if is_again:
            heapq.heappop(again)
        else:
            found = next(in_line, None)
        if job is None:
            continue
        if job.is_suspect:
            return Served(served or [job], stops_at_suspect=True)
        served.append(job)
        if (order_after := view.take(job, next_position + len(served) - 1)) is not None:
            heapq.heappush(again, (order_after, user_id))
    return Served(served, resumes_at=view.resumes_at())


def unread_queues(line: Line, kinds: Iterable[Kind], now: int) -> frozenset[QueueName]:
    """Return the open queues that may have unread lanes."""
    return _ClaimView(line, kinds, now).queues_unread_before(math.inf)


class _JobUnread:
    """Type of a sentinel: the user's next job has not been read."""


_JOB_UNREAD = _JobUnread()


class _ClaimView:
    """The line as one claim sees it: without the jobs that it has served already."""

    def __init__(self, line: Line, kinds: Iterable[Kind], now: int) -> None:
        assert line.known is not None, "claims are decided by this line"
        self._line = line
        self._known = line.known
        self._virtual_time = line.virtual_time
        self._passes: dict[UserId, int] = {}  # of users served by this claim
        self._runs: dict[UserId, int] = {}
        self._taken: dict[Lane, int] = {}
        self._lanes: dict[Lane, Iterator[WaitingJob]] = {}
        self._heads: dict[Lane, WaitingJob | None] = {}
        self._capacity = Capacity(line, now)
        self._kinds = set() if line.limits.everyone.paused else set(kinds)
        for kind in self._kinds:
            line.known.look_at(queue_of(kind, ()))
        # Queues are looked at when a claim comes to their first lanes, since there may be very
        # many. These are those to come, and the next.
        self._fronts = heapq.merge(*map(line.known.fronts_in_order, self._kinds))
        self._front = next(self._fronts, None)
        # Heaps of the open queues that were looked at: those with further users by their next, and
        # those that may have unread lanes by where these begin.
        self._users: list[tuple[int, UserId, QueueName, Iterator[tuple[int, UserId]]]] = []
        self._horizons: list[Front] = []
        self._unlimited: set[QueueName] = set()  # stay open, whatever starts

    def users_in_order(self) -> Iterator[tuple[int, UserId]]:
        """Yield the users with known jobs in the open queues, each once, in order."""
        latest = None
        while self._users or self._front is not None:
            while self._front and not (self._users and self._users[0][0] < self._front[0]):
                self._look_at_queues(self._front[0])
            if not self._users:
                return
            order, user_id, queue, following = heapq.heappop(self._users)
            if order != latest:  # else the user is in another queue as well
                latest = order
                yield order, user_id
            self._add_next(queue, following)

    def _look_at_queues(self, order: float) -> None:
        """Look at the queues that may have lanes up to a sort key."""
        while self._front is not None and self._front[0] <= order:
            queue = self._front[1]
            self._front = next(self._fronts, None)
            if not self._capacity.is_open(queue):
                continue
            if self._capacity.is_unlimited(queue):
                self._unlimited.add(queue)
            horizon = self._known.horizon(queue)
            if horizon < math.inf:
                heapq.heappush(self._horizons, (horizon, queue))
            self._add_next(queue, self._known.users_in_order(queue))

    def _add_next(self, queue: QueueName, users: Iterator[tuple[int, UserId]]) -> None:
        if queue in self._unlimited or self._capacity.is_open(queue):
            following = next(users, None)
            if following is not None:
                heapq.heappush(self._users, (*following, queue, users))

    def queues_unread_before(self, order: float) -> frozenset[QueueName]:
        """Return the open queues that may have an unread lane before a sort key.

        If there are any, those that will have to be read next are added, up to QUEUES_READ_AHEAD
        queues in all.
        """
        self._look_at_queues(order)
        horizons = self._horizons
        is_open = self._capacity.is_open
        while horizons and horizons[0][0] < order and not is_open(horizons[0][1]):
            heapq.heappop(horizons)
        if not (horizons and horizons[0][0] < order):
            return frozenset()
        # Else users who are in as many queues in turn would cost a read each.
        while self._front is not None and len(horizons) < QUEUES_READ_AHEAD:
            self._look_at_queues(self._front[0])
        unread = sum(horizon < order for horizon, _ in horizons)
        nearest = heapq.nsmallest(max(unread, QUEUES_READ_AHEAD), horizons)
        return frozenset(queue for _, queue in nearest if is_open(queue))

    def cut_lanes(self, users: Iterable[UserId], jobs_max: int) -> frozenset[Lane]:
        """Return the lanes of the first of these users whose next job is unread."""
        return frozenset(
            lane
            for user_id in islice(users, min(jobs_max, USERS_PER_READ_MAX))
            for lane in self._open_lanes(user_id)
            if self._head(lane) is None
        )

    def next_job(self, user_id: UserId) -> WaitingJob | _JobUnread | None:
        """Return the user's first job; None if none of their jobs may start."""
        if self._capacity.of_user(user_id) <= 0:
            return None
        first: WaitingJob | None = None
        for lane in self._open_lanes(user_id):
            head = self._head(lane)
            if head is None:
                return _JOB_UNREAD
            if first is None or head.order < first.order:
                first = head
        return first

    def take(self, job: WaitingJob, position: int) -> int | None:
        """Start a job at a position, and return the user's next sort key.

        None if no more wait, or the user's own limits allow no more. Limits of kinds, of the user's
        kinds and of resources are not looked at.
        """
        user_id, lane = job.user_id, (job.user_id, job.queue)
        user = self._line.users[user_id]
        del self._heads[lane]
        self._taken[lane] = self._taken.get(lane, 0) + 1
        runs = self._runs[user_id] = self._runs.get(user_id, 0) + 1
        self._capacity.take(job)
        pass_ = self._passes.get(user_id, user.pass_)
        self._virtual_time = max(self._virtual_time, pass_)
        weight = self._line.limits.of_user(user_id).weight
        pass_ = self._passes[user_id] = next_pass(self._virtual_time, weight)
        has_more = user.waiting > runs and self._capacity.of_user(user_id) > 0
        return order_of(pass_, position) if has_more else None

    def resumes_at(self) -> int | None:
        """Return when more may start because of the time: of a kind, a resource or a user."""
        times = (self._capacity.resumes_at(), self._known.next_resumption())
        return min((at for at in times if at is not None), default=None)

    def _open_lanes(self, user_id: UserId) -> Iterator[Lane]:
        """Yield the user's lanes that have more jobs which may start, as far as lanes tell."""
        limited_kinds = self._line.limits.user_kinds.get(user_id)
        for queue, load in self._line.lanes[user_id].items():
            lane = (user_id, queue)
            if (
                load.waiting > self._taken.get(lane, 0)
                and kind_of(queue) in self._kinds
                and (queue in self._unlimited or self._capacity.is_open(queue))
                and (
                    limited_kinds is None
                    or self._capacity.is_user_kind_open(user_id, kind_of(queue))
                )
            ):
                yield lane

    def _head(self, lane: Lane) -> WaitingJob | None:
        """Return the first job of a lane that has one; None if it is unread."""
        if lane not in self._heads:
            if lane not in self._lanes:
                known = self._known.lanes.get(lane)
                waiting = self._line.lanes[lane[0]][lane[1]].waiting
                self._lanes[lane] = iter(()) if known is None else known.in_order(waiting)
            self._heads[lane] = next(self._lanes[lane], None)
        return self._heads[lane]


def rounds(waiting: Sequence[int], jobs_max: int) -> list[int]:
    """Return how many jobs of each user to read ahead for a claim of `jobs_max`.

    `waiting` has the number of waiting jobs of each user, in order. The jobs are dealt in rounds,
    as if all users had equal weights: `rounds([5, 1, 3], 6) == [3, 1, 2]`.
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
