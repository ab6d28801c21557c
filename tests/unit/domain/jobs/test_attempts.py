"""Attempts: when their handlers begin and end, which of them count, and who runs alone."""

from msgspec.structs import replace

from domain.decisions.answers import Claimed, LeasesHeld
from domain.decisions.decide import decide
from domain.jobs.job import Job, State
from domain.jobs.life_cycle import LOSSES_FREE_MAX, PROGRESS_SECONDS, retry_delay
from domain.language.bodies import body_of
from domain.language.commands import (
    CancelJob,
    EnforceDeadlines,
    ExtendLeases,
    Progress,
    RecoverJobs,
    RetryJob,
)
from domain.language.errors import NotTheCurrentAttempt, TimeWasUp
from domain.language.events import (
    CancelReason,
    EndReason,
    FailureReason,
    ProgressReported,
    RequeueReason,
)
from domain.language.identifiers import JobId
from tests.support.given import Given, after, at, given, of
from tests.support.stories import (
    ALICE,
    JOB,
    OTHER_WORKER,
    SERVER,
    SUBMITTED,
    WORKER,
    attempt_begun,
    attempt_ended,
    cancelled,
    claim,
    complete,
    extended,
    fail,
    failed,
    gave_up,
    give_back,
    requeued,
    started,
    submitted,
    worker_missed,
)

CANCEL, RETRY, WAKE = CancelJob(job_id=JOB), RetryJob(job_id=JOB), EnforceDeadlines(jobs=[JOB])
LOST, GIVEN_BACK = RequeueReason.LEASE_LOST, RequeueReason.GIVEN_BACK


def heartbeat(*keys: tuple[int, int], begun: bool = False) -> ExtendLeases:
    jobs = tuple((JobId(job_id), attempt) for job_id, attempt in keys)
    return ExtendLeases(worker=WORKER, jobs=jobs, begun=jobs if begun else ())


def counts(job: Job) -> tuple[int, int, int]:
    return job.attempt, job.starts, job.failures


# Fence, starts and failures


def test_after_eleven_returns_the_first_failure_waits_as_long_as_any_first_one() -> None:
    story = given(SUBMITTED)
    for attempt in range(1, 12):
        story = story.when(claim()).so.when(give_back(attempt)).so
    story = story.when(claim()).so
    assert counts(story.job(1)) == (12, 1, 0)
    [event] = story.when(fail(12)).events
    assert event == failed(12, retry_at=at(retry_delay(story.job(1))))
    assert retry_delay(story.job(1)) <= 1.0
    again = story.when(fail(12)).so.job(1)
    assert (counts(again), again.attempts_granted) == ((12, 1, 1), 3)


def test_a_retry_begins_to_count_failures_anew() -> None:
    story = given(submitted(max_attempts=2), started(1)).when(fail(1, may_retry=False)).so
    again = story.when(RETRY).so
    assert counts(again.job(1)) == (1, 1, 0)
    again = again.when(claim()).so.when(fail(2)).so
    assert (again.job(1).state, counts(again.job(1))) == (State.SCHEDULED, (2, 2, 1))


def test_a_log_in_which_returns_raised_the_maximum_comes_to_the_same() -> None:
    story = given(
        submitted(max_attempts=2),
        started(1),
        requeued(GIVEN_BACK, 1, 3),
        started(2),
        requeued(LOST, 2, 3),
        started(3),
    )
    assert (story.job(1).failures, story.job(1).final_attempt) == (1, 3)
    story.when(fail(3)).then(failed(3))


def test_a_job_that_was_claimed_and_given_back_expires_all_the_same() -> None:
    story = given(submitted(expires_at=at(10))).when(claim()).so.when(give_back()).so
    story.after(9.999999).when(WAKE).then_nothing()
    expired = story.after(10).when(WAKE).then(cancelled("queued", CancelReason.EXPIRED))
    assert counts(expired.job(1)) == (1, 0, 0)


def test_a_job_whose_handler_had_begun_before_it_was_given_back_does_not_expire() -> None:
    story = given(submitted(expires_at=at(10))).when(claim()).so
    told = story.when(give_back(begun=True)).so
    reported = given(submitted(expires_at=at(10))).when(claim(begins=0)).so.after(1)
    reported = reported.when(heartbeat((1, 1), begun=True)).so.when(give_back()).so
    for given_back in (told, reported):
        assert given_back.job(1).starts == 1
        given_back.after(10).when(WAKE).then_nothing()


def test_a_job_that_its_worker_gives_back_as_a_suspect_is_run_alone_the_next_time() -> None:
    told = give_back(begun=True, suspect=True)
    story = given(SUBMITTED).when(claim()).so.when(told).so
    assert counts(story.job(1)) == (1, 1, 0)
    story.when(claim()).then(started(2, alone=True))


