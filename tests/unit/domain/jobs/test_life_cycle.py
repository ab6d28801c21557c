from hashlib import sha256

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.decisions.answers import Claimed, JobsUpdated, JobUpdated, LeasesHeld
from domain.jobs.claims import CLAIM_SECONDS, claim_hash
from domain.jobs.job import State
from domain.jobs.life_cycle import RETURNS_MAX, retry_delay
from domain.language.commands import (
    CancelJob,
    Command,
    EnforceDeadlines,
    ExtendLeases,
    FailJob,
    JobCommand,
    RecoverJobs,
    RetryJob,
)
from domain.language.errors import (
    HeldByAnother,
    JobHasEnded,
    JobHasNotEnded,
    LeaseHasEnded,
    NotTheCurrentAttempt,
    RateLimited,
    Refusal,
    ReturnedTooOften,
    TimeWasUp,
    UnknownJob,
)
from domain.language.events import (
    CancelReason,
    Event,
    FailureReason,
    JobSubmitted,
    RequeueReason,
)
from domain.language.identifiers import JobId, ServerId
from domain.language.limits import RetryPolicy
from domain.language.policy import Policy
from tests.support.given import NOW, POLICY, Given, after, at, given, of
from tests.support.stories import (
    BOB,
    ERROR,
    JOB,
    OTHER_WORKER,
    RESULT,
    SERVER,
    SUBMITTED,
    WORKER,
    admitted,
    attempt_ended,
    body,
    cancelled,
    claim,
    complete,
    completed,
    extended,
    fail,
    failed,
    gave_up,
    give_back,
    released,
    requeued,
    started,
    submitted,
)

CANCEL, RETRY, WAKE = CancelJob(job_id=JOB), RetryJob(job_id=JOB), EnforceDeadlines(jobs=[JOB])
HEARTBEAT = ExtendLeases(worker=WORKER, jobs=[(JOB, 1)])
RECOVER = RecoverJobs(server=SERVER, jobs=[JOB])


def delay(job_id: int, attempt: int, full: float) -> float:
    """The documented jitter, written anew: from half of the full delay to all of it."""
    drawn = int.from_bytes(sha256(b"%d:%d" % (job_id, attempt)).digest()[:4], "big") / 2**32
    return full / 2 + full / 2 * drawn


RETRY_AT = at(delay(1, 1, 1.0))
LOST = RequeueReason.LEASE_LOST
IN_SERVER = started(server=SERVER)

# Every state that a job can be in, with what led there. Attempt 1 is the latest but where none was.
STATES: dict[str, Given] = {
    "scheduled": given(submitted(run_at=at(100))),
    "queued": given(SUBMITTED),
    "running": given(SUBMITTED, IN_SERVER),
    "waiting to be retried": given(SUBMITTED, IN_SERVER, failed(retry_at=at(5))),
    "queued again": given(SUBMITTED, IN_SERVER, requeued(LOST)),
    "done": given(SUBMITTED, IN_SERVER, completed()),
    "failed": given(SUBMITTED, IN_SERVER, failed()),
    "cancelled": given(SUBMITTED, cancelled("queued")),
    "cancelled while it ran": given(SUBMITTED, IN_SERVER, cancelled("running")),
}

LATE, ENDED, ALIVE = NotTheCurrentAttempt, JobHasEnded, JobHasNotEnded
NOTHING: tuple[Event, ...] = ()
Consequence = tuple[Event, ...] | type[Refusal]

# What each command comes to in each of them, in the order above.
# fmt: off
TABLE: dict[str, tuple[Command, tuple[Consequence, ...]]] = {
    "complete": (
        complete(),
        (LATE, LATE, (completed(),), LATE, LATE, NOTHING, LATE, LATE, LATE),
    ),
    "fail": (
        fail(),
        (LATE, LATE, (failed(retry_at=RETRY_AT),), NOTHING, LATE, LATE, NOTHING, LATE, LATE),
    ),
    "give back": (
        give_back(),
        (LATE, LATE, (requeued(RequeueReason.GIVEN_BACK, attempts_max=4),),
         LATE, LATE, LATE, LATE, LATE, LATE),
    ),
    "cancel": (
        CANCEL,
        ((cancelled("scheduled"),), (cancelled("queued"),),
         (cancelled("running", attempt=1, worker=WORKER),),
         (cancelled("scheduled"),), (cancelled("queued"),), ENDED, ENDED, NOTHING, NOTHING),
    ),
    "retry": (
        RETRY,
        (ALIVE, ALIVE, ALIVE, ALIVE, ALIVE, ALIVE,
         (admitted(), requeued(RequeueReason.RETRIED, attempts_max=4)),
         (admitted(), requeued(RequeueReason.RETRIED, 0, attempts_max=3, was_cancelled=True)),
         (admitted(), requeued(RequeueReason.RETRIED, attempts_max=4, was_cancelled=True))),
    ),
    "recover": (
        RECOVER,
        (NOTHING, NOTHING, (requeued(RequeueReason.SERVER_RESTARTED, suspect=True),),
         NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING),
    ),
    "claim": (
        claim(),
        (NOTHING, (started(1),), NOTHING, NOTHING, (started(2),),
         NOTHING, NOTHING, NOTHING, NOTHING),
    ),
}
# fmt: on
CASES = [
    pytest.param(history, command, consequence, id=f"{name} when {state}")
    for name, (command, consequences) in TABLE.items()
    for (state, history), consequence in zip(STATES.items(), consequences, strict=True)
]


