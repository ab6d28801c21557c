"""Why a job has not run yet, or what became of it: sentences and numbers made from facts."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final, assert_never

from msgspec import Struct

from domain.fairness.line import KindInLine, UserInLine
from domain.jobs.job import Job, State
from domain.language.events import (
    CancelReason,
    Event,
    FailureReason,
    JobCancelled,
    JobFailed,
    JobRequeued,
)

Value = int | float | str | bool | datetime | None

_ENDED_BECAUSE: Final = {
    FailureReason.ERROR: "its worker reported an error",
    FailureReason.TIMED_OUT: "it ran longer than its timeout_seconds",
    FailureReason.LEASE_LOST: "its worker was not heard of until the lease ended",
    FailureReason.SERVER_RESTARTED: "the server that ran it died",
}


class Count(Struct, frozen=True):
    """How many, counted up to a bound."""

    number: int
    is_exact: bool = True  # False: more than that

    def of(self, one: str, many: str) -> str:
        """In words: "1 job", "3 jobs", "more than 500 jobs"."""
        noun = one if self.number == 1 and self.is_exact else many
        return f"{'' if self.is_exact else 'more than '}{self.number:,} {noun}"


class Workers(Struct, frozen=True, kw_only=True):
    """What is known of workers for the job's kind. That they ask other servers is not."""

    asked_seconds_ago: float | None = None  # this server; 0: one waits now; None: not lately
    started_seconds_ago: float | None = None  # a job of the kind, by any; None: not lately
    lately_seconds: float  # how far back both look

    @property
    def are_seen(self) -> bool:
        return self.asked_seconds_ago is not None or self.started_seconds_ago is not None


class Facts(Struct, frozen=True, kw_only=True):
    """What is known of one job and of what is around it."""

    job: Job
    now: datetime  # UTC, by the log's clock
    latest: Event | None  # that happened to the job
    user: UserInLine
    kind: KindInLine
    jobs_ahead: Count  # of the same user, of any kind
    users_ahead: Count  # whose turn is older
    workers: Workers
    error: str | None = None  # of the latest failure: its type and message
    handler: str | None = None  # what this server's worker saw of the handler, in a sentence


class Reason(Struct, frozen=True):
    code: str
    text: str  # sentences
    numbers: Mapping[str, Value] = {}


class Explanation(Struct, frozen=True):
    """The first reason is the decisive one."""

    summary: str
    reasons: list[Reason]


def explain(facts: Facts) -> Explanation:
    reasons = list(_reasons(facts))
    summary = f"Job {facts.job.id} is {facts.job.state}. {reasons[0].text}"
    return Explanation(summary, reasons)


def _reasons(facts: Facts) -> Iterator[Reason]:
    match facts.job.state:
        case State.SCHEDULED:
            yield from _why_scheduled(facts)
        case State.QUEUED:
            yield from _why_queued(facts)
        case State.RUNNING:
            yield _running(facts)
            yield from _handler(facts)
        case State.DONE:
            yield _done(facts.job)
        case State.FAILED:
            yield _failed(facts)
            yield from _error(facts)
            yield from _handler(facts)
        case State.CANCELLED:
            yield _cancelled(facts)
        case _:
            assert_never(facts.job.state)


def _why_scheduled(facts: Facts) -> Iterator[Reason]:
    job = facts.job
    left = _seconds_until(facts, job.run_at)
    numbers: dict[str, Value] = {"run_at": job.run_at, "seconds_left": left}
    if left <= 0:
        yield Reason(
            "due",
            f"It was due at {_time(job.run_at)}; a server lets it into the line in a "
            "moment, if one is running.",
            numbers,
        )
    elif job.attempt > 0:
        because = ""
        if isinstance(facts.latest, JobFailed):
            because = f" because {_ENDED_BECAUSE[facts.latest.reason]}"
        yield Reason(
            "retry_delay",
            f"Attempt {job.attempt} of at most {job.final_attempt} failed{because}; "
            f"the next is due at {_time(job.run_at)}, in {_seconds(left)}.",
            {
                **numbers,
                "attempt": job.attempt,
                "failures": job.failures,
                "max_attempts": job.attempts_granted,
            },
        )
        yield from _error(facts)
        yield from _handler(facts)
    else:
        yield Reason(
            "scheduled",
            f"It was submitted to run not before {_time(job.run_at)}, in {_seconds(left)}.",
            numbers,
        )
    yield from _expiry(facts)


