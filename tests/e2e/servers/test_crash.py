"""`kill -9` in the middle of the work loses nothing that was answered, and runs nothing twice."""

import asyncio
from collections import Counter

import httpx

from tests.support.server import REQUEST_SECONDS_MAX, FairlogServer, audit, post_at_once
from tests.support.waiting import wait_until

JOBS = 1000
ANSWERED_BEFORE_THE_KILL = 300
CONNECTIONS = 32
SETTINGS = {"user_limit": 1_000_000, "global_limit": 1_000_000}


def submission(number: int) -> dict[str, object]:
    return {
        "user_id": f"user {number % 7}",
        "kind": "echo",
        "payload": {"number": number},
        "idempotency_key": f"key {number}",
    }


async def submit_until_it_dies(server: FairlogServer) -> dict[int, int]:
    """Begin all submissions and kill the server in their middle; the jobs that were answered."""
    answered: dict[int, int] = {}
    numbers = iter(range(JOBS))

    async def one_after_the_other(client: httpx.AsyncClient) -> None:
        for number in numbers:
            try:
                answer = await client.post("/v1/jobs", json=submission(number))
            except httpx.TransportError:
                return
            assert answer.status_code == 202, answer.text
            answered[number] = answer.json()["id"]
            if len(answered) == ANSWERED_BEFORE_THE_KILL:
                server.kill()

    async with httpx.AsyncClient(base_url=server.url, timeout=REQUEST_SECONDS_MAX) as client:
        await asyncio.gather(*(one_after_the_other(client) for _ in range(CONNECTIONS)))
    return answered


def all_jobs(client: httpx.Client) -> dict[int, dict[str, object]]:
    """Return the jobs by id, as the list shows them."""
    jobs: dict[int, dict[str, object]] = {}
    query = {"limit": "1000", "include": "payload,result,error"}
    while True:
        page = client.get("/v1/jobs", params=query).json()
        jobs |= {job["id"]: job for job in page["jobs"]}
        if page["next"] is None:
            return jobs
        query["cursor"] = page["next"]


def test_after_a_kill_in_the_middle_every_answered_job_exists_and_all_end_done_once(
    database_url: str,
) -> None:
    with FairlogServer(database_url, workers=4, server_id="one", settings=SETTINGS) as server:
        answered = asyncio.run(submit_until_it_dies(server))
        assert ANSWERED_BEFORE_THE_KILL <= len(answered) < JOBS
        server.start()
        client = server.client

        jobs = all_jobs(client)
        for number, job_id in answered.items():
            assert jobs[job_id]["payload"] == {"number": number}
        # A client that had no answer sends the same again, and nothing is submitted twice.
        unanswered = [submission(number) for number in range(JOBS) if number not in answered]
        again = post_at_once([server.url], unanswered, CONNECTIONS)
        assert {answer.status_code for answer in again} <= {200, 202}

        wait_until(
            lambda: client.get("/v1/stats").json()["jobs"]["done"] == JOBS, "all are done", 60
        )
        events = audit(client)
        jobs = all_jobs(client)
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
    submitted = [event["data"] for event in events if event["type"] == "JobSubmitted"]
    keys = {event["idempotency_key"] for event in submitted}
    assert (len(submitted), len(keys), len(jobs)) == (JOBS, JOBS, JOBS)
    completed = Counter(event["job_id"] for event in events if event["type"] == "JobCompleted")
    assert completed == dict.fromkeys(jobs, 1)
    assert all(job["result"] == job["payload"] for job in jobs.values())
    requeued = [event["data"]["reason"] for event in events if event["type"] == "JobRequeued"]
    print(f"{len(answered)} answered, {len(requeued)} were running at the kill")
    assert set(requeued) <= {"server_restarted"}
    assert not [event for event in events if event["type"] == "JobFailed"]
