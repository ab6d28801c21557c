from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from adapters.settings import Settings
from tests.support.clock import ManualClock
from tests.support.server import AppServer, audit, claim, log_position, problem, submit
from tests.support.waiting import wait_until

SETTINGS = Settings(user_limit=4, global_limit=6, idempotency_seconds=90)
FREE = replace(SETTINGS, user_limit=1000, global_limit=1000)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return FREE


@pytest.fixture
def tight(database_url: str, clock: ManualClock) -> Iterator[httpx.Client]:
    """A server on which a user may submit 4 jobs in 60 s, and all together 6."""
    with AppServer(database_url, SETTINGS, clock) as server:
        yield server.client


def post(
    client: httpx.Client, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    return client.post(
        "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": 1} | body, headers=headers
    )


def fields(response: httpx.Response) -> tuple[str, str]:
    return response.headers["RateLimit-Policy"], response.headers["RateLimit"]


# Submission


def test_a_submission_is_answered_with_the_job_and_its_address(client: httpx.Client) -> None:
    answer = post(client, payload={"b": [1.5, None], "a": "ü"})
    assert answer.status_code == 202
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Location"] == "/v1/jobs/2"
    digest = answer.json()["idempotency_key"]
    assert len(bytes.fromhex(digest)) == 32
    job = {
        "id": 2,
        "user_id": "ada",
        "kind": "echo",
        "payload": {"b": [1.5, None], "a": "ü"},
        "state": "queued",
        "attempt": 0,
        "starts": 0,
        "failures": 0,
        "failure": None,
        "progress": None,
        "max_attempts": 3,
        "retry": None,
        "priority": 0,
        "resources": [],
        "after": [],
        "after_failure": None,
        "waits_for": [],
        "callback": None,
        "begun_at": None,
        "result": None,
        "error": None,
        "idempotency_key": digest,
        "run_at": None,
        "expires_at": None,
        "timeout_seconds": None,
        "worker": None,
        "lease_expires_at": None,
        "submitted_at": "2026-01-31T12:00:00Z",
        "started_at": None,
        "finished_at": None,
        "updated_at": "2026-01-31T12:00:00Z",
    }
    assert answer.json() == job | {"is_duplicate": False}
    assert client.get("/v1/jobs/2").json() == job


def test_a_submission_may_say_how_it_is_to_be_run(client: httpx.Client) -> None:
    wishes: dict[str, Any] = {
        "kind": "résumé",
        "priority": -7,
        "max_attempts": 9,
        "timeout_seconds": 2.5,
        "idempotency_key": "k",
        "expires_at": "2026-01-31T15:00:00Z",
    }
    job = submit(client, run_at="2026-01-31T14:30:00+01:00", **wishes)
    assert (job["state"], job["run_at"]) == ("scheduled", "2026-01-31T13:30:00Z")
    assert {name: job[name] for name in wishes} == wishes
    assert client.get(f"/v1/jobs/{job['id']}").json().items() <= job.items()


def test_a_time_that_has_passed_is_now(client: httpx.Client) -> None:
    assert submit(client, run_at="2026-01-31T12:00:00Z")["state"] == "queued"


def test_a_higher_priority_is_served_first_within_a_users_own_jobs(client: httpx.Client) -> None:
    low, high, middle = (
        submit(client, payload=priority, priority=priority)["id"] for priority in (-1, 5, 0)
    )
    assert [job["id"] for job in claim(client, 3)] == [high, middle, low]


# Rate limits


def test_every_decision_is_told_in_the_rate_limit_fields(
    tight: httpx.Client, clock: ManualClock
) -> None:
    policy = '"user";q=4;w=60, "global";q=6;w=60'
    assert fields(post(tight)) == (policy, '"user";r=3;t=60, "global";r=5;t=60')
    clock.advance(12.5)
    repeated = post(tight)
    assert repeated.status_code == 200
    assert fields(repeated) == (policy, '"user";r=3;t=48, "global";r=5;t=48')
    assert fields(post(tight, user_id="bob")) == (policy, '"user";r=3;t=48, "global";r=4;t=48')


def test_over_a_users_limit_a_submission_is_refused_until_the_window_ends(
    tight: httpx.Client, clock: ManualClock
) -> None:
    for payload in range(4):
        submit(tight, payload=payload)
    clock.advance(59.000001)
    refused = post(tight, payload=5)
    assert problem(refused, 429) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "The limit of 4 submissions in 60 s for user 'ada' is used up; "
        "try again after 2026-01-31T12:01:00Z.",
        "violated-policies": ["user"],
        "scope": "user",
        "limit": 4,
        "used": 4,
        "window_seconds": 60,
        "resets_at": "2026-01-31T12:01:00Z",
    }
    assert refused.headers["Retry-After"] == "1"
    assert fields(refused) == ('"user";q=4;w=60', '"user";r=0;t=1')
    submit(tight, "bob", payload=5)
    clock.advance(0.999999)
    submit(tight, payload=5)


