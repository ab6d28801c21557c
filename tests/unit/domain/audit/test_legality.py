from collections.abc import Sequence

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.audit.legality import illegality, miscount, misplanned
from domain.audit.parent_legality import misordered
from domain.decisions.decision import NewEvent
from domain.decisions.write_model import WriteModel
from domain.jobs.job_fold import submitted as submitted_job
from domain.language.commands import (
    CancelJob,
    EnforceDeadlines,
    ExtendLeases,
    RecoverJobs,
    RetryJob,
)
from domain.language.events import (
    EVENT_TYPES,
    AfterFailure,
    CancelReason,
    EndReason,
    Event,
    FailureReason,
    JobFailed,
    LeasesExtended,
    LimitChanged,
    ParentEnded,
    PlanDeleted,
    RateLimitDecided,
    Recorded,
    RequeueReason,
    Scope,
    SubmissionDeduplicated,
)
from domain.language.identifiers import JobId, Kind, PlanName, UserId
from domain.language.limits import PushEndpoint, Rate, RetryPolicy
from tests.support.given import NOW, After, after, at, given, of
from tests.support.stories import (
    ALICE,
    BOB,
    ECHO,
    JOB,
    OTHER_WORKER,
    SERVER,
    SLEEP,
    SUBMITTED,
    WORKER,
    admitted,
    attempt_begun,
    attempt_ended,
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
    submit,
    submitted,
    worker_missed,
)
from tests.unit.domain.language.test_events import any_of

GOLD = PlanName("gold")
PUSH = PushEndpoint(url="https://images.example/")
STARTED = started()
CANCELLED = cancelled("running", attempt=1, worker=WORKER)
AGAIN = requeued(RequeueReason.RETRIED, 0, was_cancelled=True)
SCHEDULED = submitted(run_at=at(10))
EXPIRING = submitted(expires_at=at(10))
TIMED = submitted(timeout_seconds=5.0)
REPEATED = SubmissionDeduplicated(
    user_id=ALICE, kind=ECHO, idempotency_key=SUBMITTED.idempotency_key
)
REFUSED = RateLimitDecided(
    user_id=ALICE,
    scope=Scope.USER,
    allowed=False,
    used=600,
    limit=600,
    window_start=NOW,
    window_seconds=60,
    count=2,
    first_at=NOW,
    last_at=at(1),
)


def wrongs(recorded: Sequence[Recorded]) -> list[str | None]:
    """Return the judgement of each event of a history, given those before it."""
    model = WriteModel()
    found = []
    for one in recorded:
        if isinstance(one.event, LeasesExtended):
            about = [model.jobs.rows.get(job_id) for job_id, _ in one.event.jobs]
        else:
            about = [model.jobs.rows.get(one.job_id or JobId(0))]
        judged = [illegality(job, one) for job in about]
        found.append(
            next(filter(None, judged), None)
            or miscount(model.windows, one)
            or misplanned(model.limits, one)
            or misordered(model.jobs.rows, one)
        )
        model.evolve(one)
    return found


PARENT = JobId(1)
CHILD = submitted(payload=2, after=(PARENT,), after_failure=AfterFailure.FAIL)  # job 2, or later
TOLD = ParentEnded(user_id=ALICE, kind=ECHO, parent=PARENT, state="failed")
FATE = JobFailed(
    user_id=ALICE, kind=ECHO, attempt=0, reason=FailureReason.PARENT_FAILED, parent=PARENT
)
FAILED_FIRST: list[Event | NewEvent | After] = [SUBMITTED, STARTED, failed()]