@pytest.mark.parametrize(("history", "command", "consequence"), CASES)
def test_every_command_in_every_state(
    history: Given, command: Command, consequence: Consequence
) -> None:
    outcome = history.when(command)
    if isinstance(consequence, tuple):
        outcome.then(*consequence)
    else:
        outcome.then_refused(consequence)


@pytest.mark.parametrize(
    ("state", "seconds", "consequence"),
    [
        ("scheduled", 99.999999, NOTHING),
        ("scheduled", 100, (released(),)),
        ("queued", 1_000_000, NOTHING),
        ("running", 29.999999, NOTHING),
        ("running", 30, (requeued(LOST, suspect=True),)),
        ("waiting to be retried", 4.999999, NOTHING),
        ("waiting to be retried", 5, (released(),)),
        ("queued again", 1_000_000, NOTHING),
        ("done", 1_000_000, NOTHING),
        ("failed", 1_000_000, NOTHING),
        ("cancelled", 1_000_000, NOTHING),
        ("cancelled while it ran", 1_000_000, NOTHING),
    ],
)
def test_what_the_clock_makes_of_every_state_to_the_microsecond(
    state: str, seconds: float, consequence: tuple[Event, ...]
) -> None:
    STATES[state].after(seconds).when(WAKE).then(*consequence)


@pytest.mark.parametrize("state", [state for state in STATES if state != "running"])
def test_a_heartbeat_for_a_job_that_does_not_run_says_that_it_is_lost(state: str) -> None:
    when = STATES[state].after(20).when(HEARTBEAT)
    when.then_nothing()
    assert when.answer(LeasesHeld).lost == [(JOB, 1)]


@pytest.mark.parametrize("command", [complete(), fail(), give_back(), CANCEL, RETRY])
def test_a_job_that_never_was_is_unknown(command: JobCommand) -> None:
    given().when(command).then_refused(UnknownJob)


# The attempt is the fencing token


def test_a_late_completion_is_refused() -> None:
    again = given(SUBMITTED, started(1), requeued(LOST), started(2))
    refusal = again.when(complete(1)).then_refused(NotTheCurrentAttempt)
    assert str(refusal) == (
        "Job 1: attempt 1 cannot end it; the job is running, and its latest attempt is 2."
    )


@pytest.mark.parametrize("command", [complete(2), fail(2), give_back(2), complete(0)])
def test_an_attempt_that_was_never_made_is_refused(command: JobCommand) -> None:
    given(SUBMITTED, started(1)).when(command).then_refused(NotTheCurrentAttempt)


@pytest.mark.parametrize("command", [complete(), fail(), give_back()])
def test_what_a_worker_says_of_an_attempt_counts_until_its_lease_ends_and_not_after(
    command: JobCommand,
) -> None:
    """A lease ends by the log's clock, whether or not anybody has looked since."""
    story = given(SUBMITTED, started(1))
    assert len(story.after(29.999999).when(command).events) == 1
    refusal = story.after(30).when(command).then_refused(LeaseHasEnded)
    assert str(refusal) == (
        "Job 1: the lease of attempt 1 ended at 2023-11-14T22:14:30.000000Z; "
        "what its worker says after that does not count."
    )
    swept = story.after(30).when(WAKE).so
    swept.when(command).then_refused(NotTheCurrentAttempt)


