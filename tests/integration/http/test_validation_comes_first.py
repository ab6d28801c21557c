"""Invalid input is refused as invalid, also while a limit is used up, and is never recorded."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from tests.support.clock import LONGEST_WINDOW
from tests.support.server import AppServer, audit, problem
from tests.support.waiting import wait_until

# What is invalid is refused before any database is asked.
pytestmark = pytest.mark.one_database

# Nobody may submit, and no window ends meanwhile.
NOBODY_MAY = Settings(global_limit=0, window_seconds=LONGEST_WINDOW)
INVALID_USERS = ("", "\x1b[2J", "a\x00b", "\x9b31m", "x" * 256, "日" * 86, "x" * 4_000_000)


@pytest.fixture
def server(database_url: str) -> Iterator[AppServer]:
    with AppServer(database_url, NOBODY_MAY) as server:
        yield server


@pytest.fixture
def client(server: AppServer) -> httpx.Client:
    """All submissions are refused without the log: the global limit is known to be used up."""
    assert submit(server.client, "ada").status_code == 429
    assert submit(server.client, "bob").status_code == 429
    return server.client


def submit(client: httpx.Client, user_id: str, **fields: Any) -> httpx.Response:
    return client.post(
        "/v1/jobs", json={"user_id": user_id, "kind": "echo", "payload": 1, **fields}
    )


def users_in_the_log(client: httpx.Client) -> set[str]:
    return {event["user_id"] for event in audit(client, type="RateLimitDecided")}


@pytest.mark.parametrize("user", INVALID_USERS, ids=lambda user: repr(user[:8]))
def test_an_invalid_user_id_is_refused_by_every_call_before_the_limit(
    client: httpx.Client, user: str
) -> None:
    problem(submit(client, user), 400)
    original = client.post("/jobs/submit_job", json={"user_id": user, "payload": "x"})
    problem(original, 400)
    batch = client.post(
        "/v1/jobs/batch", json={"jobs": [{"user_id": user, "kind": "echo", "payload": 1}]}
    )
    assert [one["status"] for one in batch.json()["jobs"]] == [400]


@pytest.mark.parametrize(
    "fields",
    [
        {"idempotency_key": ""},
        {"idempotency_key": "x" * 256},
        {"kind": "\x1b"},
        {"payload": [[[]]] * 400_000},
        {"max_attempts": 0},
        {"run_at": "2026-01-31T12:00:00"},
    ],
    ids=lambda fields: json.dumps(fields)[:40],
)
def test_everything_is_validated_before_the_limit(
    client: httpx.Client, fields: dict[str, Any]
) -> None:
    assert submit(client, "ada", **fields).status_code in {400, 413}


def test_a_header_is_validated_before_the_limit(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/jobs",
        json={"user_id": "ada", "kind": "echo", "payload": 1},
        headers={"Idempotency-Key": "x" * 300},
    )
    problem(answer, 400)


def test_reports_of_refusals_hold_no_invalid_user_id(client: httpx.Client) -> None:
    for user in INVALID_USERS:
        submit(client, user)
        client.post("/jobs/submit_job", json={"user_id": user, "payload": "x"})
    for _ in range(3):
        assert submit(client, "carol").status_code == 429
    # What the refusal cache refused before has been reported by then.
    wait_until(lambda: "carol" in users_in_the_log(client), "the refusals of carol are reported")
    assert users_in_the_log(client) == {"ada", "bob", "carol"}
