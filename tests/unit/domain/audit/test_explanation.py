from typing import Any

import pytest
from msgspec.structs import replace

from domain.audit.explanation import (
    Explanation,
    ExplanationInput,
    LastWait,
    SilentWorker,
    Workers,
    explain,
)
from domain.audit.parent_reasons import waits_for
from domain.audit.reasons import Count
from domain.audit.start_reasons import StartLimit
from domain.fairness.line import Load
from domain.fairness.start_limits import NO_STARTS
from domain.jobs.job import Job, State
from domain.language.events import AfterFailure, Event, FailureReason, JobReleased, RequeueReason
from domain.language.identifiers import JobId, Kind, WorkerId
from domain.language.limits import RetryPolicy
from domain.limits.limits import Limits, Subject
from tests.support.given import NOW, Given, at, given
from tests.support.stories import (
    ALICE,
    ECHO,
    JOB,
    SUBMITTED,
    cancelled,
    completed,
    failed,
    gave_up,
    released,
    requeued,
    started,
    submitted,
)

SEEN = Workers(asked_seconds_ago=0, lately_seconds=60)
UNSEEN = Workers(lately_seconds=60)


def explained(history: Given, **facts: Any) -> Explanation:
    job: Job = history.job(JOB)
    known: dict[str, Any] = {
        "now": history.now,
        "latest": history.recorded[-1].event,
        "kind": Load(waiting=1),
        "jobs_ahead": Count(0),
        "users_ahead": Count(0),
        "workers": SEEN,
    }
    return explain(ExplanationInput(job=job, **(known | facts)))


def caps(user: tuple[int, int], kind: tuple[int, int]) -> list[StartLimit]:
    """Return caps of the user and the kind; each is (jobs running, at most)."""
    subjects = (Subject(ALICE), Subject(kind=ECHO))
    return [
        StartLimit(subject, Limits(running=most), running, NO_STARTS)
        for subject, (running, most) in zip(subjects, (user, kind), strict=True)
    ]


def codes(explanation: Explanation) -> list[str]:
    return [reason.code for reason in explanation.reasons]


def test_a_job_without_anything_ahead_is_the_next() -> None:
    explanation = explained(given(SUBMITTED))
    assert codes(explanation) == ["next", "worker_waiting"]
    assert explanation.summary == (
        "Job 1 is queued. It is the next to be served, as soon as a worker asks for its kind."
    )


def test_the_place_in_the_line_and_the_users_ahead_are_numbers() -> None:
    explanation = explained(given(SUBMITTED), jobs_ahead=Count(12), users_ahead=Count(1))
    first, second, _ = explanation.reasons
    assert (first.code, first.numbers) == ("jobs_ahead", {"jobs_ahead": 12, "is_exact": True})
    assert first.text == (
        "In the line of user 'alice' there are 12 jobs before it, of higher priority or older; "
        "one is served at each turn of the user."
    )
    assert (second.code, second.numbers) == ("users_ahead", {"users_ahead": 1, "is_exact": True})
    assert second.text.startswith("It is the turn of 1 user before that of user 'alice'")


def test_what_was_not_counted_to_the_end_is_more_than_so_many() -> None:
    explanation = explained(given(SUBMITTED), jobs_ahead=Count(500, is_exact=False))
    assert "there are more than 500 jobs before it" in explanation.summary
    assert explanation.reasons[0].numbers["is_exact"] is False


def test_a_cap_comes_before_every_other_reason() -> None:
    explanation = explained(
        given(SUBMITTED),
        kind=Load(waiting=1, running=9),
        limits=caps(user=(2, 2), kind=(9, 9)),
        jobs_ahead=Count(3),
        workers=UNSEEN,
    )
    assert codes(explanation) == ["user_cap", "kind_cap", "no_worker_free", "jobs_ahead"]
    assert explanation.summary == (
        "Job 1 is queued. User 'alice' has 2 jobs running, and at most 2 may run at once: "
        "the next starts when one of them ends."
    )


def test_a_kind_that_no_worker_asks_for_is_said_so() -> None:
    explanation = explained(given(SUBMITTED), workers=UNSEEN)
    assert codes(explanation) == ["no_worker", "next"]
    assert "No living worker asks for the kind 'echo'" in explanation.summary
    assert "mistyped" not in explanation.summary


def test_a_dead_worker_is_named_apart_from_the_living() -> None:
    dead = [SilentWorker(WorkerId("w1"), 305), SilentWorker(WorkerId("w2"), 900)]
    explanation = explained(given(SUBMITTED), workers=Workers(lately_seconds=60, dead=dead))
    assert codes(explanation) == ["no_worker", "next"]
    assert "Worker 'w1' took it, and has been silent for 305 s." in explanation.summary