@pytest.mark.parametrize("command", [complete(), fail(), give_back()])
def test_what_a_worker_says_of_an_attempt_counts_until_its_time_is_up_and_not_after(
    command: JobCommand,
) -> None:
    story = given(submitted(timeout_seconds=5), started(1))
    assert len(story.after(4.999999).when(command).events) == 1
    late = story.after(5)
    error = ERROR if isinstance(command, FailJob) else None
    refusal = late.when(command).then_refused(
        TimeWasUp,
        replace(
            gave_up(FailureReason.TIMED_OUT, 1, retry_at=at(5 + delay(1, 1, 1.0))),
            error_sha256=error and error.sha256,
            error_bytes=error.size if error else 0,
        ),
    )
    late.when(command).so.when(command).then_refused(NotTheCurrentAttempt)
    assert str(refusal) == (
        "Job 1: attempt 1 had its timeout_seconds at 2023-11-14T22:14:05.000000Z; "
        "what its worker says after that does not count."
    )
    swept = story.after(5).when(WAKE).so
    swept.when(command).then_refused(NotTheCurrentAttempt, attempt_ended())


@pytest.mark.parametrize(
    ("job", "seconds"), [(SUBMITTED, 30), (submitted(timeout_seconds=5), 5)], ids=["lease", "time"]
)
def test_a_heartbeat_or_a_repeated_claim_that_comes_too_late_keeps_nothing(
    job: JobSubmitted, seconds: float
) -> None:
    story = given(job).when(claim(claim_id="c")).so
    in_time = story.after(seconds - 0.000001)
    assert in_time.when(HEARTBEAT).answer(LeasesHeld).lost == []
    assert len(in_time.when(claim(claim_id="c")).answer(Claimed).jobs) == 1
    late = story.after(seconds)
    late.when(HEARTBEAT).then_nothing()
    assert late.when(HEARTBEAT).answer(LeasesHeld).lost == [(JOB, 1)]
    assert late.when(claim(claim_id="c")).answer(Claimed).jobs == []


def test_the_same_outcome_again_changes_nothing_and_another_is_refused() -> None:
    done = given(SUBMITTED, started(1)).when(complete(1)).then(completed())
    again = done.when(complete(1))
    again.then_nothing()
    assert again.answer(JobUpdated).job.state is State.DONE
    done.when(complete(1, result=body("other"))).then_refused(NotTheCurrentAttempt)
    done.when(complete(1, result=None)).then_refused(NotTheCurrentAttempt)
    done.when(fail(1)).then_refused(NotTheCurrentAttempt)


def test_a_result_of_nothing_can_be_reported_again_too() -> None:
    done = given(SUBMITTED, started(1)).when(complete(1, result=None)).then(completed(result=None))
    done.when(complete(1, result=None)).then_nothing()


def test_a_failure_reported_again_changes_nothing_until_the_next_attempt_runs() -> None:
    failed_once = given(SUBMITTED, started(1)).when(fail(1)).then(failed(retry_at=RETRY_AT))
    failed_once.when(fail(1)).then_nothing()
    due = failed_once.after(1).when(WAKE).then(released())
    due.when(fail(1)).then_nothing()
    due.followed_by(started(2)).when(fail(1)).then_refused(NotTheCurrentAttempt)


def test_a_failure_whose_answer_was_lost_before_the_time_ran_out_is_refused() -> None:
    timed_out = given(
        submitted(timeout_seconds=5), started(1), gave_up(FailureReason.TIMED_OUT, 1, at(6))
    )
    timed_out.when(fail(1)).then_refused(NotTheCurrentAttempt)


def test_commands_of_one_batch_see_what_those_before_them_did() -> None:
    running = given(SUBMITTED, started(1))
    when = running.when(complete(1), fail(1), complete(1), CANCEL)
    assert when.events == [completed()]
    assert [type(outcome) for outcome in when.outcomes] == [
        JobUpdated,
        NotTheCurrentAttempt,
        JobUpdated,
        JobHasEnded,
    ]


# Retries


def test_each_failure_is_retried_later_until_the_attempts_are_used_up() -> None:
    first = given(submitted(max_attempts=3), started(1)).when(fail(1))
    waiting = first.then(failed(1, retry_at=at(delay(1, 1, 1.0))))
    second = waiting.followed_by(released(), started(2)).when(fail(2))
    waiting = second.then(failed(2, retry_at=at(delay(1, 2, 2.0))))
    waiting.followed_by(released(), started(3)).when(fail(3)).then(failed(3))


def test_a_permanent_failure_leaves_the_other_attempts_unused() -> None:
    ended = given(SUBMITTED, started(1)).when(fail(1, may_retry=False)).then(failed(1))
    assert ended.job(1).state is State.FAILED


