"""Each call of the client, both of `Fairlog` and of `AsyncFairlog`, against a real server."""

import itertools
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fairlog_client import (
    Conflict,
    InvalidRequest,
    JobCancelled,
    JobFailed,
    NotFound,
    Push,
    Rate,
    ResultTimeout,
    RetryPolicy,
    Submission,
)
from tests.support.server import AppServer, claim

# A client sees no database.
pytestmark = pytest.mark.one_database

_numbers = itertools.count()


def new_user() -> str:
    """Return a user whom no other test has."""
    return f"user/{next(_numbers)} ü"


def complete(server: AppServer, job_id: int, **outcome: Any) -> None:
    """Run a job to its end over HTTP, with a result or an error."""
    kind = server.client.get(f"/v1/jobs/{job_id}").json()["kind"]
    [claimed] = claim(server.client, 1, kinds=[kind])
    assert claimed["id"] == job_id
    call = "fail" if "error" in outcome else "complete"
    body = {"attempt": claimed["attempt"], **outcome}
    server.client.post(f"/v1/jobs/{job_id}/{call}", json=body).raise_for_status()


@pytest.fixture
def kind() -> str:
    """A kind that no other test has."""
    return f"kind-{next(_numbers)}"


def test_a_job_is_submitted_with_all_its_fields(client: Any, server: AppServer, kind: str) -> None:
    run_at = datetime.now(UTC) + timedelta(hours=1)
    user = new_user()
    job = client.submit(
        user_id=user,
        kind=kind,
        payload={"a": [1, None, "ü"]},
        idempotency_key="k",
        run_at=run_at,
        expires_at=run_at + timedelta(hours=1),
        timeout_seconds=2.5,
        retry=RetryPolicy(attempts=7, base_seconds=30, never=["Rejected"]),
        priority=3,
        resources=["shopify:b", "shopify:a"],
    )
    stored = server.client.get(f"/v1/jobs/{job.id}").json()
    assert stored["payload"] == job.payload == {"a": [1, None, "ü"]}
    assert (stored["user_id"], stored["kind"], stored["state"]) == (user, kind, "scheduled")
    assert (stored["timeout_seconds"], stored["max_attempts"], stored["priority"]) == (2.5, 7, 3)
    assert (stored["retry"]["base_seconds"], job.details.retry.never) == (30.0, ["Rejected"])
    assert stored["resources"] == list(job.details.resources) == ["shopify:a", "shopify:b"]
    assert stored["idempotency_key"] == job.idempotency_key == "k"
    assert (job.state, job.is_duplicate, job.has_ended) == ("scheduled", False, False)
    assert abs(job.details.run_at - run_at) < timedelta(milliseconds=1)
    again = client.submit(user_id=user, kind=kind, payload=job.payload, idempotency_key="k")
    assert (again.id, again.is_duplicate) == (job.id, True)


def test_each_submission_is_a_job_of_its_own_unless_it_is_deduplicated(
    client: Any, kind: str
) -> None:
    user = new_user()
    first, second = (client.submit(user_id=user, kind=kind, payload=1).id for _ in range(2))
    assert first != second
    equal = {client.submit(user_id=user, kind=kind, payload=2, deduplicate=True).id for _ in "ab"}
    assert len(equal) == 1


def test_a_result_is_waited_for(client: Any, server: AppServer, kind: str) -> None:
    job = client.submit(user_id=new_user(), kind=kind)
    with ThreadPoolExecutor(1) as pool:
        ends = pool.submit(complete, server, job.id, result={"pages": 10})
        assert job.result(timeout=30) == {"pages": 10}
        ends.result()
    assert (job.state, job.has_ended, job.attempt) == ("done", True, 1)
    assert client.result(job.id) == {"pages": 10}
    assert client.job(job.id).result() == {"pages": 10}


def test_a_submission_waits_for_its_result_in_one_call(
    client: Any, server: AppServer, kind: str
) -> None:
    def run() -> None:
        [claimed] = claim(server.client, 1, kinds=[kind], wait_seconds=30)
        body = {"attempt": 1, "result": "quick"}
        server.client.post(f"/v1/jobs/{claimed['id']}/complete", json=body).raise_for_status()

    thread = threading.Thread(target=run)
    thread.start()
    job = client.submit(user_id=new_user(), kind=kind, wait_seconds=30)
    thread.join()
    assert (job.state, job.result(timeout=0)) == ("done", "quick")


def test_a_job_that_does_not_end_in_time_raises_a_timeout(client: Any, kind: str) -> None:
    job = client.submit(user_id=new_user(), kind=kind)
    asked = time.monotonic()
    with pytest.raises(ResultTimeout, match=f"Job {job.id} is queued after 0.3 s") as raised:
        job.result(timeout=0.3)
    assert isinstance(raised.value, TimeoutError)
    assert time.monotonic() - asked >= 0.3


