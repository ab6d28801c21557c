import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from domain.jobs.life_cycle import RETURNS_MAX
from tests.support.clock import ManualClock
from tests.support.server import AppServer, audit, claim, problem, submit
from tests.support.waiting import wait_until

SETTINGS = Settings(user_limit=1000, global_limit=10_000, lease_seconds=30, max_attempts=2)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return SETTINGS


def state(client: httpx.Client, job: int) -> str:
    return str(client.get(f"/v1/jobs/{job}").json()["state"])


def heartbeat(client: httpx.Client, *held: tuple[int, int], worker: str = "w1") -> dict[str, Any]:
    answer = client.post(
        "/v1/claims/heartbeat",
        json={"worker": worker, "jobs": [{"id": job, "attempt": attempt} for job, attempt in held]},
    )
    assert answer.status_code == 200, answer.text
    leases: dict[str, Any] = answer.json()
    return leases


# Claims


def test_a_claim_gives_the_job_with_a_lease(client: httpx.Client) -> None:
    job = submit(client, payload={"p": [1]}, timeout_seconds=5)["id"]
    assert client.post("/v1/claims", json={"worker": "w1"}).json() == {
        "jobs": [
            {
                "id": job,
                "user_id": "ada",
                "kind": "echo",
                "payload": {"p": [1]},
                "attempt": 1,
                "lease_expires_at": "2026-01-31T12:00:30Z",
                "timeout_seconds": 5,
            }
        ],
        "lease_seconds": 30,
    }
    running = client.get(f"/v1/jobs/{job}").json()
    assert running["state"] == "running"
    assert (running["worker"], running["attempt"]) == ("w1", 1)
    assert running["started_at"] == "2026-01-31T12:00:00Z"
    assert running["lease_expires_at"] == "2026-01-31T12:00:30Z"


def test_without_work_a_claim_is_empty_and_leaves_no_event(client: httpx.Client) -> None:
    assert claim(client, 10) == []
    assert audit(client) == []


def test_users_take_turns_however_many_jobs_one_of_them_has(client: httpx.Client) -> None:
    for number in range(4):
        submit(client, "ada", payload=number)
    for user in ("bob", "eve"):
        for number in range(2):
            submit(client, user, payload=number)
    first = claim(client, 4)
    rest = claim(client, 100, worker="w2")
    served = [(job["user_id"], job["payload"]) for job in first + rest]
    assert served == [
        ("ada", 0),
        ("bob", 0),
        ("eve", 0),
        ("ada", 1),
        ("bob", 1),
        ("eve", 1),
        ("ada", 2),
        ("ada", 3),
    ]
    started = [event["job_id"] for event in audit(client, type="JobStarted")]
    assert started == [job["id"] for job in first + rest]


def test_a_worker_gets_the_kinds_it_asks_for(client: httpx.Client) -> None:
    ids = {kind: submit(client, kind=kind)["id"] for kind in ("a", "b", "c")}
    assert [job["id"] for job in claim(client, 9, kinds=["c", "b", "c"])] == [ids["b"], ids["c"]]
    assert claim(client, 9, kinds=["none of those"]) == []
    assert [job["id"] for job in claim(client, 9)] == [ids["a"]]


def test_a_scheduled_job_is_given_once_its_time_has_come(
    client: httpx.Client, clock: ManualClock
) -> None:
    job = submit(client, run_at="2026-01-31T12:00:10Z")["id"]
    assert claim(client) == []
    clock.advance(10)
    wait_until(lambda: state(client, job) == "queued", "the job is released")
    assert [one["id"] for one in claim(client)] == [job]


def test_a_job_that_expires_is_not_given(client: httpx.Client, clock: ManualClock) -> None:
    job = submit(client, expires_at="2026-01-31T12:00:10Z")["id"]
    clock.advance(10)
    wait_until(lambda: state(client, job) == "cancelled", "the job expires")
    assert claim(client) == []


# Waiting for work


def waiting(server: AppServer) -> int:
    return server.fairlog.work.waiting


def test_a_waiting_claim_is_woken_by_a_submission(server: AppServer) -> None:
    client = server.client
    with ThreadPoolExecutor() as pool:
        claimed = pool.submit(claim, client, 5, wait_seconds=30)
        wait_until(lambda: waiting(server) == 1, "the claim waits")
        job = submit(client)["id"]
        # Not woken, it would come back empty at the end of its time.
        assert [one["id"] for one in claimed.result()] == [job]


