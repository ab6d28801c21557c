"""Explains why a job is in its state: sentences and numbers, made from what is known of it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, assert_never

from msgspec import Struct

from domain.audit.callback_reasons import DeliveryState, deliveries
from domain.audit.parent_reasons import did_not_run, waits_for
from domain.audit.reasons import (
    Count,
    Reason,
    Value,
    amount,
    are_running,
    format_seconds,
    format_time,
)
from domain.audit.schedule_reasons import submitted_by_schedule
from domain.audit.start_reasons import StartLimit, hold, start_reasons
from domain.fairness.line import Load
from domain.jobs.job import Job, State
from domain.language.events import (
    CancelReason,
    Event,
    FailureReason,
    JobCancelled,
    JobCompleted,
    JobFailed,
    JobReleased,
    JobRequeued,
    JobStarted,
    RequeueReason,
    ScheduleFired,
)
from domain.language.identifiers import JobId, Kind, WorkerId
from domain.language.limits import BACKOFF, WEIGHT_DEFAULT, delay_range

_ENDED_BECAUSE: Final = {
    FailureReason.ERROR: "its worker reported an error",
    FailureReason.TIMED_OUT: "it ran longer than its timeout_seconds",
    FailureReason.LEASE_LOST: "its worker sent no heartbeat before the lease ended",
    FailureReason.SERVER_RESTARTED: "the server that ran it died",
    FailureReason.PARENT_FAILED: "a job that it comes after failed",
}


class SilentWorker(Struct, frozen=True):
    """A worker that asked for the job's kind, and has not polled for too long to count as alive."""

    worker: WorkerId
    seconds: float  # since its latest poll


class LastWait(Struct, frozen=True, kw_only=True):
    """The time in line of a job's latest attempt, and the jobs that were started meanwhile."""

    since: datetime  # UTC
    cause: Event  # that began it: JobSubmitted, JobReleased or JobRequeued
    started: Count
    own: int = 0  # of them, those of the same user, if all were counted
    other_users: int = 0  # whose jobs the others were, likewise


class Workers(Struct, frozen=True, kw_only=True):
    """Activity of workers for the job's kind, at all servers."""

    asked_seconds_ago: float | None = None  # latest poll of a living worker; 0: waits; None: none
    started_seconds_ago: float | None = None  # latest start of a job of the kind; None: none
    lately_seconds: float  # how far back both were looked for
    dead: Sequence[SilentWorker] = ()  # the latest first
    own_seconds_ago: float | None = None  # latest poll of the job's worker; None: none is known
    own_is_alive: bool = True  # the job's worker
    nearest_kind: Kind | None = None  # that workers ask for, if the job's kind may be mistyped

    @property
    def are_seen(self) -> bool:
        return self.asked_seconds_ago is not None or self.started_seconds_ago is not None


class ExplanationInput(Struct, frozen=True, kw_only=True):
    """Everything that an explanation of one job is made from."""

    job: Job
    now: datetime  # UTC, the log's time
    latest: Event | None  # of the job's events
    kind: Load
    limits: Sequence[StartLimit] = ()  # that the job is under
    jobs_ahead: Count  # in the line of the same user, of any kind
    users_ahead: Count  # with an older turn, and jobs of kinds that the same workers serve
    weight: int = WEIGHT_DEFAULT  # of the user, in hundredths
    workers: Workers
    error: str | None = None  # type and message of the error of the latest failed attempt
    handler: str | None = None  # what this server's worker knows of the handler, a sentence
    wait: LastWait | None = None  # of a job that has ended; None: it was never started
    parents: Mapping[JobId, State] = {}  # some of those that it waits for
    deliveries: Sequence[DeliveryState] = ()  # the latest that tell its end
    run: ScheduleFired | None = None  # of the schedule that submitted it; None: a caller did
    is_posted: bool = False  # servers take the jobs of its kind, and post them to an address

    @property
    def is_held(self) -> bool:
        """True if limits of starts hold the job back."""
        return any(hold(limit, self.now) is not None for limit in self.limits)


