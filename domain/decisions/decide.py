"""Decides a command: the events that follow from it, and the answer to the caller.

`decide` dispatches. Most rules are in modules of their own: admission in `rate_limits`, the
identity of submissions in `idempotency`, the order of jobs in `fairness.serve`, and the life of a
job in `life_cycle`. Rules about several jobs at once are here: heartbeats, the size of a claim, and
the number of kinds of a user.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate, takewhile
from types import MappingProxyType
from typing import assert_never

from msgspec.structs import replace

from domain.access import decisions as access
from domain.access.keys import ApiKey
from domain.callbacks.callbacks import decide_callback
from domain.decisions.answers import (
    ArchiveChanged,
    CallbackDecided,
    Claimed,
    ClockAccepted,
    JobsUpdated,
    JobUpdated,
    KeyChanged,
    LeasesHeld,
    LimitsSet,
    LineWasUpdated,
    LossWasAccepted,
    OutboxTaken,
    PlanRemoved,
    ProjectionsSaved,
    RefusalsRecorded,
    Submitted,
)
from domain.decisions.decision import Decision, NewEvent
from domain.decisions.losses import decide_loss
from domain.decisions.schedules import decide_schedule
from domain.decisions.write_model import WriteModel
from domain.fairness.known_line import Unread, WaitingJob
from domain.fairness.queues import kind_of, queue_of
from domain.fairness.serve import serve, unread_queues
from domain.jobs import life_cycle
from domain.jobs.archive import decide_archive, decide_archived_erasure
from domain.jobs.claims import claim_hash
from domain.jobs.job import ENDED, Job, State
from domain.jobs.job_fold import submitted as new_job
from domain.jobs.parents import events_at_end, events_at_submission
from domain.language.bodies import Body
from domain.language.callbacks import CALLBACK_KIND
from domain.language.commands import (
    AcceptClock,
    AcceptLoss,
    ArchiveSegments,
    BackfillSchedule,
    BeginArchive,
    CallbackCommand,
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteArchive,
    CompleteJob,
    CreateKey,
    DeleteCallback,
    DeletePlan,
    DeleteSchedule,
    EnforceDeadlines,
    EraseArchivedBodies,
    EraseBodies,
    ExtendLeases,
    FailJob,
    FireSchedule,
    JobCommand,
    RecoverJobs,
    ReportRefusals,
    ReportWrongKeys,
    RetryJob,
    ReturnJob,
    RevokeKey,
    RewriteSegment,
    RotateCallbackSecret,
    RotateKey,
    SaveProjections,
    SetCallback,
    SetSchedule,
    SubmitJob,
    TakeOutbox,
    TriggerSchedule,
    UpdateLine,
)
from domain.language.errors import (
    JobArchived,
    KeyNotValid,
    KeyReusedWithOtherPayload,
    RateLimited,
    Refusal,
    TooManyKinds,
    TooManyQueues,
    UnknownJob,
    UnknownParent,
    without_traceback,
)
from domain.language.events import (
    Event,
    FailureReason,
    JobStarted,
    JobSubmitted,
    LeasesExtended,
    LineUpdated,
    RateLimitDecided,
    Recorded,
    RequeueReason,
    SubmissionDeduplicated,
    WrongKeysRefused,
    named_body,
)
from domain.language.idempotency import is_deduplicated, key_of, own_digest
from domain.language.identifiers import JobId, KeyName, Kind, UserId, WorkerId
from domain.language.limits import resolved_retry
from domain.language.moments import later, to_micros
from domain.language.policy import Policy
from domain.limits.limits import (
    NONE,
    bounded,
    check_bounds,
    decide_limit,
    decide_plan_deletion,
    limits_of,
    subject_of,
)
from domain.limits.rate_limits import decide_admission, without_use

_Worker = tuple[WorkerId | None, KeyName | None]  # a worker and the API key of its claims


def decide(model: WriteModel, command: Command, policy: Policy, now: datetime) -> Decision:
    """Return the events that follow from a command, and the answer to its caller.

    A refusal is not raised: it is the `reply` of the decision. `now` is the log's time, UTC. The
    function is pure: equal state, command, policy and time give an equal decision.
    """
    key = None
    if command.by is not None and not isinstance(command, ReportRefusals):
        key = model.keys.valid(command.by, now)
        if key is None:
            return Decision([], KeyNotValid())
        try:
            access.check_command(key, command)
        except Refusal as refusal:
            return Decision([], without_traceback(refusal))
    return _decide(model, command, key, policy, now)


def _decide(  # noqa: C901, PLR0912 (a case for each command)
    model: WriteModel, command: Command, key: ApiKey | None, policy: Policy, now: datetime
) -> Decision:
    match command:
        case SubmitJob():
            return _submit(model, command, key, policy, now)
        case ReportRefusals():
            return _record_refusals(command)
        case ReportWrongKeys():
            return _record_wrong_keys(command)
        case ClaimJobs():
            return _claim(model, command, policy, now)
        case ExtendLeases():
            return _extend(model, command, policy, now)
        case RetryJob():
            return _retry(model, command, key, policy, now)
        case CompleteJob() | FailJob() | ReturnJob() | CancelJob() | EraseBodies():
            return _advance(model, command, key, now)
        case EnforceDeadlines():
            return _enforce_deadlines(model, command, now)
        case UpdateLine():
            return update_line(model, command.users, now)
        case RecoverJobs():
            return _recover(model, command)
        case ChangeLimit():
            return _change_limit(model, command)
        case DeletePlan():
            return _delete_plan(model, command)
        case AcceptClock() | SaveProjections():
            # The writer does either: a correction is recorded before the batch.
            done = ClockAccepted() if isinstance(command, AcceptClock) else ProjectionsSaved()
            return Decision([], lambda _: done)
        case AcceptLoss():
            return _accept_loss(model, command)
        case TakeOutbox():  # the writer has found no rows, else it would have made SubmitRows of it
            return Decision([], lambda _: OutboxTaken())
        case CreateKey() | RotateKey() | RevokeKey():
            return _change_key(model, command, now)
        case BeginArchive() | ArchiveSegments() | RewriteSegment() | CompleteArchive():
            return _archive(lambda: decide_archive(model.archive, command))
        case EraseArchivedBodies(job_id=job_id):
            job = model.jobs.rows.get(job_id)
            return _archive(lambda: decide_archived_erasure(model.archive, job, command), job_id)
        case (
            SetSchedule()
            | DeleteSchedule()
            | TriggerSchedule()
            | BackfillSchedule()
            | FireSchedule()
        ):
            return decide_schedule(model, command, key, policy, now, _submit)
        case SetCallback() | DeleteCallback() | RotateCallbackSecret():
            return _change_callback(model, command, now)
        case _:
            assert_never(command)


def _submit(
    model: WriteModel, command: SubmitJob, key: ApiKey | None, policy: Policy, now: datetime
) -> Decision:
    """Check the rate limit, then idempotency, then kinds: the order of the legacy system."""
    admission = decide_admission(model.windows, model.limits, command.user_id, policy, now)
    if not admission.allowed:
        return _refuse(admission, RateLimited(admission, now), now)
    named, is_explicit = key_of(command)
    job_id = JobId(model.position + 2)  # after the RateLimitDecided
    if is_deduplicated(command, policy):
        holder = model.jobs.key_holder(command.user_id, named, is_explicit=is_explicit)
        if holder is not None and holder.key_is_valid(now):
            return _repeat(command, holder, key, admission, now)
    else:
        named = own_digest(named, job_id)
    if (too_many := _too_many(model, command, policy)) is not None:
        return _refuse(admission, too_many, now)
    parents = _parents(model, command, key) if command.after else ()
    if isinstance(parents, Refusal):
        return _refuse(admission, parents, now)
    of_kind = model.limits.kinds.get(command.kind, NONE)
    attempts = None if of_kind.retry is None else of_kind.retry.attempts
    timeout_seconds = command.timeout_seconds or of_kind.timeout_seconds
    limits = model.limits.of_user(command.user_id)
    try:
        check_bounds(limits, command)
    except Refusal as refusal:
        return _refuse(admission, without_traceback(refusal), now)
    submitted = JobSubmitted(
        user_id=command.user_id,
        kind=command.kind,
        payload_sha256=command.payload.sha256,
        payload_bytes=command.payload.size,
        max_attempts=command.max_attempts or attempts or policy.max_attempts,
        idempotency_key=named,
        key_is_explicit=is_explicit,
        key_expires_at=later(now, policy.idempotency_seconds),
        priority=command.priority,
        resources=command.resources,
        run_at=command.run_at,
        expires_at=command.expires_at,
        timeout_seconds=timeout_seconds or policy.timeout_seconds,
        retry=resolved_retry(command.retry, of_kind.retry, policy.retry),
        schedule=command.schedule,
        callback=command.callback,
    )
    submitted = bounded(limits, submitted)
    if key is not None:
        submitted = access.bounded(key, submitted)
    following: Sequence[Event] = ()  # of the end of its parents
    if parents:
        ended = [job for job in parents if job.state in ENDED]
        submitted = replace(
            submitted,
            after=command.after,
            after_ended=tuple(job.id for job in ended),
            after_failure=command.after_failure,
        )
        job = new_job(Recorded(job_id, now, job_id, submitted), submitted)
        following = events_at_submission(job, ended, now)
    new_events = [NewEvent(admission, job_id), NewEvent(submitted, job_id, command.payload)]
    if following:
        new_events += [NewEvent(event, job_id) for event in following]
    return Decision(
        new_events,
        lambda after: Submitted(after.jobs.rows[job_id], admission, now, is_duplicate=False),
    )


def _parents(
    model: WriteModel, command: SubmitJob, key: ApiKey | None
) -> Sequence[Job] | UnknownParent:
    """Return the jobs that the new one comes after, or the refusal of one that there is not."""
    found: list[Job] = []
    for job_id in command.after:
        job = model.jobs.rows.get(job_id)
        if job is None or not (key is None or key.is_for(job.user_id, job.kind)):
            return UnknownParent(job_id, may_be_archived=job_id <= model.archive.position)
        found.append(job)
    return found


def _too_many(model: WriteModel, command: SubmitJob, policy: Policy) -> Refusal | None:
    """Return the refusal of a job that would begin a further lane, where there are very many."""
    line = model.line
    waiting = line.lanes_waiting(command.user_id)
    queue = queue_of(command.kind, command.resources)
    if queue in waiting:
        return None
    kinds = set(map(kind_of, waiting))
    if command.kind not in kinds and len(kinds) >= policy.kinds_waiting_max:
        return TooManyKinds(command.user_id, policy.kinds_waiting_max)
    if not command.resources:
        return None
    if len(waiting) >= policy.lanes_waiting_max:
        return TooManyQueues(policy.lanes_waiting_max, f"of user {command.user_id!r}")
    queues = line.queues.get(command.kind, {})
    most = policy.queues_waiting_max
    # Queues of which nothing waits any more are in memory, too, until their rows are written.
    if not queues.get(queue) and len(queues) >= most and sum(map(bool, queues.values())) >= most:
        return TooManyQueues(most, f"of kind {command.kind!r}")
    return None


def _repeat(
    command: SubmitJob,
    holder: Job,
    key: ApiKey | None,
    admission: RateLimitDecided,
    now: datetime,
) -> Decision:
    if key is not None and not key.is_for_kind(holder.kind):
        # A job that the key may not see is not named.
        return _refuse(admission, KeyReusedWithOtherPayload(holder.idempotency_key, None), now)
    if (holder.kind, holder.payload_sha256) != (command.kind, command.payload.sha256):
        refusal = KeyReusedWithOtherPayload(holder.idempotency_key, holder.id)
        return _refuse(admission, refusal, now)
    admission = without_use(admission)
    repeated = SubmissionDeduplicated(
        user_id=command.user_id,
        kind=command.kind,
        idempotency_key=holder.idempotency_key,
        key_is_explicit=holder.key_is_explicit,
    )
    return Decision(
        [NewEvent(admission, holder.id), NewEvent(repeated, holder.id)],
        lambda after: Submitted(after.jobs.rows[holder.id], admission, now, is_duplicate=True),
    )


def _refuse(admission: RateLimitDecided, refusal: Refusal, now: datetime) -> Decision:
    """Record the rate-limit decision, and return it to the caller with the refusal."""
    refusal.decision = admission
    refusal.decided_at = now
    return Decision([NewEvent(admission)], refusal)


def _record_refusals(report: ReportRefusals) -> Decision:
    refused = RateLimitDecided(
        user_id=report.user_id,
        scope=report.scope,
        allowed=False,
        used=report.used,
        limit=report.limit,
        window_start=report.window_start,
        window_seconds=report.window_seconds,
        count=report.count,
        first_at=report.first_at,
        last_at=report.last_at,
        windows=report.windows,
    )
    return Decision([NewEvent(refused)], lambda _: RefusalsRecorded(report.count))


def _record_wrong_keys(report: ReportWrongKeys) -> Decision:
    refused = WrongKeysRefused(
        count=report.count,
        addresses=report.addresses,
        first_at=report.first_at,
        last_at=report.last_at,
    )
    return Decision([NewEvent(refused)], lambda _: RefusalsRecorded(report.count))


def _claim(model: WriteModel, command: ClaimJobs, policy: Policy, now: datetime) -> Decision:
    claim = None
    if command.claim_id is not None:
        claim = claim_hash(command.worker, command.claim_id, command.key_name)
        given = model.jobs.claims.given(claim, model.jobs.rows, now)
        if given is not None:
            held = [job for job in given if job.is_held(command.worker, command.key_name, now)]
            return Decision([], lambda _: Claimed(held, is_repeated=True))
    line = model.line
    if command.kinds is None and not line.has_read_kinds:
        # Those in memory are the ones that happened to be used; to serve them alone is unfair.
        queues = unread_queues(line, line.kinds_in_line(), to_micros(now))
        more_kinds = Unread(jobs=command.max_jobs, queues=queues, more_kinds=True)
        return Decision([], lambda _: Claimed([]), more_kinds)
    kinds = _claimable(
        line.kinds_in_line() if command.kinds is None else dict.fromkeys(command.kinds), command
    )
    micros = to_micros(now)
    served = serve(line, kinds, command.max_jobs, model.position + 1, micros)
    picks = _carried(model, served.jobs, command.payload_bytes_max)
    missing = command.max_jobs - len(served.jobs)
    unread, resumes_at = served.unread, served.resumes_at
    if len(picks) < len(served.jobs) or served.stops_at_suspect:
        unread = None
    elif unread is None and missing and command.kinds is None and line.has_more_kinds:
        unread = Unread(jobs=missing, more_kinds=True)
    lease_expires_at = later(now, policy.lease_seconds)
    begins = command.begins
    started = [
        NewEvent(
            JobStarted(
                user_id=pick.user_id,
                kind=pick.kind,
                resources=pick.resources,
                attempt=model.jobs.rows[pick.job_id].attempt + 1,
                worker=command.worker,
                server=command.server,
                claim_id=command.claim_id,
                lease_expires_at=lease_expires_at,
                alone=pick.is_suspect,
                # A suspect job begins when the worker has ended its other jobs.
                begun=begins is None or (place < begins and not pick.is_suspect),
            ),
            pick.job_id,
        )
        for place, pick in enumerate(picks)
    ]
    # An embedded worker always receives its answer, so it never repeats a claim.
    is_empty = command.server is None and not (picks or unread or command.may_wait)
    return Decision(
        started,
        lambda after: Claimed(
            [after.jobs.rows[pick.job_id] for pick in picks],
            resumes_in_seconds=None if resumes_at is None else (resumes_at - micros) / 1_000_000,
        ),
        unread,
        claim if is_empty else None,
    )


def _claimable(kinds: Collection[Kind], command: ClaimJobs) -> Collection[Kind]:
    """Return the kinds without that of callbacks, which the service itself delivers."""
    if command.delivers or CALLBACK_KIND not in kinds:
        return kinds
    return [kind for kind in kinds if kind != CALLBACK_KIND]


def _carried(
    model: WriteModel, picks: Sequence[WaitingJob], bytes_max: int
) -> Sequence[WaitingJob]:
    """Return the first jobs whose payloads fit into one answer; at least one job."""
    sizes = accumulate(model.jobs.rows[pick.job_id].payload_bytes for pick in picks)
    fitting = sum(1 for _ in takewhile(lambda size: size <= bytes_max, sizes))
    return picks[: max(1, fitting)]


def _extend(model: WriteModel, command: ExtendLeases, policy: Policy, now: datetime) -> Decision:
    """Extend a worker's leases by one event, past half of a lease or after a WorkerMissed.

    One more event is recorded for each job whose handler has begun or reports progress. A cancelled
    or timed out attempt is answered as lost, and its lease is extended, while the worker names it.
    """
    named: list[tuple[JobId, int]] = []
    lost: list[tuple[JobId, int]] = []
    began: list[Job] = []
    progressed: list[NewEvent] = []
    progress = {(one.job_id, one.attempt): one for one in command.progress}
    ends = later(now, policy.lease_seconds)
    earliest = ends  # of the jobs still held
    is_due = False
    reported_begun = set(command.begun)
    for key in command.jobs:
        job_id, attempt = key
        job = model.jobs.rows.get(job_id)
        if job is None:
            lost.append(key)
            continue
        if job.attempt == attempt and job.is_held(command.worker, command.key_name, now):
            lease_ends = job.lease_expires_at or now
            earliest = min(earliest, lease_ends)
            if key in reported_begun and job.begun_at is None:
                began.append(job)
            if (report := progress.get(key)) and (new := life_cycle.progressed(job, report, now)):
                progressed.append(NewEvent(new, job.id, report.message))
            is_due = is_due or job.missed_at is not None
        else:
            lost.append(key)
            place = job.ending_attempt(attempt)
            if (
                place is None
                or (place.worker, place.holder) != (command.worker, command.key_name)
                or place.lease_expires_at <= now
            ):
                continue
            lease_ends = place.lease_expires_at
        named.append(key)
        is_due = is_due or (lease_ends - now).total_seconds() < policy.lease_seconds / 2
    new_events = [NewEvent(life_cycle.begun(job), job.id) for job in began] + progressed
    if is_due:
        earliest = ends
        extended = LeasesExtended(worker=command.worker, lease_expires_at=ends, jobs=tuple(named))
        new_events.append(NewEvent(extended))
    return Decision(new_events, lambda _: LeasesHeld(earliest, lost))


def _advance(model: WriteModel, command: JobCommand, key: ApiKey | None, now: datetime) -> Decision:
    job = model.jobs.rows.get(command.job_id)
    if job is None:
        archived = command.job_id <= model.archive.position
        return Decision([], (JobArchived if archived else UnknownJob)(command.job_id))
    if not access.concerns(key, job, command):
        return Decision([], UnknownJob(command.job_id))
    try:
        if isinstance(command, RetryJob):
            model.archive.check_open(job)
        events = life_cycle.decide(job, command, now)
    except Refusal as refusal:
        events = life_cycle.events_despite_refusal(refusal, job, command, now)
        return Decision(_new_events(job, command, events), without_traceback(refusal))
    return Decision(
        _new_events(job, command, events), lambda after: JobUpdated(after.jobs.rows[job.id])
    )


def _archive(decided: Callable[[], Sequence[Event]], job_id: JobId | None = None) -> Decision:
    try:
        events = decided()
    except Refusal as refusal:
        return Decision([], without_traceback(refusal))
    return Decision(
        [NewEvent(event, job_id) for event in events],
        lambda after: ArchiveChanged(after.archive.begun),
    )


def _accept_loss(model: WriteModel, command: AcceptLoss) -> Decision:
    try:
        events = decide_loss(model.position, command)
    except Refusal as refusal:
        return Decision([], without_traceback(refusal))
    accepted = model.position + len(events)
    return Decision([NewEvent(event) for event in events], lambda _: LossWasAccepted(accepted))


def _new_events(job: Job, command: JobCommand, events: Sequence[Event]) -> Sequence[NewEvent]:
    """Return the new events of a job, each with the command's body if it names it.

    A body that no event names, since it came too late, is not stored.
    """
    body = _body_of(command)
    return [NewEvent(event, job.id, body if named_body(event) else None) for event in events]


def _retry(
    model: WriteModel, command: RetryJob, key: ApiKey | None, policy: Policy, now: datetime
) -> Decision:
    """Retry a job that can be retried, if the rate limit admits it like a submission."""
    decision = _advance(model, command, key, now)
    if isinstance(decision.reply, Refusal):
        return decision
    job = model.jobs.rows[command.job_id]
    admission = decide_admission(model.windows, model.limits, job.user_id, policy, now)
    if not admission.allowed:
        return _refuse(admission, RateLimited(admission, now), now)
    return decision._replace(new_events=[NewEvent(admission, job.id), *decision.new_events])


def _body_of(command: JobCommand) -> Body | None:
    match command:
        case CompleteJob(result=body) | FailJob(error=body):
            return body
        case _:
            return None


def expire(model: WriteModel, now: datetime) -> Iterator[NewEvent]:
    """Yield the expiry of waiting jobs in memory, to be recorded before claims are served."""
    for job in model.jobs.expired(now):
        for event in life_cycle.enforce_deadlines(job, now):
            yield NewEvent(event, job.id)


def tell_child(
    model: WriteModel, parent_id: JobId, child_id: JobId, now: datetime
) -> Sequence[NewEvent]:
    """Return what follows for a child from the end of a parent; both are in memory."""
    rows = model.jobs.rows
    events = events_at_end(rows[child_id], rows[parent_id], now)
    return [NewEvent(event, child_id) for event in events]


def _change_limit(model: WriteModel, command: ChangeLimit) -> Decision:
    """Change limits. Nothing is recorded if they do not change, so repeats do not grow the log."""
    try:
        limited = decide_limit(model.limits, command)
    except Refusal as refusal:
        return Decision([], without_traceback(refusal))
    before = replace(model.limits.of(subject_of(limited)), throttle_since=None)
    is_new = before != limits_of(limited)
    return Decision([NewEvent(limited)] if is_new else [], lambda _: LimitsSet(limited))


def _delete_plan(model: WriteModel, command: DeletePlan) -> Decision:
    try:
        deleted = decide_plan_deletion(model.limits, command)
    except Refusal as refusal:
        return Decision([], without_traceback(refusal))
    return Decision([NewEvent(deleted)], lambda _: PlanRemoved(command.plan))


def _change_callback(model: WriteModel, command: CallbackCommand, now: datetime) -> Decision:
    try:
        event = decide_callback(model.callbacks, command, now)
    except Refusal as refusal:
        return Decision([], without_traceback(refusal))
    return Decision(
        [] if event is None else [NewEvent(event)],
        lambda after: CallbackDecided(after.callbacks.rows[command.name]),
    )


def _change_key(model: WriteModel, command: access.KeyCommand, now: datetime) -> Decision:
    try:
        events = access.decide(model.keys, command, now)
    except Refusal as refusal:
        return Decision([], without_traceback(refusal))
    name = command.key.name if isinstance(command, CreateKey) else command.name
    return Decision([NewEvent(event) for event in events], lambda _: KeyChanged(name))


def _enforce_deadlines(model: WriteModel, command: EnforceDeadlines, now: datetime) -> Decision:
    """Enforce due deadlines. If a lease has ended, note the other jobs of its worker as missed."""
    jobs = _known(model, command.jobs)
    untold = {job.id: job.children for job in jobs if job.children and job.state in ENDED}
    of_workers: defaultdict[_Worker, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.state is State.RUNNING and job.worker is not None:
            of_workers[job.worker, job.holder].append(job)
    missed = [
        job
        for held in of_workers.values()
        if any(job.is_lost(now) for job in held)
        for job in held
        if not job.is_lost(now) and job.missed_at is None
    ]
    return _jobs_updated(
        [
            *(
                NewEvent(event, job.id)
                for job in jobs
                for event in life_cycle.enforce_deadlines(
                    job,
                    now,
                    died_with_others=_has_others(job, of_workers.get((job.worker, job.holder), ())),
                )
            ),
            *(NewEvent(life_cycle.missed(job), job.id) for job in missed),
        ],
        untold,
    )


def update_line(model: WriteModel, users: Iterable[UserId], now: datetime) -> Decision:
    """Put those users in line again, or take them out, whose places the limits or time changed."""
    micros = to_micros(now)
    stale = tuple(user_id for user_id in users if model.line.is_stale(user_id, micros))
    events = [NewEvent(LineUpdated(users=stale))] if stale else []
    return Decision(events, lambda _: LineWasUpdated(stale))


def _has_others(job: Job, held: Sequence[Job]) -> bool:
    """Return True if its worker held other jobs.

    One that is not known to have begun counts, since a worker reports that a moment later.
    """
    return job.missed_at is not None or any(other is not job for other in held)


def _known(model: WriteModel, job_ids: Sequence[JobId]) -> list[Job]:
    """Return the jobs that exist, each once: all are decided against the same state."""
    found = [model.jobs.rows.get(job_id) for job_id in dict.fromkeys(job_ids)]
    return [job for job in found if job is not None]


def _recover(model: WriteModel, command: RecoverJobs) -> Decision:
    running = [
        job
        for job in _known(model, command.jobs)
        if job.state is State.RUNNING and job.server == command.server
    ]
    return _jobs_updated(
        [
            NewEvent(
                life_cycle.expire_lease(
                    job,
                    RequeueReason.SERVER_RESTARTED,
                    FailureReason.SERVER_RESTARTED,
                    died_with_others=_has_others(job, running),
                ),
                job.id,
            )
            for job in running
        ]
    )


def _jobs_updated(
    new_events: list[NewEvent], untold: Mapping[JobId, int] = MappingProxyType({})
) -> Decision:
    """`untold` are ended jobs with the numbers of their children that have not been told."""
    ids = dict.fromkeys(new.job_id for new in new_events if new.job_id is not None)

    def answer(after: WriteModel) -> JobsUpdated:  # at the end of the batch, which tells some
        rows = after.jobs.rows
        has_more = any(0 < rows[job_id].children < before for job_id, before in untold.items())
        return JobsUpdated([rows[job_id] for job_id in ids], has_more=has_more)

    return Decision(new_events, answer)