def _error(facts: Facts) -> Iterator[Reason]:
    if facts.error is not None:
        yield Reason("error", f"The latest attempt failed with {facts.error}")


def _handler(facts: Facts) -> Iterator[Reason]:
    if facts.handler is not None:
        yield Reason("handler", facts.handler)


def _why_queued(facts: Facts) -> Iterator[Reason]:
    yield from _caps(facts)
    if not facts.workers.are_seen:
        yield _no_worker(facts)
    yield from _place(facts)
    if facts.job.is_suspect:
        yield Reason(
            "alone",
            f"Attempt {facts.job.attempt} may have killed its worker, so the next is made "
            "alone: the worker that takes it finishes what else it has before it begins.",
            {"attempt": facts.job.attempt},
        )
    if facts.workers.are_seen:
        yield _workers(facts)
    yield from _earlier_attempt(facts)
    yield from _error(facts)
    yield from _handler(facts)
    yield from _expiry(facts)


def _caps(facts: Facts) -> Iterator[Reason]:
    job, user, kind = facts.job, facts.user, facts.kind
    if user.is_capped:
        yield Reason(
            "user_cap",
            f"User {job.user_id!r} has {_of(user.running, 'job')} running, and at most "
            f"{user.running_limit} may run at once: the next starts when one of them ends.",
            {"running": user.running, "running_limit": user.running_limit},
        )
    if kind.is_capped:
        yield Reason(
            "kind_cap",
            f"Of the kind {job.kind!r} {_of(kind.running, 'job')} run, and at most "
            f"{kind.running_limit} may run at once, whosever they are.",
            {"running": kind.running, "running_limit": kind.running_limit},
        )


def _no_worker(facts: Facts) -> Reason:
    lately = _seconds(facts.workers.lately_seconds)
    running = facts.kind.running
    numbers: dict[str, Value] = {
        "running": running,
        "lately_seconds": facts.workers.lately_seconds,
    }
    kind = facts.job.kind
    if running:
        return Reason(
            "no_worker_free",
            f"No worker has asked this server for the kind {kind!r} in the last "
            f"{lately}; {_of(running, 'job')} of it run, so there is a worker, and it may be busy.",
            numbers,
        )
    return Reason(
        "no_worker",
        f"No worker has asked for the kind {kind!r}: not this server in the last "
        f"{lately}, no job of it runs, and none was started in that time. Start a worker that "
        "has a handler for it. (A worker that asks another server and has had nothing yet cannot "
        "be seen from here.)",
        numbers,
    )


def _place(facts: Facts) -> Iterator[Reason]:
    jobs, users, user_id = facts.jobs_ahead, facts.users_ahead, facts.job.user_id
    if jobs.number:
        yield Reason(
            "jobs_ahead",
            f"In the line of user {user_id!r} there {_are(jobs)} "
            f"{jobs.of('job', 'jobs')} before it, of higher priority or older; one is served at "
            "each turn of the user.",
            {"jobs_ahead": jobs.number, "is_exact": jobs.is_exact},
        )
    if users.number and not facts.user.is_capped:
        yield Reason(
            "users_ahead",
            f"It is the turn of {users.of('user', 'users')} before that of user "
            f"{user_id!r}; each is served one job.",
            {"users_ahead": users.number, "is_exact": users.is_exact},
        )
    if not (jobs.number or users.number or facts.user.is_capped or facts.kind.is_capped):
        yield Reason("next", "It is the next to be served, as soon as a worker asks for its kind.")


def _workers(facts: Facts) -> Reason:
    kind, workers = facts.job.kind, facts.workers
    numbers: dict[str, Value] = {
        "asked_seconds_ago": _rounded(workers.asked_seconds_ago),
        "started_seconds_ago": _rounded(workers.started_seconds_ago),
        "running": facts.kind.running,
    }
    if workers.asked_seconds_ago == 0:
        return Reason(
            "worker_waiting",
            f"A worker waits at this server for jobs of the kind {kind!r}.",
            numbers,
        )
    clauses = []
    if workers.asked_seconds_ago is not None:
        clauses.append(f"a worker asked this server {_seconds(workers.asked_seconds_ago)} ago")
    if workers.started_seconds_ago is not None:
        clauses.append(f"a job of it was started {_seconds(workers.started_seconds_ago)} ago")
    text = f"There are workers for the kind {kind!r}: {', and '.join(clauses)}."
    return Reason("workers_busy", text, numbers)


