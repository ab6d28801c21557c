"""Explains a job's state by the projections, the recent log and the polls of workers."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.archived import absence
from adapters.log.audit_log import EventFilter, StoredEvent
from domain.access.keys import ApiKey
from domain.audit.callback_reasons import DELIVERIES_NAMED_MAX, DeliveryState
from domain.audit.explanation import ExplanationInput, LastWait, SilentWorker, Workers, explain
from domain.audit.parent_reasons import PARENTS_NAMED_MAX
from domain.audit.reasons import Count
from domain.audit.start_reasons import StartLimit
from domain.fairness.line import Load, UserInLine
from domain.fairness.queues import QueueName
from domain.fairness.start_limits import NO_STARTS
from domain.jobs.failure import unreported_error
from domain.jobs.job import ENDED, Job, State
from domain.language.callbacks import CALLBACK_KIND
from domain.language.errors import UnknownJob
from domain.language.events import JobStarted, ScheduleFired
from domain.language.identifiers import JobId, Kind, WorkerId
from domain.language.limits import WEIGHT_DEFAULT
from domain.language.moments import later
from domain.limits.limits import EVERYONE, Limits, LimitSettings, Subject
from domain.log.upcasting import read
from entrypoints.runtime.text import message_of
from entrypoints.service.fairlog import Fairlog
from entrypoints.service.worker_polls import LATELY_SECONDS, WorkerPoll, is_alive, nearest_kind
from entrypoints.use_cases.held_queues import held_queues
from projections.queries.counts_ahead import CountsAhead
from projections.queries.queues import names_of_queues
from projections.storage import registry

STARTS_READ_MAX: Final = 200
TURNS_COUNTED_MAX: Final = 500  # jobs that were started while an ended one waited
_EXPLAINING_EVENTS: Final = (
    "JobStarted",
    "JobCompleted",
    "JobFailed",
    "JobRequeued",
    "JobReleased",
    "JobCancelled",
)
_NONE: Final = Count(0)
_QUEUES_MAX: Final = 100

_QUEUEING_EVENTS: Final = ("JobSubmitted", "JobReleased", "JobRequeued")

ExplanationView = dict[str, Any]


async def explain_job(
    fairlog: Fairlog, job_id: JobId, seen_by: ApiKey | None = None
) -> ExplanationView:
    """Return `{"job_id", "state", "summary", "reasons"}`. Raises `UnknownJob`,
    also if the key may not see the job.
    """
    query = fairlog.with_saved_rows(lambda connection: input_of(fairlog, connection, job_id))
    known = await fairlog.read_long(query)
    if seen_by is not None and not seen_by.is_for(known.job.user_id, known.job.kind):
        raise UnknownJob(job_id)
    return explanation_of(known)


def explanation_of(known: ExplanationInput) -> ExplanationView:
    """Return the explanation of a job as the API gives it."""
    explained = explain(known)
    return {
        "job_id": known.job.id,
        "state": known.job.state,
        "summary": explained.summary,
        "reasons": [
            {"code": one.code, "text": one.text, **one.numbers} for one in explained.reasons
        ],
    }


def input_of(fairlog: Fairlog, connection: Connection, job_id: JobId) -> ExplanationInput:
    """Collect the input from which a job's state is explained. Raises `UnknownJob`."""
    found = fairlog.jobs.find(connection, [job_id])
    if job_id not in found:
        raise absence(connection, job_id)
    job = found[job_id]
    user = fairlog.line.user(connection, job.user_id)
    kind = fairlog.line.kind(connection, job.kind)
    is_queued = job.state is State.QUEUED
    ahead = CountsAhead(registry.current("line"), registry.current("jobs"))
    explaining = EventFilter(job_id=job_id, types=_EXPLAINING_EVENTS)
    latest = audit_log.find_newest(connection, explaining, None, 1)
    polls = fairlog.worker_polls.read(connection, fairlog.log.now(connection))
    settings = fairlog.windows.limits_of(connection, [job.user_id])
    return ExplanationInput(
        job=job,
        now=fairlog.log.now(connection),
        latest=read(latest[0].version, latest[0].data) if latest else None,
        kind=kind,
        limits=_start_limits(fairlog, connection, job, settings, user, kind) if is_queued else (),
        jobs_ahead=ahead.jobs(connection, job) if is_queued else _NONE,
        users_ahead=ahead.users(
            connection,
            user.order,
            _open_queues(fairlog, connection, settings, _served_with(job.kind, polls, fairlog)),
        )
        if is_queued
        else _NONE,
        weight=settings.of_user(job.user_id).weight or WEIGHT_DEFAULT,
        workers=_workers(fairlog, connection, job, kind, polls, is_queued=is_queued),
        error=_error(connection, job),
        handler=fairlog.handler_note(job.id),
        wait=_wait(connection, job) if job.state in ENDED else None,
        parents=_parents(fairlog, connection, job),
        deliveries=_deliveries(fairlog, connection, job),
        run=_run(connection, job),
        is_posted=job.kind == CALLBACK_KIND or settings.of_kind(job.kind).push is not None,
    )


