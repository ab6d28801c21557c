"""Jobs that are posted to an endpoint: the same states as those of a worker that claims."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from adapters.outgoing.signatures import SecretKey
from adapters.settings import Settings
from tests.conftest import NewDatabase
from tests.support.endpoint import Answer, Asked, Break, Endpoint, Hang, Reply, secret_key_file
from tests.support.server import AppServer, audit
from tests.support.waiting import wait_until

MANY = 1_000_000
SECRET = "k" * 44


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    file = secret_key_file(tmp_path_factory.mktemp("keys"), SECRET)
    return Settings(
        callback_key_file=str(file),
        callback_allow="127.0.0.1",
        user_limit=MANY,
        global_limit=MANY,
        retry_base_seconds=0.05,
        retry_jitter=0.0,
        push_slots=8,
    )


@pytest.fixture(scope="module")
def client(new_database_url: NewDatabase, settings: Settings) -> Iterator[httpx.Client]:
    with AppServer(new_database_url(), settings) as server:
        yield server.client


def push(client: httpx.Client, kind: str, url: str, **more: Any) -> None:
    answer = client.put(f"/v1/kinds/{kind}", json={"push": {"url": url}, **more})
    answer.raise_for_status()


def submit(client: httpx.Client, kind: str, payload: Any = None, **more: Any) -> int:
    body = {"user_id": "ada", "kind": kind, "payload": payload, "deduplicate": False, **more}
    answer = client.post("/v1/jobs", json=body)
    answer.raise_for_status()
    return int(answer.json()["id"])


def ended(client: httpx.Client, job: int) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/jobs/{job}?wait_seconds=20").json()
    assert found["finished_at"] is not None, found
    return found


def replies(**by_name: Reply | list[Reply]) -> Callable[[Asked], Reply]:
    """Answer each job as its payload names, a list one after the other."""

    def reply(asked: Asked) -> Reply:
        found = by_name[asked.job["payload"]]
        return found.pop(0) if isinstance(found, list) else found

    return reply


def problem(status: int, **members: Any) -> Answer:
    return Answer(
        status, json.dumps(members).encode(), {"Content-Type": "application/problem+json"}
    )


FAILURES: dict[str, tuple[Reply, str, str]] = {
    "no_json": (Answer(200, b"<html>"), "InvalidResult", "The answer is no JSON"),
    "deep": (Answer(200, b"[" * 40 + b"]" * 40), "InvalidResult", "nested more than 32 deep"),
    "large": (Answer(200, b'"' + b"x" * 2**20 + b'"'), "InvalidResult", "at most 1048576"),
    "endless": (Answer(200, b" " * (2**21 + 1)), "InvalidResult", "more than 2097152 bytes"),
    "problem": (
        problem(422, type="https://example.com/no-image", title="No image", detail="It is a PDF."),
        "https://example.com/no-image",
        "It is a PDF.",
    ),
    "own_error": (problem(500, type="ValueError", message="no"), "ValueError", "no"),
    "blank": (problem(503, type="about:blank", title="Busy"), "HTTP503", "Busy"),
    "plain": (Answer(404, b"not here"), "HTTP404", "answered 404 Not Found."),
    "odd": (Answer(599, b"[1]"), "HTTP599", "answered 599."),
    "redirect": (
        Answer(302, b"", {"Location": "http://127.0.0.1:1/?a=secret"}),
        "Redirected",
        "answered 302, a redirect",
    ),
    "broken": (Break(), "NoAnswer", "broke off the connection"),
}


def test_an_answer_completes_a_job_or_fails_it(client: httpx.Client) -> None:
    results = {
        "value": Answer(201, b' {"b": [1.5, "\xc3\xa4"], "a": null} '),
        "empty": Answer(204),
        "null": Answer(200, b"null"),
    }
    chosen = results | {name: reply for name, (reply, *_) in FAILURES.items()}
    with Endpoint(replies(**chosen)) as endpoint:
        push(client, "resize", f"{endpoint.url}/resize?token=secret")
        jobs = {name: submit(client, "resize", name, max_attempts=1) for name in chosen}
        found = {name: ended(client, job) for name, job in jobs.items()}
        push(client, "resize", endpoint.url)

    assert {name: (found[name]["state"], found[name]["result"]) for name in results} == {
        "value": ("done", {"b": [1.5, "ä"], "a": None}),
        "empty": ("done", None),
        "null": ("done", None),
    }
    for name, (_, type_name, words) in FAILURES.items():
        job = found[name]
        assert (job["state"], job["error"]["type"]) == ("failed", type_name), name
        assert words in job["error"]["message"], name
        assert "secret" not in json.dumps(job["error"]), name
    assert len(endpoint.asked) == len(chosen)
    asked = next(one for one in endpoint.asked if one.job["payload"] == "value")
    assert asked.job == {
        "id": jobs["value"],
        "attempt": 1,
        "user_id": "ada",
        "kind": "resize",
        "payload": "value",
    }
    assert asked.headers["content-type"] == "application/json"


def test_the_log_has_the_same_events_as_that_of_a_worker_that_claims(client: httpx.Client) -> None:
    final = {"type": "ValueError", "message": "never", "retry": False}
    chosen: dict[str, Reply | list[Reply]] = {
        "done": Answer(200, b"1"),
        "again": [Answer(500), Answer(200, b"2")],
        "final": problem(400, **final),
        "exhausted": Answer(500),
    }
    with Endpoint(replies(**chosen)) as endpoint:
        push(client, "pushed", endpoint.url)
        pushed = {name: submit(client, "pushed", name, max_attempts=2) for name in chosen}
        states = {name: ended(client, job)["state"] for name, job in pushed.items()}
    polled = {name: submit(client, "polled", name, max_attempts=2) for name in chosen}
    error = {"type": "E", "message": "m"}
    outcomes: dict[str, list[dict[str, Any]]] = {
        "done": [{"result": 1}],
        "again": [{"error": error}, {"result": 2}],
        "final": [{"error": error, "retry": False}],
        "exhausted": [{"error": error}, {"error": error}],
    }
    claim = {"worker": "w", "kinds": ["polled"], "max": 10, "wait_seconds": 5}
    while any(outcomes.values()):
        for job in client.post("/v1/claims", json=claim).json()["jobs"]:
            outcome = outcomes[job["payload"]].pop(0)
            call = "complete" if "result" in outcome else "fail"
            body = {"attempt": job["attempt"], **outcome}
            client.post(f"/v1/jobs/{job['id']}/{call}", json=body).raise_for_status()

    assert states == {"done": "done", "again": "done", "final": "failed", "exhausted": "failed"}
    for name in chosen:
        histories = [
            [
                (one["type"], one["data"].get("attempt"), one["data"].get("reason"))
                for one in audit(client, job_id=job)
            ]
            for job in (pushed[name], polled[name])
        ]
        assert histories[0] == histories[1], name


def test_retry_after_says_when_the_next_attempt_starts(client: httpx.Client) -> None:
    chosen: dict[str, Reply | list[Reply]] = {
        "seconds": Answer(503, b"", {"Retry-After": "3600"}),
        "date": Answer(429, b"", {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}),
        "past": [Answer(429, b"", {"Retry-After": "Fri, 01 Jan 2010 00:00:00 GMT"}), Answer(204)],
        "nonsense": [Answer(429, b"", {"Retry-After": "soon"}), Answer(204)],
    }
    with Endpoint(replies(**chosen)) as endpoint:
        push(client, "busy", endpoint.url)
        jobs = {name: submit(client, "busy", name) for name in chosen}
        for name in ("past", "nonsense"):
            assert ended(client, jobs[name])["state"] == "done"
        wait_until(lambda: len(audit(client, type="JobFailed", job_id=jobs["date"])) == 1, "failed")
    asked = {
        name: audit(client, type="JobFailed", job_id=job)[0]["data"].get("retry_in_seconds")
        for name, job in jobs.items()
    }
    assert asked == {"seconds": 3600, "date": 31_622_400, "past": 0, "nonsense": None}


def test_a_request_ends_with_the_time_out_or_the_cancellation_of_its_job(
    client: httpx.Client,
) -> None:
    let_go: Future[Answer] = Future()
    with Endpoint(lambda _: Hang(let_go)) as endpoint:
        push(client, "slow", endpoint.url)
        late = submit(client, "slow", 1, timeout_seconds=0.2, max_attempts=1)
        job = ended(client, late)
        assert job["state"] == "failed"
        assert job["error"]["type"] == "TimeoutError"
        assert job["error"]["message"] == "The attempt ran longer than the job's 0.2 s."

        answer = client.put(
            "/v1/kinds/slow", json={"push": {"url": endpoint.url, "timeout_seconds": 0.2}}
        )
        assert answer.json()["push"]["timeout_seconds"] == 0.2
        wait_until_endpoint_is(client, "slow", endpoint)
        job = ended(client, submit(client, "slow", 2, max_attempts=1))
        assert job["error"]["message"] == "The attempt ran longer than the handler's 0.2 s."

        push(client, "slow", endpoint.url)
        wait_until_endpoint_is(client, "slow", endpoint)
        cancelled = submit(client, "slow", 3)
        wait_until(lambda: len(endpoint.asked) >= 3, "it is posted")
        client.post(f"/v1/jobs/{cancelled}/cancel").raise_for_status()
        assert ended(client, cancelled)["state"] == "cancelled"
        let_go.set_result(Answer(200, b"1"))  # an answer that comes too late changes nothing
        after = submit(client, "slow", 4)
        assert ended(client, after)["state"] == "done"
        assert ended(client, cancelled)["state"] == "cancelled"


def wait_until_endpoint_is(client: httpx.Client, kind: str, endpoint: Endpoint) -> None:
    """Wait for the server's next look, which nothing shows: it looks twice a second."""
    assert client.get(f"/v1/kinds/{kind}").json()["push"]["url"] == endpoint.url
    time.sleep(0.8)