def test_a_failed_job_raises_its_remote_error(client: Any, server: AppServer, kind: str) -> None:
    job = client.submit(user_id=new_user(), kind=kind, max_attempts=1)
    error = {"type": "ValueError", "message": "no such page", "traceback": "Traceback …"}
    complete(server, job.id, error=error)
    with pytest.raises(JobFailed, match="ValueError: no such page") as raised:
        job.result(timeout=30)
    failed = raised.value
    assert (failed.job_id, failed.attempt, failed.error) == (job.id, 1, error)
    assert (failed.type, failed.message, failed.traceback) == tuple(error.values())
    assert job.failure.reason == "error"


@pytest.mark.parametrize("error", ["a text", None, ["a", "list"], {"code": 7}])
def test_an_error_of_any_shape_is_kept(
    client: Any, server: AppServer, kind: str, error: object
) -> None:
    job = client.submit(user_id=new_user(), kind=kind, max_attempts=1)
    complete(server, job.id, error=error)
    with pytest.raises(JobFailed, match=f"Job {job.id} failed") as raised:
        job.result(timeout=30)
    assert raised.value.error == error


def test_a_cancelled_job_has_no_result_and_can_be_retried(client: Any, kind: str) -> None:
    job = client.submit(user_id=new_user(), kind=kind)
    job.cancel()
    assert job.state == "cancelled"
    with pytest.raises(JobCancelled, match=f"Job {job.id} was cancelled"):
        job.result(timeout=30)
    job.retry()
    assert job.state == "queued"
    assert client.cancel(job.id).state == "cancelled"
    assert client.retry(job.id).state == "queued"
    job.refresh()
    assert job.state == "queued"


def test_jobs_are_listed_page_by_page(client: Any, kind: str) -> None:
    user = new_user()
    submissions = [Submission(user_id=user, kind=kind, payload=one) for one in range(450)]
    outcomes = list(client.submit_many(submissions))
    assert [job.payload for job in outcomes] == list(range(450))
    listed = list(client.jobs(user_id=user, kind=kind, state="queued"))
    assert [job.payload for job in listed] == list(reversed(range(450)))
    assert client.jobs(user_id=user).__class__ is not list
    assert next(iter(client.jobs(user_id=user))).id == listed[0].id
    assert next(iter(client.jobs(user_id=user, include=[]))).payload is None
    found = client.jobs(user_id=user, idempotency_key=listed[7].idempotency_key)
    assert [job.id for job in found] == [listed[7].id]


def test_many_jobs_are_submitted_in_batches_of_bounded_memory(client: Any, kind: str) -> None:
    user = new_user()
    read = 0
    ahead: list[int] = []

    def submissions() -> Iterator[Submission]:
        nonlocal read
        for number in range(10_000):
            read += 1
            yield Submission(user_id=user, kind=kind, payload=number)

    ids = []
    for number, job in enumerate(client.submit_many(submissions())):
        ids.append(job.id)
        ahead.append(read - number)
    assert len(set(ids)) == 10_000
    assert ids == sorted(ids)
    assert max(ahead) <= 1001


def test_large_jobs_are_submitted_in_batches_that_the_server_accepts(
    client: Any, kind: str
) -> None:
    user = new_user()
    submissions = (
        Submission(user_id=user, kind=kind, payload=f"{one}" * 900_000) for one in range(10)
    )
    assert [job.state for job in client.submit_many(submissions)] == ["queued"] * 10


def test_a_job_says_why_it_has_not_run_and_what_happened_to_it(client: Any, kind: str) -> None:
    job = client.submit(user_id=new_user(), kind=kind)
    explained = job.explain()
    assert (explained.job_id, explained.state) == (job.id, "queued")
    assert f"Job {job.id} is queued." in explained.summary
    assert client.explain(job.id).reasons == explained.reasons
    events = list(job.events())
    assert [event.type for event in events] == ["RateLimitDecided", "JobSubmitted"]
    assert list(client.audit(job_id=job.id)) == list(client.events(job.id)) == events
    [submitted] = client.audit(job_id=job.id, types=["JobSubmitted"])
    assert (submitted.position, submitted.data["kind"]) == (job.id, kind)
    assert submitted.recorded_at == job.submitted_at


def test_limits_are_read_and_set(client: Any) -> None:
    user = new_user()
    assert client.set_limits(user, limit=50, running=2).limit == 50
    limits = client.limits(user)
    assert (limits.user_id, limits.limit, limits.running) == (user, 50, 2)
    assert limits.global_.limit == client.global_limits().limit == 1_000_000
    client.set_limits(user, running=None)
    assert (client.limits(user).limit, client.limits(user).running) == (50, None)