def _run(connection: Connection, job: Job) -> ScheduleFired | None:
    """Return the run of the schedule that submitted it; None: a caller did."""
    found = audit_log.find(connection, EventFilter(), job.id, 1)
    run = read(found[0].version, found[0].data) if found else None
    return run if isinstance(run, ScheduleFired) and run.job == job.id else None


def _parents(fairlog: Fairlog, connection: Connection, job: Job) -> dict[JobId, State]:
    """Return the states of the first jobs that it waits for."""
    named = [] if job.state in ENDED else list(job.waits_for[:PARENTS_NAMED_MAX])
    if not named:
        return {}
    return {one.id: one.state for one in fairlog.jobs.find(connection, named).values()}


def _deliveries(fairlog: Fairlog, connection: Connection, job: Job) -> list[DeliveryState]:
    """Return the latest jobs that tell its end, as they stand."""
    named = list(job.deliveries[-DELIVERIES_NAMED_MAX:])
    if not named:
        return []
    found = fairlog.jobs.find(connection, named)
    return [
        DeliveryState(one.id, one.user_id, one.state, one.attempt)
        for job_id in named
        if (one := found.get(job_id)) is not None
    ]


def _wait(connection: Connection, job: Job) -> LastWait | None:
    """Return the wait for the latest attempt of a job, with the jobs that were started meanwhile,
    counted up to TURNS_COUNTED_MAX; None: it has made no attempt.
    """
    queueing = EventFilter(job_id=job.id, types=_QUEUEING_EVENTS)
    found = audit_log.find_newest(connection, queueing, job.started_position, 1)
    if not found:
        return None
    [queued] = found
    starts = audit_log.find_newest(
        connection, EventFilter(types=("JobStarted",)), job.started_position, TURNS_COUNTED_MAX + 1
    )
    users = [start.user_id for start in starts if start.position > queued.position]
    counted = users[:TURNS_COUNTED_MAX]
    return LastWait(
        since=queued.recorded_at,
        cause=read(queued.version, queued.data),
        started=Count(len(counted), is_exact=len(counted) == len(users)),
        own=counted.count(job.user_id),
        other_users=len({*counted} - {job.user_id}),
    )


def _start_limits(
    fairlog: Fairlog,
    connection: Connection,
    job: Job,
    limits: LimitSettings,
    user: UserInLine,
    kind: Load,
) -> list[StartLimit]:
    """Return the limits that are set for the start of a job, with how much of them is used up."""
    load = fairlog.line.user_kind(connection, job.user_id, job.kind)
    subjects = [
        (EVERYONE, Limits(paused=limits.everyone.paused), 0),
        (Subject(job.user_id), limits.of_user(job.user_id), user.running),
        (Subject(job.user_id, job.kind), limits.of_user_kind(job.user_id, job.kind), load.running),
        (Subject(kind=job.kind), limits.of_kind(job.kind), kind.running),
    ]
    for name in job.resources:
        running = fairlog.line.resource(connection, name).running
        subjects.append((Subject(resource=name), limits.of_resource(name), running))
    found = fairlog.line.starts(connection, [subject for subject, _, _ in subjects])
    return [
        StartLimit(subject, one, running, found.get(subject, NO_STARTS))
        for subject, one, running in subjects
    ]


