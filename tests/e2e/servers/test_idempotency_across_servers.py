"""A key means one job, whichever server hears it, and however many at once."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

import httpx
import pytest

from tests.conftest import NewDatabase
from tests.support.server import FairlogServer, audit, claim, post_at_once, problem, submit
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def servers(backend: str, new_database_url: NewDatabase) -> Iterator[list[FairlogServer]]:
    """Two on MariaDB; SQLite has room for one."""
    url = new_database_url()
    with FairlogServer(url) as one:
        if backend == "sqlite":
            yield [one]
            return
        with FairlogServer(url) as two:
            yield [one, two]


def test_two_hundred_at_once_with_one_key_are_one_job(servers: list[FairlogServer]) -> None:
    body = {"user_id": "eve", "kind": "echo", "payload": {"n": 1}, "idempotency_key": "one key"}
    answers = post_at_once([server.url for server in servers], [body] * 200, connections=50)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 199}
    assert len({answer.json()["id"] for answer in answers}) == 1
    for answer in answers:
        assert answer.json()["is_duplicate"] is (answer.status_code == 200)
        assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    for server in servers:
        assert len(audit(server.client, user_id="eve", type="JobSubmitted")) == 1
        assert len(audit(server.client, user_id="eve", type="SubmissionDeduplicated")) == 199


def test_two_hundred_at_once_with_the_same_content_are_one_job(
    servers: list[FairlogServer],
) -> None:
    body = {"user_id": "kim", "kind": "echo", "payload": ["the same"]}
    answers = post_at_once([server.url for server in servers], [body] * 200, connections=50)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 199}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_two_hundred_at_once_with_one_key_and_other_payloads_are_one_job(
    servers: list[FairlogServer],
) -> None:
    bodies = [
        {"user_id": "lea", "kind": "echo", "payload": n, "idempotency_key": "k"} for n in range(200)
    ]
    answers = post_at_once([server.url for server in servers], bodies, connections=50)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 422: 199}
    [job] = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert {problem(one, 422)["job_id"] for one in answers if one.status_code == 422} == {job}
    events = audit(servers[0].client, user_id="lea")
    assert Counter(event["type"] for event in events) == {
        "RateLimitDecided": 200,
        "JobSubmitted": 1,
    }


def test_the_same_payload_of_two_users_is_two_jobs(servers: list[FairlogServer]) -> None:
    one, other = servers[0], servers[-1]
    first = submit(one.client, "ada", payload="same", idempotency_key="k")
    second = submit(other.client, "bob", payload="same", idempotency_key="k")
    assert first["id"] != second["id"]


def test_a_key_with_another_payload_is_refused_by_the_other_server_too(
    servers: list[FairlogServer],
) -> None:
    one, other = servers[0].client, servers[-1].client
    first = submit(one, "joe", payload="first", idempotency_key="k")
    refused = other.post(
        "/v1/jobs",
        json={"user_id": "joe", "kind": "echo", "payload": "second", "idempotency_key": "k"},
    )
    assert problem(refused, 422)["job_id"] == first["id"]
    types = [event["type"] for event in audit(one, user_id="joe")]
    assert types == ["RateLimitDecided", "JobSubmitted", "RateLimitDecided"]


@pytest.mark.parametrize("key", [{}, {"idempotency_key": "k"}], ids=["digest", "explicit"])
def test_after_its_life_a_key_means_a_new_job(database_url: str, key: dict[str, str]) -> None:
    with FairlogServer(database_url, settings={"idempotency_seconds": 1}) as server:
        first = submit(server.client, payload="p", **key)
        [job] = claim(server.client)  # until it ends, its key holds
        server.client.post(f"/v1/jobs/{job['id']}/complete", json={"attempt": job["attempt"]})
        answers: list[httpx.Response] = []

        def is_a_new_job() -> bool:
            answer = server.client.post(
                "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": "p"} | key
            )
            answers.append(answer)
            return answer.status_code == 202

        wait_until(is_a_new_job, "the key's life ends")
        repeats = audit(server.client, type="SubmissionDeduplicated")
    *earlier, new = (answer.json() for answer in answers)
    assert {answer["id"] for answer in earlier} <= {first["id"]}
    assert new["id"] > first["id"]
    ends = datetime.fromisoformat(first["submitted_at"]) + timedelta(seconds=1)
    assert datetime.fromisoformat(new["submitted_at"]) >= ends
    assert all(datetime.fromisoformat(event["recorded_at"]) < ends for event in repeats)
    assert len(repeats) == len(earlier)