def test_a_failure_may_say_when_the_next_attempt_follows() -> None:
    report = replace(fail(1), retry_in_seconds=90.0)
    asked = replace(failed(1, retry_at=at(90)), retry_in_seconds=90.0)
    waiting = given(SUBMITTED, started(1)).when(report).then(asked)
    assert waiting.job(1).state is State.SCHEDULED
    at_once = replace(fail(1), retry_in_seconds=0.0)
    asked = replace(failed(1, retry_at=at(0)), retry_in_seconds=0.0)
    given(SUBMITTED, started(1)).when(at_once).then(asked)
    last = given(submitted(max_attempts=1), started(1)).when(report).then(failed(1))
    assert last.job(1).state is State.FAILED


@for_all(job_id=st.integers(1, 2**62), attempt=st.integers(1, 1000), base=st.floats(0.001, 100.0))
def test_the_delay_doubles_up_to_a_limit_and_jitter_takes_away_less_than_half(
    job_id: int, attempt: int, base: float
) -> None:
    job = replace(
        given(SUBMITTED).job(1),
        id=JobId(job_id),
        attempt=9,
        errors=attempt - 1,
        retry=RetryPolicy(base_seconds=base),
    )
    full = min(3600.0, base * 2.0 ** (attempt - 1))
    assert full / 2 <= retry_delay(job) <= full
    assert retry_delay(job) == retry_delay(job)


def test_the_delays_of_many_jobs_that_failed_together_are_spread_out() -> None:
    retry = RetryPolicy(base_seconds=10.0)
    running = [
        event for n in range(1000) for event in (submitted(payload=n, retry=retry), started(1))
    ]
    delays = [retry_delay(job) for job in given(*running).model.jobs.rows.values()]
    tenths = [sum(5 + n / 2 <= one < 5.5 + n / 2 for one in delays) for n in range(10)]
    assert sum(tenths) == 1000
    assert min(tenths) > 60, tenths


@pytest.mark.parametrize(
    ("ended", "attempt", "attempts_max"),
    [
        (given(submitted(max_attempts=2), started(1), failed(1)), 1, 3),
        (given(submitted(max_attempts=1), started(1), failed(1)), 1, 2),
        (given(submitted(max_attempts=5), started(1), failed(1)), 1, 6),
        (given(submitted(max_attempts=2), cancelled()), 0, 2),
    ],
)
def test_a_retry_grants_as_many_attempts_again_and_the_number_goes_on(
    ended: Given, attempt: int, attempts_max: int
) -> None:
    was_cancelled = ended.job(1).state is State.CANCELLED
    again = ended.when(RETRY).then(
        admitted(),
        requeued(RequeueReason.RETRIED, attempt, attempts_max, was_cancelled=was_cancelled),
    )
    again.when(claim()).then(started(attempt + 1))


def test_a_job_can_be_retried_again_and_again() -> None:
    story = given(submitted(max_attempts=1))
    for attempt in range(1, 6):
        story = story.when(claim()).then(started(attempt))
        story = story.when(fail(attempt)).then(failed(attempt))
        story = story.when(RETRY).then(
            admitted(used=attempt), requeued(RequeueReason.RETRIED, attempt, attempt + 1)
        )


def test_a_retry_uses_its_user_s_window_up_as_a_submission_does() -> None:
    story = given(SUBMITTED, policy=Policy(user_limit=2))
    for used in (1, 2):
        story = (
            story.when(CANCEL)
            .so.when(RETRY)
            .then(
                admitted(used=used, limit=2),
                requeued(RequeueReason.RETRIED, 0, was_cancelled=True),
            )
        )
    ended = story.when(CANCEL).so
    refused = replace(admitted(used=2, limit=2), allowed=False, global_used=None, global_limit=None)
    refusal = ended.when(RETRY).then_refused(RateLimited, refused)
    assert (refusal.limit, refusal.used) == (2, 2)
    assert ended.job(1).state is State.CANCELLED
    assert ended.after(60).when(RETRY).so.job(1).state is State.QUEUED


def test_what_cannot_be_retried_uses_nothing_up() -> None:
    given(SUBMITTED).when(RETRY).then_refused(JobHasNotEnded)
    given(policy=Policy(user_limit=0)).when(RETRY).then_refused(UnknownJob)