def test_caps_throttles_and_pauses_hold(client: httpx.Client) -> None:
    def reply(_: Asked) -> Reply:
        time.sleep(0.05)
        return Answer(204)

    with Endpoint(reply) as endpoint:
        push(client, "capped", endpoint.url, running=2)
        jobs = [submit(client, "capped", number) for number in range(8)]
        assert {ended(client, job)["state"] for job in jobs} == {"done"}
        assert endpoint.open_max == 2

        client.put("/v1/kinds/capped", json={"paused": True}).raise_for_status()
        before = len(endpoint.asked)
        held = submit(client, "capped", "held")
        other = {"throttle": {"limit": 1, "seconds": 3_600}, "push": {"url": endpoint.url}}
        client.put("/v1/kinds/throttled", json=other).raise_for_status()
        throttled = [submit(client, "throttled", number) for number in range(3)]
        assert ended(client, throttled[0])["state"] == "done"
        assert len(endpoint.asked) == before + 1
        client.put("/v1/kinds/capped", json={"paused": None}).raise_for_status()
        assert ended(client, held)["state"] == "done"
    states = [client.get(f"/v1/jobs/{job}").json()["state"] for job in throttled]
    assert states == ["done", "queued", "queued"]


def test_a_receiver_verifies_requests_before_and_after_a_rotation(client: httpx.Client) -> None:
    key = SecretKey(SECRET.encode())
    with Endpoint(lambda _: Answer(204)) as endpoint:
        for version in (1, 2, 3):
            kind = f"signed{version}"
            target = {"url": endpoint.url, "secret_version": version}
            client.put(f"/v1/kinds/{kind}", json={"push": target}).raise_for_status()
            job = submit(client, kind, "ä")
            ended(client, job)
            asked = endpoint.asked[-1]
            assert asked.headers["webhook-id"] == f"job_{job}_1"
            for valid in {max(1, version - 1), version}:
                secret = key.secret(f"push/{kind}", valid)
                Webhook(secret).verify(asked.body, dict(asked.headers))
            assert len(asked.headers["webhook-signature"].split(" ")) == min(version, 2)


