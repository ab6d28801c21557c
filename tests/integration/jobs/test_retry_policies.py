"""Retry policies over HTTP, in the outbox and from the settings, by the log of a real database."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from adapters.log.outbox import outbox, outbox_rejected
from adapters.settings import Settings
from entrypoints.use_cases.verification import verify_log
from tests.conftest import NewDatabase
from tests.support.clock import NOON, ManualClock
from tests.support.server import AppServer, audit, claim, problem, submit
from tests.support.waiting import wait_until

LINEAR = {"backoff": "linear", "base_seconds": 30, "jitter": 0}
SETTINGS = Settings(retry_base_seconds=10.0, retry_factor=4.0, retry_jitter=0.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def server(database_url: str, clock: ManualClock) -> Iterator[AppServer]:
    with AppServer(database_url, SETTINGS, clock) as server:
        yield server


@pytest.fixture
def client(server: AppServer) -> httpx.Client:
    return server.client


def fail(client: httpx.Client, job: int, **fields: Any) -> dict[str, Any]:
    """Start the next attempt of a job that waits, and fail it."""
    wait_until(lambda: [one["id"] for one in claim(client)] == [job], "the job is released")
    attempt = client.get(f"/v1/jobs/{job}").json()["attempt"]
    body = {"attempt": attempt, "error": {"type": "Busy", "message": "no"}} | fields
    answer = client.post(f"/v1/jobs/{job}/fail", json=body)
    assert answer.status_code == 200, answer.text
    failed: dict[str, Any] = answer.json()
    return failed


def delays(client: httpx.Client, job: int) -> list[float | None]:
    """Return the seconds from each failure to the next attempt; None: none follows."""
    failures = [one for one in audit(client, job_id=job) if one["type"] == "JobFailed"]
    return [
        None
        if (retry_at := one["data"].get("retry_at")) is None
        else (moment(retry_at) - moment(one["recorded_at"])).total_seconds()
        for one in failures
    ]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def reasons(client: httpx.Client, job: int) -> dict[str, Any]:
    return {one["code"]: one for one in client.get(f"/v1/jobs/{job}/explain").json()["reasons"]}


def test_the_server_s_settings_say_after_which_errors_no_attempt_follows(
    new_database_url: NewDatabase, clock: ManualClock
) -> None:
    settings = Settings(retry_never="Busy,Rejected")
    with AppServer(new_database_url(), settings, clock) as server:
        job = submit(server.client)
        assert job["retry"]["never"] == ["Busy", "Rejected"]
        assert fail(server.client, job["id"])["state"] == "failed"
        own = submit(server.client, payload=2, retry={"never": []})
        assert fail(server.client, own["id"])["state"] == "scheduled"


def test_a_job_waits_by_the_submission_s_policy_and_else_by_the_server_s(
    server: AppServer, client: httpx.Client, clock: ManualClock
) -> None:
    own = submit(client, retry=LINEAR | {"attempts": 3})
    assert own["max_attempts"] == 3
    assert own["retry"] == {
        "backoff": "linear",
        "base_seconds": 30.0,
        "factor": 4.0,
        "maximum_seconds": 3600.0,
        "jitter": 0.0,
        "never": [],
    }
    fail(client, own["id"])
    explained = reasons(client, own["id"])
    assert explained["backoff"]["text"] == (
        "By its linear backoff, the delay after failure 1 is 30 s."
    )
    assert "By its linear backoff" in client.get(f"/jobs/{own['id']}").text
    clock.advance(30)
    fail(client, own["id"], retry_in_seconds=5)
    assert reasons(client, own["id"])["retry_asked"]["retry_in_seconds"] == 5
    clock.advance(5)
    assert fail(client, own["id"])["state"] == "failed"
    assert delays(client, own["id"]) == [30, 5, None]

    other = submit(client, payload="as the server says")["id"]
    fail(client, other)
    clock.advance(10)
    fail(client, other)
    assert delays(client, other) == [10, 40]

    findings: list[object] = []
    verify_log(server.fairlog, findings.append, lambda _done, _total: None)
    assert findings == []


def test_a_kind_s_policy_holds_for_jobs_that_are_submitted_from_then_on(
    client: httpx.Client, clock: ManualClock
) -> None:
    before = submit(client, payload="before")["id"]
    kind = {"retry": {"base_seconds": 60, "attempts": 2}, "timeout_seconds": 5}
    assert client.put("/v1/kinds/echo", json=kind).status_code == 200
    after = submit(client, payload="after", retry={"factor": 10})
    assert (after["max_attempts"], after["timeout_seconds"]) == (2, 5)
    assert (after["retry"]["base_seconds"], after["retry"]["factor"]) == (60, 10)
    fail(client, before)
    fail(client, after["id"])
    clock.advance(10)
    assert [job["id"] for job in claim(client, wait_seconds=30)] == [before]
    assert (delays(client, before), delays(client, after["id"])) == ([10], [60])
    assert client.put("/v1/kinds/echo", json={"retry": None}).status_code == 200
    assert submit(client, payload="later")["max_attempts"] == SETTINGS.max_attempts


def test_no_attempt_follows_an_error_that_is_named(client: httpx.Client) -> None:
    job = submit(client, retry={"never": ["Rejected", "Busy"]})["id"]
    assert fail(client, job)["state"] == "failed"
    assert "'Rejected', 'Busy'" in reasons(client, job)["failed"]["text"]
    text = submit(client, payload="an old worker", retry={"never": ["Busy"]})["id"]
    assert fail(client, text, error="Busy")["state"] == "scheduled"


def test_a_lost_worker_does_not_advance_the_backoff(
    client: httpx.Client, clock: ManualClock
) -> None:
    job = submit(client, retry=LINEAR)["id"]
    claim(client)
    clock.advance(SETTINGS.lease_seconds)
    fail(client, job)
    view = client.get(f"/v1/jobs/{job}").json()
    assert (view["failures"], delays(client, job)) == (2, [30])


def test_a_policy_is_part_of_what_makes_a_submission_another_one(client: httpx.Client) -> None:
    first = submit(client, retry=LINEAR)
    again = {"user_id": "ada", "kind": "echo", "payload": first["payload"]}
    for retry, is_same in [(LINEAR, True), ({**LINEAR, "jitter": 1}, False), (None, False)]:
        answer = client.post("/v1/jobs", json=again | {"retry": retry}).json()
        assert (answer["id"] == first["id"]) is is_same, retry
    attempts = client.post("/v1/jobs", json=again | {"max_attempts": 7}).json()
    same = client.post("/v1/jobs", json=again | {"retry": {"attempts": 7}}).json()
    assert (same["id"], same["retry"]["base_seconds"]) == (attempts["id"], 10.0)


@pytest.mark.parametrize(
    ("retry", "sentence"),
    [
        ({"base_seconds": -1}, "retry.base_seconds is a number from 0 to 31622400."),
        ({"backoff": "random"}, "retry.backoff is constant, linear or exponential."),
        ({"attempts": 4, "tries": 4}, "Object contains unknown field `tries`"),
        ({"attempts": 4}, "max_attempts and retry.attempts differ; send only one."),
        ({"never": "Busy"}, "retry.never: Expected `array | null`, got `str`."),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_policy_that_cannot_be_is_a_problem_that_says_why(
    client: httpx.Client, retry: dict[str, Any], sentence: str
) -> None:
    fields = {"user_id": "ada", "kind": "echo", "payload": 1, "max_attempts": 3, "retry": retry}
    assert sentence in problem(client.post("/v1/jobs", json=fields), 400)["detail"]


def test_a_row_of_the_outbox_has_a_policy_among_its_options(
    server: AppServer, client: httpx.Client
) -> None:
    good, bad = {"retry": LINEAR | {"attempts": 7}}, {"retry": {"jitter": 2}}
    with server.fairlog.database.write() as connection:
        for options in (good, bad):
            row = {"user_id": "ada", "kind": "echo", "payload": "1", "options": json.dumps(options)}
            connection.execute(outbox.insert().values(**row))
    wait_until(lambda: client.get("/v1/jobs").json()["jobs"], "the row is a job")
    [job] = client.get("/v1/jobs").json()["jobs"]
    assert (job["max_attempts"], job["retry"]["base_seconds"]) == (7, 30.0)
    with server.fairlog.database.read() as connection:
        reasons = connection.execute(sa.select(outbox_rejected.c.reason)).scalars().all()
    assert reasons == ["retry.jitter is a number from 0 to 1."]