LIVES = {
    "failed with a parent": given(SUBMITTED, STARTED)
    .when(submit(payload=2, after=(PARENT,)))
    .so.when(fail(may_retry=False)),
    "done": given().when(submit()).so.when(claim()).so.when(complete(job_id=JobId(2))),
    "given back": given(SUBMITTED).when(claim()).so.when(give_back()).so.when(claim()),
    "failed, and tried again": given(SUBMITTED, STARTED)
    .when(fail())
    .so.after(2)
    .when(EnforceDeadlines(jobs=[JOB]))
    .so.when(claim()),
    "failed for good, and asked for again": given(SUBMITTED, STARTED)
    .when(fail(may_retry=False))
    .so.when(RetryJob(job_id=JOB))
    .so.when(claim()),
    "lost to the end": given(
        SUBMITTED,
        STARTED,
        after(31),
        requeued(RequeueReason.LEASE_LOST),
        started(2, lease_expires_at=at(61)),
        after(31),
        requeued(RequeueReason.LEASE_LOST, 2),
        started(3, lease_expires_at=at(92)),
        after(31),
    ).when(EnforceDeadlines(jobs=[JOB])),
    "a server died": given(SUBMITTED)
    .when(claim(server=SERVER))
    .so.when(RecoverJobs(server=SERVER, jobs=[JOB])),
    "timed out": given(TIMED, STARTED, after(5)).when(EnforceDeadlines(jobs=[JOB])),
    "came due": given(SCHEDULED, after(10)).when(EnforceDeadlines(jobs=[JOB])),
    "expired": given(EXPIRING, after(10)).when(EnforceDeadlines(jobs=[JOB])),
    "cancelled while it ran": given(SUBMITTED, STARTED).when(CancelJob(job_id=JOB)),
    "cancelled while it ran, and let go of": given(SUBMITTED, STARTED)
    .when(CancelJob(job_id=JOB))
    .so.when(give_back()),
    "cancelled while it ran, and its place held on to": given(SUBMITTED, STARTED)
    .when(CancelJob(job_id=JOB))
    .so.after(20)
    .when(ExtendLeases(worker=WORKER, jobs=[(JOB, 1)])),
    "cancelled while it ran, and never heard of again": given(SUBMITTED, STARTED)
    .when(CancelJob(job_id=JOB))
    .so.after(30)
    .when(EnforceDeadlines(jobs=[JOB])),
    "claimed ahead, begun, and reported too late": given(TIMED)
    .when(claim(begins=0))
    .so.when(ExtendLeases(worker=WORKER, jobs=[(JOB, 1)], begun=((JOB, 1),)))
    .so.after(5)
    .when(fail()),
    "given back eleven times": given(
        SUBMITTED,
        *[
            event
            for attempt in range(1, 12)
            for event in (
                started(attempt),
                requeued(RequeueReason.GIVEN_BACK, attempt, attempt + 3),
            )
        ],
    ).when(claim()),
    "lost with another, and alone": given(
        SUBMITTED,
        STARTED,
        submitted(payload=2),
        started(),
        after(30),
    )
    .when(EnforceDeadlines(jobs=[JOB, JobId(3)]))
    .so.when(claim(2))
    .so.after(30)
    .when(EnforceDeadlines(jobs=[JOB])),
    "lost one after the other": given(
        SUBMITTED,
        STARTED,
        submitted(payload=2),
        after(10),
        started(lease_expires_at=at(40)),
        after(20),
    )
    .when(EnforceDeadlines(jobs=[JOB, JobId(3)]))
    .so.after(10)
    .when(EnforceDeadlines(jobs=[JobId(3)])),
    "held on to": given(SUBMITTED, STARTED, after(20)).when(
        ExtendLeases(worker=WORKER, jobs=[(JOB, 1)])
    ),
    "submitted twice, and a third time too late": given()
    .when(submit(), submit())
    .so.after(86_400)
    .when(submit()),
    "over the limit": given().under(user_limit=1).when(submit(), submit(payload=2)),
}


@pytest.mark.parametrize("life", LIVES)
def test_what_is_decided_is_legal(life: str) -> None:
    history = LIVES[life].so.recorded
    assert LIVES[life].recorded
    assert wrongs(history) == [None] * len(history)