class Explanation(Struct, frozen=True):
    """The reasons for a job's state."""

    summary: str  # the state and the first reason
    reasons: list[Reason]  # the decisive one first


def explain(known: ExplanationInput) -> Explanation:
    reasons = [*_reasons(known), *_caller(known), *_told(known), *_schedule(known)]
    summary = f"Job {known.job.id} is {known.job.state}. {reasons[0].text}"
    return Explanation(summary, reasons)


def _told(known: ExplanationInput) -> Iterator[Reason]:
    """Name the callbacks that tell how the job ended."""
    if known.deliveries:
        yield deliveries(known.deliveries, len(known.job.deliveries))


def _schedule(known: ExplanationInput) -> Iterator[Reason]:
    if known.run is not None:
        yield submitted_by_schedule(known.run)


def _reasons(known: ExplanationInput) -> Iterator[Reason]:
    match known.job.state:
        case State.SCHEDULED:
            yield from _why_scheduled(known)
        case State.QUEUED:
            yield from _why_queued(known)
        case State.RUNNING:
            yield _running(known)
            yield from _error(known)
            yield from _handler(known)
        case State.DONE:
            yield _done(known)
            yield from _turns(known)
            yield from _error(known)
        case State.FAILED:
            yield _failed(known)
            yield from _turns(known)
            yield from _handler(known)
        case State.CANCELLED:
            yield _cancelled(known)
            yield from _turns(known)
        case _:
            assert_never(known.job.state)


_DEEDS: Final[Mapping[type[Event], str]] = {
    JobStarted: "claimed it",
    JobCompleted: "completed it",
    JobFailed: "reported the failure",
    JobRequeued: "queued it again",
    JobCancelled: "cancelled it",
}


def _caller(known: ExplanationInput) -> Iterator[Reason]:
    """Say which API key caused the latest change of the job."""
    latest = known.latest
    if latest is not None and latest.by is not None and (deed := _DEEDS.get(type(latest))):
        yield Reason("caller", f"The API key {latest.by!r} {deed}.", {"by": latest.by})


def _why_scheduled(known: ExplanationInput) -> Iterator[Reason]:
    job = known.job
    if job.waits_for:
        yield waits_for(job, known.parents)
        if job.run_at is None or job.run_at <= known.now:
            yield from _expiry(known)
            return
    left = _seconds_until(known, job.run_at)
    numbers: dict[str, Value] = {"run_at": job.run_at, "seconds_left": left}
    if left <= 0:
        yield Reason(
            "due",
            f"It was due at {format_time(job.run_at or job.expires_at)}; a running server acts on "
            "it in a moment.",
            numbers,
        )
    elif job.attempt > 0:
        because = ""
        if isinstance(known.latest, JobFailed):
            because = f" because {_ENDED_BECAUSE[known.latest.reason]}"
        yield Reason(
            "retry_delay",
            f"Attempt {job.attempt} of at most {job.final_attempt} failed{because}; "
            f"the next is due at {format_time(job.run_at)}, in {format_seconds(left)}.",
            {
                **numbers,
                "attempt": job.attempt,
                "failures": job.failures,
                "max_attempts": job.attempts_granted,
            },
        )
        if isinstance(known.latest, JobFailed):
            yield _delay(job, known.latest)
        yield from _error(known)
        yield from _handler(known)
    else:
        yield Reason(
            "scheduled",
            f"It was submitted to run not before {format_time(job.run_at)}, in "
            f"{format_seconds(left)}.",
            numbers,
        )
    yield from _expiry(known)