def test_a_claimed_job_does_not_expire_before_its_claim_is_over() -> None:
    story = given(submitted(expires_at=at(10))).when(claim(begins=0)).so.after(10)
    story.when(WAKE).then_nothing()
    story.when(give_back()).so.when(WAKE).then(cancelled("queued", CancelReason.EXPIRED))


# When a handler begins


def test_a_time_out_counts_from_when_the_handler_began() -> None:
    story = given(submitted(timeout_seconds=5)).when(claim(begins=0))
    story.then(started(begun=False))
    ahead = story.so.after(20)
    ahead.when(WAKE).then_nothing()
    begun = ahead.when(heartbeat((1, 1), begun=True))
    begun.then(attempt_begun(), extended((1, 1), lease_expires_at=at(50)))
    begun.so.after(4.999999).when(WAKE).then_nothing()
    over = begun.so.after(5)
    assert isinstance(over.when(complete()).outcomes[0], TimeWasUp)
    [event] = over.when(WAKE).events
    assert event == gave_up(
        FailureReason.TIMED_OUT,
        1,
        retry_at=at(25 + retry_delay(over.job(1))),
        holds_place=True,
    )


def test_that_a_handler_began_is_recorded_once() -> None:
    story = given(SUBMITTED).when(claim(begins=0)).so.when(heartbeat((1, 1), begun=True)).so
    assert counts(story.job(1)) == (1, 1, 0)
    story.when(heartbeat((1, 1), begun=True)).then_nothing()
    given(SUBMITTED, started(1)).when(heartbeat((1, 1), begun=True)).then_nothing()


def test_of_a_claim_as_many_jobs_begin_at_once_as_it_says() -> None:
    story = given(*[submitted(payload=number) for number in range(4)])
    jobs = story.when(claim(3, begins=2)).answer(Claimed).jobs
    assert [job.begun_at is not None for job in jobs] == [True, True, False]
    assert all(job.begun_at for job in story.when(claim(3)).answer(Claimed).jobs)


def test_an_outcome_says_that_the_handler_began() -> None:
    story = given(SUBMITTED).when(claim(begins=0)).so
    assert story.when(complete()).so.job(1).starts == 1
    assert story.when(fail()).so.job(1).starts == 1
    assert story.when(give_back()).so.job(1).starts == 0


# A worker that dies


def crowd(begun: int, ahead: int, max_attempts: int = 3) -> Given:
    """One worker with so many jobs, some of which have begun; the first is job 1."""
    jobs = [submitted(payload=number, max_attempts=max_attempts) for number in range(begun + ahead)]
    return given(*jobs).when(claim(begun + ahead, begins=begun)).so


def wake_all(story: Given) -> EnforceDeadlines:
    return EnforceDeadlines(jobs=list(story.model.jobs.rows))


def test_a_lost_attempt_that_had_not_begun_is_no_failure() -> None:
    story = crowd(begun=1, ahead=2, max_attempts=1).after(30)
    died = story.when(wake_all(story))
    died.then(
        # That it alone is known to have begun proves little: a worker says so a moment later.
        of(1, requeued(LOST, attempts_max=2, suspect=True)),
        of(2, requeued(LOST, attempts_max=2)),
        of(3, requeued(LOST, attempts_max=2)),
    )
    alone = died.so.when(claim(5))
    assert [job.id for job in alone.answer(Claimed).jobs] == [1]
    others = alone.so.when(claim(5, worker=OTHER_WORKER)).answer(Claimed).jobs
    assert [job.id for job in others] == [2, 3]  # beside one another


def test_those_who_died_together_are_forgiven_once_and_run_alone_the_next_time() -> None:
    story = crowd(begun=2, ahead=1, max_attempts=1).after(30)
    died = story.when(wake_all(story)).then(
        of(1, requeued(LOST, attempts_max=2, suspect=True)),
        of(2, requeued(LOST, attempts_max=2, suspect=True)),
        of(3, requeued(LOST, attempts_max=2)),
    )
    alone = died.when(claim(5))
    alone.then(of(1, started(2, lease_expires_at=at(60), alone=True)))
    others = alone.so.when(claim(5, worker=OTHER_WORKER)).answer(Claimed).jobs
    assert [job.id for job in others] == [2]
    lost = alone.so.after(30)
    ended = lost.when(wake_all(lost)).so
    assert ended.job(1).state is State.FAILED
    assert ended.job(1).failures == 1