def test_over_the_global_limit_everybody_is_refused(
    tight: httpx.Client, clock: ManualClock
) -> None:
    clock.advance(30)
    for payload in range(3):
        submit(tight, "ada", payload=payload)
        submit(tight, "bob", payload=payload)
    refused = post(tight, user_id="eve")
    body = problem(refused, 429)
    assert (body["scope"], body["limit"], body["used"]) == ("global", 6, 6)
    assert body["violated-policies"] == ["global"]
    assert refused.headers["Retry-After"] == "30"
    assert fields(refused) == ('"global";q=6;w=60', '"global";r=0;t=30')


def test_a_refusal_leaves_its_decision_and_no_job(tight: httpx.Client) -> None:
    for payload in range(4):
        submit(tight, payload=payload)
    problem(post(tight, payload=4), 429)
    # Within a second: a process that knows the window to be used up refuses it itself.
    wait_until(lambda: len(audit(tight, type="RateLimitDecided")) == 5, "the refusal is recorded")
    decided = [event["data"] for event in audit(tight, type="RateLimitDecided")]
    assert [one["allowed"] for one in decided] == [True] * 4 + [False]
    assert (decided[4].get("count", 1), decided[4]["used"]) == (1, 4)
    assert len(tight.get("/v1/jobs").json()["jobs"]) == 4


# Idempotency


def test_the_same_content_again_is_the_first_job(client: httpx.Client) -> None:
    first = submit(client, payload={"a": 1, "b": 2})
    again = client.post(
        "/v1/jobs", content=b'{"payload": {"b": 2, "a": 1}, "kind": "echo", "user_id": "ada"}'
    )
    assert again.status_code == 200
    assert again.headers["Location"] == f"/v1/jobs/{first['id']}"
    job = again.json()
    assert job.pop("duplicate")["job_id"] == first["id"]
    assert job == first | {"is_duplicate": True}


@pytest.mark.parametrize("other", [{"user_id": "bob"}, {"kind": "sleep"}, {"payload": 2}])
def test_another_user_kind_or_payload_is_another_job(
    client: httpx.Client, other: dict[str, Any]
) -> None:
    first = post(client).json()
    second = post(client, **other)
    assert second.status_code == 202
    assert second.json()["id"] != first["id"]


def test_an_answer_to_a_repeat_is_the_job_as_it_stands_now(client: httpx.Client) -> None:
    first = submit(client)
    [claimed] = claim(client)
    client.post(f"/v1/jobs/{first['id']}/complete", json={"attempt": 1, "result": "r"})
    again = post(client, payload=None).json()
    assert (again["id"], again["state"], again["result"]) == (claimed["id"], "done", "r")


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (r'"a \"quoted\" \\ key"', r'a "quoted" \ key'),
        ('"', '"'),
        ('half"', 'half"'),
        ("ключ", "ключ"),
        ('"🔑"', "🔑"),
    ],
)
def test_a_key_may_come_as_a_header_quoted_or_not(
    shared: httpx.Client, header: str, key: str
) -> None:
    user = f"header {header}"
    answer = shared.post(
        "/v1/jobs",
        json={"user_id": user, "kind": "echo", "payload": 1},
        headers=[(b"Idempotency-Key", header.encode())],
    )
    assert (answer.status_code, answer.json()["idempotency_key"]) == (202, key)
    again = post(shared, user_id=user, idempotency_key=key)
    assert (again.status_code, again.json()["id"]) == (200, answer.json()["id"])


def test_a_header_and_a_field_that_agree_are_one_key(client: httpx.Client) -> None:
    answer = post(client, {"Idempotency-Key": '"k"'}, idempotency_key="k")
    assert (answer.status_code, answer.json()["idempotency_key"]) == (202, "k")


def test_a_header_and_a_field_that_differ_are_refused(client: httpx.Client) -> None:
    refused = problem(post(client, {"Idempotency-Key": '"k"'}, idempotency_key="l"), 400)
    assert "differ" in refused["detail"]
    assert audit(client) == []


@pytest.mark.parametrize(
    "header", [b"", b'""', b'"' + b"k" * 256 + b'"', b"\xff", b'"\xc3"', "\x85".encode()]
)
def test_a_header_that_cannot_be_a_key_is_refused(shared: httpx.Client, header: bytes) -> None:
    before = log_position(shared)
    answer = shared.post(
        "/v1/jobs",
        json={"user_id": "ada", "kind": "echo", "payload": 1},
        headers=[(b"Idempotency-Key", header)],
    )
    problem(answer, 400)
    assert log_position(shared) == before