def _error(connection: Connection, job: Job) -> str | None:
    """Return the error of the latest failed attempt; None: none failed, or it was erased."""
    if (unreported := unreported_error(job)) is not None:
        return f"{unreported.type}: {unreported.message}"
    if job.error_position is None:
        return None
    body = audit_log.bodies_at(connection, [job.error_position]).get(job.error_position)
    return message_of(body) or None


def _served_with(
    kind: Kind, polls: Mapping[WorkerId, WorkerPoll], fairlog: Fairlog
) -> frozenset[Kind] | None:
    """Return the kinds whose users take turns with those of a kind: what the living workers ask for
    that ask for it. None: any.
    """
    kinds = {kind}
    for poll in polls.values():
        alive = is_alive(poll.seconds_ago, fairlog.policy.lease_seconds, holds_jobs=True)
        if alive and poll.asks_for(kind):
            if poll.kinds is None:
                return None
            kinds |= poll.kinds
    return frozenset(kinds)


def _open_queues(
    fairlog: Fairlog,
    connection: Connection,
    settings: LimitSettings,
    kinds: frozenset[Kind] | None,
) -> list[QueueName] | None:
    """Return the queues of these kinds of which jobs may start by the limits that all users share.

    `kinds` None: of any kind. None: all queues, or too many to look at.
    """
    if kinds is None:
        if not (settings.kinds or settings.resources):
            return None
        waiting = fairlog.line.kinds(connection, _QUEUES_MAX)
        if len(waiting) == _QUEUES_MAX:
            return None
        kinds = frozenset(kind for kind, _ in waiting)
    names = names_of_queues(connection, registry.current("line"), sorted(kinds), _QUEUES_MAX)
    queues = [QueueName(name.decode()) for name in names]
    now = fairlog.log.now(connection)
    held = held_queues(connection, fairlog.line, settings, queues, now)
    return [queue for queue in queues if queue not in held]


def _workers(
    fairlog: Fairlog,
    connection: Connection,
    job: Job,
    kind: Load,
    polls: Mapping[WorkerId, WorkerPoll],
    *,
    is_queued: bool,
) -> Workers:
    lease_seconds = fairlog.policy.lease_seconds
    asking = sorted(
        (poll for poll in polls.values() if poll.asks_for(job.kind)),
        key=lambda poll: poll.seconds_ago,
    )
    alive = [
        poll
        for poll in asking
        if is_alive(poll.seconds_ago, lease_seconds, holds_jobs=kind.running > 0)
    ]
    own = polls.get(job.worker) if job.worker is not None else None
    return Workers(
        asked_seconds_ago=alive[0].seconds_ago if alive else None,
        started_seconds_ago=_seconds_since_start(fairlog, connection, job.kind)
        if is_queued
        else None,
        lately_seconds=LATELY_SECONDS,
        dead=[SilentWorker(one.worker, one.seconds_ago) for one in asking[len(alive) :]],
        own_seconds_ago=None if own is None else own.seconds_ago,
        own_is_alive=own is None or is_alive(own.seconds_ago, lease_seconds, holds_jobs=True),
        nearest_kind=None if asking or not is_queued else nearest_kind(job.kind, polls.values()),
    )


def _seconds_since_start(fairlog: Fairlog, connection: Connection, kind: Kind) -> float | None:
    """Return the seconds since a job of the kind was last started; None if not lately."""
    now = fairlog.log.now(connection)
    newest = audit_log.find_newest(
        connection, EventFilter(types=("JobStarted",)), None, STARTS_READ_MAX
    )
    for stored in newest:
        if stored.recorded_at < later(now, -LATELY_SECONDS):
            break
        if _kind_of(stored) == kind:
            return max(0.0, (now - stored.recorded_at).total_seconds())
    return None


def _kind_of(stored: StoredEvent) -> Kind | None:
    event = read(stored.version, stored.data)
    return event.kind if isinstance(event, JobStarted) else None