def test_a_job_is_given_back_by_the_worker_that_holds_it_alone() -> None:
    held = given(SUBMITTED, started())
    held.when(replace(give_back(), worker=OTHER_WORKER)).then_refused(HeldByAnother)
    held.when(replace(give_back(), worker=WORKER)).then(
        requeued(RequeueReason.GIVEN_BACK, attempts_max=4)
    )


def test_a_job_is_given_back_so_often_and_no_more() -> None:
    story = given(SUBMITTED)
    for attempt in range(1, RETURNS_MAX + 1):
        story = story.followed_by(started(attempt)).when(give_back(attempt)).so
    story = story.followed_by(started(RETURNS_MAX + 1))
    story.when(give_back(RETURNS_MAX + 1)).then_refused(ReturnedTooOften)
    again = story.followed_by(cancelled("running")).when(RETRY).so
    assert again.job(1).returns == 0


# Leases, time-outs and lost workers


def test_a_lost_lease_counts_as_an_attempt() -> None:
    story = given(submitted(max_attempts=2), started(1), after(30))
    story = story.when(WAKE).then(requeued(LOST, 1, attempts_max=2, suspect=True))
    story = story.when(claim()).then(started(2, lease_expires_at=at(60), alone=True))
    ended = story.after(30).when(WAKE).then(gave_up(FailureReason.LEASE_LOST, 2))
    assert ended.job(1).state is State.FAILED


def test_a_heartbeat_moves_the_end_of_the_lease() -> None:
    story = given(SUBMITTED, started(1), after(20))
    story = story.when(HEARTBEAT).then(extended((1, 1), lease_expires_at=at(50)))
    story.after(29.999999).when(WAKE).then_nothing()
    story.after(30).when(WAKE).then(requeued(LOST, suspect=True))


def test_a_heartbeat_before_half_of_the_lease_is_no_event() -> None:
    story = given(SUBMITTED, started(1))
    early = story.after(15).when(HEARTBEAT)
    early.then_nothing()
    assert early.answer(LeasesHeld) == LeasesHeld(at(30), [])
    late = story.after(15.000001).when(HEARTBEAT)
    late.then(extended((1, 1), lease_expires_at=at(45.000001)))
    assert late.answer(LeasesHeld) == LeasesHeld(at(45.000001), [])


def test_one_heartbeat_is_one_event_for_all_jobs_of_the_worker_and_names_the_lost_ones() -> None:
    story = given(
        submitted(payload=1),
        started(1),
        submitted(payload=2),
        started(1),
        submitted(payload=3),
        started(1, worker=OTHER_WORKER),
        submitted(payload=4),
        started(1),
        after(20),
        submitted(payload=5),
        started(1, lease_expires_at=at(50)),
    )
    jobs = [
        (JobId(1), 1),
        (JobId(3), 2),
        (JobId(5), 1),
        (JobId(7), 1),
        (JobId(9), 1),
        (JobId(77), 1),
    ]
    beat = story.when(ExtendLeases(worker=WORKER, jobs=jobs))
    beat.then(extended((1, 1), (7, 1), (9, 1), lease_expires_at=at(50)))
    assert beat.answer(LeasesHeld) == LeasesHeld(
        at(50), [(JobId(3), 2), (JobId(5), 1), (JobId(77), 1)]
    )


def test_a_heartbeat_for_nothing_is_no_event() -> None:
    given(SUBMITTED).when(ExtendLeases(worker=WORKER, jobs=[])).then_nothing()


def test_a_run_that_takes_longer_than_its_time_out_is_ended_whatever_its_heartbeats() -> None:
    story = given(submitted(timeout_seconds=40), started(1), after(20))
    story = story.when(HEARTBEAT).then(extended((1, 1), lease_expires_at=at(50)))
    story.after(19.999999).when(WAKE).then_nothing()
    story.after(20).when(WAKE).then(
        gave_up(FailureReason.TIMED_OUT, 1, retry_at=at(40 + delay(1, 1, 1.0)), holds_place=True)
    )


def test_a_time_out_on_the_last_attempt_fails_the_job() -> None:
    story = given(submitted(timeout_seconds=0.5, max_attempts=1), started(1), after(0.5))
    story.when(WAKE).then(gave_up(FailureReason.TIMED_OUT, 1, holds_place=True))


def test_each_attempt_has_its_time_out_for_itself() -> None:
    story = given(
        submitted(timeout_seconds=10),
        started(1),
        after(9),
        requeued(LOST),
        started(2, lease_expires_at=at(39)),
        after(9.999999),
    )
    story.when(WAKE).then_nothing()
    assert len(story.after(0.000001).when(WAKE).events) == 1


