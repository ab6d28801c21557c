"""The line: the users with waiting jobs, ordered by their turns.

A user's turn is `last_served`, the position of their latest JobStarted; for a user never served, it
is the position at which they joined the line. If new users came first, a stream of new ids would
starve everybody else. A *lane* is one user's waiting jobs of one kind.

A user at their cap of running jobs is not in the line until one of them ends, so that they block
nobody. A plan's cap reaches each of its users with the next event of theirs.
"""

from typing import ClassVar, Final

from msgspec import Struct
from msgspec.structs import replace

from domain.fairness.known_line import KnownLine, Lane, WaitingJob
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
from domain.language.identifiers import Kind, UserId
from domain.limits.limits import LimitSettings
from domain.log.folds import Folded, FoldMethods


class UserInLine(Struct, frozen=True, gc=False):
    """The state of one user. Kept when nothing waits, because of `last_served`."""

    last_served: int | None = None  # position of the latest JobStarted
    joined: int | None = None  # position at which a never served user joined; None when not waiting
    waiting: int = 0  # jobs
    running: int = 0  # attempts, with those that are ending, see `Job.ending`
    running_limit: int | None = None  # cap on `running`, their own or their plan's; None: no cap

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


_NOBODY: Final = UserInLine()
_IDLE: Final = KindInLine()


class Line(Folded):
    """The users, lanes and kinds of the line that are in memory."""

    def __init__(self, known: KnownLine | None = None, limits: LimitSettings | None = None) -> None:
        """`known` keeps the order in which claims are served; None: none is decided by it.

        An event is folded into `limits` before the line.
        """
        self.known = known
        self.limits = LimitSettings() if limits is None else limits
        self.users: dict[UserId, UserInLine] = {}
        self.lanes: dict[UserId, dict[Kind, int]] = {}  # jobs waiting
        self.stored_lanes: set[Lane] = set()  # that have a row
        self.kinds: dict[Kind, KindInLine] = {}
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
                limited = replace(user, running_limit=self.limits.of_user(user_id).running)
                self.users[user_id] = limited
                if user.turn != limited.turn:
                    self._place_everywhere(user_id, limited.turn)
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
        if self.known is not None:
            self.known.enter(WaitingJob(job_id, user_id, kind, priority, is_suspect))
        self._move(user_id, kind, 1, running, joined=recorded.position)

    def _leave(self, recorded: Recorded, user_id: UserId, kind: Kind) -> None:
        job_id = recorded.job_id
        assert job_id is not None
        if self.known is not None:
            self.known.leave((user_id, kind), job_id)

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
        in_lane = 0
        if waiting:
            lanes = self.lanes.get(user_id)
            if lanes is None:
                lanes = self.lanes[user_id] = {}
            in_lane = lanes[kind] = lanes.get(kind, 0) + waiting
            self.changed_lanes.add((user_id, kind))
        before = self.users.get(user_id, _NOBODY)
        self.changed_users.setdefault(user_id, before)
        last_served = before.last_served if served is None else served
        now_waiting = before.waiting + waiting
        if last_served is not None or now_waiting == 0:
            joined = None
        elif before.waiting > 0:
            joined = before.joined
        after = UserInLine(
            last_served,
            joined,
            now_waiting,
            before.running + running,
            self.limits.of_user(user_id).running,
        )
        self.users[user_id] = after
        if self.known is not None:
            turn = after.turn
            if turn != before.turn:
                self._place_everywhere(user_id, turn)
            elif in_lane == 1:  # it may be the first
                self.known.place(user_id, kind, turn)
            if waiting and not in_lane:
                self.known.forget_lane((user_id, kind))
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

    def has_read(self, user_id: UserId) -> None:
        """Take a user with all their lanes, whose rows were read, into the order of the line."""
        user = self.users.get(user_id)
        if user is not None:
            self._place_everywhere(user_id, user.turn)

    def _place_everywhere(self, user_id: UserId, turn: int | None) -> None:
        if self.known is not None:
            for kind, waiting in self.lanes.get(user_id, {}).items():
                self.known.place(user_id, kind, turn if waiting else None)

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

    def kinds_in_line(self) -> list[Kind]:
        """Return the kinds in memory that have waiting jobs."""
        return [kind for kind, load in self.kinds.items() if load.waiting]

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

    def kinds_waiting(self, user_id: UserId) -> set[Kind]:
        return {kind for kind, waiting in self.lanes.get(user_id, {}).items() if waiting}
