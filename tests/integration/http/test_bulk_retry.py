import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import entrypoints.use_cases.find_jobs
from adapters.settings import Settings
from tests.support.clock import LONGEST_WINDOW, NOON, ManualClock
from tests.support.server import AppServer, audit, claim, problem, submit

SETTINGS = Settings(user_limit=10_000, global_limit=100_000, max_attempts=1)
TRACE = "Traceback (most recent call last):\n  File x\nOSError: disk full"


@pytest.fixture
def client(database_url: str) -> Iterator[httpx.Client]:
    with AppServer(database_url, SETTINGS) as server:
        yield server.client


def fail(client: httpx.Client, user_id: str, error: Any, kind: str = "echo") -> int:
    job: int = submit(client, user_id, kind=kind, idempotency_key=secrets.token_hex(4))["id"]
    [claimed] = claim(client)
    end(client, job, claimed["attempt"], error)
    return job


def end(client: httpx.Client, job: int, attempt: int, error: Any) -> None:
    answer = client.post(f"/v1/jobs/{job}/fail", json={"attempt": attempt, "error": error})
    assert answer.json()["state"] == "failed", answer.text


def retry(client: httpx.Client, **wish: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs/retry", json=wish)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert told["retried"] == len(told["jobs"])
    return told


def state(client: httpx.Client, job: int) -> str:
    return str(client.get(f"/v1/jobs/{job}").json()["state"])


def test_failed_jobs_are_found_by_user_kind_and_error_text(client: httpx.Client) -> None:
    disk = {"type": "OSError", "message": 'disk "C" füll', "traceback": TRACE}
    ada, bob = fail(client, "ada", disk), fail(client, "bob", disk)
    other = fail(client, "ada", {"type": "ValueError", "message": "no"})
    text = fail(client, "ada", "a text alone", kind="b")
    submit(client, "ada")
    assert retry(client, user_id="ada", error_contains='"C" fü')["jobs"] == [ada]
    assert retry(client, error_contains="disk full\n") == {"retried": 0, "jobs": [], "next": None}
    assert retry(client, error_contains="OSError: disk")["jobs"] == [bob]
    assert retry(client, error_contains="message")["jobs"] == []  # the name of a field
    assert retry(client, error_contains="text", kind="echo")["jobs"] == []
    assert retry(client, error_contains="text", kind="b")["jobs"] == [text]
    assert retry(client)["jobs"] == [other]
    assert [state(client, job) for job in (ada, bob, other, text)] == ["queued"] * 4


def test_the_attempt_number_goes_on(client: httpx.Client) -> None:
    job = fail(client, "ada", "no")
    retry(client, user_id="ada")
    assert [(one["id"], one["attempt"]) for one in claim(client)] == [(job, 2)]
    end(client, job, 2, "no")
    [requeued] = audit(client, type="JobRequeued")
    assert (requeued["data"]["reason"], requeued["data"]["attempts_max"]) == ("retried", 2)


def test_cancelled_jobs_are_started_again_when_they_are_asked_for(client: httpx.Client) -> None:
    cancelled = submit(client, "ada")["id"]
    client.post(f"/v1/jobs/{cancelled}/cancel").raise_for_status()
    failed = fail(client, "ada", "no")
    assert retry(client, state="cancelled")["jobs"] == [cancelled]
    assert (state(client, cancelled), state(client, failed)) == ("queued", "failed")


def test_pages_go_on_until_all_are_started_again(client: httpx.Client) -> None:
    jobs = [fail(client, "ada", f"no {number % 2}") for number in range(7)]
    first = retry(client, limit=2, error_contains="no 0")
    assert (first["jobs"], first["next"]) == ([jobs[6], jobs[4]], str(jobs[4]))
    second = retry(client, limit=2, error_contains="no 0", cursor=first["next"])
    assert (second["jobs"], second["next"]) == ([jobs[2], jobs[0]], None)
    assert retry(client, limit=3)["jobs"] == [jobs[5], jobs[3], jobs[1]]


def test_a_call_looks_at_so_many_errors_and_says_where_to_go_on(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrypoints.use_cases.find_jobs, "_JOBS_PER_PAGE", 2)
    monkeypatch.setattr(entrypoints.use_cases.find_jobs, "ERRORS_READ_MAX", 4)
    jobs = [fail(client, "ada", "wanted" if number == 0 else "no") for number in range(6)]
    first = retry(client, error_contains="wanted")
    assert (first["jobs"], first["next"]) == ([], str(jobs[2]))
    assert retry(client, error_contains="wanted", cursor=first["next"])["jobs"] == [jobs[0]]


def test_a_retry_counts_as_a_submission_and_a_loop_of_them_comes_to_an_end(
    database_url: str,
) -> None:
    with AppServer(database_url, Settings(user_limit=5, window_seconds=LONGEST_WINDOW)) as server:
        client = server.client
        job = submit(client, "ada")["id"]
        for _ in range(4):
            client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
            client.post(f"/v1/jobs/{job}/retry").raise_for_status()
        client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
        for _ in range(20):
            answer = client.post(f"/v1/jobs/{job}/retry")
            told = problem(answer, 429)
            assert (told["scope"], told["limit"], told["used"]) == ("user", 5, 5)
            for name in ("Retry-After", "RateLimit", "RateLimit-Policy"):
                assert name in answer.headers
        assert state(client, job) == "cancelled"
        assert client.get("/v1/limits/ada").json()["used"] == 5
        assert len(audit(client, type="JobRequeued")) == 4
        refused = [
            one for one in audit(client, type="RateLimitDecided") if not one["data"]["allowed"]
        ]
        assert len(refused) < 20  # the refusal cache merges them
        more = {"user_id": "ada", "kind": "echo", "payload": "more"}
        problem(client.post("/v1/jobs", json=more), 429)
        submit(client, "bob")


def test_retrying_many_goes_on_when_the_window_has_ended(database_url: str) -> None:
    clock = ManualClock(NOON)
    settings = Settings(user_limit=4, global_limit=100, max_attempts=1)
    with AppServer(database_url, settings, clock=clock) as server:
        client = server.client
        jobs = [fail(client, "ada", "no") for _ in range(3)]
        other = fail(client, "bob", "no")
        first = retry(client)
        assert first["jobs"] == [other, jobs[2]]
        assert (first["next"], first["retry_after_seconds"]) == (str(jobs[1] + 1), 60)
        again = retry(client, cursor=first["next"])
        assert (again["jobs"], again["next"]) == ([], first["next"])
        clock.advance(60)
        rest = retry(client, cursor=first["next"])
        assert (rest["jobs"], rest["next"]) == ([jobs[1], jobs[0]], None)
        assert "retry_after_seconds" not in rest


@pytest.mark.parametrize(
    "wish",
    [
        {"state": "done"},
        {"limit": 0},
        {"limit": 1001},
        {"error_contains": ""},
        {"cursor": "x"},
        {"user_id": ""},
        {"users": "ada"},
        {"kind": 3},
    ],
)
def test_a_wish_that_is_none_is_refused(client: httpx.Client, wish: dict[str, Any]) -> None:
    problem(client.post("/v1/jobs/retry", json=wish), 400)


# Errors in lists


def test_a_list_leaves_the_traceback_out_and_the_job_has_it(client: httpx.Client) -> None:
    error = {"message": "disk full", "traceback": TRACE, "type": "OSError"}
    job = fail(client, "ada", error)
    text = fail(client, "ada", 'a "traceback" of text')
    nested = fail(client, "ada", {"inner": {"traceback": "of its own"}})
    listed = {one["id"]: one["error"] for one in client.get("/v1/jobs").json()["jobs"]}
    assert listed == {
        job: {"message": "disk full", "type": "OSError"},
        text: 'a "traceback" of text',
        nested: {"inner": {"traceback": "of its own"}},
    }
    assert client.get(f"/v1/jobs/{job}").json()["error"] == error
    assert "Traceback" not in client.get("/jobs/dashboard").text
    assert "disk full" in client.get("/jobs/dashboard").text
