"""Jobs as the log has them: events, their fold, and the decision of a request.

A job is named by its place among the submissions of the log, from 0. Its attempt is the number of
its starts: it only grows, and is the fencing token.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace


class Event(Struct, frozen=True, cache_hash=True):
    """One event of the log."""

    what: Literal["submitted", "started", "requeued", "completed"]
    job: int
    attempt: int  # 0 for a submission
    by: str  # the submission, the claim or the worker; empty for `requeued`
    tries: int = 0  # of its batch before; stands for the time, which the hash covers


class Job(Struct, frozen=True, cache_hash=True):
    """A row of the projection."""

    submission: str
    state: Literal["waiting", "running", "done"] = "waiting"
    claims: tuple[str, ...] = ()  # that started it, the latest last
    outcome: tuple[int, str] | None = None  # attempt and worker

    @property
    def attempt(self) -> int:
        return len(self.claims)


class Submit(Struct, frozen=True, cache_hash=True):
    """A submission. With a key it may be sent again; without one its caller never does that."""

    name: str
    is_keyed: bool


class Claim(Struct, frozen=True, cache_hash=True):
    """A claim of one job by a worker."""

    name: str  # its `claim_id`
    is_again: bool  # it was sent before, and the outcome is not known


class Complete(Struct, frozen=True, cache_hash=True):
    """The report of the outcome of an attempt."""

    job: int
    attempt: int
    worker: str


class Enforce(Struct, frozen=True, cache_hash=True):
    """The service's own command to queue jobs again whose leases have ended."""


class Accepted(Struct, frozen=True, cache_hash=True):
    """The answer to a submission."""

    job: int
    is_duplicate: bool


class Given(Struct, frozen=True, cache_hash=True):
    """The answer to a claim that has a job."""

    job: int
    attempt: int


Log = tuple[Event, ...]
Rows = tuple[Job, ...]
Request = Submit | Claim | Complete | Enforce
# "unknown" is the answer 503: the request may have been carried out.
Answer = Accepted | Given | Literal["no job", "completed", "refused", "enforced", "unknown"]
Attempts = frozenset[tuple[int, int]]  # (job, attempt)


def evolve(rows: Rows, event: Event) -> Rows:
    """Fold one event into the rows."""
    if event.what == "submitted":
        return with_row(rows, event.job, Job(event.by))
    job = rows[event.job]
    match event.what:
        case "started":
            job = replace(job, state="running", claims=(*job.claims, event.by))
        case "requeued":
            job = replace(job, state="waiting")
        case "completed":
            job = replace(job, state="done", outcome=(event.attempt, event.by))
    return with_row(rows, event.job, job)


def with_row(rows: Rows, job: int, row: Job) -> Rows:
    """Insert or replace one row."""
    return (*rows[:job], row, *rows[job + 1 :])


@cache
def fold(log: Log) -> Rows:
    """Return the rows after the whole log."""
    return evolve(fold(log[:-1]), log[-1]) if log else ()


def decide(
    rows: Rows, request: Request, ended: Attempts, *, is_fenced: bool
) -> Iterator[tuple[Log, Answer]]:
    """Yield each decision that the service may make: the events, and the answer.

    `ended` are the attempts whose leases have ended by the log's clock. Without a fence, a report
    about a job that runs is taken whatever its attempt.
    """
    match request:
        case Submit(name, is_keyed):
            known = [place for place, job in enumerate(rows) if job.submission == name]
            if is_keyed and known:
                yield (), Accepted(known[0], is_duplicate=True)
            else:
                event = Event("submitted", len(rows), 0, name)
                yield (event,), Accepted(len(rows), is_duplicate=False)
        case Claim():
            yield from _claim(rows, request, ended)
        case Complete(job, attempt, worker):
            current = rows[job] if job < len(rows) else Job("unknown")
            is_held = attempt == current.attempt and (job, attempt) not in ended
            if current.outcome == (attempt, worker):
                yield (), "completed"
            elif current.state == "running" and (is_held or not is_fenced):
                yield (Event("completed", job, attempt, worker),), "completed"
            else:
                yield (), "refused"
        case Enforce():
            yield (
                tuple(
                    Event("requeued", place, job.attempt, "")
                    for place, job in enumerate(rows)
                    if job.state == "running" and (place, job.attempt) in ended
                ),
                "enforced",
            )


def _claim(rows: Rows, claim: Claim, ended: Attempts) -> Iterator[tuple[Log, Answer]]:
    """Give any job that waits: which one is the fair choice is not modelled."""
    for place, job in enumerate(rows):
        if claim.name in job.claims:
            is_held = job.state == "running" and job.claims[-1] == claim.name
            if is_held and (place, job.attempt) not in ended:
                yield (), Given(place, job.attempt)
            else:
                yield (), "no job"
            return
    waiting = [place for place, job in enumerate(rows) if job.state == "waiting"]
    for place in waiting:
        attempt = rows[place].attempt + 1
        yield (Event("started", place, attempt, claim.name),), Given(place, attempt)
    if not waiting or claim.is_again:  # it may have been answered so before, which is kept
        yield (), "no job"


def decide_all(
    rows: Rows, requests: Sequence[Request], ended: Attempts, *, is_fenced: bool
) -> Iterator[tuple[Log, tuple[Answer, ...]]]:
    """Yield the decisions of a batch: its events and its answers, each in order."""
    if not requests:
        yield (), ()
        return
    first, *others = requests
    for events, answer in decide(rows, first, ended, is_fenced=is_fenced):
        after = rows
        for event in events:
            after = evolve(after, event)
        for more, answers in decide_all(after, others, ended, is_fenced=is_fenced):
            yield events + more, (answer, *answers)