Happened = Event | NewEvent | After
ILLEGAL: list[tuple[list[Happened], Event | NewEvent, str]] = [
    ([SUBMITTED, CHILD], STARTED, "was scheduled, not queued"),
    ([SUBMITTED, CHILD], released(), "waited for job 1"),
    ([SUBMITTED, CHILD], TOLD, "its parent 1 was queued, not failed"),
    ([SUBMITTED, CHILD], FATE, "had not been told the end of job 1"),
    ([SUBMITTED], TOLD, "did not wait for job 1"),
    (FAILED_FIRST, CHILD, "it comes after job 1, which was failed"),
    ([], CHILD, "it comes after job 1, which did not exist"),
    ([SUBMITTED], replace(CHILD, after_failure=None), "does not say what follows"),
    ([SUBMITTED], replace(CHILD, after=(1, 1)), "not in order"),
    ([SUBMITTED], replace(CHILD, after=()), "it comes after no job"),
    ([SUBMITTED, CHILD], replace(FATE, parent=None), "the reason without a parent"),
    ([], STARTED, "did not exist"),
    ([SUBMITTED], of(1, SUBMITTED), "a job's id is its position"),
    ([], submitted(max_attempts=0), "allows 0 attempts"),
    ([], submitted(retry=RetryPolicy(jitter=2.0)), "cannot be: retry.jitter is a number from 0"),
    ([SUBMITTED, STARTED], started(2), "was running, not queued"),
    ([SUBMITTED], started(2), "attempt 2 follows attempt 0"),
    ([SUBMITTED], started(lease_expires_at=NOW), "its lease had ended"),
    ([SUBMITTED], started(user_id=BOB), "belongs to 'alice', not to 'bob'"),
    ([SUBMITTED], started(kind=SLEEP), "of the kind 'echo', not 'sleep'"),
    (
        [submitted(max_attempts=1), STARTED, after(31), requeued(RequeueReason.LEASE_LOST, 1, 1)],
        started(2, lease_expires_at=at(99)),
        "one more than 1",
    ),
    ([SUBMITTED], completed(), "was queued, not running"),
    ([SUBMITTED, STARTED], completed(2), "ends attempt 2, but attempt 1 was running"),
    ([SUBMITTED, STARTED, completed()], failed(), "was done, not running"),
    ([submitted(max_attempts=1), STARTED], failed(retry_at=at(1)), "follows the last, 1"),
    ([SUBMITTED, STARTED], gave_up(FailureReason.LEASE_LOST), "its lease had not come"),
    ([SUBMITTED, STARTED], gave_up(FailureReason.TIMED_OUT), "its time-out had not come"),
    ([SUBMITTED, STARTED], gave_up(FailureReason.SERVER_RESTARTED), "not run inside a server"),
    ([SUBMITTED, STARTED], requeued(RequeueReason.LEASE_LOST), "its lease had not come"),
    ([SUBMITTED, STARTED], requeued(RequeueReason.SERVER_RESTARTED), "not run inside a server"),
    ([SUBMITTED, STARTED], requeued(RequeueReason.GIVEN_BACK), "up to 3, not 4"),
    ([SUBMITTED, STARTED], requeued(RequeueReason.GIVEN_BACK, 2, 4), "ends attempt 2"),
    ([SUBMITTED, STARTED], requeued(RequeueReason.RETRIED), "neither failed nor cancelled"),
    ([SUBMITTED, STARTED, failed()], requeued(RequeueReason.RETRIED, 2, 4), "latest was 1"),
    ([SUBMITTED, cancelled()], requeued(RequeueReason.RETRIED, 0), "which it does not say"),
    ([EXPIRING, cancelled()], replace(AGAIN, expires_at=at(11)), "another expiry"),
    ([EXPIRING, cancelled(), after(10)], replace(AGAIN, expires_at=at(10)), "which had passed"),
    ([SUBMITTED, STARTED], requeued(RequeueReason.GIVEN_BACK, 1, 4, priority=7), "has priority 0"),
    ([SUBMITTED], released(), "was queued, not scheduled"),
    ([SCHEDULED], released(), "its schedule had not come"),
    ([SCHEDULED, after(10)], released(priority=7), "has priority 0"),
    ([SUBMITTED], cancelled(was="running"), "was queued, not running"),
    ([EXPIRING], cancelled(reason=CancelReason.EXPIRED), "its expiry had not come"),
    (
        [EXPIRING, STARTED, after(10)],
        cancelled(was="running", reason=CancelReason.EXPIRED),
        "after it had been started",
    ),
    ([SUBMITTED, STARTED, failed()], attempt_begun(), "was failed, not running"),
    ([SUBMITTED, STARTED], attempt_begun(), "had begun already"),
    ([SUBMITTED, STARTED, cancelled("running")], attempt_ended(), "was not ending"),
    ([SUBMITTED, STARTED, CANCELLED], attempt_ended(EndReason.LEASE_LOST), "lease had not come"),
    ([SUBMITTED, STARTED, CANCELLED], extended((1, 1), worker=OTHER_WORKER), "another worker held"),
    ([SUBMITTED, STARTED], replace(CANCELLED, attempt=2), "ends attempt 2"),
    (
        [SUBMITTED, STARTED],
        replace(failed(), holds_place=True),
        "it counts as running, although it did not time out",
    ),
    ([SUBMITTED], worker_missed(), "was queued, not running"),
    ([SUBMITTED], started(alone=True), "was not suspect"),
    (
        [
            SUBMITTED,
            STARTED,
            after(30),
            requeued(RequeueReason.LEASE_LOST, suspect=True),
            started(2, lease_expires_at=at(60)),
            after(30),
        ],
        requeued(RequeueReason.LEASE_LOST, 2, 4),
        "up to 4, not 3",
    ),
    ([SUBMITTED], extended((1, 0)), "was queued"),
    ([SUBMITTED, STARTED], extended((1, 2)), "another attempt of job 1 than the latest, 1"),
    ([SUBMITTED, STARTED], extended((1, 1), worker=OTHER_WORKER), "another worker held"),
    ([SUBMITTED, STARTED], extended((1, 1), (9, 1)), "did not exist"),
    ([SUBMITTED], replace(REPEATED, idempotency_key="other"), "did not belong to job 1"),
    ([SUBMITTED, cancelled(), after(86_400)], REPEATED, "had expired"),
    ([], admitted(used=601), "the 601th submission of 600"),
    ([], admitted(global_used=2, global_limit=1), "the 2th submission of 1 of all"),
    ([], admitted(count=2), "2 submissions at once"),
    ([], admitted(used=2), "counts 2 in its user's window, which had 1"),
    ([], admitted(global_used=2), "counts 2 in the global window, which had 1"),
    ([after(60)], admitted(), "outside its window"),
    ([], of(7, admitted()), "neither existed nor follows it"),
    ([SUBMITTED], of(1, admitted(BOB)), "belongs to 'alice', not to 'bob'"),
    ([], of(7, REFUSED), "a refusal names job 7"),
    ([], replace(REFUSED, count=0), "decides 0 submissions"),
    ([], replace(REFUSED, used=599), "599 used of 600"),
    ([], replace(REFUSED, last_at=at(-1)), "later than its last"),
    ([], LimitChanged(scope=Scope.USER, limit=1), "does not fit its scope"),
    ([], LimitChanged(scope=Scope.GLOBAL, kind=Kind("echo"), limit=1), "does not fit its scope"),
    ([], LimitChanged(scope=Scope.KIND, kind=Kind("echo"), running=-1), "below zero"),
    ([], of(7, LimitChanged(scope=Scope.USER, user_id=UserId("a"), limit=1)), "names job 7"),
    ([], LimitChanged(scope=Scope.PLAN, limit=1), "does not fit its scope"),
    ([], LimitChanged(scope=Scope.GLOBAL, plan=GOLD), "has no plan"),
    ([], LimitChanged(scope=Scope.PLAN, plan=GOLD, throttle=Rate(1, 0)), "no length"),
    ([], LimitChanged(scope=Scope.PLAN, plan=GOLD, windows=(Rate(-1, 1),)), "below zero"),
    ([], LimitChanged(scope=Scope.PLAN, plan=GOLD, weight=0), "a weight below one"),
    ([], LimitChanged(scope=Scope.PLAN, plan=GOLD, push=PUSH), "has no endpoint"),
    ([], LimitChanged(scope=Scope.USER, user_id=ALICE, plan=GOLD), "there was no plan 'gold'"),
    ([], PlanDeleted(plan=GOLD), "there was no plan 'gold'"),
    (
        [
            LimitChanged(scope=Scope.PLAN, plan=GOLD),
            LimitChanged(scope=Scope.USER, user_id=ALICE, plan=GOLD),
        ],
        PlanDeleted(plan=GOLD),
        "1 users were on the plan",
    ),
    ([], of(7, PlanDeleted(plan=GOLD)), "names job 7"),
]


