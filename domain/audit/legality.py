"""Legality of recorded events: `fairlog verify` checks that each could have been decided.

`evolve` refuses nothing, so that a fold always completes. These are the rules of `decide`, checked
afterwards. They hold under any policy, since an event has the limits that it was decided under, and
settings may have changed since.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, assert_never

from domain.audit.archive_legality import check_archive_event
from domain.audit.callback_legality import check_callback_event, check_callbacks
from domain.audit.loss_legality import check_loss_event
from domain.audit.parent_legality import check_fate, check_parent_end, check_parents
from domain.audit.schedule_legality import check_schedule_event
from domain.jobs.job import ENDED, Job, State
from domain.jobs.life_cycle import loss_counts
from domain.language import validation
from domain.language.errors import InvalidInput
from domain.language.events import (
    AfterFailure,
    ArchiveBegun,
    ArchiveCompleted,
    AttemptBegun,
    AttemptEnded,
    BodiesErased,
    CallbackDeleted,
    CallbackSecretRotated,
    CallbackSet,
    CancelReason,
    ClockCorrected,
    EndReason,
    EventLost,
    FailureReason,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobMove,
    JobReleased,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    KeyCreated,
    KeyRevoked,
    KeyRotated,
    LeasesExtended,
    LimitChanged,
    LineUpdated,
    LossAccepted,
    ParentEnded,
    PlanDeleted,
    ProgressReported,
    RateLimitDecided,
    Recorded,
    RequeueReason,
    ScheduleBackfillBegun,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleSet,
    Scope,
    SegmentArchived,
    SegmentRewritten,
    SubmissionDeduplicated,
    WorkerMissed,
    WrongKeysRefused,
)
from domain.language.identifiers import GLOBAL
from domain.language.moments import later, to_micros
from domain.limits.limits import LimitSettings, subject_of
from domain.limits.rate_limits import Windows, window_start

SLEW_PPM_END: Final = 1_000_000  # exclusive: at this rate the log's time would stop


def illegality(job_before: Job | None, recorded: Recorded) -> str | None:
    """Say what is wrong with an event; None if it is legal.

    `job_before` is the state of its job before it, None if there was none. A `LeasesExtended` is
    checked once for each of its jobs.
    """
    event = recorded.event
    kind = type(event)
    if (check := _OTHER_EVENT_CHECKS.get(kind)) is not None:
        return check(job_before, recorded, event)
    if job_before is None:
        return f"it is about job {recorded.job_id}, which did not exist"
    if isinstance(event, LeasesExtended):
        return _check_extension(job_before, event)
    return _other_job(job_before, event) or _JOB_EVENT_CHECKS[kind](job_before, recorded, event)


def miscount(windows: Windows, recorded: Recorded) -> str | None:
    """Say what is wrong with the count of an admission, given the windows before it; None if right.

    The count of a refusal is not checked: it is the one that its process knew, which may be older.
    """
    event = recorded.event
    if not isinstance(event, RateLimitDecided) or not event.allowed:
        return None
    start = to_micros(event.window_start)
    used = windows.used(event.user_id, event.window_seconds, start) + event.count
    if event.used != used:
        return f"it counts {event.used} in its user's window, which had {used} with it"
    if event.global_used is not None:
        used = windows.used(GLOBAL, event.window_seconds, start) + event.count
        if event.global_used != used:
            return f"it counts {event.global_used} in the global window, which had {used} with it"
    for other in event.windows:
        who = event.user_id if other.scope is Scope.USER else GLOBAL
        start = to_micros(window_start(recorded.recorded_at, other.seconds))
        used = windows.used(who, other.seconds, start) + event.count
        if other.used != used:
            return f"it counts {other.used} in the window {other.name!r}, which had {used} with it"
    return None


def misplanned(limits: LimitSettings, recorded: Recorded) -> str | None:
    """Say what is wrong with the plan of a change of limits, given the limits before it; None if
    nothing is.
    """
    match recorded.event:
        case LimitChanged(scope=Scope.USER, plan=str(plan)) as event:
            is_new = limits.of(subject_of(event)).plan != plan
            return f"there was no plan {plan!r}" if is_new and plan not in limits.plans else None
        case PlanDeleted(plan=plan):
            if plan not in limits.plans:
                return f"there was no plan {plan!r}"
            users = limits.users_on.get(plan, 0)
            return f"{users} users were on the plan {plan!r}" if users else None
        case _:
            return None


def _check_decision(job: Job | None, recorded: Recorded, event: RateLimitDecided) -> str | None:
    if event.allowed:
        return _check_admission(job, recorded, event)
    if recorded.job_id is not None:
        return f"a refusal names job {recorded.job_id}"
    if event.count < 1:
        return f"it decides {event.count} submissions"
    if event.used < event.limit:
        return f"it refuses with {event.used} used of {event.limit}"
    if event.first_at is not None and event.last_at is not None and event.first_at > event.last_at:
        return "its first refusal is later than its last"
    return None


def _check_admission(job: Job | None, recorded: Recorded, event: RateLimitDecided) -> str | None:
    if event.used > event.limit:
        return f"it admits the {event.used}th submission of {event.limit}"
    if (
        event.global_used is not None
        and event.global_limit is not None
        and event.global_used > event.global_limit
    ):
        return f"it admits the {event.global_used}th submission of {event.global_limit} of all"
    for other in event.windows:
        if other.used > other.limit:
            return f"it admits the {other.used}th submission of {other.limit} in {other.name!r}"
    if event.count not in {0, 1}:
        return f"it admits {event.count} submissions at once"
    if event.count == 0 and job is None:
        return f"it counts no submission, but job {recorded.job_id} did not exist"
    ends = later(event.window_start, event.window_seconds)
    if not event.window_start <= recorded.recorded_at < ends:
        return "it was recorded outside its window"
    if recorded.job_id is None or recorded.job_id == recorded.position + 1:
        return None
    if job is None:
        return f"it admits job {recorded.job_id}, which neither existed nor follows it"
    return None if job.user_id == event.user_id else _other_user(job, event.user_id)


def _check_submission(job: Job | None, recorded: Recorded, event: JobSubmitted) -> str | None:
    if recorded.job_id != recorded.position:
        return f"it names job {recorded.job_id}, but a job's id is its position"
    if job is not None:
        return f"job {job.id} existed already"
    if event.retry is not None:
        try:
            validation.retry_policy(event.retry)
        except InvalidInput as error:
            return f"its retry policy cannot be: {error}"
    if wrong := check_parents(recorded, event) or check_callbacks(event):
        return wrong
    return None if event.max_attempts >= 1 else f"it allows {event.max_attempts} attempts"


def _check_limits(_: Job | None, recorded: Recorded, event: LimitChanged) -> str | None:
    if recorded.job_id is not None:
        return f"it names job {recorded.job_id}"
    scope = event.scope
    named = (event.user_id, event.kind, event.resource)
    fitting = (
        scope in {Scope.USER, Scope.USER_KIND},
        scope in {Scope.KIND, Scope.USER_KIND},
        scope is Scope.RESOURCE,
    )
    is_planned = event.plan is not None or scope is not Scope.PLAN
    if tuple(bool(name) for name in named) != fitting or not is_planned:
        return f"its subject does not fit its scope {scope.value!r}"
    if event.plan is not None and scope not in {Scope.PLAN, Scope.USER}:
        return f"its scope {scope.value!r} has no plan"
    rates = [*(event.windows or ()), *([event.throttle] if event.throttle else [])]
    counts = (event.limit, event.running, *(rate.limit for rate in rates))
    if any(count is not None and count < 0 for count in counts):
        return "it sets a limit below zero"
    if any(rate.seconds < 1 for rate in rates):
        return "it sets a window of no length"
    if event.push is not None and scope is not Scope.KIND:
        return f"its scope {scope.value!r} has no endpoint"
    return "it sets a weight below one" if event.weight is not None and event.weight < 1 else None


def _check_plan_deletion(_: Job | None, recorded: Recorded, _event: PlanDeleted) -> str | None:
    """Check what needs no other limit; `misplanned` checks the rest."""
    return None if recorded.job_id is None else f"it names job {recorded.job_id}"


def _check_line_update(_: Job | None, recorded: Recorded, event: LineUpdated) -> str | None:
    if recorded.job_id is not None:
        return f"it names job {recorded.job_id}"
    return None if event.users else "it names no user"


def _check_correction(_: Job | None, recorded: Recorded, event: ClockCorrected) -> str | None:
    if recorded.job_id is not None:
        return f"it names job {recorded.job_id}"
    if not 0 <= event.slew_ppm < SLEW_PPM_END:
        return f"the log's time would go back by its {event.slew_ppm} parts in a million"
    if to_micros(event.clock) + event.offset_micros > to_micros(recorded.recorded_at):
        return "it was recorded before the time that it sets"
    return None


def _check_key(_: Job | None, recorded: Recorded, _event: object) -> str | None:
    """Check what needs no other key; `domain.audit.key_legality` checks the rest."""
    return None if recorded.job_id is None else f"it names job {recorded.job_id}"


def _check_wrong_keys(_: Job | None, recorded: Recorded, event: WrongKeysRefused) -> str | None:
    if recorded.job_id is not None:
        return f"it names job {recorded.job_id}"
    if not 1 <= event.addresses <= event.count:
        return f"it counts {event.count} requests from {event.addresses} addresses"
    return None if event.first_at <= event.last_at else "its first refusal is later than its last"


def _check_extension(job: Job, event: LeasesExtended) -> str | None:
    named = [attempt for job_id, attempt in event.jobs if job_id == job.id]
    places = {one.attempt: one for one in job.ending}
    for attempt in named:
        place = places.get(attempt)
        if place is not None and place.worker != event.worker:
            return f"it extends an ending attempt of job {job.id}, which another worker held"
    others = [attempt for attempt in named if attempt not in places]
    return _check_lease(job, event, others) if others else None


def _check_lease(job: Job, event: LeasesExtended, attempts: list[int]) -> str | None:
    if attempts != [job.attempt]:
        return f"it extends another attempt of job {job.id} than the latest, {job.attempt}"
    if job.state is not State.RUNNING:
        return f"it extends the lease of job {job.id}, which was {job.state.value}"
    if job.worker != event.worker:
        return f"it extends the lease of job {job.id}, which another worker held"
    return None


def _other_job(job: Job, event: Any) -> str | None:  # noqa: ANN401 (of any step's type)
    if job.user_id != event.user_id:
        return _other_user(job, event.user_id)
    if job.kind != event.kind:
        return f"job {job.id} is of the kind {job.kind!r}, not {event.kind!r}"
    if isinstance(event, JobMove) and job.resources != event.resources:
        return f"job {job.id} uses the resources {job.resources}, not {event.resources}"
    return None


def _check_start(job: Job, recorded: Recorded, event: JobStarted) -> str | None:
    if job.state is not State.QUEUED:
        return f"job {job.id} was {job.state.value}, not queued"
    if job.waits_for:
        return f"job {job.id} waited for job {job.waits_for[0]}"
    if event.attempt != job.attempt + 1:
        return f"attempt {event.attempt} follows attempt {job.attempt}"
    if event.attempt > job.final_attempt:
        return f"attempt {event.attempt} is one more than {job.final_attempt}"
    if event.lease_expires_at <= recorded.recorded_at:
        return "its lease had ended when it began"
    if event.alone and not job.is_suspect:
        return f"it runs alone, but job {job.id} was not suspect"
    return None


def _check_begin(job: Job, _: Recorded, event: AttemptBegun) -> str | None:
    if wrong := _unless_current(job, event.attempt):
        return wrong
    return None if job.begun_at is None else f"attempt {event.attempt} had begun already"


def _check_progress(job: Job, _: Recorded, event: ProgressReported) -> str | None:
    if wrong := _unless_current(job, event.attempt):
        return wrong
    return None if 0 <= event.fraction <= 1 else f"the fraction {event.fraction} is not 0 to 1"


def _check_end(job: Job, recorded: Recorded, event: AttemptEnded) -> str | None:
    place = job.ending_attempt(event.attempt)
    if place is None:
        return f"attempt {event.attempt} was not ending"
    match event.reason:
        case EndReason.LEASE_LOST:
            return _unless_past(place.lease_expires_at, recorded.recorded_at, "its lease")
        case EndReason.REPORTED:
            return None
        case _:
            assert_never(event.reason)


def _check_miss(job: Job, _: Recorded, event: WorkerMissed) -> str | None:
    return _unless_current(job, event.attempt)


def _check_completion(job: Job, _: Recorded, event: JobCompleted) -> str | None:
    return _unless_current(job, event.attempt)


def _unless_current(job: Job, attempt: int) -> str | None:
    if job.state is not State.RUNNING:
        return f"job {job.id} was {job.state.value}, not running"
    if attempt != job.attempt:
        return f"it ends attempt {attempt}, but attempt {job.attempt} was running"
    return None


def _check_failure(job: Job, recorded: Recorded, event: JobFailed) -> str | None:
    if (event.parent is None) == (event.reason is FailureReason.PARENT_FAILED):
        return "it names a parent without that reason, or the reason without a parent"
    if event.parent is not None:
        return check_fate(job, event.parent, event.attempt, AfterFailure.FAIL)
    if wrong := _unless_current(job, event.attempt):
        return wrong
    if event.retry_at is not None and event.attempt >= job.final_attempt:
        return f"another attempt follows the last, {job.final_attempt}"
    if event.holds_place and event.reason is not FailureReason.TIMED_OUT:
        return "it counts as running, although it did not time out"
    match event.reason:
        case FailureReason.TIMED_OUT:
            return _unless_past(job.times_out_at, recorded.recorded_at, "its time-out")
        case FailureReason.LEASE_LOST:
            return _unless_past(job.lease_expires_at, recorded.recorded_at, "its lease")
        case FailureReason.SERVER_RESTARTED:
            return _unless_embedded(job)
        case FailureReason.ERROR | FailureReason.PARENT_FAILED:
            return None
        case _:
            assert_never(event.reason)


def _check_repeat(job: Job, recorded: Recorded, event: SubmissionDeduplicated) -> str | None:
    key = (event.idempotency_key, event.key_is_explicit)
    if not job.holds_key or key != (job.idempotency_key, job.key_is_explicit):
        return f"its key did not belong to job {job.id}"
    if not job.key_may_be_valid(recorded.recorded_at):
        return f"the key of job {job.id} had expired"
    return None


def _check_release(job: Job, recorded: Recorded, event: JobReleased) -> str | None:
    if job.state is not State.SCHEDULED:
        return f"job {job.id} was {job.state.value}, not scheduled"
    if job.priority != event.priority:
        return _other_priority(job, event.priority)
    if job.waits_for:
        return f"job {job.id} waited for job {job.waits_for[0]}"
    if job.after and job.run_at is None:
        return None
    return _unless_past(job.run_at, recorded.recorded_at, "its schedule")


def _check_requeue(job: Job, recorded: Recorded, event: JobRequeued) -> str | None:
    if event.reason is RequeueReason.RETRIED:
        wrong = _unless_retriable(job, recorded, event)
    else:
        wrong = _unless_current(job, event.attempt)
    if wrong:
        return wrong
    if job.priority != event.priority:
        return _other_priority(job, event.priority)
    match event.reason:
        case RequeueReason.RETRIED:
            final_attempt, wrong = job.attempt + job.attempts_granted, None
        case RequeueReason.GIVEN_BACK:
            final_attempt, wrong = job.final_attempt + 1, None
        case RequeueReason.LEASE_LOST:
            final_attempt = _after_loss(job, event)
            wrong = _unless_past(job.lease_expires_at, recorded.recorded_at, "its lease")
        case RequeueReason.SERVER_RESTARTED:
            final_attempt, wrong = _after_loss(job, event), _unless_embedded(job)
        case _:
            assert_never(event.reason)
    if event.attempts_max != final_attempt or job.attempt >= final_attempt:
        return f"it allows attempts up to {event.attempts_max}, not {final_attempt}"
    return wrong


def _after_loss(job: Job, event: JobRequeued) -> int:
    """Return the number of the final attempt that may be made after a loss.

    A loss that `loss_counts` may forgive is forgiven if the event says so: it depends on the other
    jobs of the worker. Older logs forgive none.
    """
    is_free = event.attempts_max == job.final_attempt + 1
    may_be_free = not loss_counts(job, died_with_others=True)
    return job.final_attempt + 1 if is_free and may_be_free else job.final_attempt


def _unless_retriable(job: Job, recorded: Recorded, event: JobRequeued) -> str | None:
    if job.state not in {State.FAILED, State.CANCELLED}:
        return f"job {job.id} was {job.state.value}, neither failed nor cancelled"
    if job.erased_at is not None:
        return f"the payload of job {job.id} had been erased"
    if event.attempt != job.attempt:
        return f"it follows attempt {event.attempt}, but the latest was {job.attempt}"
    if event.was_cancelled != (job.state is State.CANCELLED):
        return f"job {job.id} was {job.state.value}, which it does not say"
    if event.waits != bool(job.waits_for):
        return f"it says otherwise than job {job.id} whether it waits for others"
    if event.expires_at not in {None, job.expires_at}:  # earlier releases dropped the expiry
        return f"it gives job {job.id} another expiry"
    if event.expires_at is not None and event.expires_at <= recorded.recorded_at:
        return f"it keeps the expiry of job {job.id}, which had passed"
    return None


def _check_cancellation(job: Job, recorded: Recorded, event: JobCancelled) -> str | None:
    if job.state.value != event.was:
        return f"job {job.id} was {job.state.value}, not {event.was}"
    if event.attempt is not None and (event.attempt, event.worker) != (job.attempt, job.worker):
        return f"it ends attempt {event.attempt}, but attempt {job.attempt} was running"
    if (event.parent is None) == (event.reason is CancelReason.PARENT_FAILED):
        return "it names a parent without that reason, or the reason without a parent"
    if event.parent is not None:
        return check_fate(job, event.parent, job.attempt, AfterFailure.CANCEL)
    if event.reason is not CancelReason.EXPIRED:
        return None
    if job.starts:
        return "it expired after it had been started"
    return _unless_past(job.expires_at, recorded.recorded_at, "its expiry")


def _check_erasure(job: Job, _: Recorded, event: BodiesErased) -> str | None:
    if job.state not in ENDED:
        return f"job {job.id} was {job.state.value} and needed its payload"
    if job.erased_at is not None:
        return f"job {job.id} had been erased already"
    is_all = job.body_positions.issubset(event.positions)
    return None if is_all else f"it does not erase all of job {job.id}"


def _unless_past(moment: datetime | None, now: datetime, what: str) -> str | None:
    return None if moment is not None and moment <= now else f"{what} had not come"


def _unless_embedded(job: Job) -> str | None:
    return None if job.server is not None else f"job {job.id} did not run inside a server"


def _other_user(job: Job, user_id: str) -> str:
    return f"job {job.id} belongs to {job.user_id!r}, not to {user_id!r}"


def _other_priority(job: Job, priority: int) -> str:
    return f"job {job.id} has priority {job.priority}, not {priority}"


# By type, since this runs for every event: a `match` would test class after class.
_OTHER_EVENT_CHECKS: Final[Mapping[type, Callable[[Job | None, Recorded, Any], str | None]]] = {
    ClockCorrected: _check_correction,
    RateLimitDecided: _check_decision,
    JobSubmitted: _check_submission,
    LimitChanged: _check_limits,
    PlanDeleted: _check_plan_deletion,
    LineUpdated: _check_line_update,
    EventLost: check_loss_event,
    LossAccepted: check_loss_event,
    KeyCreated: _check_key,
    KeyRotated: _check_key,
    KeyRevoked: _check_key,
    WrongKeysRefused: _check_wrong_keys,
    ArchiveBegun: check_archive_event,
    SegmentArchived: check_archive_event,
    SegmentRewritten: check_archive_event,
    ArchiveCompleted: check_archive_event,
    CallbackSet: check_callback_event,
    CallbackDeleted: check_callback_event,
    CallbackSecretRotated: check_callback_event,
    ScheduleSet: check_schedule_event,
    ScheduleDeleted: check_schedule_event,
    ScheduleFired: check_schedule_event,
    ScheduleBackfillBegun: check_schedule_event,
}
_JOB_EVENT_CHECKS: Final[Mapping[type, Callable[[Job, Recorded, Any], str | None]]] = {
    JobStarted: _check_start,
    JobCompleted: _check_completion,
    JobFailed: _check_failure,
    SubmissionDeduplicated: _check_repeat,
    JobReleased: _check_release,
    JobRequeued: _check_requeue,
    JobCancelled: _check_cancellation,
    BodiesErased: _check_erasure,
    AttemptBegun: _check_begin,
    AttemptEnded: _check_end,
    WorkerMissed: _check_miss,
    ProgressReported: _check_progress,
    ParentEnded: check_parent_end,
}
