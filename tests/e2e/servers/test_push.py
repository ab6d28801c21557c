"""A server that is killed while its request for a job is open."""

from concurrent.futures import Future
from pathlib import Path

from tests.support.endpoint import Answer, Asked, Endpoint, Hang, Reply, secret_key_file
from tests.support.server import FairlogServer, audit
from tests.support.waiting import wait_until


def test_a_server_without_the_key_says_that_it_posts_nothing(database_url: str) -> None:
    with FairlogServer(database_url) as server:
        target = {"push": {"url": "https://images.example/jobs"}}
        server.client.put("/v1/kinds/resize", json=target).raise_for_status()
        wait_until(lambda: "push_endpoint_not_served" in server.output, "it is logged")
        assert "--callback-key-file" in server.output


def test_a_job_that_a_killed_server_has_posted_is_posted_again(
    database_url: str, tmp_path: Path
) -> None:
    hanging: Future[Answer] = Future()

    def reply(asked: Asked) -> Reply:
        return Hang(hanging) if asked.job["attempt"] == 1 else Answer(200, b'"again"')

    settings = {"callback_key_file": secret_key_file(tmp_path), "callback_allow": "127.0.0.1"}
    with (
        Endpoint(reply) as endpoint,
        FairlogServer(database_url, settings=settings, server_id="pusher") as server,
    ):
        target = {"push": {"url": endpoint.url}}
        server.client.put("/v1/kinds/resize", json=target).raise_for_status()
        submission = {"user_id": "ada", "kind": "resize", "payload": 1}
        job = server.client.post("/v1/jobs", json=submission).json()["id"]
        wait_until(lambda: len(endpoint.asked) == 1, "the job is posted")
        server.kill()
        server.start()
        found = server.client.get(f"/v1/jobs/{job}?wait_seconds=20").json()
        hanging.set_result(Answer(200, b'"late"'))

        assert (found["state"], found["result"], found["attempt"]) == ("done", "again", 2)
        assert [one.headers["webhook-id"] for one in endpoint.asked] == [
            f"job_{job}_1",
            f"job_{job}_2",
        ]
        history = [(one["type"], one["data"].get("attempt")) for one in audit(server.client)]
        ends = [one for one in history if one[0] in {"JobStarted", "JobRequeued", "JobCompleted"}]
        assert ends == [
            ("JobStarted", 1),
            ("JobRequeued", 1),
            ("JobStarted", 2),
            ("JobCompleted", 2),
        ]