def test_an_endpoint_that_hangs_delays_no_other_kind(client: httpx.Client) -> None:
    def reply(asked: Asked) -> Reply:
        return Hang(Future()) if asked.job["kind"] == "stuck" else Answer(204)

    with Endpoint(reply) as endpoint:
        push(client, "stuck", endpoint.url)
        push(client, "free", endpoint.url)
        stuck = [submit(client, "stuck", number) for number in range(20)]
        wait_until(lambda: endpoint.open == 8, "all slots of the kind hang")
        began = time.monotonic()
        assert ended(client, submit(client, "free"))["state"] == "done"
        assert time.monotonic() - began < 2
        for job in stuck:
            client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    client.put("/v1/kinds/stuck", json={"push": None}).raise_for_status()


def test_without_an_endpoint_jobs_wait_for_workers_that_claim(client: httpx.Client) -> None:
    with Endpoint(lambda _: Answer(204)) as endpoint:
        push(client, "moved", endpoint.url)
        assert ended(client, submit(client, "moved"))["state"] == "done"
        answer = client.put("/v1/kinds/moved", json={"push": None})
        assert answer.json()["push"] is None
        time.sleep(0.8)  # as in wait_until_endpoint_is
        job = submit(client, "moved")
        claim = {"worker": "w", "kinds": ["moved"], "wait_seconds": 5}
        [claimed] = client.post("/v1/claims", json=claim).json()["jobs"]
        assert claimed["id"] == job
        assert len(endpoint.asked) == 1


def test_nothing_is_posted_to_an_address_that_is_not_allowed(
    new_database_url: NewDatabase, settings: Settings
) -> None:
    strict = Settings(callback_key_file=settings.callback_key_file)
    with (
        Endpoint(lambda _: Answer(204)) as endpoint,
        AppServer(new_database_url(), strict) as server,
    ):
        push(server.client, "private", endpoint.url)
        job = ended(server.client, submit(server.client, "private", max_attempts=1))
        assert job["error"]["type"] == "AddressRefused"
        assert "FAIRLOG_CALLBACK_ALLOW" in job["error"]["message"]
        assert not endpoint.asked


@pytest.mark.parametrize(
    "target",
    [
        {"url": "ftp://example.com"},
        {"url": "example.com"},
        {"url": "https://user:password@example.com/"},
        {"url": "https://example.com/a b"},
        {"url": "https://"},
        {"url": "https://example.com/" + "a" * 2_048},
        {"url": "https://example.com", "timeout_seconds": 0},
        {"url": "https://example.com", "timeout_seconds": 700_000},
        {"url": "https://example.com", "secret_version": 0},
        {"url": "https://example.com", "secret": "mine"},
        {},
        "https://example.com",
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(client: httpx.Client, target: Any) -> None:
    answer = client.put("/v1/kinds/wrong", json={"push": target})
    assert answer.status_code == 400, answer.text
    assert client.get("/v1/kinds/wrong").json()["push"] is None
