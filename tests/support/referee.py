"""An independent judge of a log: replays it by rules written anew, and objects to an illegal event.

It shares nothing with the domain but the events themselves. Whoever is served out of turn, over a
cap, after an expiry or twice, whoever is let in over a limit, and every step of a job's life that
cannot follow the one before it is an `AssertionError` that names the position.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx

from domain.language.callbacks import CALLBACK_KIND, Delivery
from domain.language.events import (
    AttemptBegun,
    AttemptEnded,
    CallbackDeleted,
    CallbackSet,
    CancelReason,
    EndReason,
    FailureReason,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    LeasesExtended,
    LimitChanged,
    ParentEnded,
    PlanDeleted,
    ProgressReported,
    RateLimitDecided,
    Recorded,
    RequeueReason,
    Scope,
    SubmissionDeduplicated,
    WorkerMissed,
)
from domain.language.identifiers import JobId, Kind
from domain.language.limits import Rate, RetryPolicy
from domain.language.policy import Policy

_ENDS = (JobCompleted, JobFailed, JobCancelled)
_ENDED = {"done", "failed", "cancelled"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORGIVEN_MAX = 3  # losses in a row of an attempt that did not say that it had begun
_ROUNDING = timedelta(microseconds=1)
CLAIM_SECONDS = 600
_RUN_OUT = {
    FailureReason.LEASE_LOST: RequeueReason.LEASE_LOST,
    FailureReason.SERVER_RESTARTED: RequeueReason.SERVER_RESTARTED,
}
_LOSSES = {
    RequeueReason.LEASE_LOST: "LeaseLost",
    RequeueReason.SERVER_RESTARTED: "ServerRestarted",
}


def _delays(retry: RetryPolicy | None, errors: int) -> tuple[float, float]:
    """The documented backoffs, written anew: the bounds of a delay."""
    said = {"base_seconds": 1.0, "factor": 2.0, "maximum_seconds": 3600.0, "jitter": 0.5}
    said |= {name: value for name in said if (value := getattr(retry, name, None)) is not None}
    grown = {"constant": 1.0, "linear": errors + 1.0}.get(
        getattr(retry, "backoff", None) or "exponential", said["factor"] ** errors
    )
    most = min(said["base_seconds"] * grown, max(said["base_seconds"], said["maximum_seconds"]))
    return most * (1 - said["jitter"]), most


@dataclass
class JudgedJob:
    submitted: JobSubmitted
    state: str
    due_at: datetime | None = None  # while scheduled
    expires_at: datetime | None = None
    attempt: int = 0
    started: JobStarted | None = None
    started_at: datetime | None = None
    begun_at: datetime | None = None
    lease_expires_at: datetime | None = None
    gone_at: datetime | None = None  # when its worker was missed the last time
    starts: int = 0
    failures: int = 0
    errors: int = 0  # failures that were no loss
    losses: int = 0  # of workers, in a row, that were no failures
    is_suspect: bool = False
    is_missed: bool = False
    waits_for: set[int] = field(default_factory=set)  # parents whose end it has not been told
    places: dict[int, tuple[str, datetime]] = field(default_factory=dict)  # attempts not ended yet

    @property
    def final_attempt(self) -> int:
        left = self.submitted.max_attempts - self.failures
        return self.attempt + left - (1 if self.state == "running" else 0)

    @property
    def never(self) -> frozenset[str]:
        retry = self.submitted.retry
        return frozenset(() if retry is None else retry.never or ())

    @property
    def worker(self) -> str:
        assert self.started is not None
        return self.started.worker

    @property
    def may_fail_again(self) -> bool:
        return self.failures + 1 < self.submitted.max_attempts


@dataclass
class JudgedUser:
    last_served: int | None = None
    joined: int | None = None
    waiting: dict[int, JudgedJob] = field(default_factory=dict)
    running: int = 0

    @property
    def turn(self) -> int:
        turn = self.joined if self.last_served is None else self.last_served
        assert turn is not None
        return turn


class Referee:
    """Show it every event of a log from the first on.

    `any_kind` are workers who always claim jobs of any kind: they are served strictly in turn. Of
    others it is not known which kinds they left aside, so they are judged by the one they got.
    """

    def __init__(self, policy: Policy, any_kind: Collection[str] = ()) -> None:
        self.policy = policy
        self.any_kind = any_kind
        self.jobs: dict[int, JudgedJob] = {}
        self.users: dict[str, JudgedUser] = {}
        self.kinds_running: Counter[str] = Counter()
        # By user, or "" for all, and the window's length and start.
        self.used: Counter[tuple[str, int, datetime]] = Counter()
        self.refused: Counter[tuple[str, int, datetime]] = Counter()
        self.submission_limits: dict[str, int | None] = {}
        self.plan_limits: dict[str, int | None] = {}
        self.further: dict[str, tuple[Rate, ...] | None] = {}  # by user, or "" for all
        self.plan_further: dict[str, tuple[Rate, ...] | None] = {}
        self.plan_of: dict[str, str | None] = {}
        self.user_caps: dict[str, int | None] = {}
        self.endpoints: dict[str, CallbackSet] = {}
        self.ended_at: dict[int, int] = {}  # the position of the latest end of each job
        self.to_tell: set[tuple[int, str | None]] = set()  # ends, and to whom
        self.told: set[tuple[int, str | None]] = set()
        self.kind_caps: dict[str, int | None] = {}
        self.keys: dict[tuple[str, bool, str], int] = {}  # (user, is explicit, key): job
        self.claims: dict[tuple[str, str], tuple[datetime, int]] = {}  # when, latest position
        self.position = 0
        self.at = _EPOCH
        self._before: Recorded | None = None

    def see_all(self, recorded: Iterable[Recorded]) -> None:
        for one in recorded:
            try:
                self._see(one)
            except AssertionError as error:
                raise AssertionError(f"position {one.position}: {one}: {error}") from error

    def states(self) -> Counter[str]:
        return Counter(job.state for job in self.jobs.values())

    def _see(self, one: Recorded) -> None:  # noqa: C901, PLR0912, PLR0915 (a case for each event)
        assert one.position == self.position + 1, "positions run without gaps"
        assert one.recorded_at >= self.at, "time never goes back"
        self.position, self.at = one.position, one.recorded_at
        match one.event:
            case RateLimitDecided() as event:
                self._admit(event) if event.allowed else self._refuse(event)
            case JobSubmitted() as event:
                self._submit(one, event)
            case SubmissionDeduplicated() as event:
                self._deduplicate(one, event)
            case JobReleased():
                self._release(self._job(one))
            case ParentEnded() as event:
                self._job(one).waits_for.remove(event.parent)
                assert self.jobs[event.parent].state == event.state
            case JobStarted() as event:
                self._start(self._job(one), event)
            case LeasesExtended() as event:
                self._extend(event)
            case AttemptBegun() as event:
                self._begin(self._running(one, event.attempt))
            case ProgressReported() as event:
                self._running(one, event.attempt)
                assert 0 <= event.fraction <= 1
            case AttemptEnded() as event:
                self._end_place(self._job(one), event)
            case WorkerMissed() as event:
                self._miss(self._running(one, event.attempt))
            case JobCompleted() as event:
                job = self._in_time(one, event.attempt)
                self._stop(job, "done")
                self._ran(job)
            case JobFailed(parent=int(parent)) as event:
                assert event.reason is FailureReason.PARENT_FAILED
                self._end_with_parent(self._job(one), parent, "fail")
            case JobFailed() as event:
                self._fail(self._running(one, event.attempt), event)
            case JobRequeued() as event:
                self._requeue(one, event)
            case JobCancelled() as event:
                self._cancel(self._job(one), event)
            case LimitChanged() as event:
                self._change_limit(event)
            case PlanDeleted(plan=plan):
                assert plan not in self.plan_of.values()
                del self.plan_limits[plan], self.plan_further[plan]
            case CallbackSet() as endpoint:
                self.endpoints[endpoint.name] = endpoint
            case CallbackDeleted(name=name):
                del self.endpoints[name]
        self._before = one
        if one.job_id is not None and type(one.event) in _ENDS:
            job = self.jobs[one.job_id]
            if job.state in _ENDED:
                self._end_of(one.job_id, job)

    # Submissions

    def _window(self, length: int | None = None) -> datetime:
        length = self.policy.window_seconds if length is None else length
        return _EPOCH + timedelta(
            seconds=int((self.at - _EPOCH).total_seconds()) // length * length
        )

    def _limit_of(self, who: str) -> int:
        default = self.policy.user_limit if who else self.policy.global_limit
        limit = self.submission_limits.get(who)
        if who and limit is None:
            limit = self.plan_limits.get(self.plan_of.get(who) or "default")
        return default if limit is None else limit

    def _further(self, who: str) -> list[tuple[Scope, Rate]]:
        """Return the windows of a user, or of all, beside the one that everybody has."""
        rates = self.further.get(who)
        if who and rates is None:
            rates = self.plan_further.get(self.plan_of.get(who) or "default")
        return [(Scope.USER if who else Scope.GLOBAL, rate) for rate in rates or ()]

    def _used(self, who: str, seconds: int) -> int:
        return self.used[who, seconds, self._window(seconds)]

    def _admit(self, event: RateLimitDecided) -> None:
        assert event.count in {0, 1}, "only what repeats a job uses nothing up"
        assert event.scope is Scope.USER
        assert (event.window_start, event.window_seconds) == (
            self._window(),
            self.policy.window_seconds,
        )
        for who in (event.user_id, ""):
            window = (who, event.window_seconds, event.window_start)
            assert self.used[window] < self._limit_of(who), "over the limit"
            self.used[window] += event.count
        assert event.used == self._used(event.user_id, event.window_seconds)
        assert event.limit == self._limit_of(event.user_id)
        assert event.global_used == self._used("", event.window_seconds)
        assert event.global_limit == self._limit_of("")
        further = [*self._further(event.user_id), *self._further("")]
        assert len(event.windows) == len(further)
        for use, (scope, rate) in zip(event.windows, further, strict=True):
            assert (use.scope, use.limit, use.seconds) == (scope, rate.limit, rate.seconds)
            who = event.user_id if scope is Scope.USER else ""
            if rate.seconds != self.policy.window_seconds:
                self.used[who, rate.seconds, self._window(rate.seconds)] += event.count
            assert use.used == self._used(who, rate.seconds)
            assert use.used <= rate.limit - (1 - event.count), "over a further limit"

    def _refuse(self, event: RateLimitDecided) -> None:
        """Merged refusals may be of an earlier window: a process refused them from its cache."""
        is_report = event.first_at is not None
        assert (
            event.window_start <= self._window()
            if is_report
            else (event.window_start == self._window(event.window_seconds))
        )
        assert event.used >= event.limit, "refused with room"
        if not is_report:
            who = event.user_id if event.scope is Scope.USER else ""
            assert event.used == self._used(who, event.window_seconds)
            if event.is_by_further:
                rate = Rate(event.limit, event.window_seconds)
                assert (event.scope, rate) in self._further(who)
            else:
                assert event.limit == self._limit_of(who), "refused by another limit than holds"
        assert event.count >= 1
        assert event.first_at is not None or event.count == 1
        for who in (event.user_id, ""):
            self.refused[who, event.window_seconds, event.window_start] += event.count

    def _submit(self, one: Recorded, event: JobSubmitted) -> None:
        assert one.job_id == one.position
        if event.delivery is None:
            self._assert_admitted(one, event.user_id, count=1)
        else:
            self._tell_end(event.delivery, event.user_id)
        key = (event.user_id, event.key_is_explicit, event.idempotency_key)
        holder = self.keys.get(key)
        assert holder is None or not self._is_meant(self.jobs[holder]), "key in use"
        if event.delivery is None:
            assert event.key_expires_at == self._in(self.policy.idempotency_seconds)
        self.keys[key] = one.position
        job = JudgedJob(event, "scheduled", expires_at=event.expires_at)
        self.jobs[one.position] = job
        if event.after:
            open_ones = [one for one in event.after if self.jobs[one].state not in _ENDED]
            assert [*event.waits_for] == open_ones
            job.waits_for.update(open_ones)
            job.due_at = event.run_at
        elif event.run_at is None or event.run_at <= self.at:
            self._join(one.position, job)
        else:
            job.due_at = event.run_at

    def _tell_end(self, delivery: Delivery, user_id: str) -> None:
        """The end of a job is told once to each address, right after it, and of no delivery."""
        told = self.jobs[delivery.job]
        assert told.state in _ENDED
        assert told.submitted.kind != CALLBACK_KIND
        assert self.ended_at[delivery.job] == delivery.position, "it is not the latest end"
        told_before = (delivery.position, delivery.callback)
        assert told_before not in self.told, "the end was told before"
        self.told.add(told_before)
        if delivery.callback is None:
            url = told.submitted.callback
        else:
            endpoint = self.endpoints[delivery.callback]
            url = endpoint.url
            assert not endpoint.kinds or told.submitted.kind in endpoint.kinds
            assert not endpoint.users or told.submitted.user_id in endpoint.users
        assert url is not None
        assert user_id == f"fairlog.callback/{httpx.URL(url).host}"

    def assert_all_ends_are_told(self) -> None:
        """Each address that was to be told an end was."""
        assert self.told == self.to_tell

    def _end_of(self, job_id: JobId, job: JudgedJob) -> None:
        self.ended_at[job_id] = self.position
        submitted = job.submitted
        if submitted.kind == CALLBACK_KIND:
            return
        if submitted.callback is not None:
            self.to_tell.add((self.position, None))
        for name, one in self.endpoints.items():
            is_kind = not one.kinds or submitted.kind in one.kinds
            if is_kind and (not one.users or submitted.user_id in one.users):
                self.to_tell.add((self.position, name))

    def _deduplicate(self, one: Recorded, event: SubmissionDeduplicated) -> None:
        self._assert_admitted(one, event.user_id, count=0)
        assert one.job_id == self.keys[event.user_id, event.key_is_explicit, event.idempotency_key]
        first = self._job(one).submitted
        assert first.kind == event.kind
        assert self._is_meant(self._job(one)), "the key has expired"

    def _is_meant(self, job: JudgedJob) -> bool:
        """Return True if the key still means the job, unless another job took it over."""
        if job.state in {"failed", "cancelled"} and not job.submitted.key_is_explicit:
            return False
        is_over = job.state in {"done", "failed", "cancelled"}
        return self.at < job.submitted.key_expires_at or not is_over

    def _assert_admitted(self, one: Recorded, user_id: str, *, count: int) -> None:
        before = self._before
        assert before is not None
        assert isinstance(before.event, RateLimitDecided), "no decision before it"
        assert before.event.allowed
        assert before.event.count == count
        assert (before.event.user_id, before.job_id) == (user_id, one.job_id)

    # The life of a job

    def _job(self, one: Recorded) -> JudgedJob:
        assert one.job_id is not None
        job = self.jobs[one.job_id]
        assert getattr(one.event, "user_id", None) == job.submitted.user_id
        assert getattr(one.event, "kind", None) == job.submitted.kind
        return job

    def _running(self, one: Recorded, attempt: int) -> JudgedJob:
        job = self._job(one)
        assert job.state == "running"
        assert attempt == job.attempt, "not the current attempt"
        return job

    def _in_time(self, one: Recorded, attempt: int) -> JudgedJob:
        """Return True if its worker may still report: neither its lease nor its time is over."""
        job = self._running(one, attempt)
        assert job.lease_expires_at is not None
        assert self.at < job.lease_expires_at, "its lease had ended"
        seconds = job.submitted.timeout_seconds
        if seconds is not None and job.begun_at is not None:
            assert self.at < job.begun_at + timedelta(seconds=seconds), "its time was up"
        return job

    def _ran(self, job: JudgedJob) -> None:
        """An attempt came to an end of its own."""
        job.starts += job.begun_at is None
        job.losses, job.is_suspect, job.is_missed = 0, False, False

    def _begin(self, job: JudgedJob) -> None:
        assert job.begun_at is None, "it began twice"
        job.begun_at, job.starts = self.at, job.starts + 1

    def _end_place(self, job: JudgedJob, event: AttemptEnded) -> None:
        _, lease_expires_at = job.places.pop(event.attempt)
        if event.reason is EndReason.LEASE_LOST:
            assert lease_expires_at <= self.at, "its lease went on"
        self._free(job)

    def _miss(self, job: JudgedJob) -> None:
        others = [one for one in self._held_by(job.worker) if one is not job]
        lost = [one for one in self.jobs.values() if one.gone_at == self.at]
        assert others or any(one.worker == job.worker for one in lost)
        job.is_missed = True

    def _held_by(self, worker: str) -> list[JudgedJob]:
        running = [one for one in self.jobs.values() if one.state == "running"]
        return [one for one in running if one.worker == worker]

    def _id(self, job: JudgedJob) -> int:
        return next(job_id for job_id, one in self.jobs.items() if one is job)

    def _join(self, job_id: int, job: JudgedJob) -> None:
        user = self.users.setdefault(job.submitted.user_id, JudgedUser())
        if not user.waiting and user.last_served is None:
            user.joined = self.position
        user.waiting[job_id] = job
        job.state = "queued"

    def _leave(self, job: JudgedJob) -> None:
        del self.users[job.submitted.user_id].waiting[self._id(job)]

    def _stop(self, job: JudgedJob, state: str, *, holds_place: bool = False) -> None:
        if holds_place:
            assert job.lease_expires_at is not None
            job.places[job.attempt] = job.worker, job.lease_expires_at
        else:
            self._free(job)
        job.state = state

    def _free(self, job: JudgedJob) -> None:
        self.users[job.submitted.user_id].running -= 1
        self.kinds_running[job.submitted.kind] -= 1

    def _release(self, job: JudgedJob) -> None:
        assert job.state == "scheduled"
        assert not job.waits_for, "released before a parent has ended"
        if not job.submitted.after:
            assert job.due_at is not None
        assert job.due_at is None or job.due_at <= self.at, "released before its time"
        assert not self._is_expired(job), "released after its expiry"
        self._join(self._id(job), job)

    def _end_with_parent(self, job: JudgedJob, parent: int, how: str) -> None:
        assert job.state == "scheduled"
        assert parent in job.submitted.after
        assert parent not in job.waits_for, "its end was not told"
        assert self.jobs[parent].state in {"failed", "cancelled"}
        assert job.submitted.after_failure == how
        job.state = "failed"

    def assert_nothing_hangs(self) -> None:
        """Check that every job has been told what has happened, and has done what follows."""
        for job_id, job in self.jobs.items():
            untold = [one for one in job.waits_for if self.jobs[one].state in _ENDED]
            assert not untold, f"{job_id} was not told the end of {untold}"
            if job.state == "scheduled" and not job.waits_for and job.due_at is None:
                assert self._is_expired(job), f"nothing holds {job_id} back"

    def _is_expired(self, job: JudgedJob) -> bool:
        return job.starts == 0 and job.expires_at is not None and job.expires_at <= self.at

    def _start(self, job: JudgedJob, event: JobStarted) -> None:
        user = self.users[event.user_id]
        assert job.state == "queued"
        assert not job.waits_for
        assert event.attempt == job.attempt + 1, "the attempt number grows by one"
        assert job.failures < job.submitted.max_attempts, "an attempt too many"
        assert event.alone == job.is_suspect
        assert not (event.alone and self._was_claimed_with_others(event)), "it is not alone"
        assert not self._is_expired(job), "started after its expiry"
        assert event.lease_expires_at == self._in(self.policy.lease_seconds)
        assert not self._is_capped(event.user_id), "over the user's cap"
        assert self._has_room(event.kind), "over the kind's cap"
        kinds = {event.kind}
        if event.worker in self.any_kind and event.kind != CALLBACK_KIND:
            kinds = {one.submitted.kind for one in self.jobs.values()} - {CALLBACK_KIND}
            kinds = {kind for kind in kinds if self._has_room(kind)}
        mine = (-job.submitted.priority, self._id(job))
        assert min(self._orders(user, kinds)) == mine, "not the oldest of the user's line"
        for name, other in self.users.items():
            if other is not user and self._orders(other, kinds) and not self._is_capped(name):
                assert user.turn < other.turn, f"{name} was before {event.user_id}"
        if event.claim_id is not None:
            self._claim(event.worker, event.claim_id)
        self._leave(job)
        user.running += 1
        user.last_served, user.joined = self.position, None
        self.kinds_running[event.kind] += 1
        job.state, job.attempt, job.started = "running", event.attempt, event
        job.started_at, job.lease_expires_at = self.at, event.lease_expires_at
        job.begun_at = None
        if event.begun:
            self._begin(job)

    def _was_claimed_with_others(self, event: JobStarted) -> bool:
        """Check claims by name: without one, two claims of one batch cannot be distinguished."""
        if event.claim_id is None or self._before is None:
            return False
        before = self._before.event
        return (
            isinstance(before, JobStarted)
            and (before.worker, before.claim_id) == (event.worker, event.claim_id)
            and self._before.recorded_at == self.at
        )

    def _claim(self, worker: str, claim_id: str) -> None:
        """The jobs of one claim start one after the other; the same again starts no others."""
        before = self.claims.get((worker, claim_id))
        is_going_on = before is not None and before[1] == self.position - 1
        assert is_going_on or self._is_new((worker, claim_id)), "the claim starts other jobs"
        self.claims[worker, claim_id] = self.at, self.position

    def _is_new(self, claim: tuple[str, str]) -> bool:
        before = self.claims.get(claim)
        return before is None or before[0] + timedelta(seconds=CLAIM_SECONDS) <= self.at

    def _orders(self, user: JudgedUser, kinds: set[Kind]) -> list[tuple[int, int]]:
        """The user's waiting jobs of these kinds, each by its place."""
        return [
            (-one.submitted.priority, job_id)
            for job_id, one in user.waiting.items()
            if one.submitted.kind in kinds
        ]

    def _has_room(self, kind: str) -> bool:
        cap = self.kind_caps.get(kind)
        return cap is None or self.kinds_running[kind] < cap

    def _is_capped(self, user_id: str) -> bool:
        cap = self.user_caps.get(user_id)
        if user_id.startswith("fairlog.callback/"):
            cap = 2
        return cap is not None and self.users[user_id].running >= cap

    def _extend(self, event: LeasesExtended) -> None:
        assert event.jobs
        assert event.lease_expires_at == self._in(self.policy.lease_seconds)
        for job_id, attempt in event.jobs:
            job = self.jobs[job_id]
            if attempt in job.places:
                worker, lease_expires_at = job.places[attempt]
                assert (worker, True) == (event.worker, self.at < lease_expires_at)
                job.places[attempt] = worker, event.lease_expires_at
                continue
            assert job.lease_expires_at is not None
            assert self.at < job.lease_expires_at, "its lease had ended"
            assert (job.state, job.attempt) == ("running", attempt)
            assert job.worker == event.worker, "another worker's job"
            job.lease_expires_at, job.is_missed = event.lease_expires_at, False

    def _fail(self, job: JudgedJob, event: JobFailed) -> None:
        assert not event.holds_place or event.reason is FailureReason.TIMED_OUT
        match event.reason:
            case FailureReason.TIMED_OUT:
                self._assert_timed_out(job)
                is_last = not job.may_fail_again or "TimeoutError" in job.never
                assert (event.retry_at is None) == is_last
                assert job.lease_expires_at is not None
                assert not event.holds_place or self.at < job.lease_expires_at
            case FailureReason.LEASE_LOST | FailureReason.SERVER_RESTARTED as reason:
                self._assert_run_out(job, _RUN_OUT[reason])
                if _LOSSES[_RUN_OUT[reason]] not in job.never:
                    self._assert_it_counts(job)
                    assert not job.may_fail_again
                assert event.retry_at is None
            case FailureReason.ERROR:
                assert event.error_sha256 is not None
        if event.retry_at is not None:
            assert job.may_fail_again, "retried after the last attempt"
            assert event.retry_in_seconds is None, "nobody asks for a delay here"
            least, most = _delays(job.submitted.retry, job.errors)
            assert self._in(least) - _ROUNDING <= event.retry_at <= self._in(most) + _ROUNDING
            job.due_at = event.retry_at
        state = "failed" if event.retry_at is None else "scheduled"
        self._stop(job, state, holds_place=event.holds_place)
        if event.reason is not FailureReason.ERROR:
            job.gone_at = self.at
        if event.reason in _RUN_OUT:
            job.losses, job.is_suspect, job.is_missed = 0, True, False
        else:
            self._ran(job)
        job.failures += 1
        job.errors += event.reason not in _RUN_OUT

    def _assert_it_counts(self, job: JudgedJob) -> None:
        if job.begun_at is None:
            assert job.losses >= _FORGIVEN_MAX, "it had not begun"

    def _assert_it_is_forgiven(self, job: JudgedJob, reason: RequeueReason) -> None:
        if job.begun_at is None:
            assert job.losses < _FORGIVEN_MAX, "forgiven too often"
            return
        assert not job.is_suspect, "forgiven twice"
        assert job.started is not None
        others = [
            one
            for one in self.jobs.values()
            if one is not job
            and one.started is not None
            and (one.state == "running" or one.gone_at == self.at)
        ]
        if reason is RequeueReason.SERVER_RESTARTED:
            server = job.started.server
            assert any(one.started and one.started.server == server for one in others)
        else:
            assert job.is_missed or any(one.worker == job.worker for one in others)

    def _assert_timed_out(self, job: JudgedJob) -> None:
        seconds = job.submitted.timeout_seconds
        assert seconds is not None
        assert job.begun_at is not None
        assert job.begun_at + timedelta(seconds=seconds) <= self.at, "it had time left"

    def _assert_run_out(self, job: JudgedJob, reason: RequeueReason) -> None:
        assert job.state == "running"
        if reason is RequeueReason.LEASE_LOST:
            assert job.lease_expires_at is not None
            assert job.lease_expires_at <= self.at, "its lease went on"
        else:
            assert job.started is not None
            assert job.started.server is not None, "nobody can know that its worker is dead"

    def _requeue(self, one: Recorded, event: JobRequeued) -> None:
        job = self._job(one)
        assert event.attempt == job.attempt
        assert event.priority == job.submitted.priority
        match event.reason:
            case RequeueReason.RETRIED:
                self._assert_admitted(one, job.submitted.user_id, count=1)
                assert job.state == ("cancelled" if event.was_cancelled else "failed")
                assert event.suspect == job.is_suspect
                is_future = job.expires_at is not None and self.at < job.expires_at
                assert event.expires_at == (job.expires_at if is_future else None)
                job.expires_at = event.expires_at
                job.failures = job.errors = job.losses = 0
            case RequeueReason.GIVEN_BACK:
                self._give_back(self._in_time(one, event.attempt), event)
            case RequeueReason.LEASE_LOST | RequeueReason.SERVER_RESTARTED:
                self._lose(job, event)
        job.is_suspect, job.is_missed = event.suspect, False
        assert one.job_id is not None
        assert event.waits == bool(job.waits_for)
        if event.waits:
            job.state = "scheduled"
        else:
            self._join(one.job_id, job)
        assert event.attempts_max == job.final_attempt

    def _give_back(self, job: JudgedJob, event: JobRequeued) -> None:
        assert event.suspect or not job.is_suspect  # a worker may say that it is one
        if event.begun:
            job.starts += job.begun_at is None
            job.losses = 0
        else:
            job.starts -= job.begun_at is not None
        self._stop(job, "queued")

    def _lose(self, job: JudgedJob, event: JobRequeued) -> None:
        self._assert_run_out(job, event.reason)
        assert _LOSSES[event.reason] not in job.never
        left = job.submitted.max_attempts - (event.attempts_max - event.attempt)
        if left == job.failures:
            self._assert_it_is_forgiven(job, event.reason)
        else:
            assert left == job.failures + 1
            self._assert_it_counts(job)
            assert job.may_fail_again, "requeued after the last attempt"
        may_have_begun = job.begun_at is not None or job.losses > 0
        assert event.suspect == (job.is_suspect or may_have_begun)
        job.losses = job.losses + 1 if left == job.failures else 0
        job.failures, job.gone_at = left, self.at
        self._stop(job, "queued")

    def _cancel(self, job: JudgedJob, event: JobCancelled) -> None:
        assert event.was == job.state
        if event.parent is not None:
            assert event.reason is CancelReason.PARENT_FAILED
            self._end_with_parent(job, event.parent, "cancel")
        if event.reason is CancelReason.EXPIRED:
            assert event.was != "running"
            assert self._is_expired(job)
        if event.was == "queued":
            self._leave(job)
        if event.was == "running":
            assert (event.attempt, event.worker) == (job.attempt, job.worker)
            self._stop(job, "cancelled", holds_place=True)
        job.state = "cancelled"

    # Limits

    def _change_limit(self, event: LimitChanged) -> None:
        match event.scope:
            case Scope.USER:
                assert event.user_id
                assert event.kind is None
                self.users.setdefault(event.user_id, JudgedUser())
                assert event.plan is None or event.plan in self.plan_limits
                self.plan_of[event.user_id] = event.plan
                self.submission_limits[event.user_id] = event.limit
                self.further[event.user_id] = event.windows
                self.user_caps[event.user_id] = event.running
            case Scope.GLOBAL:
                assert (event.user_id, event.kind) == (None, None)
                self.submission_limits[""] = event.limit
                self.further[""] = event.windows
            case Scope.KIND:
                assert event.kind
                assert event.user_id is None
                self.kind_caps[event.kind] = event.running
            case Scope.PLAN:
                assert event.plan
                self.plan_limits[event.plan] = event.limit
                self.plan_further[event.plan] = event.windows
            case Scope.USER_KIND:
                assert event.user_id
                assert event.kind
            case Scope.RESOURCE:
                assert event.resource

    def _in(self, seconds: float) -> datetime:
        return self.at + timedelta(seconds=seconds)
