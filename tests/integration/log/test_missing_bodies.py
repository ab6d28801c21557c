"""A body that is not found is never null: a replica behind, a replaced primary, a damaged table."""

from collections.abc import Iterator

import httpx
import pytest
import sqlalchemy as sa

from adapters.log.tables import bodies
from adapters.settings import Settings
from tests.support.clock import NOON, ManualClock
from tests.support.core import saved_rows
from tests.support.server import AppServer, claim, submit

SETTINGS = Settings(user_limit=1000, global_limit=10_000, lease_seconds=30, max_attempts=2)


@pytest.fixture
def server(database_url: str) -> Iterator[AppServer]:
    with AppServer(database_url, SETTINGS, ManualClock(NOON)) as server:
        yield server


def take_body(server: AppServer, position: int) -> bytes:
    """Have it away, as on a server that has not got it yet and did not accept the job itself."""
    server.fairlog.payloads.clear()
    with server.fairlog.database.write() as connection:
        wanted = bodies.c.position == position
        found = connection.execute(sa.select(bodies.c.body).where(wanted)).scalar_one()
        connection.execute(bodies.delete().where(wanted))
    return bytes(found)


def put_body(server: AppServer, position: int, body: bytes) -> None:
    with server.fairlog.database.write() as connection:
        connection.execute(bodies.insert().values(position=position, body=body))


def ask_for_jobs(server: AppServer, **fields: object) -> httpx.Response:
    return server.client.post("/v1/claims", json={"worker": "w1", **fields})


def test_a_claim_fails_where_the_payload_is_not_found_and_the_job_waits_again(
    server: AppServer,
) -> None:
    job = submit(server.client, payload={"n": 1})["id"]
    body = take_body(server, job)

    answer = ask_for_jobs(server)

    assert answer.status_code == 503, answer.text
    assert "Retry-After" in answer.headers
    put_body(server, job, body)
    [claimed] = ask_for_jobs(server).json()["jobs"]
    assert (claimed["id"], claimed["payload"]) == (job, {"n": 1})


def test_a_claim_gives_the_jobs_whose_payload_is_found(server: AppServer) -> None:
    first = submit(server.client, payload=1)["id"]
    second = submit(server.client, payload=2)["id"]
    take_body(server, first)

    claimed = claim(server.client, most=5)

    assert [(one["id"], one["payload"]) for one in claimed] == [(second, 2)]
    with saved_rows(server.fairlog) as connection:
        [job] = server.fairlog.jobs.find(connection, [first]).values()
    assert job.state == "queued"


@pytest.mark.parametrize("path", ["/v1/jobs/{}", "/v1/jobs/{}?as_of={}", "/jobs/{}"])
def test_no_view_of_a_job_shows_null_for_a_payload_that_is_not_found(
    server: AppServer, path: str
) -> None:
    job = submit(server.client, payload={"n": 1})["id"]
    body = take_body(server, job)

    answer = server.client.get(path.format(job, job))

    assert answer.status_code == 503, answer.text
    put_body(server, job, body)
    assert server.client.get(path.format(job, job)).status_code == 200


def test_a_payload_of_null_is_null(server: AppServer) -> None:
    job = submit(server.client, payload=None)["id"]
    assert server.client.get(f"/v1/jobs/{job}").json()["payload"] is None
    [claimed] = claim(server.client)
    assert claimed["payload"] is None