def test_a_lease_that_ends_before_the_time_out_is_lost() -> None:
    story = given(submitted(timeout_seconds=300), started(1), after(30))
    story.when(WAKE).then(requeued(LOST, suspect=True))


def test_a_worker_that_gives_a_job_back_leaves_its_attempts_as_many_as_they_were() -> None:
    story = given(submitted(max_attempts=1))
    for attempt in range(1, 4):
        story = story.when(claim()).then(started(attempt))
        story = story.when(give_back(attempt)).then(
            requeued(RequeueReason.GIVEN_BACK, attempt, attempt + 1)
        )
    story = story.when(claim()).then(started(4))
    story.when(fail(4)).then(failed(4))


def test_a_dead_server_s_jobs_are_queued_again_and_nobody_else_s() -> None:
    story = given(
        submitted(payload=1),
        started(1, server=SERVER),
        submitted(payload=2),
        started(1),
        submitted(payload=3),
        started(1, server=ServerId("server-2")),
        submitted(payload=4, max_attempts=1),
        started(1, server=SERVER),
        submitted(payload=5),
    )
    ids = [JobId(job_id) for job_id in (1, 3, 5, 7, 9, 1000)]
    when = story.when(RecoverJobs(server=SERVER, jobs=ids))
    when.then(
        of(1, requeued(RequeueReason.SERVER_RESTARTED, attempts_max=4, suspect=True)),
        of(7, requeued(RequeueReason.SERVER_RESTARTED, attempts_max=2, suspect=True)),
    )
    assert [job.state for job in when.answer(JobsUpdated).jobs] == [State.QUEUED, State.QUEUED]


@pytest.mark.parametrize(
    ("history", "command", "event"),
    [
        (given(submitted(run_at=at(1)), after(1)), EnforceDeadlines(jobs=[JOB, JOB]), released()),
        (
            given(SUBMITTED, IN_SERVER),
            RecoverJobs(server=SERVER, jobs=[JOB, JOB]),
            requeued(RequeueReason.SERVER_RESTARTED, suspect=True),
        ),
    ],
)
def test_a_job_that_is_named_twice_changes_once(
    history: Given, command: Command, event: Event
) -> None:
    history.when(command).then(event).when(command).then_nothing()


def test_two_wakes_of_one_batch_change_a_job_once() -> None:
    assert given(submitted(run_at=at(1)), after(1)).when(WAKE, WAKE).events == [released()]


# Schedules and expiry


def test_a_job_for_a_time_that_has_come_is_queued_at_once() -> None:
    assert given(submitted(run_at=NOW)).job(1).state is State.QUEUED
    assert given(submitted(run_at=at(0.000001))).job(1).state is State.SCHEDULED


def test_a_job_that_was_not_started_by_its_expiry_is_cancelled() -> None:
    story = given(submitted(expires_at=at(10)))
    story.after(9.999999).when(WAKE).then_nothing()
    story.after(10).when(WAKE).then(cancelled("queued", CancelReason.EXPIRED))


def test_a_scheduled_job_can_expire_before_its_time() -> None:
    story = given(submitted(run_at=at(20), expires_at=at(10)), after(10))
    story.when(WAKE).then(cancelled("scheduled", CancelReason.EXPIRED))


def test_a_job_that_is_due_and_over_at_once_is_not_run() -> None:
    story = given(submitted(run_at=at(10), expires_at=at(10)), after(10))
    story.when(WAKE).then(cancelled("scheduled", CancelReason.EXPIRED))


def test_a_job_that_was_started_in_time_does_not_expire_any_more() -> None:
    story = given(submitted(expires_at=at(10)), started(1), after(30))
    queued = story.when(WAKE).then(requeued(LOST, suspect=True))
    queued.after(1000).when(WAKE).then_nothing()
    again = started(2, lease_expires_at=at(1060), alone=True)
    queued.after(1000).when(claim()).then(again)


def test_a_retry_forgets_the_expiry() -> None:
    story = given(submitted(expires_at=at(10)), after(10))
    story = story.when(WAKE).then(cancelled("queued", CancelReason.EXPIRED))
    story = story.when(RETRY).then(
        admitted(), requeued(RequeueReason.RETRIED, 0, was_cancelled=True)
    )
    story.after(60).when(WAKE).then_nothing()
    story.after(60).when(claim()).then(started(1, lease_expires_at=at(100)))