def test_a_suspect_ends_a_claim_that_has_other_jobs_and_is_not_passed_over() -> None:
    story = given(SUBMITTED, started(1), submitted(payload=2), submitted(payload=3), after(30))
    story = story.when(WAKE).so
    jobs = story.when(claim(5)).answer(Claimed).jobs
    assert [job.id for job in jobs] == [1]
    low = given(
        submitted(payload=1), submitted(payload=2, priority=-1), of(2, started(1)), after(30)
    )
    low = low.when(EnforceDeadlines(jobs=[JobId(2)])).so
    first = low.when(claim(5))
    assert [job.id for job in first.answer(Claimed).jobs] == [1]
    assert [job.id for job in first.so.when(claim(5)).answer(Claimed).jobs] == [2]


def test_a_claim_that_ends_at_a_suspect_reads_no_further_kinds() -> None:
    story = given(SUBMITTED, started(1), submitted(payload=2), after(30)).when(WAKE).so
    assert reads_more_kinds(story.when(CancelJob(job_id=JOB)).so)
    assert not reads_more_kinds(story)


def reads_more_kinds(story: Given) -> bool:
    """Return True if a claim of any kind reads further kinds, if there may be some."""
    model = story.model
    assert model.line.known is not None
    model.line.known.has_more_kinds = True
    return decide(model, claim(5), story.policy, story.now).unread is not None


def test_a_suspect_whose_run_ends_is_one_no_longer() -> None:
    suspect = given(SUBMITTED, started(1), requeued(LOST, suspect=True), started(2, alone=True))
    failed_once = suspect.when(fail(2)).so
    assert not failed_once.job(1).is_suspect
    assert not suspect.when(complete(2)).so.job(1).is_suspect
    assert suspect.when(give_back(2)).so.job(1).is_suspect


def test_a_job_that_kills_its_worker_alone_fails_after_its_attempts() -> None:
    story = given(SUBMITTED)
    for attempt in (1, 2, 3):
        story = story.when(claim()).so.after(30)
        story = story.when(WAKE).so
        assert story.job(1).failures == attempt
    assert story.job(1).state is State.FAILED


def test_however_many_die_together_each_is_failed_in_the_end() -> None:
    """Workers that heed nothing, and run suspects beside one another."""
    story = given(*[submitted(payload=number) for number in range(3)])
    for _ in range(10):
        for _ in range(3):
            story = story.when(claim(3, worker=WORKER)).so
        story = story.after(30)
        story = story.when(wake_all(story)).so
    assert {story.job(number).state for number in (1, 2, 3)} == {State.FAILED}
    assert max(story.job(number).attempt for number in (1, 2, 3)) <= 4


def test_what_is_never_said_to_have_begun_is_forgiven_a_few_times() -> None:
    story = given(submitted(max_attempts=1))
    for _ in range(LOSSES_FREE_MAX):
        story = story.when(claim(begins=0)).so.after(30)
        story = story.when(WAKE).so
        assert (story.job(1).state, story.job(1).failures) == (State.QUEUED, 0)
    story = story.when(claim(begins=0)).so.after(30)
    assert story.when(WAKE).so.job(1).state is State.FAILED


def test_the_leases_of_a_dead_worker_may_end_one_after_the_other() -> None:
    story = given(submitted(max_attempts=1), submitted(payload=2, max_attempts=1))
    story = story.when(claim()).so.after(10).when(claim()).so.after(20)
    first = story.when(wake_all(story)).then(
        of(1, requeued(LOST, attempts_max=2, suspect=True)), of(2, worker_missed())
    )
    first.when(wake_all(first)).then_nothing()
    second = first.after(10)
    second.when(wake_all(second)).then(of(2, requeued(LOST, attempts_max=2, suspect=True)))


def test_a_worker_that_is_heard_of_again_has_not_died() -> None:
    story = given(submitted(), submitted(payload=2)).when(claim()).so.after(25).when(claim()).so
    missed = story.after(5).when(wake_all(story)).so
    assert missed.job(2).missed_at is not None
    heard = missed.when(heartbeat((2, 1)))
    heard.then(extended((2, 1), lease_expires_at=at(60)))
    assert heard.so.job(2).missed_at is None
    lost = heard.so.after(30)
    assert lost.when(EnforceDeadlines(jobs=[JobId(2)])).so.job(2).failures == 1


def test_a_server_that_is_recovered_forgives_in_the_same_way() -> None:
    story = given(*[submitted(payload=number, max_attempts=1) for number in range(3)])
    story = story.when(claim(3, begins=2, server=SERVER)).so
    ids = [JobId(1), JobId(2), JobId(3)]
    found = story.when(RecoverJobs(server=SERVER, jobs=ids)).so
    assert [found.job(number).state for number in ids] == [State.QUEUED] * 3
    assert [found.job(number).is_suspect for number in ids] == [True, True, False]
    one = given(submitted(max_attempts=1)).when(claim(server=SERVER)).so
    assert one.when(RecoverJobs(server=SERVER, jobs=[JOB])).so.job(1).state is State.FAILED


