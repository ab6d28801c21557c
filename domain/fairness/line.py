"""The line: the users with waiting jobs, ordered by their turns.

A user's turn is `last_served`, the position of their latest JobStarted; for a user never served, it
is the position at which they joined the line. If new users came first, a stream of new ids would
starve everybody else. A *lane* is one user's waiting jobs of one kind.

A user at their cap of running jobs is not in the line until one of them ends, so that they block
nobody.
"""

from typing import ClassVar, Final

from msgspec import Struct
from msgspec.structs import replace

from domain.jobs.job_fold import is_due
from domain.language.events import (
    AttemptEnded,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    LimitChanged,
    Recorded,
    RequeueReason,
    Scope,
)
from domain.language.identifiers import JobId, Kind, UserId
from domain.log.folds import Folded, FoldMethods

Lane = tuple[UserId, Kind]


class UserInLine(Struct, frozen=True, gc=False):
    """The state of one user. Kept when nothing waits, because of `last_served`."""

    last_served: int | None = None  # position of the latest JobStarted
    joined: int | None = None  # position at which a never served user joined; None when not waiting
    waiting: int = 0  # jobs
    running: int = 0  # attempts, with those that are ending, see `Job.ending`
    running_limit: int | None = None  # cap on `running`; None: no cap

    @property
    def turn(self) -> int | None:
        """A log position, unique per user; the lowest is served first. None: not in the line."""
        if self.waiting == 0 or self.is_capped:
            return None
        return self.joined if self.last_served is None else self.last_served

    @property
    def is_capped(self) -> bool:
        return self.running_limit is not None and self.running >= self.running_limit


class KindInLine(Struct, frozen=True, gc=False):
    """The state of one kind, over all users."""

    waiting: int = 0  # jobs
    running: int = 0  # attempts, with those that are ending
    running_limit: int | None = None  # cap on `running`; None: no cap

    @property
    def is_capped(self) -> bool:
        return self.running_limit is not None and self.running >= self.running_limit


class WaitingJob(Struct, frozen=True, gc=False):
    """A queued job, as far as its order needs."""

    job_id: JobId
    user_id: UserId
    kind: Kind
    priority: int
    is_suspect: bool = False  # claimed alone, see `JobStarted.alone`

    @property
    def order(self) -> tuple[int, int]:
        """Order among the user's own jobs: higher priority first, then the older job."""
        return (-self.priority, self.job_id)


class Unread(Struct, frozen=True, kw_only=True):
    """Rows of the stored line that a claim depends on and that have not been read."""

    jobs: int  # that the claim can still take
    kinds: frozenset[Kind] = frozenset()  # with unread lanes beyond the horizon
    lanes: frozenset[Lane] = frozenset()  # with unread jobs
    more_kinds: bool = False  # the claim takes any kind, and there are unread kinds


class Lookahead(Struct, gc=False):
    """The front of the stored line, as far as it was read for the claims of a batch."""

    kinds: tuple[Kind, ...] = ()  # with waiting jobs, for claims of any kind
    has_more_kinds: bool = False  # there are unread kinds after the last, by name
    users: set[UserId] = set()  # whose lanes were read
    horizon: dict[Kind, int] = {}  # the turn after which lanes of the kind may be unread
    queues: dict[Lane, list[WaitingJob]] = {}  # the front of each lane, in order


_NOBODY: Final = UserInLine()
_IDLE: Final = KindInLine()