@pytest.mark.parametrize("seconds", [0, 9.999999])
def test_a_retry_keeps_an_expiry_that_is_still_ahead(seconds: float) -> None:
    story = given(submitted(expires_at=at(10)), cancelled(), after(seconds)).when(RETRY)
    again = story.then(
        admitted(), requeued(RequeueReason.RETRIED, 0, was_cancelled=True, expires_at=at(10))
    )
    assert again.job(1).expires_at == at(10)
    late = again.after(10 - seconds)
    late.when(WAKE).then(cancelled("queued", CancelReason.EXPIRED))
    late.when(claim()).then(cancelled("queued", CancelReason.EXPIRED))


def test_a_retry_that_was_recorded_without_an_expiry_has_none() -> None:
    story = given(
        submitted(expires_at=at(10)),
        cancelled(),
        requeued(RequeueReason.RETRIED, 0, was_cancelled=True),
    )
    assert story.job(1).expires_at is None


def test_a_claim_does_not_start_what_has_expired_though_nobody_looked_until_then() -> None:
    story = given(
        submitted(payload=1, expires_at=at(10)),
        submitted(payload=2),
        submitted(BOB, expires_at=at(10.000001)),
        after(10),
    )
    when = story.when(claim(5))
    when.then(
        of(1, cancelled("queued", CancelReason.EXPIRED)),
        of(2, started(1, lease_expires_at=at(40))),
        of(3, started(1, user_id=BOB, lease_expires_at=at(40))),
    )
    assert [job.id for job in when.answer(Claimed).jobs] == [2, 3]


def test_the_end_of_its_retries_can_be_later_than_the_expiry() -> None:
    story = given(submitted(expires_at=at(2)), started(1), after(1.5)).when(fail(1)).so
    due = story.after(10).when(WAKE).then(released())
    due.when(claim()).then(started(2, lease_expires_at=at(41.5)))


# Claims that are asked again


def test_a_claim_asked_again_gives_the_same_jobs_and_starts_nothing() -> None:
    story = given(submitted(payload=1), submitted(payload=2), submitted(payload=3))
    first = story.when(claim(2, claim_id="c"))
    first.then(of(1, started(claim_id="c")), of(2, started(claim_id="c")))
    again = first.so.after(5).when(claim(2, claim_id="c"))
    again.then_nothing()
    assert again.answer(Claimed).jobs == first.answer(Claimed).jobs


def test_a_claim_asked_twice_in_one_batch_starts_its_jobs_once() -> None:
    story = given(submitted(payload=1), submitted(payload=2))
    when = story.when(claim(1, claim_id="c"), claim(1, claim_id="c"))
    assert when.events == [started(claim_id="c")]
    assert [one.jobs for one in when.outcomes if isinstance(one, Claimed)] == [[when.so.job(1)]] * 2


def test_a_claim_asked_again_leaves_out_what_is_no_longer_held() -> None:
    story = given(*[submitted(payload=n) for n in range(4)]).when(claim(4, claim_id="c")).so
    story = story.followed_by(of(1, completed()), of(2, cancelled("running")))
    story = story.followed_by(of(3, requeued(LOST)), of(3, started(2, claim_id="d")))
    assert [job.id for job in story.when(claim(4, claim_id="c")).answer(Claimed).jobs] == [4]


def test_a_claim_asked_again_starts_nothing_though_its_jobs_have_gone_to_others() -> None:
    story = given(SUBMITTED).when(claim(1, claim_id="c")).so.after(30)
    story = story.followed_by(requeued(LOST)).when(claim(1, worker=OTHER_WORKER)).so
    story = story.followed_by(submitted(payload=2))
    again = story.when(claim(1, claim_id="c"))
    again.then_nothing()
    assert again.answer(Claimed) == Claimed([], is_repeated=True)
    assert story.when(claim(1, claim_id="d")).answer(Claimed).jobs
    assert story.after(CLAIM_SECONDS - 30.000001).when(claim(1, claim_id="c")).events == []
    assert story.after(CLAIM_SECONDS - 30).when(claim(1, claim_id="c")).answer(Claimed).jobs


def test_a_claim_that_gave_nothing_gives_nothing_when_it_is_asked_again() -> None:
    story = given().when(claim(1, claim_id="c")).then_nothing().followed_by(SUBMITTED)
    again = story.after(CLAIM_SECONDS - 0.000001).when(claim(1, claim_id="c"))
    again.then_nothing()
    assert again.answer(Claimed) == Claimed([], is_repeated=True)
    assert story.after(CLAIM_SECONDS).when(claim(1, claim_id="c")).answer(Claimed).jobs
    assert story.when(claim(1, claim_id="c", worker=OTHER_WORKER)).answer(Claimed).jobs


