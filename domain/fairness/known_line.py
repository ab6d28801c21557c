"""The part of the line that is in memory, in the order in which claims are served.

It is kept from batch to batch: events keep it current, and rows are read only where a claim needs
what lies beyond it. All users of a queue are known up to its *horizon*, a sort key of users; all
jobs of a lane are known up to the job that was read last.
"""

import math
from collections.abc import Collection, Iterator

from msgspec import Struct

from domain.fairness.priority_queue import PriorityQueue
from domain.fairness.queues import Lane, QueueName, kind_of, queue_of
from domain.language.identifiers import JobId, Kind, ResourceName, UserId

Front = tuple[float, QueueName]  # the sort key before which the queue has no lane
Order = tuple[int, int]  # among a user's own jobs: higher priority first, then the older job


class WaitingJob(Struct, frozen=True, gc=False):
    """A queued job, as far as its order needs."""

    job_id: JobId
    user_id: UserId
    kind: Kind
    priority: int
    is_suspect: bool = False  # claimed alone, see `JobStarted.alone`
    resources: tuple[ResourceName, ...] = ()

    @property
    def queue(self) -> QueueName:
        return queue_of(self.kind, self.resources)

    @property
    def order(self) -> Order:
        return (-self.priority, self.job_id)


class Unread(Struct, frozen=True, kw_only=True):
    """Rows of the stored line that a claim depends on and that have not been read."""

    jobs: int  # that the claim can still take
    queues: frozenset[QueueName] = frozenset()  # with unread lanes beyond the horizon
    lanes: frozenset[Lane] = frozenset()  # with unread jobs
    more_kinds: bool = False  # the claim takes any kind, and there are unread kinds


class KnownLane:
    """The jobs of one lane that are known: all up to `read_to`, and those that entered since."""

    __slots__ = ("jobs", "queue", "read_to")

    def __init__(self) -> None:
        self.jobs: dict[JobId, WaitingJob] = {}
        self.queue: PriorityQueue[JobId, Order] = PriorityQueue()
        self.read_to: Order | None = None

    def add(self, job: WaitingJob) -> None:
        self.jobs[job.job_id] = job
        self.queue.put(job.job_id, job.order)

    def discard(self, job_id: JobId) -> None:
        if self.jobs.pop(job_id, None) is not None:
            self.queue.discard(job_id)

    def in_order(self, waiting: int) -> Iterator[WaitingJob]:
        """Yield the jobs in order, up to the first that may have unread jobs before it.

        `waiting` is the number of jobs in the lane.
        """
        is_whole = waiting == len(self.jobs)
        for order, job_id in self.queue.in_order():
            if not is_whole and (self.read_to is None or order > self.read_to):
                return
            yield self.jobs[job_id]


class KnownLine:
    """The users and jobs in line that are in memory."""

    def __init__(self, *, is_whole: bool = True) -> None:
        """`is_whole`: nothing is stored beyond it, since it was folded from the whole log."""
        self.lanes: dict[Lane, KnownLane] = {}
        self.has_read_kinds = is_whole  # the first stored kinds, for claims of any kind
        self.has_more_kinds = not is_whole  # stored kinds after the last that was read, by name
        self.last_kind = Kind("")  # the last stored kind that was read, by name
        self._users: dict[QueueName, PriorityQueue[UserId, int]] = {}
        # The queues of each kind by where the next lane of each is or may be.
        self._fronts: dict[Kind, PriorityQueue[QueueName, Front]] = {}
        # Sort keys as ints, or math.inf; never converted, since a float would round them.
        self._horizons: dict[QueueName, float] = {}
        self._horizon_of_others = math.inf if is_whole else 0.0
        self._resuming: PriorityQueue[UserId, tuple[int, UserId]] = PriorityQueue()

    def enter(self, job: WaitingJob) -> None:
        lane = (job.user_id, job.queue)
        known = self.lanes.get(lane)
        if known is None:
            known = self.lanes[lane] = KnownLane()
        known.add(job)

    def leave(self, lane: Lane, job_id: JobId) -> None:
        known = self.lanes.get(lane)
        if known is not None:
            known.discard(job_id)

    def place(self, user_id: UserId, queue: QueueName, order: int | None) -> None:
        """Note the sort key of a user who has jobs in the queue; None: none of them may start."""
        users = self._users.get(queue)
        if order is None:
            if users is not None:
                users.discard(user_id)
                self.look_at(queue)
            return
        if users is None:
            users = self._users[queue] = PriorityQueue()
        users.put(user_id, order)
        self.look_at(queue)

    def resume(self, user_id: UserId, at: int | None) -> None:
        """Note when a user's place has to be worked out again; None: at no time."""
        if at is None:
            self._resuming.discard(user_id)
        else:
            self._resuming.put(user_id, (at, user_id))

    def resuming(self, now: int) -> Iterator[UserId]:
        """Yield the users whose places have to be worked out again by now, the earliest first."""
        for (at, user_id), _ in self._resuming.in_order():
            if at > now:
                return
            yield user_id

    def next_resumption(self) -> int | None:
        """Return when the next user's place has to be worked out again; None: not known."""
        return next((at for (at, _), _ in self._resuming.in_order()), None)

    def forget_lane(self, lane: Lane) -> None:
        """Forget a lane without jobs."""
        self.lanes.pop(lane, None)
        users = self._users.get(lane[1])
        if users is not None:
            users.discard(lane[0])
            if not users:
                del self._users[lane[1]]
            self.look_at(lane[1])

    def look_at(self, queue: QueueName) -> None:
        """Have claims of its kind look at a queue, of which lanes are known or may be unread."""
        users = self._users.get(queue)
        first = None if users is None else users.first()
        horizon = self.horizon(queue)
        place = horizon if first is None else min(first, horizon)
        kind = kind_of(queue)
        fronts = self._fronts.get(kind)
        if fronts is None:
            fronts = self._fronts[kind] = PriorityQueue()
        if place < math.inf:
            fronts.put(queue, (place, queue))
        else:
            fronts.discard(queue)

    def fronts_in_order(self, kind: Kind) -> Iterator[Front]:
        """Yield the queues of a kind in the order of their next lanes."""
        fronts = self._fronts.get(kind)
        return iter(()) if fronts is None else (front for front, _ in fronts.in_order())

    def users_in_order(self, queue: QueueName) -> Iterator[tuple[int, UserId]]:
        """Yield (sort key, user) of the known users with jobs in a queue, the next first."""
        users = self._users.get(queue)
        return iter(()) if users is None else users.in_order()

    def horizon(self, queue: QueueName) -> float:
        """Return the sort key after which lanes of the queue may be unread; infinite: none is."""
        return self._horizons.get(queue, self._horizon_of_others)

    def read_users(self, queue: QueueName, up_to: int | None) -> None:
        """Note that all lanes of a queue up to a sort key are known; None: all."""
        self._horizons[queue] = math.inf if up_to is None else up_to
        self.look_at(queue)

    def read_jobs(self, lane: Lane, jobs: Collection[WaitingJob]) -> None:
        """Add the first jobs of a lane."""
        known = self.lanes.get(lane)
        if known is None:
            known = self.lanes[lane] = KnownLane()
        for job in jobs:
            known.add(job)
            if known.read_to is None or job.order > known.read_to:
                known.read_to = job.order