def test_a_mistyped_kind_is_told_with_the_one_that_workers_ask_for() -> None:
    workers = Workers(lately_seconds=60, nearest_kind=Kind("echos"))
    explanation = explained(given(SUBMITTED), workers=workers)
    assert "Workers ask for 'echos': is the kind mistyped?" in explanation.summary


def test_the_worker_of_a_running_job_is_told_alive_or_dead() -> None:
    running = given(SUBMITTED, started())
    alive = Workers(lately_seconds=60, own_seconds_ago=4)
    [reason] = explained(running, workers=alive).reasons
    assert reason.text.endswith("The worker is alive: it polled 4.0 s ago.")
    assert reason.numbers["worker_is_alive"] is True
    dead = Workers(lately_seconds=60, own_seconds_ago=90, own_is_alive=False)
    [reason] = explained(running, workers=dead).reasons
    assert "The worker seems to be dead: it has been silent for 90 s." in reason.text
    assert reason.numbers["worker_is_alive"] is False


def test_a_cap_of_zero_is_a_pause() -> None:
    paused = explained(
        given(SUBMITTED),
        limits=caps(user=(0, 0), kind=(0, 0)),
    )
    assert codes(paused)[:2] == ["user_cap", "kind_cap"]
    assert paused.reasons[0].text.startswith("User 'alice' is paused")
    assert paused.reasons[1].text.startswith("The kind 'echo' is paused")


def test_workers_that_were_seen_lately_are_busy() -> None:
    workers = Workers(asked_seconds_ago=4.25, started_seconds_ago=31, lately_seconds=60)
    explanation = explained(given(SUBMITTED), jobs_ahead=Count(1), workers=workers)
    assert explanation.reasons[-1].text == (
        "There are living workers for the kind 'echo': one polled 4.2 s ago, "
        "and a job of it was started 31 s ago."
    )


def test_a_schedule_holds_a_job_back() -> None:
    history = given(submitted(run_at=at(90), expires_at=at(120))).after(30)
    explanation = explained(history)
    assert codes(explanation) == ["scheduled", "expires"]
    assert explanation.reasons[0].numbers == {"run_at": at(90), "seconds_left": 60.0}
    assert explanation.summary.endswith("in 60 s.")


def test_a_schedule_that_has_come_is_due() -> None:
    assert codes(explained(given(submitted(run_at=at(9))).after(10))) == ["due"]


def test_the_delay_of_a_retry_holds_a_job_back() -> None:
    explanation = explained(given(SUBMITTED, started(), failed(retry_at=at(2.5))))
    assert codes(explanation) == ["retry_delay", "backoff"]
    assert explanation.summary == (
        "Job 1 is scheduled. Attempt 1 of at most 3 failed because its worker reported an error; "
        "the next is due at 2023-11-14T22:14:02Z, in 2.5 s."
    )
    assert explanation.reasons[1].text == (
        "By its exponential backoff, the delay after failure 1 is 0.5 to 1 s, drawn by chance."
    )


def test_the_reason_for_the_delay_of_a_retry_is_the_job_s_policy_or_the_worker() -> None:
    retry = RetryPolicy(backoff="linear", base_seconds=30.0, jitter=0.0)
    second = failed(2, retry_at=at(61))
    history = given(submitted(retry=retry), started(), failed(retry_at=at(1)), released())
    waiting = history.followed_by(started(2), second)
    assert explained(waiting).reasons[1].text == (
        "By its linear backoff, the delay after failure 2 is 60 s."
    )
    asked = history.followed_by(started(2), replace(second, retry_in_seconds=60.0))
    assert explained(asked).reasons[1].text == "Its worker asked for a delay of 60 s."


def test_a_permanent_failure_names_the_types_of_errors_that_are_not_retried() -> None:
    job = submitted(retry=RetryPolicy(never=("Rejected", "Gone")))
    [ended] = explained(given(job, started(), failed())).reasons
    assert ended.text.endswith(
        "although 3 attempts were allowed. No attempt follows an error of these types: "
        "'Rejected', 'Gone'."
    )


def test_an_attempt_that_was_lost_is_told() -> None:
    history = given(SUBMITTED, started(), requeued(RequeueReason.LEASE_LOST))
    assert explained(history).reasons[-1].text == (
        "Attempt 1 ended without an outcome (lease lost), and the job was queued again."
    )


def test_a_running_job_has_a_worker_and_a_lease() -> None:
    [running] = explained(given(SUBMITTED, started()).after(10)).reasons
    assert running.text == (
        "Worker 'worker-1' has had attempt 1 of at most 3 since 2023-11-14T22:14:00Z; "
        "its lease holds until 2023-11-14T22:14:30Z."
    )
    [overdue] = explained(given(SUBMITTED, started()).after(31)).reasons
    assert overdue.numbers["seconds_left"] == -1.0
    assert "queued again in a moment" in overdue.text


