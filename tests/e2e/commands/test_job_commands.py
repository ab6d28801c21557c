"""The commands about jobs, on a log with and without a server."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from click.testing import Result

from domain.language.errors import FairlogError, InvalidInput, RateLimited, UnknownJob
from entrypoints.service.fairlog import Fairlog
from tests.e2e.commands.test_cli import asked
from tests.support.history import service
from tests.support.server import FairlogServer, claim
from tests.support.server import submit as submit_over_http
from tests.support.waiting import wait_until

pytestmark = pytest.mark.one_database  # what a command says is the same on each


@pytest.fixture(autouse=True)
def prepared(database_url: str) -> Iterator[Fairlog]:
    """A log without events."""
    with service(database_url) as (fairlog, _):
        yield fairlog


def said(result: Result) -> str:
    assert result.exception is None, result.exception
    return result.stdout


def submit(url: str, *options: object, user: str = "ada", kind: str = "echo") -> dict[str, Any]:
    result = asked("submit", "--user", user, "--kind", kind, *options, "--format", "json", url=url)
    job: dict[str, Any] = json.loads(said(result))
    return job


def listed(url: str, *conditions: object) -> list[int]:
    result = asked("jobs", *conditions, "--format", "json", url=url)
    return [json.loads(line)["id"] for line in said(result).splitlines()]


def fail(client: httpx.Client, error: str) -> int:
    """Fail the next job for good, and return its id."""
    [job] = claim(client)
    report = {"attempt": job["attempt"], "error": error, "retry": False}
    assert client.post(f"/v1/jobs/{job['id']}/fail", json=report).is_success
    return int(job["id"])


def test_a_job_comes_after_others(database_url: str) -> None:
    first, other = submit(database_url)["id"], submit(database_url, "--payload", 2)["id"]
    options = ("--after", first, "--after", other, "--after-failure", "run")
    job = submit(database_url, *options)
    assert (job["state"], job["after"], job["after_failure"]) == (
        "scheduled",
        [first, other],
        "run",
    )
    shown = said(asked("job", job["id"], url=database_url))
    assert f"waits for  {first}, {other}" in shown
    explained = said(asked("explain", job["id"], url=database_url))
    assert f"It waits for the end of job {first} (queued), job {other} (queued)" in explained
    refused = asked("submit", "--user", "ada", "--kind", "echo", "--after", 999, url=database_url)
    assert "there is no such job" in str(refused.exception)


def test_a_job_is_submitted_with_the_fields_of_the_api(database_url: str) -> None:
    job = submit(
        database_url,
        *("--payload", '{"n": [1, 2]}', "--key", "k", "--priority", -3, "--max-attempts", 7),
        *("--timeout-seconds", 2.5, "--run-at", "2100-01-01T00:00:00Z"),
        *("--expires-at", "2100-01-02T00:00:00Z"),
    )
    expected = {
        "user_id": "ada",
        "kind": "echo",
        "payload": {"n": [1, 2]},
        "idempotency_key": "k",
        "priority": -3,
        "max_attempts": 7,
        "timeout_seconds": 2.5,
        "state": "scheduled",
        "is_duplicate": False,
    }
    assert job | expected == job
    again = submit(database_url, "--payload", '{"n": [1, 2]}', "--key", "k")
    assert (again["id"], again["is_duplicate"]) == (job["id"], True)
    assert again["duplicate"]["by"] == "idempotency_key"


def test_a_duplicate_is_told_and_can_be_turned_off(database_url: str) -> None:
    first = submit(database_url)["id"]
    again = asked("submit", "--user", "ada", "--kind", "echo", url=database_url)
    assert said(again) == f"Job {first} is queued.\n"
    assert '"deduplicate": false' in again.stderr
    assert submit(database_url, "--no-deduplicate")["id"] > first


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--payload", "abc"), "--payload is not JSON"),
        (("--priority", 5000), "priority"),
        (("--max-attempts", 0), "max_attempts"),
        (("--timeout-seconds", -1), "timeout_seconds"),
        (("--key", ""), "key"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_a_sentence(
    database_url: str, options: tuple[object, ...], says: str
) -> None:
    result = asked("submit", "--user", "ada", "--kind", "echo", *options, url=database_url)
    assert isinstance(result.exception, InvalidInput)
    assert says in str(result.exception)


def test_jobs_are_listed_with_the_conditions_of_the_api(database_url: str) -> None:
    first = submit(database_url)["id"]
    second = submit(database_url, user="bob", kind="export")["id"]
    third = submit(database_url, "--run-at", "2100-01-01T00:00:00Z")["id"]
    assert listed(database_url) == [third, second, first]
    assert listed(database_url, "--limit", 2) == [third, second]
    assert listed(database_url, "--user", "ada") == [third, first]
    assert listed(database_url, "--kind", "export") == [second]
    assert listed(database_url, "--state", "scheduled") == [third]
    assert listed(database_url, "--since", "2099-01-01T00:00:00Z") == []
    assert listed(database_url, "--until", "2099-01-01T00:00:00Z") == [third, second, first]
    table = said(asked("jobs", "--kind", "export", url=database_url)).splitlines()
    assert [len(table), *table[1].split()[:4]] == [2, str(second), "bob", "export", "queued"]
    nothing = asked("jobs", "--kind", "nonsense", url=database_url)
    assert (said(nothing), nothing.stderr) == ("", "No job matches.\n")


def test_a_job_is_shown(database_url: str) -> None:
    job = submit(database_url, "--payload", '"p\\u001b[2J"')["id"]
    text = said(asked("job", job, url=database_url))
    assert f"job        {job}\n" in text
    assert "state      queued\n" in text
    assert "\x1b" not in text
    shown = json.loads(said(asked("job", job, "--format", "json", url=database_url)))
    assert shown["id"] == job
    assert isinstance(asked("job", 999, url=database_url).exception, UnknownJob)


def test_jobs_are_cancelled_and_retried_by_id(database_url: str) -> None:
    job = submit(database_url)["id"]
    assert said(asked("cancel", job, url=database_url)) == f"Cancelled 1 job: {job}.\n"
    assert listed(database_url, "--state", "cancelled") == [job]
    assert said(asked("retry", job, url=database_url)) == f"Retried 1 job: {job}.\n"
    again = asked("retry", job, 999, url=database_url)
    assert (said(again), again.return_value) == ("", 1)
    assert f"Job {job} is queued" in again.stderr
    assert "There is no job 999." in again.stderr


def test_the_limits_hold_as_through_the_api(database_url: str) -> None:
    options = ("--user", "ada", "--kind", "echo", "--no-deduplicate")
    limited = {"FAIRLOG_USER_LIMIT": "1", "FAIRLOG_WINDOW_SECONDS": "2678400"}
    said(asked("submit", *options, url=database_url, **limited))
    refused = asked("submit", *options, url=database_url, **limited)
    assert isinstance(refused.exception, RateLimited)


def test_beside_a_server_they_write_and_its_worker_takes_over_at_once(database_url: str) -> None:
    with FairlogServer(database_url, workers=1, settings={"max_attempts": 1}) as server:
        refused = asked("submit", "--user", "ada", "--kind", "echo", url=database_url)
        assert isinstance(refused.exception, FairlogError)
        assert "FAIRLOG_MAX_ATTEMPTS" in str(refused.exception)
    with FairlogServer(database_url, workers=1) as server:
        job = submit(database_url, "--payload", "5")["id"]

        def state() -> str:
            return str(server.client.get(f"/v1/jobs/{job}").json()["state"])

        wait_until(lambda: state() == "done", "the server's worker runs it")


def test_failed_jobs_are_retried_by_their_error(database_url: str) -> None:
    with FairlogServer(database_url) as server:
        for number in range(3):
            submit_over_http(server.client, payload=number, kind="export")
        full, other, full_too = (
            fail(server.client, error) for error in ("disk full", "no route", "disk full")
        )
        found = listed(database_url, "--state", "failed", "--error", "disk full")
        assert found == [full_too, full]
        retried = asked("retry", "--kind", "export", "--error", "disk full", url=database_url)
        assert said(retried) == f"Retried 2 jobs: {full_too}, {full}.\n"
        assert listed(database_url, "--state", "failed") == [other]
        assert listed(database_url, "--state", "queued") == [full_too, full]


def test_a_job_is_found_by_its_key(database_url: str) -> None:
    job = submit(database_url, "--key", "order-7")
    submit(database_url, "--key", "order-8")
    submit(database_url, "--key", "order-7", user="bob")
    assert listed(database_url, "--user", "ada", "--key", "order-7") == [job["id"]]
    assert listed(database_url, "--user", "ada", "--key", job["idempotency_key"]) == [job["id"]]
    assert listed(database_url, "--user", "ada", "--key", "order-9") == []
    refused = asked("jobs", "--key", "order-7", url=database_url)
    assert isinstance(refused.exception, InvalidInput)


def test_a_job_is_explained_in_the_words_of_the_api(database_url: str) -> None:
    with FairlogServer(database_url) as server:
        job = submit_over_http(server.client, "ada")["id"]
        submit_over_http(server.client, "bob")
        claim(server.client, 2, worker="w")
        server.client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1}).raise_for_status()
        answer = server.client.get(f"/v1/jobs/{job}/explain").json()
        text = said(asked("explain", job, url=database_url))
        told = json.loads(said(asked("explain", job, "--json", url=database_url)))
    assert told == answer
    assert text.splitlines() == [
        answer["summary"],
        *(reason["text"] for reason in answer["reasons"][1:]),
    ]
    unknown = asked("explain", 1042, url=database_url)
    assert isinstance(unknown.exception, UnknownJob)