def test_what_earlier_releases_decided_is_legal() -> None:
    """A key could mean a second job while the first went on; a retry let go of every expiry."""
    second = replace(SUBMITTED, key_expires_at=at(2 * 86_400))
    history = given(SUBMITTED, after(86_400), second, after(86_400))
    assert wrongs(history.recorded) == [None, None]
    assert wrongs(given(EXPIRING, cancelled(), AGAIN).recorded)[-1] is None


@pytest.mark.parametrize(("happened", "event", "says"), ILLEGAL)
def test_what_no_rule_decides_is_told(
    happened: list[Happened], event: Event | NewEvent, says: str
) -> None:
    wrong = wrongs(given(*happened).followed_by(event).recorded)[-1]
    assert wrong is not None
    assert says in wrong


@for_all(event=st.one_of([any_of(cls) for cls in EVENT_TYPES.values()]))
def test_an_event_of_any_type_is_judged(event: Event) -> None:
    user_id, kind = getattr(event, "user_id", ALICE) or ALICE, getattr(event, "kind", ECHO) or ECHO
    its_job = submitted_job(
        Recorded(JOB, NOW, JOB, SUBMITTED), replace(SUBMITTED, user_id=user_id, kind=kind)
    )
    assert isinstance(illegality(its_job, Recorded(9, NOW, JOB, event)), str | None)
