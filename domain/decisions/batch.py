"""Decides a batch: each command sees the events of those before it.

The commands of a batch waited at the same time, so they may be decided in any order. Claims come
last, after the expiry of waiting jobs, so that the front of the line that was read for them is
enough. Refusals of one user in one window are merged into one event, which comes last, but before
any change of limits: it is recorded under the limits that it was decided by.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import islice
from typing import Final

from domain.access.keys import KEY_EVENTS
from domain.decisions.answers import Answer, Claimed, OutboxTaken
from domain.decisions.decide import decide, expire, tell_child, update_line
from domain.decisions.decision import Decision, NewEvent
from domain.decisions.deliveries import addresses, delivering, is_end
from domain.decisions.write_model import WriteModel
from domain.fairness.known_line import Unread
from domain.jobs.children import UnreadChildren
from domain.language.commands import (
    ClaimJobs,
    Command,
    ReportRefusals,
    SaveProjections,
    SubmitRows,
)
from domain.language.errors import RateLimited, Refusal, without_traceback
from domain.language.events import (
    BodiesErased,
    ClockCorrected,
    LimitChanged,
    PlanDeleted,
    RateLimitDecided,
    Recorded,
    Scope,
)
from domain.language.identifiers import ClaimHash, JobId, KeyName, UserId
from domain.language.moments import to_micros
from domain.language.policy import Policy
from domain.limits.rate_limits import merge_refusals

EXPIRED_PER_BATCH_MAX: Final = 2_000  # jobs that a batch cancels before its claims are served

# Users who are put in line again, likewise: timers wait for such a batch, and the others come with
# the next ones.
USERS_UPDATED_PER_BATCH_MAX: Final = 250

# Children that are told the end of a parent, and how many of one parent are told before those of
# the next, so that none waits behind the hundred thousand of another. The timers come back for the
# rest.
CHILDREN_TOLD_PER_BATCH_MAX: Final = 500
CHILDREN_TOLD_AT_ONCE_MAX: Final = 50
CHILDREN_READS_MAX: Final = 10  # in one batch

# Each read about doubles what is known of the line, so that a few suffice. The bound is for a
# stored line that does not fit its jobs, where no number suffices.
READS_PER_CLAIM_MAX: Final = 50

# Why a row of the outbox is rejected whose decision raised an error.
CRASHED: Final = "This job could not be decided because of a defect; the server's log has it."

# Refusals that came before are recorded before these.
_AFTER_REFUSALS: Final = (LimitChanged, PlanDeleted, *KEY_EVENTS)

# Events that are handed over while the rest of the batch is decided, and of how many jobs a batch
# can be for that. In a smaller one, more statements cost about what is gained.
EVENTS_PER_APPEND: Final = 128
STREAMED_JOBS_MIN: Final = 256

Outcome = Answer | Exception  # a Refusal, or the error of a decision that crashed
Append = Callable[[Sequence[Recorded], Sequence[tuple[int, bytes]]], None]
_Reply = Callable[[WriteModel], Answer] | Exception
# The caller's key, the user, the window and the limit.
_RefusalKey = tuple[KeyName | None, UserId, Scope, datetime, int, int, int]


class Batch:
    """One batch, decided in memory: the events and bodies to append, and an outcome per command."""

    def __init__(
        self,
        model: WriteModel,
        policy: Policy,
        now: datetime,
        look_further: Callable[[Unread | UnreadChildren], None] | None = None,
        append: Append | None = None,
        *,
        is_streamed: bool = True,
    ) -> None:
        """`look_further` loads more that is stored; None: the model has all of it. `append`
        receives all events and bodies of `decide_all` in order: of a large batch that `is_streamed`
        the first while later commands are still to be decided, else all at once.
        """
        self.recorded: list[Recorded] = []
        self.bodies: list[tuple[int, bytes]] = []  # (position, body)
        self.erased: list[int] = []  # positions of bodies to remove
        # Claims that were answered empty and may be repeated, see `domain.jobs.claims`.
        self.empty_claims: list[ClaimHash] = []
        self.now = now
        self._model = model
        self._policy = policy
        self._look_further = look_further
        self._append = append
        self._is_streamed = is_streamed
        self._appended, self._bodies_appended = 0, 0
        self._expired = 0
        self._updated = 0  # users put in line again
        self._told, self._children_reads = 0, 0
        self._ends: list[Recorded] = []  # of jobs whose callbacks are not submitted yet
        self._refusals: dict[_RefusalKey, RateLimitDecided] = {}

    def correct_clock(self, event: ClockCorrected) -> None:
        """Record a clock correction. Comes before all commands: `now` follows from it."""
        self._record(NewEvent(event))

    def decide_all(
        self,
        commands: Sequence[Command | SubmitRows],
        on_crash: Callable[[Command, Exception], None],
    ) -> list[Outcome]:
        """Decide all commands; the outcomes are in the order of the commands.

        `on_crash` is called with an error that is no refusal. Such a command changes nothing.
        """
        self._is_streamed = self._is_streamed and _jobs_max(commands) >= STREAMED_JOBS_MIN
        replies: list[_Reply] = [Refusal()] * len(commands)
        claims = [index for index, one in enumerate(commands) if isinstance(one, ClaimJobs)]
        others = [index for index, one in enumerate(commands) if not isinstance(one, ClaimJobs)]
        # Reports first: those submissions were refused before this batch.
        others.sort(key=lambda index: not isinstance(commands[index], ReportRefusals))
        for index in others:
            command = commands[index]
            if isinstance(command, SubmitRows):
                replies[index] = self._submit_rows(command, on_crash)
            else:
                replies[index] = self._decide(command, on_crash)
            self._stream()
        # A batch that only saves rows records nothing, and its time is not judged.
        tells = not all(isinstance(one, SaveProjections) for one in commands)
        if claims:
            self._expire()
        if tells:
            self._tell_children()
        if claims:
            self._update_line()
        for index in claims:
            claim = commands[index]
            assert isinstance(claim, ClaimJobs)
            replies[index] = self._serve(claim, on_crash)
            self._stream()
        if tells:
            self._tell_children()  # of jobs that have expired meanwhile
        self._record_refusals()
        self._append_from(1)
        return [reply if isinstance(reply, Exception) else reply(self._model) for reply in replies]

    def _stream(self) -> None:
        if self._is_streamed:
            self._append_from(EVENTS_PER_APPEND)

    def _append_from(self, least: int) -> None:
        """Hand over the new events and bodies if there are at least so many events."""
        if self._append is None or len(self.recorded) - self._appended < least:
            return
        self._append(self.recorded[self._appended :], self.bodies[self._bodies_appended :])
        self._appended, self._bodies_appended = len(self.recorded), len(self.bodies)

    def _decide(self, command: Command, on_crash: Callable[[Command, Exception], None]) -> _Reply:
        decision = self._decision(command, on_crash)
        return self._take(decision, command) if isinstance(decision, Decision) else decision

    def _submit_rows(
        self, command: SubmitRows, on_crash: Callable[[Command, Exception], None]
    ) -> _Reply:
        """Decide rows of the outbox. A user's rows after one that is over the limit are left."""
        submitted: list[int] = []
        rejected = list(command.invalid)
        over_limit: dict[UserId | None, float] = {}
        for row_id, submission in command.rows:
            if submission.user_id in over_limit or None in over_limit:
                continue
            match self._decide(submission, on_crash):
                case RateLimited() as refusal:
                    whose = submission.user_id if refusal.scope is Scope.USER else None
                    over_limit[whose] = (refusal.resets_at - self.now).total_seconds()
                case Refusal() as refusal:
                    rejected.append((row_id, str(refusal)))
                case Exception():
                    rejected.append((row_id, CRASHED))
                case _:
                    submitted.append(row_id)
        taken = OutboxTaken(
            submitted, rejected, list(over_limit.items()), is_locked=command.is_locked
        )
        return lambda _: taken

    def _serve(self, command: ClaimJobs, on_crash: Callable[[Command, Exception], None]) -> _Reply:
        """Decide a claim, reading more of the line while it depends on unread rows."""
        decision = self._decision(command, on_crash)
        for _ in range(READS_PER_CLAIM_MAX):
            if isinstance(decision, Exception):
                return decision
            if self._expired >= EXPIRED_PER_BATCH_MAX:  # more may be left, which must not start
                return lambda _: Claimed([], is_cut_short=True)
            if decision.unread is None or self._look_further is None:
                break
            self._look_further(decision.unread)
            self._expire()
            self._update_line()
            decision = self._decision(command, on_crash)
        return decision if isinstance(decision, Exception) else self._take(decision, command)

    def _decision(
        self, command: Command, on_crash: Callable[[Command, Exception], None]
    ) -> Decision | Exception:
        try:
            return decide(self._model, command, self._policy, self.now)
        except Exception as error:  # noqa: BLE001 (one command must not spoil its neighbours)
            on_crash(command, error)
            return without_traceback(error)

    def _expire(self) -> None:
        left = EXPIRED_PER_BATCH_MAX - self._expired
        for expired in islice(expire(self._model, self.now), left):
            self._record(expired)
            self._expired += 1
        self._submit_deliveries()

    def _tell_children(self) -> None:
        """Tell children of ended jobs, which may end thereby and have children themselves."""
        parents = self._model.jobs.ended_parents
        unread: dict[JobId, None] = {}  # more of their children are stored
        while parents and self._told < CHILDREN_TOLD_PER_BATCH_MAX:
            parent = next((one for one in parents if one not in unread), None)
            if parent is None:
                if not self._read_children(list(unread)[:CHILDREN_TOLD_AT_ONCE_MAX]):
                    return
                unread.clear()
                continue
            left = CHILDREN_TOLD_PER_BATCH_MAX - self._told
            children = self._model.jobs.children.next_of(
                parent, min(CHILDREN_TOLD_AT_ONCE_MAX, left)
            )
            for child in children:
                for new in tell_child(self._model, parent, child, self.now):
                    self._record(new)
            self._submit_deliveries()
            self._told += len(children)
            if not children:
                unread[parent] = None
            elif parent in parents:  # it has more: they come behind those of all others
                del parents[parent]
                parents[parent] = None
            self._stream()

    def _read_children(self, parents: Sequence[JobId]) -> bool:
        """Read stored children of these jobs; return False if none can be read."""
        if self._look_further is None or self._children_reads >= CHILDREN_READS_MAX:
            return False
        self._children_reads += 1
        left = CHILDREN_TOLD_PER_BATCH_MAX - self._told
        self._look_further(UnreadChildren(parents, max(1, left // len(parents))))
        jobs = self._model.jobs
        for parent in parents:
            if not jobs.children.next_of(parent, 1):  # the rows are damaged: see `fairlog verify`
                del jobs.ended_parents[parent]
        return True

    def _update_line(self) -> None:
        """Have users in line again before claims are served, whose throttles allow it by now."""
        known = self._model.line.known
        assert known is not None, "claims are decided by this model"
        left = USERS_UPDATED_PER_BATCH_MAX - self._updated
        users = list(islice(known.resuming(to_micros(self.now)), left))
        self._updated += len(users)
        for new in update_line(self._model, users, self.now).new_events:
            self._record(new)
        for user_id in users:  # of whom nothing changed, or later again
            known.resume(user_id, self._model.line.users[user_id].resumes_at)

    def _take(self, decision: Decision, command: Command) -> _Reply:
        name = command.key_name
        for decided in decision.new_events:
            new = decided if name is None else decided.caused_by(name)
            if isinstance(new.event, RateLimitDecided) and not new.event.allowed:
                self._merge_refusal(new.event)
            else:
                if isinstance(new.event, _AFTER_REFUSALS):
                    self._record_refusals()
                self._record(new)
        self._submit_deliveries()
        if decision.empty_claim is not None:
            self.empty_claims.append(decision.empty_claim)
            self._model.jobs.claims.know(decision.empty_claim, to_micros(self.now))
        return decision.reply

    def _merge_refusal(self, refused: RateLimitDecided) -> None:
        key = (
            refused.by,
            refused.user_id,
            refused.scope,
            refused.window_start,
            refused.window_seconds,
            refused.used,
            refused.limit,
        )
        earlier = self._refusals.get(key)
        self._refusals[key] = (
            refused if earlier is None else merge_refusals(earlier, refused, self.now)
        )

    def _record_refusals(self) -> None:
        for refused in self._refusals.values():
            self._record(NewEvent(refused))
        self._refusals.clear()

    def _record(self, new: NewEvent) -> None:
        recorded = Recorded(self._model.position + 1, self.now, new.job_id, new.event)
        self.recorded.append(recorded)
        if new.body is not None:
            self.bodies.append((recorded.position, new.body.data))
        if type(new.event) is BodiesErased:
            self.erased.extend(new.event.positions)
        self._model.evolve(recorded)
        if is_end(new.event):
            self._ends.append(recorded)

    def _submit_deliveries(self) -> None:
        """Submit what tells the ends of jobs, after the events of the decision that ended them."""
        if not self._ends:
            return
        ends, self._ends = self._ends, []
        for end in ends:
            assert end.job_id is not None, end
            job = self._model.jobs.rows[end.job_id]
            for url, callback in addresses(self._model.callbacks, job):
                job_id = JobId(self._model.position + 1)
                self._record(delivering(job, end, url, callback, job_id))


def _jobs_max(commands: Sequence[Command | SubmitRows]) -> int:
    """Return an estimate of how many jobs a batch changes at most."""
    jobs_max = 0
    for command in commands:
        match command:
            case ClaimJobs(max_jobs=most):
                jobs_max += most
            case SubmitRows(rows=rows):
                jobs_max += len(rows)
            case _:
                jobs_max += 1
    return jobs_max
