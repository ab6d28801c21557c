"""A server that is killed while a receiver has a delivery in its hands."""

from concurrent.futures import Future
from pathlib import Path

from tests.support.endpoint import Answer, Asked, Endpoint, Hang, Reply, secret_key_file
from tests.support.server import FairlogServer, audit, claim
from tests.support.waiting import wait_until


def test_deliveries_of_a_killed_server_come_again_and_none_is_lost(
    database_url: str, tmp_path: Path
) -> None:
    """A host has two deliveries at once: the kill comes with both of them open and one waiting."""
    hanging: Future[Answer] = Future()

    def reply(_: Asked) -> Reply:
        return Hang(hanging) if len(endpoint.asked) <= 2 else Answer(204)

    settings = {"callback_key_file": secret_key_file(tmp_path), "callback_allow": "127.0.0.1"}
    with (
        Endpoint(reply) as endpoint,
        FairlogServer(database_url, settings=settings, server_id="teller") as server,
    ):
        jobs = [
            {"user_id": "ada", "kind": "echo", "payload": n, "callback": {"url": endpoint.url}}
            for n in range(3)
        ]
        server.client.post("/v1/jobs/batch", json={"jobs": jobs}).raise_for_status()
        for job in claim(server.client, 3):
            path = f"/v1/jobs/{job['id']}/complete"
            server.client.post(path, json={"attempt": 1}).raise_for_status()
        wait_until(lambda: len(endpoint.asked) == 2, "two deliveries are open")
        server.kill()
        server.start()
        submitted = audit(server.client, type="JobSubmitted")
        deliveries = [one["job_id"] for one in submitted if one["data"].get("delivery")]
        assert len(deliveries) == 3
        for delivery in deliveries:
            found = server.client.get(f"/v1/jobs/{delivery}?wait_seconds=20").json()
            assert (found["state"], found["failures"]) == ("done", 0)
        hanging.set_result(Answer(200))

        sent = [one.headers["webhook-id"] for one in endpoint.asked]
        first, again = sent[:2], sent[2:]
        assert sorted(again) == sorted(map(str, deliveries))
        assert set(first) < set(again)
        bodies = {(one.headers["webhook-id"], one.body) for one in endpoint.asked}
        assert len(bodies) == 3  # the same message comes as the same bytes
