"""The line: the users with waiting jobs, in the order in which they are served.

Users are served by pass, the lowest first, so that users with different weights are served in
proportion to them (`domain.fairness.strides`). Among equal passes the oldest turn is first. A
user's turn is `last_served`, the position of their latest JobStarted; for a user never served, it
is the position at which they joined the line. If new users came first, a stream of new ids would
starve everybody else.

A user of whom nothing may start now, because of a pause, a cap of running jobs or a throttle, is
not in the line, so that they block nobody. The same holds for the jobs of one kind of a user. They
return with the event that ends the cause; where time or a change of a plan ends it, with a
LineUpdated. Limits of kinds and resources hold for all users: a claim looks at them
(`domain.fairness.serve`).
"""

from datetime import datetime
from typing import ClassVar, Final

from msgspec import Struct
from msgspec.structs import replace

from domain.fairness.known_line import KnownLine, WaitingJob
from domain.fairness.queues import SEPARATOR, Lane, QueueName, kind_of, queue_of, resources_of
from domain.fairness.start_limits import NO_STARTS, Starts, counted, resumes_at, startable
from domain.fairness.strides import next_pass, order_of
from domain.jobs.job_fold import is_due
from domain.language.events import (
    AttemptEnded,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobMove,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    LimitChanged,
    LineUpdated,
    PlanDeleted,
    Recorded,
    RequeueReason,
)
from domain.language.identifiers import Kind, PlanName, ResourceName, UserId
from domain.language.moments import to_micros
from domain.limits.limits import Limits, LimitSettings, Subject
from domain.log.folds import Folded, FoldMethods


class Load(Struct, frozen=True, gc=False):
    """The jobs of one lane, kind or resource that wait or run."""

    waiting: int = 0  # jobs
    running: int = 0  # attempts, with those that are ending, see `Job.ending`

    def plus(self, waiting: int, running: int) -> "Load":
        return Load(self.waiting + waiting, self.running + running)


class UserInLine(Struct, frozen=True, gc=False):
    """The state of one user. It is kept when nothing waits, because of its turn and pass."""

    last_served: int | None = None  # position of the latest JobStarted
    # Position at which a user joined. None once served, or while nothing waits.
    joined: int | None = None
    waiting: int = 0  # jobs
    running: int = 0  # attempts, with those that are ending
    pass_: int = 0  # see `domain.fairness.strides`
    is_held: bool = False  # of a waiting user: nothing may start by their limits
    # Earliest end of a throttle window that alone holds back the user, or one of their kinds; else
    # None. Unix time in microseconds.
    resumes_at: int | None = None

    @property
    def turn(self) -> int | None:
        """A log position, unique per user. None: not in the line."""
        if self.waiting == 0 or self.is_held:
            return None
        return self.joined if self.last_served is None else self.last_served

    @property
    def order(self) -> int | None:
        """The sort key in the line; the lowest is served first. None: not in the line."""
        turn = self.turn
        return None if turn is None else order_of(self.pass_, turn)


_NOBODY: Final = UserInLine()
NO_JOBS: Final = Load()
_NO_KINDS: Final[frozenset[Kind]] = frozenset()