def test_a_suspect_waits_for_its_worker_to_have_nothing_else() -> None:
    story = given(SUBMITTED, started(1), requeued(LOST, suspect=True))
    waiting = story.when(claim(begins=3))
    waiting.then(started(2, alone=True, begun=False))
    lost = waiting.so.after(30).when(WAKE).so
    assert lost.job(1).failures == 1  # as before: it had not begun again


# Attempts that are over for their job


def test_a_cancelled_attempt_ends_when_its_worker_says_so() -> None:
    running = given(SUBMITTED).when(claim()).so
    told = running.when(CANCEL).then(cancelled("running", attempt=1, worker=WORKER))
    assert told.job(1).state is State.CANCELLED
    for report in (complete(), fail(), give_back()):
        told.when(report).then_refused(NotTheCurrentAttempt, attempt_ended())
    by_another = replace(give_back(), worker=OTHER_WORKER)
    told.when(by_another).then_refused(NotTheCurrentAttempt)
    ended = told.when(give_back()).so
    ended.when(give_back()).then_refused(NotTheCurrentAttempt)
    lost = told.after(30).when(WAKE).then(attempt_ended(EndReason.LEASE_LOST))
    lost.when(WAKE).then_nothing()


def test_a_heartbeat_for_a_cancelled_attempt_says_so_and_keeps_its_place() -> None:
    told = given(SUBMITTED).when(claim()).so.when(CANCEL).so.after(20)
    beat = told.when(heartbeat((1, 1)))
    beat.then(extended((1, 1), lease_expires_at=at(50)))
    assert beat.answer(LeasesHeld).lost == [(JOB, 1)]
    beat.so.after(29.999999).when(WAKE).then_nothing()
    beat.so.after(30).when(WAKE).then(attempt_ended(EndReason.LEASE_LOST))
    late = told.after(10).when(heartbeat((1, 1)))
    late.then_nothing()


def test_two_attempts_of_one_job_have_each_their_place() -> None:
    story = given(SUBMITTED).when(claim()).so.when(CANCEL).so.when(RETRY).so
    again = story.when(claim()).then(started(2))
    beat = again.after(20).when(heartbeat((1, 1), (1, 2)))
    beat.then(extended((1, 1), (1, 2), lease_expires_at=at(50)))
    assert beat.answer(LeasesHeld).lost == [(JOB, 1)]
    assert beat.so.model.line.users[ALICE].running == 2
    ended = beat.so.when(complete(1)).then_refused(NotTheCurrentAttempt, attempt_ended())
    assert ended.current == 2
    done = again.when(complete(1)).so.when(complete(2)).so
    assert (done.job(1).state, done.model.line.users[ALICE].running) == (State.DONE, 0)


def test_a_log_in_which_a_cancelled_job_gave_up_its_place_at_once_comes_to_the_same() -> None:
    story = given(SUBMITTED, started(1), cancelled("running"))
    assert story.model.line.users[ALICE].running == 0
    story.after(1000).when(WAKE).then_nothing()
    story.when(complete()).then_refused(NotTheCurrentAttempt)


# Progress


def reporting(fraction: float, message: str | None = None) -> ExtendLeases:
    text = None if message is None else body_of(message, "message")
    progress = Progress(JobId(1), 1, fraction, text)
    return ExtendLeases(worker=WORKER, jobs=[(JobId(1), 1)], progress=(progress,))


def test_progress_is_recorded_at_most_once_in_two_seconds() -> None:
    first = given(SUBMITTED).when(claim()).so.when(reporting(0.25, "page 1"))
    [event] = first.events
    assert isinstance(event, ProgressReported)
    assert (event.fraction, event.message_bytes) == (0.25, len(b'"page 1"'))
    story = first.so
    assert story.job(1).progress == 0.25
    story.after(PROGRESS_SECONDS - 0.1).when(reporting(0.5)).then_nothing()
    second = story.after(PROGRESS_SECONDS).when(reporting(0.5)).so
    job = second.job(1)
    assert (job.progress, job.progress_position) == (0.5, None)
    second.after(PROGRESS_SECONDS).when(reporting(0.5)).then_nothing()


def test_progress_of_an_attempt_that_is_not_the_current_one_is_not_recorded() -> None:
    story = given(SUBMITTED).when(claim()).so.when(give_back()).so
    story.when(reporting(0.5)).then_nothing()


def test_a_new_attempt_begins_without_progress() -> None:
    story = given(SUBMITTED).when(claim()).so.when(reporting(0.5, "half")).so
    again = story.when(give_back()).so.when(claim()).so
    assert (again.job(1).progress, again.job(1).progress_position) == (None, None)