def _earlier_attempt(facts: Facts) -> Iterator[Reason]:
    if isinstance(facts.latest, JobRequeued):
        yield Reason(
            "requeued",
            f"Attempt {facts.latest.attempt} ended without an outcome "
            f"({facts.latest.reason.replace('_', ' ')}), and the job was queued again."
            if facts.latest.reason != "retried"
            else f"It was started again by hand after attempt {facts.latest.attempt}.",
            {"attempt": facts.latest.attempt, "requeued": facts.latest.reason.value},
        )


def _expiry(facts: Facts) -> Iterator[Reason]:
    job = facts.job
    if job.expires is not None:
        left = _seconds_until(facts, job.expires)
        yield Reason(
            "expires",
            f"Not started by {_time(job.expires_at)}, it will not run at all.",
            {"expires_at": job.expires_at, "seconds_left": left},
        )


def _running(facts: Facts) -> Reason:
    job = facts.job
    left = _seconds_until(facts, job.lease_expires_at)
    lease = (
        f"its lease holds until {_time(job.lease_expires_at)}"
        if left > 0
        else f"its lease ended at {_time(job.lease_expires_at)}, and it is queued again in a moment"
    )
    return Reason(
        "running",
        f"Worker {job.worker!r} has had attempt {job.attempt} of at most "
        f"{job.final_attempt} since {_time(job.started_at)}; {lease}.",
        {
            "attempt": job.attempt,
            "failures": job.failures,
            "max_attempts": job.attempts_granted,
            "worker": job.worker,
            "started_at": job.started_at,
            "begun_at": job.begun_at,
            "lease_expires_at": job.lease_expires_at,
            "seconds_left": left,
        },
    )


def _done(job: Job) -> Reason:
    waited, ran = (
        _between(job.submitted_at, job.started_at),
        _between(job.started_at, job.finished_at),
    )
    return Reason(
        "done",
        f"Worker {job.worker!r} completed attempt {job.attempt} at "
        f"{_time(job.finished_at)}, {_seconds(ran)} after its start; it was started "
        f"{_seconds(waited)} after its submission.",
        {"attempt": job.attempt, "waited_seconds": waited, "ran_seconds": ran},
    )


def _failed(facts: Facts) -> Reason:
    job = facts.job
    reason = facts.latest.reason if isinstance(facts.latest, JobFailed) else FailureReason.ERROR
    is_last = job.attempt >= job.final_attempt
    text = f"Attempt {job.attempt} failed at {_time(job.finished_at)} because "
    text += f"{_ENDED_BECAUSE[reason]}; "
    text += (
        f"it was the last of {job.final_attempt}."
        if is_last
        else f"it was not to be tried again, although {job.final_attempt} attempts were allowed."
    )
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


def _cancelled(facts: Facts) -> Reason:
    job = facts.job
    if isinstance(facts.latest, JobCancelled) and facts.latest.reason is CancelReason.EXPIRED:
        return Reason(
            "expired",
            f"It had not been started by {_time(job.expires_at)}, and so does not run.",
            {"expires_at": job.expires_at},
        )
    was = facts.latest.was if isinstance(facts.latest, JobCancelled) else "waiting"
    return Reason(
        "cancelled",
        f"It was cancelled on request at {_time(job.finished_at)}, while {was}.",
        {"was": was, "finished_at": job.finished_at},
    )


def _of(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _are(count: Count) -> str:
    return "is" if count.number == 1 and count.is_exact else "are"


def _time(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 (two digits tell)


def _seconds_until(facts: Facts, moment: datetime | None) -> float:
    return 0.0 if moment is None else _between(facts.now, moment)


def _between(start: datetime | None, end: datetime | None) -> float:
    return 0.0 if start is None or end is None else round((end - start).total_seconds(), 3)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