class Line(Folded):
    """The users, lanes, queues, kinds and resources of the line that are in memory."""

    def __init__(self, known: KnownLine | None = None, limits: LimitSettings | None = None) -> None:
        """`known` keeps the order in which claims are served; None: no claims are decided by
        this line.

        An event is folded into `limits` before the line.
        """
        self.known = known
        self.limits = LimitSettings() if limits is None else limits
        self.virtual_time = 0  # the highest pass that was served
        self.has_virtual_time = known is None or known.has_read_kinds  # else a row has it
        self.has_new_virtual_time = False  # since it was stored
        self.users: dict[UserId, UserInLine] = {}
        self.lanes: dict[UserId, dict[QueueName, Load]] = {}
        self.held_kinds: dict[UserId, frozenset[Kind]] = {}  # of users in line; no empty ones
        self.stored_lanes: set[Lane] = set()  # that have a row
        self.kinds: dict[Kind, Load] = {}
        self.queues: dict[Kind, dict[QueueName, int]] = {}  # jobs waiting; those with resources
        self.resources: dict[ResourceName, Load] = {}
        self.waiting_for: dict[ResourceName, dict[Kind, int]] = {}  # jobs waiting; no zeros
        self.starts: dict[Subject, Starts] = {}  # of subjects with a throttle
        self.changed_users: dict[UserId, UserInLine] = {}  # with their stored state
        self.changed_lanes: set[Lane] = set()
        self.changed_kinds: set[Kind] = set()
        self.changed_queues: set[QueueName] = set()
        self.changed_resources: set[ResourceName] = set()
        self.changed_starts: set[Subject] = set()

    def _submitted(self, recorded: Recorded, event: JobSubmitted) -> None:
        if is_due(event, recorded.recorded_at):
            self._enter(recorded, event)

    def _released(self, recorded: Recorded, event: JobReleased) -> None:
        self._enter(recorded, event)

    def _started(self, recorded: Recorded, event: JobStarted) -> None:
        self._leave(recorded, event)
        self._count_start(event, to_micros(recorded.recorded_at))
        self._move(recorded, event, -1, 1)

    def _ended(self, recorded: Recorded, event: JobCompleted | AttemptEnded) -> None:
        self._move(recorded, event, 0, -1)

    def _failed(self, recorded: Recorded, event: JobFailed) -> None:
        if event.ran and not event.holds_place:
            self._move(recorded, event, 0, -1)

    def _requeued(self, recorded: Recorded, event: JobRequeued) -> None:
        if event.waits:
            return
        ran = event.reason is not RequeueReason.RETRIED
        self._enter(recorded, event, -1 if ran else 0, is_suspect=event.suspect)

    def _cancelled(self, recorded: Recorded, event: JobCancelled) -> None:
        if event.was == "queued":
            self._leave(recorded, event)
            self._move(recorded, event, -1, 0)
        elif event.was == "running" and event.attempt is None:
            self._move(recorded, event, 0, -1)

    def _limited(self, recorded: Recorded, event: LimitChanged) -> None:
        if event.user_id is not None:
            self._look_again(event.user_id, recorded.recorded_at)
        elif event.plan is not None:
            self._look_soon(event.plan, recorded.recorded_at)

    def _plan_deleted(self, recorded: Recorded, event: PlanDeleted) -> None:
        self._look_soon(event.plan, recorded.recorded_at)

    def _updated(self, recorded: Recorded, event: LineUpdated) -> None:
        for user_id in event.users:
            self._look_again(user_id, recorded.recorded_at)

    def _enter(
        self,
        recorded: Recorded,
        event: JobSubmitted | JobReleased | JobRequeued,
        running: int = 0,
        *,
        is_suspect: bool = False,
    ) -> None:
        job_id = recorded.job_id
        assert job_id is not None
        if self.known is not None:
            self.known.enter(
                WaitingJob(
                    job_id, event.user_id, event.kind, event.priority, is_suspect, event.resources
                )
            )
        self._move(recorded, event, 1, running)

    def _leave(self, recorded: Recorded, event: JobStarted | JobCancelled) -> None:
        job_id = recorded.job_id
        assert job_id is not None
        if self.known is not None:
            self.known.leave((event.user_id, queue_of(event.kind, event.resources)), job_id)

    def _move(self, recorded: Recorded, event: JobMove, waiting: int, running: int) -> None:
        """Add to the numbers of waiting and running jobs of all that the job belongs to."""
        user_id, kind = event.user_id, event.kind
        queue = queue_of(kind, event.resources)
        lanes = self.lanes.get(user_id)
        if lanes is None:
            lanes = self.lanes[user_id] = {}
        lane = lanes[queue] = lanes.get(queue, NO_JOBS).plus(waiting, running)
        self.changed_lanes.add((user_id, queue))
        self.kinds[kind] = self.kinds.get(kind, NO_JOBS).plus(waiting, running)
        self.changed_kinds.add(kind)
        if event.resources:
            self._move_resources(kind, queue, event.resources, waiting, running)
        before = self.users.get(user_id, _NOBODY)
        is_start = type(event) is JobStarted
        after = self._moved(user_id, before, recorded.position, waiting, running, is_start=is_start)
        self._put(user_id, before, after, recorded.recorded_at)
        if waiting and self.known is not None:
            if not lane.waiting:
                self.known.forget_lane((user_id, queue))
            elif lane.waiting == 1:  # it may be the first
                self._place(user_id, queue, self.users[user_id].order)

    def _moved(
        self,
        user_id: UserId,
        user: UserInLine,
        position: int,
        waiting: int,
        running: int,
        *,
        is_start: bool,
    ) -> UserInLine:
        """Return the user's numbers, turn and pass after the move of a job."""
        last_served, joined, pass_ = user.last_served, user.joined, user.pass_
        now_waiting = user.waiting + waiting
        if is_start:
            last_served = position
            if pass_ > self.virtual_time:
                self.virtual_time, self.has_new_virtual_time = pass_, True
            pass_ = next_pass(self.virtual_time, self.limits.of_user(user_id).weight)
        if last_served is not None or now_waiting == 0:
            joined = None
        elif user.waiting == 0:
            joined = position
            pass_ = next_pass(self.virtual_time, self.limits.of_user(user_id).weight)
        return UserInLine(last_served, joined, now_waiting, user.running + running, pass_)

    def _move_resources(
        self,
        kind: Kind,
        queue: QueueName,
        resources: tuple[ResourceName, ...],
        waiting: int,
        running: int,
    ) -> None:
        for resource in resources:
            self.resources[resource] = self.resources.get(resource, NO_JOBS).plus(waiting, running)
        self.changed_resources.update(resources)
        if waiting:
            self._count_in_queue(kind, queue, waiting)
            self.changed_queues.add(queue)
            if self.known is not None and not self.queues[kind][queue]:
                self.known.read_users(queue, None)

    def _count_in_queue(self, kind: Kind, queue: QueueName, waiting: int) -> None:
        queues = self.queues.setdefault(kind, {})
        queues[queue] = queues.get(queue, 0) + waiting
        for resource in resources_of(queue):
            kinds = self.waiting_for.setdefault(resource, {})
            kinds[kind] = kinds.get(kind, 0) + waiting
            if not kinds[kind]:
                del kinds[kind]
                if not kinds:
                    del self.waiting_for[resource]

    def _count_start(self, event: JobStarted, now: int) -> None:
        """Count a start in the windows of all throttles that it is under."""
        user_id, kind, limits = event.user_id, event.kind, self.limits
        self._count(Subject(user_id), limits.of_user(user_id), now)
        self._count(Subject(user_id, kind), limits.of_user_kind(user_id, kind), now)
        self._count(Subject(kind=kind), limits.of_kind(kind), now)
        for resource in event.resources:
            self._count(Subject(resource=resource), limits.of_resource(resource), now)

    def _count(self, subject: Subject, limits: Limits, now: int) -> None:
        if limits.throttle is not None:
            self.starts[subject] = counted(limits, self.starts_of(subject), now)
            self.changed_starts.add(subject)

    def _look_again(self, user_id: UserId, at: datetime) -> None:
        """Put a user in line again, by their limits and the time."""
        user = self.users.get(user_id)
        if user is not None:
            self._put(user_id, user, replace(user, is_held=False, resumes_at=None), at)

    def _look_soon(self, plan: PlanName, at: datetime) -> None:
        """Have the users in memory updated whose places have changed with a plan."""
        if self.known is not None:
            for user_id, user in self.users.items():
                on_plan = user.waiting and self.limits.plan_of(user_id) == plan
                if on_plan and self.is_stale(user_id, to_micros(at)):
                    self.known.resume(user_id, 0)

    def is_stale(self, user_id: UserId, now: int) -> bool:
        """Return True if a LineUpdated would change whether jobs of the user may start."""
        user = self.users.get(user_id, _NOBODY)
        held_kinds = self.held_kinds.get(user_id, _NO_KINDS)
        return self._holds(user_id, user, now) != (user.is_held, held_kinds, user.resumes_at)

    def _put(self, user_id: UserId, before: UserInLine, after: UserInLine, at: datetime) -> None:
        """Set the state of a user, as far as their limits allow, and their place in the order."""
        self.changed_users.setdefault(user_id, before)
        held_kinds = _NO_KINDS
        if self.limits.has_limits(user_id):
            is_held, held_kinds, resumes = self._holds(user_id, after, to_micros(at))
            if is_held or resumes is not None:
                after = replace(after, is_held=is_held, resumes_at=resumes)
        self.users[user_id] = after
        has_other_kinds = held_kinds != self.held_kinds.get(user_id, _NO_KINDS)
        if has_other_kinds:
            self.changed_lanes.update((user_id, queue) for queue in self.lanes.get(user_id, ()))
            if held_kinds:
                self.held_kinds[user_id] = held_kinds
            else:
                del self.held_kinds[user_id]
        if has_other_kinds or after.turn != before.turn:
            self._place_everywhere(user_id)
        if after.resumes_at != before.resumes_at and self.known is not None:
            self.known.resume(user_id, after.resumes_at)

    def _holds(
        self, user_id: UserId, user: UserInLine, now: int
    ) -> tuple[bool, frozenset[Kind], int | None]:
        """Return whether a user is held back, else which of their kinds are, and until when."""
        if not user.waiting:
            return False, _NO_KINDS, None
        limits = self.limits.of_user(user_id)
        if startable(limits, user.running, self.starts_of(Subject(user_id)), now) <= 0:
            return True, _NO_KINDS, resumes_at(limits, user.running, now)
        held: dict[Kind, int | None] = {}
        for kind, own in self.limits.user_kinds.get(user_id, {}).items():
            load = self.load_of(user_id, kind)
            starts = self.starts_of(Subject(user_id, kind))
            if load.waiting and startable(own, load.running, starts, now) <= 0:
                held[kind] = resumes_at(own, load.running, now)
        times = [at for at in held.values() if at is not None]
        return False, frozenset(held), min(times, default=None)

    def starts_of(self, subject: Subject) -> Starts:
        return self.starts.get(subject, NO_STARTS)

    def load_of(self, user_id: UserId, kind: Kind) -> Load:
        """Return the jobs of one kind of a user."""
        total = NO_JOBS
        for queue, lane in self.lanes.get(user_id, {}).items():
            if kind_of(queue) == kind:
                total = total.plus(lane.waiting, lane.running)
        return total

    FOLDS: ClassVar[FoldMethods] = {
        JobSubmitted: _submitted,
        JobReleased: _released,
        JobStarted: _started,
        JobCompleted: _ended,
        JobFailed: _failed,
        AttemptEnded: _ended,
        JobRequeued: _requeued,
        JobCancelled: _cancelled,
        LimitChanged: _limited,
        PlanDeleted: _plan_deleted,
        LineUpdated: _updated,
    }

    def read_lane(self, lane: Lane, load: Load, *, is_in_line: bool) -> None:
        """Take the row of a lane, after that of its user."""
        user_id, queue = lane
        self.lanes.setdefault(user_id, {})[queue] = load
        self.stored_lanes.add(lane)
        if load.waiting and not is_in_line and not self.users.get(user_id, _NOBODY).is_held:
            held_kinds = self.held_kinds.get(user_id, _NO_KINDS)
            self.held_kinds[user_id] = held_kinds | {kind_of(queue)}

    def put_lane(self, lane: Lane, load: Load) -> None:
        """Take a lane with its queue and resources, where all lanes are put into memory."""
        user_id, queue = lane
        self.lanes.setdefault(user_id, {})[queue] = load
        for name in resources_of(queue):
            before = self.resources.get(name, NO_JOBS)
            self.resources[name] = before.plus(load.waiting, load.running)
        if load.waiting and SEPARATOR in queue:
            self._count_in_queue(kind_of(queue), queue, load.waiting)

    def read_queue(self, queue: QueueName, waiting: int) -> None:
        """Take the row of a queue with resources."""
        self._count_in_queue(kind_of(queue), queue, waiting)
        if self.known is not None:
            self.known.look_at(queue)

    def has_read(self, user_id: UserId) -> None:
        """Take a user with all their lanes, whose rows were read, into the order of the line."""
        user = self.users.get(user_id)
        if user is not None:
            self._place_everywhere(user_id)
            if user.resumes_at is not None and self.known is not None:
                self.known.resume(user_id, user.resumes_at)

    def _place_everywhere(self, user_id: UserId) -> None:
        if self.known is not None:
            order = self.users[user_id].order
            for queue, lane in self.lanes.get(user_id, {}).items():
                self._place(user_id, queue, order if lane.waiting else None)

    def _place(self, user_id: UserId, queue: QueueName, order: int | None) -> None:
        assert self.known is not None
        held_kinds = self.held_kinds.get(user_id)
        is_held = held_kinds is not None and kind_of(queue) in held_kinds
        self.known.place(user_id, queue, None if is_held else order)

    def order_of_lane(self, lane: Lane) -> int | None:
        """Return the sort key of a user's lane; None: nothing of it may start."""
        user_id, queue = lane
        if kind_of(queue) in self.held_kinds.get(user_id, ()):
            return None
        return self.users[user_id].order if self.lanes[user_id][queue].waiting else None

    def lanes_to_write(self) -> set[Lane]:
        """Return the changed lanes, and all lanes of users whose turn changed.

        The rows of lanes have the sort key of the user (pass, then turn), which changes with the
        turn.
        """
        return self.changed_lanes.union(
            (user_id, queue)
            for user_id, before in self.changed_users.items()
            if before.turn != self.users[user_id].turn
            for queue in self.lanes.get(user_id, ())
        )

    def forget_changes(self) -> None:
        """Forget which rows differ from the stored ones."""
        self.has_new_virtual_time = False
        self.changed_users.clear()
        self.changed_lanes.clear()
        self.changed_kinds.clear()
        self.changed_queues.clear()
        self.changed_resources.clear()
        self.changed_starts.clear()

    def size(self) -> int:
        """Return the number of users, kinds and resources in memory."""
        return len(self.users) + len(self.kinds) + len(self.resources)

    def evict(self) -> None:
        """Drop all that is in memory of a line without claims, whose rows are written."""
        assert self.known is None, "the order of the line would stay"
        self.users.clear()
        self.lanes.clear()
        self.stored_lanes.clear()
        self.held_kinds.clear()
        self.kinds.clear()
        self.queues.clear()
        self.waiting_for.clear()
        self.resources.clear()
        self.starts.clear()

    def forget_idle(self) -> None:
        """Forget what only a writer needs: changes; lanes, queues, resources without jobs."""
        for user_id, queue in self.changed_lanes:
            lanes = self.lanes.get(user_id, {})
            if lanes.get(queue, NO_JOBS) == NO_JOBS:
                lanes.pop(queue, None)
                if not lanes:
                    self.lanes.pop(user_id, None)
        for queue in self.changed_queues:
            queues = self.queues[kind_of(queue)]
            if not queues.get(queue):
                queues.pop(queue, None)
        for name in self.changed_resources:
            if self.resources[name] == NO_JOBS:
                del self.resources[name]
        self.forget_changes()

    def kinds_in_line(self) -> list[Kind]:
        """Return the kinds in memory that have waiting jobs."""
        return [kind for kind, load in self.kinds.items() if load.waiting]

    def resources_used(self, kind: Kind) -> set[ResourceName]:
        """Return the resources in memory that waiting jobs of a kind use."""
        return {name for queue in self.queues.get(kind, ()) for name in resources_of(queue)}

    def kinds_using(self, resource: ResourceName) -> list[Kind]:
        """Return the kinds in memory of which jobs that use a resource wait."""
        return list(self.waiting_for.get(resource, ()))

    @property
    def has_read_kinds(self) -> bool:
        """True if claims of any kind can be decided by the kinds in memory, see
        `has_more_kinds`.
        """
        return self.known is None or self.known.has_read_kinds

    @property
    def has_more_kinds(self) -> bool:
        """True if kinds with waiting jobs may not be in memory."""
        return self.known is not None and self.known.has_more_kinds

    def lanes_waiting(self, user_id: UserId) -> list[QueueName]:
        """Return the queues in which jobs of a user wait."""
        return [queue for queue, lane in self.lanes.get(user_id, {}).items() if lane.waiting]

    def kinds_waiting(self, user_id: UserId) -> set[Kind]:
        return set(map(kind_of, self.lanes_waiting(user_id)))