def test_only_an_empty_answer_that_somebody_gets_and_may_lose_is_kept() -> None:
    assert given().when(claim(1)).empty_claims == []
    assert given().when(claim(1, claim_id="c", may_wait=True)).empty_claims == []
    assert given().when(claim(1, claim_id="c", server=SERVER)).empty_claims == []
    assert given(SUBMITTED).when(claim(1, claim_id="c")).empty_claims == []
    empty = [claim_hash(WORKER, "c")]
    for when in (
        given(SUBMITTED).when(claim(0, claim_id="c")),
        given().when(claim(1, claim_id="c"), claim(1, claim_id="c")),
    ):
        when.then_nothing()
        assert when.empty_claims == empty
    assert given().when(claim(1, claim_id="c")).so.when(claim(1, claim_id="c")).empty_claims == []


def test_a_claim_is_known_for_as_long_as_one_of_its_jobs_runs() -> None:
    story = given(SUBMITTED, submitted(payload=2)).when(claim(1, claim_id="c")).so
    ends = at(2 * CLAIM_SECONDS)
    story = story.followed_by(extended((1, 1), lease_expires_at=ends)).after(CLAIM_SECONDS)
    again = story.when(claim(1, claim_id="c")).answer(Claimed)
    assert [job.id for job in again.jobs] == [1]
    ended = story.followed_by(of(1, completed())).when(claim(1, claim_id="c")).answer(Claimed)
    assert [job.id for job in ended.jobs] == [2]


def test_a_claim_asked_again_keeps_the_fair_order() -> None:
    story = given(
        submitted(BOB, payload=1),
        submitted(payload=2),
        submitted(payload=3),
        submitted(payload=4, priority=1),
    )
    first = story.when(claim(4, claim_id="c"))
    ids = [job.id for job in first.answer(Claimed).jobs]
    assert ids == [1, 4, 2, 3]
    again = first.so.when(claim(4, claim_id="c")).answer(Claimed)
    assert [job.id for job in again.jobs] == ids


def test_claim_ids_belong_to_their_worker() -> None:
    story = given(submitted(payload=1), submitted(payload=2)).when(claim(1, claim_id="c")).so
    other = story.when(claim(1, worker=OTHER_WORKER, claim_id="c"))
    other.then(of(2, started(worker=OTHER_WORKER, claim_id="c")))


# The fold


def test_a_job_s_story_is_told_by_its_fields() -> None:
    story = given(submitted(max_attempts=2))
    job = story.job(1)
    assert (job.state, job.attempt, job.submitted_at) == (State.QUEUED, 0, NOW)
    job = story.followed_by(after(1), started(1)).job(1)
    assert (job.state, job.attempt, job.worker) == (State.RUNNING, 1, WORKER)
    assert (job.started_at, job.lease_expires_at, job.finished_at) == (at(1), at(30), None)
    job = story.followed_by(after(1), started(1), after(1), failed(1, retry_at=at(9))).job(1)
    assert (job.state, job.run_at, job.finished_at) == (State.SCHEDULED, at(9), None)
    assert (job.error_position, job.lease_expires_at) == (3, None)
    job = story.followed_by(
        started(1), failed(1, retry_at=at(9)), released(), started(2), after(3), completed(2)
    ).job(1)
    assert (job.state, job.attempt, job.finished_at) == (State.DONE, 2, at(3))
    assert (job.result_position, job.error_position) == (6, 3)


def test_the_outcome_of_a_job_is_known_by_its_digest() -> None:
    done, has_failed = (
        given(SUBMITTED, started(), outcome).job(1).outcome for outcome in (completed(), failed())
    )
    assert done == b"done:" + bytes.fromhex(RESULT.sha256)
    assert has_failed == b"failed:" + bytes.fromhex(ERROR.sha256)


def test_history_is_never_refused() -> None:
    """A fold that knows only a part of the log lets the rest pass by."""
    unknown = JobId(999)
    story = given(
        of(unknown, started(3)),
        of(unknown, completed(3)),
        of(unknown, requeued(LOST)),
        of(unknown, released()),
        of(unknown, cancelled("running")),
        extended((999, 1)),
    )
    assert story.model.jobs.rows == {}


def test_the_policy_s_lease_is_granted() -> None:
    story = given(SUBMITTED, policy=Policy(lease_seconds=7))
    story.when(claim()).then(started(1, lease_expires_at=at(7)))
    assert POLICY.lease_seconds == 30