def _delay(job: Job, failed: JobFailed) -> Reason:
    """Say why the next attempt is due when it is."""
    if failed.retry_in_seconds is not None:
        asked = failed.retry_in_seconds
        return Reason(
            "retry_asked",
            f"Its worker asked for a delay of {asked:g} s.",
            {"retry_in_seconds": asked},
        )
    least, most = delay_range(job.retry, job.errors - 1)
    bounds = f"{most:g} s" if least == most else f"{least:g} to {most:g} s, drawn by chance"
    backoff = BACKOFF if job.retry is None else job.retry.backoff or BACKOFF
    return Reason(
        "backoff",
        f"By its {backoff} backoff, the delay after failure {job.errors} is {bounds}.",
        {"errors": job.errors, "delay_least": least, "delay_most": most},
    )


def _error(known: ExplanationInput) -> Iterator[Reason]:
    if known.error is not None:
        yield Reason("error", f"Attempt {known.job.failed_attempt} failed with {known.error}")


def _handler(known: ExplanationInput) -> Iterator[Reason]:
    if known.handler is not None:
        yield Reason("handler", known.handler)


def _why_queued(known: ExplanationInput) -> Iterator[Reason]:
    yield from start_reasons(known.limits, known.jobs_ahead, known.now)
    if not known.workers.are_seen:
        yield _no_worker(known)
    yield from _place(known)
    if known.job.is_suspect:
        yield Reason(
            "alone",
            f"Attempt {known.job.attempt} may have killed its worker, so the next is made "
            "alone: the worker that takes it finishes what else it has before it begins.",
            {"attempt": known.job.attempt},
        )
    if known.workers.are_seen:
        yield _workers(known)
    yield from _earlier_attempt(known)
    yield from _error(known)
    yield from _handler(known)
    yield from _expiry(known)


def _no_worker(known: ExplanationInput) -> Reason:
    workers, kind = known.workers, known.job.kind
    running = known.kind.running
    numbers: dict[str, Value] = {"running": running, "lately_seconds": workers.lately_seconds}
    nobody = (
        f"No living worker asks for the kind {kind!r}: none has in the last "
        f"{format_seconds(workers.lately_seconds)}"
    )
    dead = _dead(workers)
    if running:
        return Reason(
            "no_worker_free",
            f"{nobody}; {amount(running, 'job')} of it {are_running(running)}, so there is a "
            f"worker, but it may be busy.{dead}",
            numbers,
        )
    mistyped = ""
    if workers.nearest_kind is not None:
        mistyped = f" Workers ask for {workers.nearest_kind!r}: is the kind mistyped?"
    return Reason(
        "no_worker",
        f"{nobody}, no job of it is running, and none was started in that time. "
        f"{_POSTED if known.is_posted else _CLAIMED}{mistyped}{dead}",
        numbers,
    )


_CLAIMED: Final = "Start a worker that has a handler for it."
_POSTED: Final = (
    "Its jobs are posted by servers that have the key to sign them: start one with "
    "FAIRLOG_CALLBACK_KEY_FILE."
)


def _dead(workers: Workers) -> str:
    """Name the worker that fell silent last; empty if there is none."""
    if not workers.dead:
        return ""
    last = workers.dead[0]
    return (
        f" Worker {last.worker!r} took it, and has been silent for {format_seconds(last.seconds)}."
    )


def _place(known: ExplanationInput) -> Iterator[Reason]:
    jobs, users, user_id = known.jobs_ahead, known.users_ahead, known.job.user_id
    if jobs.number:
        yield Reason(
            "jobs_ahead",
            f"In the line of user {user_id!r} there {_are(jobs)} "
            f"{jobs.of('job', 'jobs')} before it, of higher priority or older; one is served at "
            "each turn of the user.",
            {"jobs_ahead": jobs.number, "is_exact": jobs.is_exact},
        )
    if users.number and not known.is_held:
        yield _behind_users(known)
    if not (jobs.number or users.number or known.is_held):
        yield Reason("next", "It is the next to be served, as soon as a worker asks for its kind.")


