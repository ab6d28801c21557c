"""Folding a batch: each command is decided against what those before it did.

Commands of one batch were waiting at the same time, so their order is ours to choose: claims come
last, so that they can be answered from the front of the line that was read for them, behind the
expiry of those in it whose time is over. Refusals of one user in one window are put together into
one event behind everything else, but before other limits: a refusal stands where it was right.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from msgspec.structs import replace

from domain.decisions.decide import Answer, Claimed, Decision, NewEvent, decide, expire
from domain.decisions.write_model import WriteModel
from domain.fairness.line import Unread
from domain.language.commands import ClaimJobs, Command, ReportRefusals
from domain.language.errors import Refusal, without_traceback
from domain.language.events import ClockCorrected, LimitChanged, RateLimitDecided, Recorded, Scope
from domain.language.identifiers import ClaimHash, UserId
from domain.language.moments import to_micros
from domain.language.policy import Policy
from domain.limits.rate_limits import merge_refusals

EXPIRED_PER_BATCH_MAX: Final = 2_000  # that a batch cancels for its claims to get past them

# Each look reads about as much again as is known, so that a few reach any depth; where the stored
# line does not fit its jobs, no number of them does.
LOOKS_PER_CLAIM_MAX: Final = 50

Outcome = Answer | Exception  # a Refusal, or whatever a command stumbled over
_Reply = Callable[[WriteModel], Answer] | Exception
_RefusalKey = tuple[UserId, Scope, datetime, int, int, int]  # whose, which window, at which limit


class Batch:
    """What became of a batch: events to append, their bodies, claims that were answered with
    nothing, and an outcome for each command.
    """

    def __init__(
        self,
        model: WriteModel,
        policy: Policy,
        now: datetime,
        look_further: Callable[[Unread], None] | None = None,
    ) -> None:
        """`look_further` makes more of the stored line known; None: the model has all of it."""
        self.recorded: list[Recorded] = []
        self.bodies: list[tuple[int, bytes]] = []  # (position, body)
        self.erased: list[int] = []  # positions of bodies to remove
        # Claims that were answered empty and may be repeated, see `domain.jobs.claims`.
        self.empty_claims: list[ClaimHash] = []
        self.now = now
        self._model = model
        self._policy = policy
        self._look_further = look_further
        self._expired = 0
        self._refusals: dict[_RefusalKey, RateLimitDecided] = {}

    def correct_clock(self, event: ClockCorrected) -> None:
        """Before everything else: the batch's `now` follows from it."""
        self._record(NewEvent(event))

    def fold(
        self, commands: Sequence[Command], on_crash: Callable[[Command, Exception], None]
    ) -> list[Outcome]:
        """Decide all, in an order of our own; the outcomes are in the order of the commands.

        `on_crash` hears of a decision that failed by our fault; such a command changes nothing.
        """
        replies: list[_Reply] = [Refusal()] * len(commands)
        claims = [index for index, one in enumerate(commands) if isinstance(one, ClaimJobs)]
        others = [index for index, one in enumerate(commands) if not isinstance(one, ClaimJobs)]
        # What was refused at the door was refused before this batch, whatever stands before it.
        others.sort(key=lambda index: not isinstance(commands[index], ReportRefusals))
        for index in others:
            replies[index] = self._decide(commands[index], on_crash)
        if claims:
            self._expire()
        for index in claims:
            replies[index] = self._serve(commands[index], on_crash)
        self._record_refusals()
        return [reply if isinstance(reply, Exception) else reply(self._model) for reply in replies]

    def _decide(self, command: Command, on_crash: Callable[[Command, Exception], None]) -> _Reply:
        decision = self._decision(command, on_crash)
        return self._take(decision) if isinstance(decision, Decision) else decision

    def _serve(self, command: Command, on_crash: Callable[[Command, Exception], None]) -> _Reply:
        """Decide a claim, with more of the line while it comes short and others wait."""
        decision = self._decision(command, on_crash)
        for _ in range(LOOKS_PER_CLAIM_MAX):
            if isinstance(decision, Exception):
                return decision
            if decision.unread is None or self._look_further is None:
                break
            if self._expired >= EXPIRED_PER_BATCH_MAX:
                return _cut_short(self._take(decision))
            self._look_further(decision.unread)
            self._expire()
            decision = self._decision(command, on_crash)
        return decision if isinstance(decision, Exception) else self._take(decision)

    def _decision(
        self, command: Command, on_crash: Callable[[Command, Exception], None]
    ) -> Decision | Exception:
        try:
            return decide(self._model, command, self._policy, self.now)
        except Exception as error:  # noqa: BLE001 (one command must not spoil its neighbours)
            on_crash(command, error)
            return without_traceback(error)

    def _expire(self) -> None:
        for expired in expire(self._model, self._policy, self.now):
            self._record(expired)
            self._expired += 1

    def _take(self, decision: Decision) -> _Reply:
        for fact in decision.facts:
            if isinstance(fact.event, RateLimitDecided) and not fact.event.allowed:
                self._hold_back(fact.event)
            else:
                if isinstance(fact.event, LimitChanged):
                    self._record_refusals()
                self._record(fact)
        if decision.empty_claim is not None:
            self.empty_claims.append(decision.empty_claim)
            self._model.jobs.claims.know(decision.empty_claim, to_micros(self.now))
        return decision.reply

    def _hold_back(self, refused: RateLimitDecided) -> None:
        key = (
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

    def _record(self, fact: NewEvent) -> None:
        recorded = Recorded(self._model.position + 1, self.now, fact.job_id, fact.event)
        self.recorded.append(recorded)
        if fact.body is not None:
            self.bodies.append((recorded.position, fact.body.data))
        self.erased.extend(fact.erases)
        self._model.evolve(recorded)


def _cut_short(reply: _Reply) -> _Reply:
    if isinstance(reply, Exception):
        return reply

    def answer(model: WriteModel) -> Answer:
        claimed = reply(model)
        assert isinstance(claimed, Claimed)
        return replace(claimed, is_cut_short=True)

    return answer