def test_a_key_with_another_payload_is_refused_and_only_the_decision_is_kept(
    client: httpx.Client,
) -> None:
    first = post(client, idempotency_key="k").json()
    before = len(audit(client))
    refused = post(client, idempotency_key="k", payload=2)
    assert problem(refused, 422)["job_id"] == first["id"]
    assert '"user";r=998;t=60' in refused.headers["RateLimit"]
    problem(post(client, idempotency_key="k", kind="sleep"), 422)
    new = audit(client)[before:]
    assert [event["type"] for event in new] == ["RateLimitDecided"] * 2
    assert [event["job_id"] for event in new] == [None, None]


def test_a_key_belongs_to_its_user(client: httpx.Client) -> None:
    submit(client, "ada", idempotency_key="k")
    submit(client, "bob", idempotency_key="k", payload="another")


def test_a_digest_is_no_explicit_key(client: httpx.Client) -> None:
    digest = submit(client)["idempotency_key"]
    assert submit(client, idempotency_key=digest)["idempotency_key"] == digest


def test_after_its_life_a_key_means_a_new_job(client: httpx.Client, clock: ManualClock) -> None:
    digested, explicit = submit(client), submit(client, idempotency_key="k")
    clock.advance(89.999999)
    assert post(client, payload=None).json()["id"] == digested["id"]
    assert post(client, payload=None, idempotency_key="k").json()["id"] == explicit["id"]
    clock.advance(0.000001)
    assert post(client, payload=None).json()["id"] == digested["id"]  # it has not ended yet
    for job in (digested, explicit):
        client.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    new_digested, new_explicit = submit(client), submit(client, idempotency_key="k", payload=2)
    assert new_digested["id"] > explicit["id"]
    assert post(client, payload=2, idempotency_key="k").json()["id"] == new_explicit["id"]


# Looking at jobs


def test_jobs_are_listed_newest_first_by_user_and_state(client: httpx.Client) -> None:
    ada = [submit(client, "ada", payload=number)["id"] for number in range(3)]
    bob = submit(client, "bob")["id"]
    claim(client)

    def listed(**filters: str) -> list[int]:
        return [job["id"] for job in client.get("/v1/jobs", params=filters).json()["jobs"]]

    assert listed() == [bob, *reversed(ada)]
    assert listed(user_id="ada") == list(reversed(ada))
    assert listed(state="running") == [ada[0]]
    assert listed(user_id="ada", state="queued") == [ada[2], ada[1]]
    assert listed(user_id="bob", state="running") == []
    assert listed(user_id="nobody") == []


def test_a_job_is_found_by_the_key_that_identifies_it(client: httpx.Client) -> None:
    sent = submit(client, "ada", idempotency_key="k")["id"]
    digest = submit(client, "ada", kind="other")
    others = submit(client, "bob", idempotency_key="k")["id"]

    def listed(**filters: str) -> list[int]:
        return [job["id"] for job in client.get("/v1/jobs", params=filters).json()["jobs"]]

    assert listed(user_id="ada", idempotency_key="k") == [sent]
    assert listed(user_id="bob", idempotency_key="k") == [others]
    assert listed(user_id="ada", idempotency_key=digest["idempotency_key"]) == [digest["id"]]
    assert listed(user_id="ada", idempotency_key="k", state="running") == []
    assert listed(user_id="ada", idempotency_key="k", kind="other") == []
    assert listed(user_id="ada", idempotency_key="none") == []
    refused = problem(client.get("/v1/jobs?idempotency_key=k"), 400)
    assert (
        refused["detail"] == "idempotency_key needs user_id, since each user has keys of its own."
    )


def test_a_listed_job_is_the_job(client: httpx.Client) -> None:
    job = submit(client, payload=["p"])
    [listed] = client.get("/v1/jobs?include=payload,result").json()["jobs"]
    assert listed == client.get(f"/v1/jobs/{job['id']}").json()


def test_pages_follow_each_other_without_gaps_while_jobs_arrive(client: httpx.Client) -> None:
    ids = [submit(client, payload=number)["id"] for number in range(5)]
    seen: list[int] = []
    cursor: str | None = None
    sizes = []
    while True:
        page = client.get(
            "/v1/jobs", params={"limit": 2} | ({} if cursor is None else {"cursor": cursor})
        ).json()
        seen += [job["id"] for job in page["jobs"]]
        sizes.append(len(page["jobs"]))
        cursor = page["next"]
        if cursor is None:
            break
        submit(client, payload=f"late {cursor}")
    assert seen == list(reversed(ids))
    assert sizes == [2, 2, 1]


def test_a_full_last_page_has_no_next(client: httpx.Client) -> None:
    submit(client)
    submit(client, payload=1)
    assert client.get("/v1/jobs", params={"limit": 2}).json()["next"] is None