def test_a_job_that_is_done_waited_and_ran() -> None:
    history = given(SUBMITTED).after(5).followed_by(started()).after(2).followed_by(completed())
    [done] = explained(history).reasons
    assert done.numbers == {"attempt": 1, "waited_seconds": 5.0, "ran_seconds": 2.0}


@pytest.mark.parametrize(
    ("cause", "clause"),
    [
        (SUBMITTED, "its submission"),
        (JobReleased(user_id=ALICE, kind=ECHO), "it was due"),
        (requeued(RequeueReason.LEASE_LOST), "it was queued again"),
        (requeued(RequeueReason.RETRIED), "it was retried by hand"),
    ],
)
def test_the_wait_of_an_ended_job_counts_from_where_it_came_into_the_line(
    cause: Event, clause: str
) -> None:
    history = given(SUBMITTED).after(5).followed_by(started()).after(2).followed_by(completed())
    wait = LastWait(since=at(2), cause=cause, started=Count(3), own=1, other_users=1)
    done, waited = explained(history, wait=wait).reasons
    assert done.text.endswith(f"it was started 3.0 s after {clause}.")
    assert done.numbers["waited_seconds"] == waited.numbers["waited_seconds"] == 3.0
    assert waited.text == (
        "While it waited for attempt 1, 2 jobs of 1 other user and 1 job of user 'alice' were "
        "started."
    )


@pytest.mark.parametrize(
    ("wait", "clause"),
    [
        (Count(0), "no other job was started"),
        (Count(500, is_exact=False), "more than 500 jobs were started; they were not counted"),
    ],
)
def test_the_turns_that_a_failed_job_waited_for_are_counted_to_a_bound(
    wait: Count, clause: str
) -> None:
    history = given(submitted(max_attempts=1), started(), gave_up(FailureReason.ERROR))
    known = LastWait(since=at(0), cause=SUBMITTED, started=wait)
    _, waited = explained(history, wait=known).reasons
    assert clause in waited.text
    assert waited.numbers["is_exact"] is wait.is_exact


def test_a_failed_job_names_what_failed_where() -> None:
    history = given(submitted(max_attempts=1), started(), gave_up(FailureReason.ERROR))
    [failed_with] = explained(history, error="ValueError: torn").reasons
    assert failed_with.text == (
        "Attempt 1 failed at 2023-11-14T22:14:00Z on worker 'worker-1' with ValueError: torn – "
        "it was the last of 1."
    )


def test_an_earlier_failure_of_a_job_that_is_done_is_told() -> None:
    history = given(SUBMITTED, started(), failed(retry_at=at(2)), started(2), completed(2))
    done, earlier = explained(history, error="ValueError: torn").reasons
    assert (done.code, earlier.code) == ("done", "error")
    assert earlier.text == "Attempt 1 failed with ValueError: torn"


@pytest.mark.parametrize(
    "reason", [one for one in FailureReason if one is not FailureReason.PARENT_FAILED]
)
def test_every_failure_has_its_words(reason: FailureReason) -> None:
    explanation = explained(given(submitted(max_attempts=1), started(), gave_up(reason)))
    assert explanation.reasons[0].numbers["failure"] == reason
    assert explanation.summary.endswith("it was the last of 1.")


def test_a_permanent_failure_had_attempts_left() -> None:
    assert "it was a permanent failure" in explained(given(SUBMITTED, started(), failed())).summary


def test_a_cancelled_job_says_by_what() -> None:
    assert codes(explained(given(SUBMITTED, cancelled()))) == ["cancelled"]
    expired = explained(
        given(submitted(expires_at=NOW), cancelled(reason=cancelled().reason.EXPIRED))
    )
    assert codes(expired) == ["expired"]


def test_a_job_names_those_that_it_waits_for() -> None:
    parents = tuple(JobId(number) for number in range(1, 15))
    history = given(
        *[submitted(payload=number) for number in parents],
        submitted(payload="child", after=parents, after_failure=AfterFailure.RUN),
    )
    waiting = history.job(15)
    known = {JobId(1): State.RUNNING, JobId(2): State.QUEUED}
    reason = waits_for(waiting, known)
    assert reason.text.startswith("It waits for the end of job 1 (running), job 2 (queued), job 3,")
    assert reason.text.endswith("job 10 and 4 others. It runs then, however they end.")
    assert reason.numbers == {"waits_for": parents, "jobs_left": 14, "jobs_ended": 0}