def _behind_users(known: ExplanationInput) -> Reason:
    users, user_id = known.users_ahead, known.job.user_id
    numbers: dict[str, Value] = {"users_ahead": users.number, "is_exact": users.is_exact}
    text = f"It is the turn of {users.of('user', 'users')} before that of user {user_id!r}"
    if known.weight == WEIGHT_DEFAULT:
        return Reason("users_ahead", f"{text}; each is served one job.", numbers)
    weight = known.weight / WEIGHT_DEFAULT
    return Reason(
        "users_ahead",
        f"{text}, who has the weight {weight:g}: users who wait are served in proportion to their "
        "weights, which are 1 unless set.",
        numbers | {"weight": weight},
    )


def _workers(known: ExplanationInput) -> Reason:
    kind, workers = known.job.kind, known.workers
    numbers: dict[str, Value] = {
        "asked_seconds_ago": _rounded(workers.asked_seconds_ago),
        "started_seconds_ago": _rounded(workers.started_seconds_ago),
        "running": known.kind.running,
    }
    if workers.asked_seconds_ago == 0:
        return Reason(
            "worker_waiting",
            f"A worker waits for jobs of the kind {kind!r}.",
            numbers,
        )
    clauses = []
    if workers.asked_seconds_ago is not None:
        clauses.append(f"one polled {format_seconds(workers.asked_seconds_ago)} ago")
    if workers.started_seconds_ago is not None:
        clauses.append(f"a job of it was started {format_seconds(workers.started_seconds_ago)} ago")
    text = f"There are living workers for the kind {kind!r}: {', and '.join(clauses)}."
    return Reason("workers_busy", text, numbers)


def _earlier_attempt(known: ExplanationInput) -> Iterator[Reason]:
    if isinstance(known.latest, JobRequeued):
        yield Reason(
            "requeued",
            f"Attempt {known.latest.attempt} ended without an outcome "
            f"({known.latest.reason.replace('_', ' ')}), and the job was queued again."
            if known.latest.reason != "retried"
            else f"It was started again by hand after attempt {known.latest.attempt}.",
            {"attempt": known.latest.attempt, "requeued": known.latest.reason.value},
        )


def _expiry(known: ExplanationInput) -> Iterator[Reason]:
    job = known.job
    if job.expires is not None:
        left = _seconds_until(known, job.expires)
        yield Reason(
            "expires",
            f"Not started by {format_time(job.expires_at)}, it will not run at all.",
            {"expires_at": job.expires_at, "seconds_left": left},
        )


def _running(known: ExplanationInput) -> Reason:
    job = known.job
    left = _seconds_until(known, job.lease_expires_at)
    lease = (
        f"its lease holds until {format_time(job.lease_expires_at)}"
        if left > 0
        else f"its lease ended at {format_time(job.lease_expires_at)}, and it is queued again in a "
        "moment"
    )
    return Reason(
        "running",
        f"Worker {job.worker!r} has had attempt {job.attempt} of at most "
        f"{job.final_attempt} since {format_time(job.started_at)}; {lease}.{_heard(known.workers)}",
        {
            "attempt": job.attempt,
            "failures": job.failures,
            "max_attempts": job.attempts_granted,
            "worker": job.worker,
            "started_at": job.started_at,
            "begun_at": job.begun_at,
            "lease_expires_at": job.lease_expires_at,
            "seconds_left": left,
            "worker_is_alive": known.workers.own_is_alive,
        },
    )


def _heard(workers: Workers) -> str:
    """Say when the job's worker was heard of; empty if that is not known."""
    if workers.own_seconds_ago is None:
        return ""
    if workers.own_is_alive:
        return f" The worker is alive: it polled {format_seconds(workers.own_seconds_ago)} ago."
    return (
        f" The worker seems to be dead: it has been silent for "
        f"{format_seconds(workers.own_seconds_ago)}. The job is queued again when its lease ends."
    )


def _done(known: ExplanationInput) -> Reason:
    job, since, cause = known.job, known.job.submitted_at, "its submission"
    if known.wait is not None:
        since, cause = known.wait.since, _cause_of(known.wait)
    waited, ran = _between(since, job.started_at), _between(job.started_at, job.finished_at)
    return Reason(
        "done",
        f"Worker {job.worker!r} completed attempt {job.attempt} at "
        f"{format_time(job.finished_at)}, {format_seconds(ran)} after its start; it was started "
        f"{format_seconds(waited)} after {cause}.",
        {"attempt": job.attempt, "waited_seconds": waited, "ran_seconds": ran},
    )