def test_a_jobs_history_tells_what_happened_to_it_in_order(
    client: httpx.Client, clock: ManualClock
) -> None:
    job = submit(client)["id"]
    submit(client, "bob")
    post(client, payload=None)
    clock.advance(1)
    claim(client)
    client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1})
    page = client.get(f"/v1/jobs/{job}/events").json()
    assert [event["type"] for event in page["events"]] == [
        "RateLimitDecided",
        "JobSubmitted",
        "RateLimitDecided",
        "SubmissionDeduplicated",
        "JobStarted",
        "JobCompleted",
    ]
    assert page["next"] is None
    assert page["events"] == audit(client, job_id=job)
    first = client.get(f"/v1/jobs/{job}/events", params={"limit": 4}).json()
    rest = client.get(f"/v1/jobs/{job}/events", params={"after": first["next"]}).json()
    assert first["events"] + rest["events"] == page["events"]
    beyond = client.get(f"/v1/jobs/{job}/events", params={"after": page["events"][-1]["position"]})
    assert beyond.json() == {"events": [], "next": None}


@pytest.mark.parametrize("call", ["", "/events"])
def test_looking_at_an_unknown_job_is_404(client: httpx.Client, call: str) -> None:
    submit(client)
    assert problem(client.get(f"/v1/jobs/99{call}"), 404)["detail"] == "There is no job 99."
    # Position 1 is the decision about the first job, and no job.
    assert problem(client.get("/v1/jobs/1"), 404)["job_id"] == 1


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("cancel", None),
        ("retry", None),
        ("complete", {"attempt": 1}),
        ("fail", {"attempt": 1, "error": "e"}),
    ],
)
def test_acting_on_an_unknown_job_is_404(
    shared: httpx.Client, call: str, body: dict[str, Any] | None
) -> None:
    before = log_position(shared)
    problem(shared.post(f"/v1/jobs/9999/{call}", json=body), 404)
    assert log_position(shared) == before


# Cancelling and trying again


def test_a_waiting_job_is_cancelled_once(client: httpx.Client, clock: ManualClock) -> None:
    job = submit(client)["id"]
    clock.advance(1)
    cancelled = client.post(f"/v1/jobs/{job}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json()["state"] == "cancelled"
    assert cancelled.json()["finished_at"] == "2026-01-31T12:00:01Z"
    assert claim(client) == []
    before = audit(client)
    assert client.post(f"/v1/jobs/{job}/cancel").json() == cancelled.json()
    assert audit(client) == before


def test_a_scheduled_job_can_be_cancelled(client: httpx.Client) -> None:
    job = submit(client, run_at="2026-02-01T00:00:00Z")["id"]
    assert client.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"


def test_the_worker_of_a_cancelled_job_is_told_and_cannot_complete_it(
    client: httpx.Client,
) -> None:
    job = submit(client)["id"]
    claim(client)
    client.post(f"/v1/jobs/{job}/cancel")
    held = client.post(
        "/v1/claims/heartbeat", json={"worker": "w1", "jobs": [{"id": job, "attempt": 1}]}
    )
    assert held.json()["lost"] == [job]
    problem(client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1}), 409)
    assert client.get(f"/v1/jobs/{job}").json()["state"] == "cancelled"


def test_a_job_that_has_ended_cannot_be_cancelled(client: httpx.Client) -> None:
    job = submit(client)["id"]
    claim(client)
    client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1})
    problem(client.post(f"/v1/jobs/{job}/cancel"), 409)


def test_a_failed_job_can_be_tried_again(client: httpx.Client) -> None:
    job = submit(client, max_attempts=2)["id"]
    claim(client)
    client.post(f"/v1/jobs/{job}/fail", json={"attempt": 1, "error": "e", "retry": False})
    retried = client.post(f"/v1/jobs/{job}/retry")
    assert retried.status_code == 200
    assert (retried.json()["state"], retried.json()["attempt"]) == ("queued", 1)
    assert (retried.json()["failures"], retried.json()["max_attempts"]) == (0, 2)
    [again] = claim(client)
    assert (again["id"], again["attempt"]) == (job, 2)


def test_a_cancelled_job_can_be_tried_again(client: httpx.Client) -> None:
    job = submit(client)["id"]
    client.post(f"/v1/jobs/{job}/cancel")
    assert client.post(f"/v1/jobs/{job}/retry").json()["state"] == "queued"
    assert [one["id"] for one in claim(client)] == [job]


def test_only_a_failed_or_cancelled_job_can_be_tried_again(client: httpx.Client) -> None:
    job = submit(client)["id"]
    problem(client.post(f"/v1/jobs/{job}/retry"), 409)
    claim(client)
    problem(client.post(f"/v1/jobs/{job}/retry"), 409)
    client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1})
    problem(client.post(f"/v1/jobs/{job}/retry"), 409)