def test_of_two_waiting_claims_each_job_goes_to_one(server: AppServer) -> None:
    client = server.client
    with ThreadPoolExecutor() as pool:
        claims = [
            pool.submit(claim, client, 1, worker=worker, wait_seconds=30) for worker in ("a", "b")
        ]
        wait_until(lambda: waiting(server) == 2, "both wait")
        ids = [submit(client, payload=number)["id"] for number in range(2)]
        given = [job["id"] for claimed in claims for job in claimed.result()]
    assert sorted(given) == ids


def test_a_waiting_claim_goes_on_waiting_when_the_job_is_of_another_kind(
    server: AppServer,
) -> None:
    client = server.client
    with ThreadPoolExecutor() as pool:
        claimed = pool.submit(claim, client, 1, kinds=["mine"], wait_seconds=30)
        wait_until(lambda: waiting(server) == 1, "the claim waits")
        submit(client, kind="another")
        job = submit(client, kind="mine")["id"]
        assert [one["id"] for one in claimed.result()] == [job]


def test_a_waiting_claim_is_empty_when_nothing_comes(client: httpx.Client) -> None:
    assert claim(client, wait_seconds=0.1) == []


def test_a_waiting_claim_is_woken_by_a_lease_that_ends(
    server: AppServer, clock: ManualClock
) -> None:
    client = server.client
    job = submit(client)["id"]
    claim(client)
    with ThreadPoolExecutor() as pool:
        claimed = pool.submit(claim, client, 1, worker="w2", wait_seconds=30)
        wait_until(lambda: waiting(server) == 1, "the claim waits")
        clock.advance(30)
        assert [(one["id"], one["attempt"]) for one in claimed.result()] == [(job, 2)]