def _cause_of(wait: LastWait) -> str:
    match wait.cause:
        case JobRequeued(reason=RequeueReason.RETRIED):
            return "it was retried by hand"
        case JobRequeued():
            return "it was queued again"
        case JobReleased():
            return "it was due"
        case _:
            return "its submission"


def _turns(known: ExplanationInput) -> Iterator[Reason]:
    """Say which jobs were started while an ended job waited in line."""
    wait, user_id = known.wait, known.job.user_id
    if wait is None:
        return
    started, others = wait.started, wait.started.number - wait.own
    clauses = []
    if others:
        users = f"{amount(wait.other_users, 'other user')}"
        clauses.append(f"{amount(others, 'job')} of {users}")
    if wait.own:
        clauses.append(f"{amount(wait.own, 'job')} of user {user_id!r}")
    if not started.is_exact:
        which = f"{started.of('job', 'jobs')} were started; they were not counted further"
    elif started.number:
        which = f"{' and '.join(clauses)} {'was' if started.number == 1 else 'were'} started"
    else:
        which = "no other job was started"
    yield Reason(
        "waited",
        f"While it waited for attempt {known.job.attempt}, {which}.",
        {
            "waited_seconds": _between(wait.since, known.job.started_at),
            "jobs_started": started.number,
            "own_jobs_started": wait.own if started.is_exact else None,
            "other_users": wait.other_users if started.is_exact else None,
            "is_exact": started.is_exact,
        },
    )


def _failed(known: ExplanationInput) -> Reason:
    job = known.job
    if job.failed_parent is not None:
        return did_not_run(job, job.failed_parent)
    reason = known.latest.reason if isinstance(known.latest, JobFailed) else FailureReason.ERROR
    is_last = job.attempt >= job.final_attempt
    never = () if job.retry is None else job.retry.never or ()
    text = (
        f"Attempt {job.attempt} failed at {format_time(job.finished_at)} on worker {job.worker!r} "
    )
    if reason is FailureReason.ERROR and known.error is not None:
        text += f"with {known.error} – "
    else:
        text += f"because {_ENDED_BECAUSE[reason]}; "
    text += (
        f"it was the last of {job.final_attempt}."
        if is_last
        else f"it was a permanent failure, although {job.final_attempt} attempts were allowed."
    )
    if not is_last and never:
        text += f" No attempt follows an error of these types: {', '.join(map(repr, never))}."
    return Reason(
        "failed",
        text,
        {
            "attempt": job.attempt,
            "failures": job.failures,
            "max_attempts": job.attempts_granted,
            "failure": reason.value,
        },
    )


def _cancelled(known: ExplanationInput) -> Reason:
    job = known.job
    if isinstance(known.latest, JobCancelled) and known.latest.reason is CancelReason.EXPIRED:
        return Reason(
            "expired",
            f"It had not been started by {format_time(job.expires_at)}, and so does not run.",
            {"expires_at": job.expires_at},
        )
    if job.failed_parent is not None:
        return did_not_run(job, job.failed_parent)
    was = known.latest.was if isinstance(known.latest, JobCancelled) else "waiting"
    return Reason(
        "cancelled",
        f"It was cancelled on request at {format_time(job.finished_at)}, while {was}.",
        {"was": was, "finished_at": job.finished_at},
    )


def _are(count: Count) -> str:
    return "is" if count.number == 1 and count.is_exact else "are"


def _seconds_until(known: ExplanationInput, moment: datetime | None) -> float:
    return 0.0 if moment is None else _between(known.now, moment)


def _between(start: datetime | None, end: datetime | None) -> float:
    return 0.0 if start is None or end is None else round((end - start).total_seconds(), 3)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