def test_callbacks_are_set_listed_and_deleted_and_come_with_jobs(client: Any) -> None:
    name = f"c-{secrets.token_hex(4)}"
    url = "https://a.example/hook"
    callback = client.set_callback(name, url, kinds=["no-such"])
    assert (callback.url, callback.kinds, callback.secret_version) == (url, ["no-such"], 1)
    assert client.callback(name) == callback
    assert name in [one.name for one in client.callbacks()]
    assert client.rotate_callback_secret(name, overlap_seconds=60).secret_version == 2
    client.delete_callback(name)
    with pytest.raises(NotFound):
        client.callback(name)
    job = client.submit(user_id=new_user(), kind="echo", callback=url)
    assert client.job(job.id).details.callback.url == url


def test_schedules_are_set_listed_run_and_deleted(client: Any) -> None:
    user, name = new_user(), f"every morning/{new_user()}"
    fields = {"user_id": user, "kind": "echo", "payload": {"n": 1}}
    schedule = client.set_schedule(name, cron="30 3 * * *", time_zone="Europe/Berlin", **fields)
    assert (schedule.name, schedule.payload, schedule.overlap) == (name, {"n": 1}, "skip")
    assert (len(schedule.next_due_at), schedule.last_run) == (5, None)
    assert client.schedule(name) == schedule
    assert name in [one.name for one in client.schedules()]
    run = client.trigger_schedule(name).run
    assert (run.cause, run.outcome) == ("trigger", "submitted")
    assert client.job(run.job_id).user_id == user
    assert client.trigger_schedule(name).run.outcome == "overlap"
    now = datetime.now(UTC)
    begun = client.backfill_schedule(name, now - timedelta(days=3), now)
    assert begun.backfill is not None
    with pytest.raises(InvalidRequest, match="no such day"):
        client.set_schedule(name, cron="0 0 31 2 *", **fields)
    client.delete_schedule(name)
    with pytest.raises(NotFound):
        client.schedule(name)


def test_plans_are_set_listed_and_deleted(client: Any) -> None:
    user, name = new_user(), new_user()
    plan = client.set_plan(name, limit=9, windows=[Rate(2, 1)], throttle=Rate(5, 1), weight=2.5)
    assert (plan.windows, plan.throttle, plan.users) == ([Rate(2, 1)], Rate(5, 1), 0)
    limits = client.set_limits(user, plan=name)
    assert (limits.plan, limits.limit, limits.weight) == (name, 9, 2.5)
    assert [window.name for window in limits.windows] == ["user-1s"]
    assert (client.plan(name).users, name in [one.name for one in client.plans()]) == (1, True)
    with pytest.raises(Conflict):
        client.delete_plan(name)
    client.set_limits(user, plan=None)
    client.delete_plan(name)
    with pytest.raises(NotFound):
        client.plan(name)


def test_limits_and_the_endpoint_of_a_kind_are_set(client: Any) -> None:
    name = f"resize/{new_user()}"
    push = Push(url="https://images.example/jobs", secret_version=2)
    set_ = client.set_kind(name, running=4, throttle=Rate(5, 1), push=push)
    assert (set_.running_limit, set_.throttle, set_.push) == (4, Rate(5, 1), push)
    assert client.set_kind(name, push=None, paused=True).push is None
    assert (client.kind(name).paused, client.kind(name).running_limit) == (True, 4)
    with pytest.raises(InvalidRequest, match=r"push\.url"):
        client.set_kind(name, push=Push(url="images.example"))


def test_events_are_streamed_as_they_happen(client: Any, kind: str) -> None:
    user = new_user()
    first = client.submit(user_id=user, kind=kind)
    events = client.stream(user_id=user, after=0, types=["JobSubmitted"])
    assert next(events).job_id == first.id
    second = client.submit(user_id=user, kind=kind)
    assert next(events).job_id == second.id
    events.close()


def test_a_job_shows_its_progress(client: Any, server: AppServer, kind: str) -> None:
    job = client.submit(user_id=new_user(), kind=kind)
    assert job.progress is None
    [claimed] = claim(server.client, 1, kinds=[kind])
    progress = {"fraction": 0.5, "message": "page 5 of 10"}
    jobs = [{"id": job.id, "attempt": claimed["attempt"], "progress": progress}]
    server.client.post("/v1/claims/heartbeat", json={"worker": "w1", "jobs": jobs})
    shown = client.job(job.id).progress
    assert (shown.fraction, shown.message) == (0.5, "page 5 of 10")


def test_a_job_comes_after_others(client: Any, server: AppServer, kind: str) -> None:
    first = client.submit(user_id=new_user(), kind=kind)
    second = client.submit(user_id=new_user(), kind=kind, after=[first.id], after_failure="run")
    assert (second.state, second.details.after) == ("scheduled", [first.id])
    assert (second.details.waits_for, second.details.after_failure) == ([first.id], "run")
    complete(server, first.id)
    again = client.job(second.id)
    assert (again.state, again.details.waits_for) == ("queued", [])