def hang_up(server: AppServer, **fields: Any) -> None:
    """Begin a claim that waits, and go away."""
    before = waiting(server)
    body = json.dumps({"worker": "gone", "wait_seconds": 30, **fields}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            b"POST /v1/claims HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_until(lambda: waiting(server) == before + 1, "the claim waits")
    wait_until(lambda: waiting(server) == before, "the claim has ended")


def test_a_claim_whose_caller_hangs_up_takes_no_jobs(server: AppServer) -> None:
    hang_up(server)
    hang_up(server, claim_id="c")
    job = submit(server.client)["id"]
    assert [one["id"] for one in claim(server.client)] == [job]
    assert len(audit(server.client, type="JobStarted")) == 1


def test_a_claim_asked_again_ends_the_one_that_waits(server: AppServer) -> None:
    client = server.client
    with ThreadPoolExecutor() as pool:
        first = pool.submit(claim, client, 1, claim_id="c", wait_seconds=30)
        wait_until(lambda: waiting(server) == 1, "the claim waits")
        assert claim(client, 1, claim_id="c", kinds=["none"]) == []
        assert first.result(10) == []
        job = submit(client)["id"]
        assert claim(client, 1, claim_id="c") == []  # as it was answered
        assert [one["id"] for one in claim(client, 1, claim_id="d")] == [job]


def test_a_waiting_claim_that_ended_empty_stays_so(server: AppServer) -> None:
    assert claim(server.client, claim_id="c", wait_seconds=0.05) == []
    assert audit(server.client) == []
    job = submit(server.client)["id"]
    assert claim(server.client, claim_id="c", wait_seconds=0.05) == []
    assert [one["id"] for one in claim(server.client, claim_id="d")] == [job]


def test_a_claim_whose_caller_hung_up_without_an_answer_gives_jobs(server: AppServer) -> None:
    hang_up(server, claim_id="c")
    job = submit(server.client)["id"]
    assert [one["id"] for one in claim(server.client, claim_id="c")] == [job]


def test_a_claim_does_not_wait_for_jobs_that_it_gave_and_lost(
    server: AppServer, clock: ManualClock
) -> None:
    job = submit(server.client)["id"]
    claim(server.client, claim_id="c")
    clock.advance(30)
    wait_until(lambda: state(server.client, job) == "queued", "the lease has ended")
    asked = time.monotonic()
    assert claim(server.client, claim_id="c", wait_seconds=30) == []
    assert time.monotonic() - asked < 10
    assert [one["id"] for one in claim(server.client, claim_id="d")] == [job]


def test_waiting_claims_have_their_answer_when_the_server_stops(server: AppServer) -> None:
    with ThreadPoolExecutor() as pool:
        claimed = pool.submit(claim, server.client, 1, wait_seconds=30)
        wait_until(lambda: waiting(server) == 1, "the claim waits")
        server.fairlog.log_watcher._event_loop.call_soon_threadsafe(  # type: ignore[union-attr]
            server.fairlog.release_listeners
        )
        assert claimed.result(10) == []
        assert claim(server.client, wait_seconds=30) == []


# Jobs that are given back


def test_a_job_is_given_back_by_its_holder_alone_and_not_for_ever(client: httpx.Client) -> None:
    job = submit(client)["id"]
    attempts = [{"id": job, "attempt": 1}]
    assert len(claim(client, worker="w")) == 1
    [told] = give_back(client, "other", attempts)
    assert (told["status"], "another worker" in told["detail"]) == (409, True)
    for attempt in range(1, RETURNS_MAX + 1):
        [told] = give_back(client, "w", [{"id": job, "attempt": attempt}])
        assert told["status"] == 200
        claim(client, worker="w")
    [told] = give_back(client, "w", [{"id": job, "attempt": RETURNS_MAX + 1}])
    assert (told["status"], "given back 100 times" in told["detail"]) == (409, True)


def give_back(
    client: httpx.Client, worker: str, jobs: list[dict[str, int]]
) -> list[dict[str, Any]]:
    answer = client.post("/v1/claims/return", json={"worker": worker, "jobs": jobs})
    assert answer.status_code == 200, answer.text
    told: list[dict[str, Any]] = answer.json()["jobs"]
    return told


# The same claim again


def test_the_same_claim_again_gives_the_same_jobs(client: httpx.Client) -> None:
    for user in ("ada", "bob"):
        for number in range(2):
            submit(client, user, payload=number)
    first = claim(client, 3, claim_id="c")
    before = audit(client)
    again = claim(client, 3, claim_id="c")
    assert len(first) == 3
    assert again == first
    assert audit(client) == before


def test_a_claim_id_belongs_to_its_worker(client: httpx.Client) -> None:
    ids = [submit(client, payload=number)["id"] for number in range(2)]
    assert [job["id"] for job in claim(client, worker="a", claim_id="c")] == [ids[0]]
    assert [job["id"] for job in claim(client, worker="b", claim_id="c")] == [ids[1]]


def test_another_claim_id_gives_other_jobs(client: httpx.Client) -> None:
    ids = [submit(client, payload=number)["id"] for number in range(2)]
    assert [job["id"] for job in claim(client, claim_id="c")] == [ids[0]]
    assert [job["id"] for job in claim(client, claim_id="d")] == [ids[1]]


def test_a_claim_again_leaves_out_what_has_ended(client: httpx.Client) -> None:
    ids = [submit(client, payload=number)["id"] for number in range(2)]
    claim(client, 2, claim_id="c")
    client.post(f"/v1/jobs/{ids[0]}/complete", json={"attempt": 1})
    assert [job["id"] for job in claim(client, 2, claim_id="c")] == [ids[1]]


# Heartbeats


def test_a_heartbeat_past_half_of_the_lease_makes_it_longer(
    client: httpx.Client, clock: ManualClock
) -> None:
    job = submit(client)["id"]
    claim(client)
    clock.advance(15)
    assert heartbeat(client, (job, 1)) == {
        "lease_expires_at": "2026-01-31T12:00:30Z",
        "lost": [],
    }
    clock.advance(0.5)
    assert heartbeat(client, (job, 1)) == {
        "lease_expires_at": "2026-01-31T12:00:45.500000Z",
        "lost": [],
    }
    assert client.get(f"/v1/jobs/{job}").json()["lease_expires_at"] == "2026-01-31T12:00:45.500000Z"
    [extended] = audit(client, type="LeasesExtended")
    assert extended["data"]["jobs"] == [[job, 1]]


def test_a_heartbeat_says_which_jobs_are_no_longer_held(client: httpx.Client) -> None:
    mine, done, others = (submit(client, payload=number)["id"] for number in range(3))
    waiting_job = submit(client, payload="waits")["id"]
    claim(client, 2)
    claim(client, 1, worker="w2")
    client.post(f"/v1/jobs/{done}/complete", json={"attempt": 1})
    held = heartbeat(client, (mine, 1), (done, 1), (others, 1), (waiting_job, 0), (9999, 1))
    assert held["lost"] == [done, others, waiting_job, 9999]
    assert heartbeat(client, (mine, 2))["lost"] == [mine]


def test_a_lost_lease_gives_the_job_to_another_and_shuts_the_first_worker_out(
    client: httpx.Client, clock: ManualClock
) -> None:
    job = submit(client)["id"]
    claim(client)
    clock.advance(30)
    wait_until(lambda: state(client, job) == "queued", "the lease ends")
    [again] = claim(client, worker="w2")
    assert (again["id"], again["attempt"]) == (job, 2)
    assert heartbeat(client, (job, 1))["lost"] == [job]
    late = client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1, "result": "late"})
    assert problem(late, 409)["job_id"] == job
    assert (
        client.post(f"/v1/jobs/{job}/complete", json={"attempt": 2, "result": "second"}).json()[
            "result"
        ]
        == "second"
    )
    [requeued] = audit(client, type="JobRequeued")
    assert requeued["data"]["reason"] == "lease_lost"