class Line(Folded):
    """The users, lanes and kinds of the line that are in memory."""

    def __init__(self, *, is_served: bool = True) -> None:
        """`is_served`: claims are decided by it, so jobs that enter and leave are tracked."""
        self._is_served = is_served
        self.users: dict[UserId, UserInLine] = {}
        self.lanes: dict[UserId, dict[Kind, int]] = {}  # jobs waiting
        self.stored_lanes: set[Lane] = set()  # that have a row
        self.kinds: dict[Kind, KindInLine] = {}
        self.entered: dict[Lane, dict[JobId, WaitingJob]] = {}  # since the rows were read
        self.left: set[JobId] = set()  # stored jobs that left since the rows were read
        self.ahead = Lookahead()
        self.changed_users: dict[UserId, UserInLine] = {}  # with their stored state
        self.changed_lanes: set[Lane] = set()  # with another number of waiting jobs
        self.changed_kinds: set[Kind] = set()

    def _submitted(self, recorded: Recorded, event: JobSubmitted) -> None:
        if is_due(event, recorded.recorded_at):
            self._enter(recorded, event.user_id, event.kind, event.priority)

    def _released(self, recorded: Recorded, event: JobReleased) -> None:
        self._enter(recorded, event.user_id, event.kind, event.priority)

    def _started(self, recorded: Recorded, event: JobStarted) -> None:
        self._leave(recorded, event.user_id, event.kind)
        self._move(event.user_id, event.kind, -1, 1, served=recorded.position)

    def _ended(self, _: Recorded, event: JobCompleted | AttemptEnded) -> None:
        self._move(event.user_id, event.kind, 0, -1)

    def _failed(self, _: Recorded, event: JobFailed) -> None:
        if not event.holds_place:
            self._move(event.user_id, event.kind, 0, -1)

    def _requeued(self, recorded: Recorded, event: JobRequeued) -> None:
        ran = event.reason is not RequeueReason.RETRIED
        self._enter(
            recorded,
            event.user_id,
            event.kind,
            event.priority,
            -1 if ran else 0,
            is_suspect=event.suspect,
        )

    def _cancelled(self, recorded: Recorded, event: JobCancelled) -> None:
        if event.was == "queued":
            self._leave(recorded, event.user_id, event.kind)
            self._move(event.user_id, event.kind, -1, 0)
        elif event.was == "running" and event.attempt is None:
            self._move(event.user_id, event.kind, 0, -1)

    def _limited(self, _: Recorded, event: LimitChanged) -> None:
        match event:
            case LimitChanged(scope=Scope.USER, user_id=str(user_id)):
                user = self.users.get(user_id, _NOBODY)
                self.changed_users.setdefault(user_id, user)
                self.users[user_id] = replace(user, running_limit=event.running)
            case LimitChanged(scope=Scope.KIND, kind=str(kind)):
                load = self.kinds.get(kind, _IDLE)
                self.kinds[kind] = replace(load, running_limit=event.running)
                self.changed_kinds.add(kind)
            case _:
                pass

    def _enter(
        self,
        recorded: Recorded,
        user_id: UserId,
        kind: Kind,
        priority: int,
        running: int = 0,
        *,
        is_suspect: bool = False,
    ) -> None:
        job_id = recorded.job_id
        assert job_id is not None
        if self._is_served:
            entered = self.entered.setdefault((user_id, kind), {})
            entered[job_id] = WaitingJob(job_id, user_id, kind, priority, is_suspect)
        self._move(user_id, kind, 1, running, joined=recorded.position)

    def _leave(self, recorded: Recorded, user_id: UserId, kind: Kind) -> None:
        job_id = recorded.job_id
        assert job_id is not None
        if self._is_served:
            entered = self.entered.get((user_id, kind))
            if entered is None or entered.pop(job_id, None) is None:
                self.left.add(job_id)

    def _move(
        self,
        user_id: UserId,
        kind: Kind,
        waiting: int,
        running: int,
        *,
        joined: int | None = None,
        served: int | None = None,
    ) -> None:
        """Add to the numbers of waiting and running jobs of the user, the lane and the kind."""
        if waiting:
            lanes = self.lanes.get(user_id)
            if lanes is None:
                lanes = self.lanes[user_id] = {}
            lanes[kind] = lanes.get(kind, 0) + waiting
            self.changed_lanes.add((user_id, kind))
        before = self.users.get(user_id, _NOBODY)
        self.changed_users.setdefault(user_id, before)
        last_served = before.last_served if served is None else served
        now_waiting = before.waiting + waiting
        if last_served is not None or now_waiting == 0:
            joined = None
        elif before.waiting > 0:
            joined = before.joined
        self.users[user_id] = UserInLine(
            last_served, joined, now_waiting, before.running + running, before.running_limit
        )
        load = self.kinds.get(kind, _IDLE)
        self.kinds[kind] = KindInLine(
            load.waiting + waiting, load.running + running, load.running_limit
        )
        self.changed_kinds.add(kind)

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
    }

    def forget_queues(self) -> None:
        """Forget the jobs that entered and left since the rows were read: only claims use them."""
        self.entered.clear()
        self.left.clear()

    def lanes_to_write(self) -> set[Lane]:
        """Return the changed lanes, and all lanes of users whose turn changed: their rows have it,
        as a key.
        """
        return self.changed_lanes.union(
            (user_id, kind)
            for user_id, before in self.changed_users.items()
            if before.turn != self.users[user_id].turn
            for kind in self.lanes.get(user_id, ())
        )

    def kinds_in_line(self) -> set[Kind]:
        """Return the kinds that a claim of any kind considers.

        These are the kinds that were read, and those whose waiting jobs all entered since.
        """
        entered: dict[Kind, int] = {}
        for (_, kind), jobs in self.entered.items():
            entered[kind] = entered.get(kind, 0) + len(jobs)
        new = {kind for kind, jobs in entered.items() if self.kinds[kind].waiting == jobs}
        return new.union(self.ahead.kinds)

    def kinds_waiting(self, user_id: UserId) -> set[Kind]:
        return {kind for kind, waiting in self.lanes.get(user_id, {}).items() if waiting}