def test_a_lease_lost_on_the_last_attempt_fails_the_job(
    client: httpx.Client, clock: ManualClock
) -> None:
    job = submit(client, max_attempts=1)["id"]
    claim(client)
    clock.advance(30)
    wait_until(lambda: state(client, job) == "failed", "the job fails")
    assert audit(client, type="JobFailed")[0]["data"]["reason"] == "lease_lost"


# Completing and failing


def test_a_job_is_completed_with_its_result(client: httpx.Client, clock: ManualClock) -> None:
    job = submit(client)["id"]
    claim(client)
    clock.advance(2)
    done = client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1, "result": {"r": [1]}})
    assert done.status_code == 200
    assert done.json() == client.get(f"/v1/jobs/{job}").json()
    assert (done.json()["state"], done.json()["result"]) == ("done", {"r": [1]})
    assert done.json()["finished_at"] == "2026-01-31T12:00:02Z"
    assert done.json()["lease_expires_at"] is None


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "read"])
def test_the_answer_to_a_completion_is_the_job_wherever_its_payload_comes_from(
    server: AppServer, clock: ManualClock, *, is_kept: bool
) -> None:
    client = server.client
    payloads = [None, {"p": [1, "ä"]}, "x" * 20_000, "fails at first"]
    jobs = [submit(client, payload=payload)["id"] for payload in payloads]
    if not is_kept:
        server.fairlog.payloads.clear()
    claimed = claim(client, most=10)
    assert [(one["id"], one["payload"]) for one in claimed] == list(
        zip(jobs, payloads, strict=True)
    )
    client.post(f"/v1/jobs/{jobs[-1]}/fail", json={"attempt": 1, "error": "at first"})
    clock.advance(1)
    wait_until(lambda: state(client, jobs[-1]) == "queued", "the second attempt is due")
    assert [one["payload"] for one in claim(client, most=10)] == payloads[-1:]
    for job, attempt, result in zip(jobs, (1, 1, 1, 2), (None, {"r": 1}, 2, 3), strict=True):
        completion = {"attempt": attempt, "result": result}
        for _ in range(2):  # the second changes nothing
            answer = client.post(f"/v1/jobs/{job}/complete", json=completion)
            assert answer.status_code == 200, answer.text
            assert answer.json() == client.get(f"/v1/jobs/{job}").json()
        assert answer.json()["result"] == result
        assert answer.json()["error"] == ("at first" if attempt == 2 else None)


@pytest.mark.parametrize("result", [{}, {"result": None}, {"result": 0}, {"result": {"a": "ü"}}])
def test_the_same_completion_again_changes_nothing(
    client: httpx.Client, result: dict[str, Any]
) -> None:
    job = submit(client)["id"]
    claim(client)
    first = client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1} | result)
    before = audit(client)
    again = client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1} | result)
    assert (again.status_code, again.json()) == (200, first.json())
    assert audit(client) == before


def test_another_completion_is_refused(client: httpx.Client) -> None:
    job = submit(client)["id"]
    claim(client)
    client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1, "result": 1})
    refused = client.post(f"/v1/jobs/{job}/complete", json={"attempt": 1, "result": 2})
    problem(refused, 409)
    problem(client.post(f"/v1/jobs/{job}/fail", json={"attempt": 1, "error": "e"}), 409)
    assert client.get(f"/v1/jobs/{job}").json()["result"] == 1


@pytest.mark.parametrize("attempt", [0, 2, -1, 2**63, 2**70])
def test_an_attempt_that_is_not_the_current_one_is_refused(
    client: httpx.Client, attempt: int
) -> None:
    job = submit(client)["id"]
    claim(client)
    problem(client.post(f"/v1/jobs/{job}/complete", json={"attempt": attempt}), 409)
    problem(client.post(f"/v1/jobs/{job}/fail", json={"attempt": attempt, "error": "e"}), 409)
    assert heartbeat(client, (job, attempt))["lost"] == [job]
    assert state(client, job) == "running"


def test_a_job_that_is_not_running_cannot_be_completed(client: httpx.Client) -> None:
    job = submit(client)["id"]
    problem(client.post(f"/v1/jobs/{job}/complete", json={"attempt": 0}), 409)


def test_a_failed_attempt_is_followed_by_another_after_a_while(
    client: httpx.Client, clock: ManualClock
) -> None:
    job = submit(client)["id"]
    claim(client)
    failed = client.post(f"/v1/jobs/{job}/fail", json={"attempt": 1, "error": {"message": "oh"}})
    assert failed.status_code == 200
    assert failed.json()["state"] == "scheduled"
    assert failed.json()["error"] == {"message": "oh"}
    assert claim(client) == []
    clock.advance(1)
    wait_until(lambda: state(client, job) == "queued", "the second attempt is due")
    [again] = claim(client)
    assert again["attempt"] == 2
    last = client.post(f"/v1/jobs/{job}/fail", json={"attempt": 2, "error": "again"}).json()
    assert (last["state"], last["error"]) == ("failed", "again")
    assert last["finished_at"] == "2026-01-31T12:00:01Z"


def test_a_permanent_failure_is_not_tried_again(client: httpx.Client) -> None:
    job = submit(client)["id"]
    claim(client)
    failed = client.post(
        f"/v1/jobs/{job}/fail", json={"attempt": 1, "error": "e", "retry": False}
    ).json()
    assert (failed["state"], failed["attempt"], failed["max_attempts"]) == ("failed", 1, 2)


def test_the_same_failure_again_changes_nothing(client: httpx.Client) -> None:
    job = submit(client)["id"]
    claim(client)
    first = client.post(f"/v1/jobs/{job}/fail", json={"attempt": 1, "error": "e"})
    before = audit(client)
    again = client.post(f"/v1/jobs/{job}/fail", json={"attempt": 1, "error": "e"})
    assert (again.status_code, again.json()) == (200, first.json())
    assert audit(client) == before


# Giving back


def test_a_job_given_back_waits_again_and_has_lost_no_attempt(client: httpx.Client) -> None:
    job = submit(client)["id"]
    claim(client)
    answer = client.post(
        "/v1/claims/return", json={"worker": "w1", "jobs": [{"id": job, "attempt": 1}]}
    )
    assert answer.json() == {"jobs": [{"id": job, "status": 200, "state": "queued"}]}
    view = client.get(f"/v1/jobs/{job}").json()
    assert (view["attempt"], view["starts"], view["failures"], view["max_attempts"]) == (1, 0, 0, 2)
    assert claim(client, worker="w2")[0]["attempt"] == 2


# What a claim may not ask


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"worker": ""},
        {"worker": "w" * 256},
        {"worker": "w\n"},
        {"worker": 1},
        {"worker": "w", "max": 0},
        {"worker": "w", "max": 1001},
        {"worker": "w", "max": 2**70},
        {"worker": "w", "max": "3"},
        {"worker": "w", "kinds": []},
        {"worker": "w", "kinds": ["a", 1]},
        {"worker": "w", "kinds": ["a", ""]},
        {"worker": "w", "wait_seconds": 30.5},
        {"worker": "w", "wait_seconds": -1},
        {"worker": "w", "wait_seconds": "1"},
        {"worker": "w", "claim_id": ""},
        {"worker": "w", "claim_id": "c" * 256},
        {"worker": "w", "colour": "red"},
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_claim_that_asks_wrongly_is_refused_and_takes_nothing(
    shared: httpx.Client, body: dict[str, Any]
) -> None:
    job = submit(shared, payload=str(body))["id"]
    problem(shared.post("/v1/claims", json=body), 400)
    assert state(shared, job) == "queued"


def test_a_claim_is_bounded_in_bytes_and_the_rest_waits_for_the_next(client: httpx.Client) -> None:
    payload = "x" * (1024 * 1024 - 2)
    ids = [submit(client, payload=payload, idempotency_key=str(n))["id"] for n in range(18)]
    claimed = [[job["id"] for job in claim(client, 1000)] for _ in range(3)]
    assert claimed == [ids[:16], ids[16:], []]
