"""Behaviour after a switch-over to another server, with the connections to the old one kept."""

from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from adapters.database.database import READ_ONLY_CHECK_SECONDS
from adapters.settings import Settings
from tests.support.mariadb import MariaDB
from tests.support.server import AppServer, claim, submit
from tests.support.tcp_proxy import SwitchingProxy
from tests.support.waiting import wait_until

SETTINGS = Settings(user_limit=1000, global_limit=10_000)


@pytest.fixture
def servers() -> Iterator[tuple[MariaDB, MariaDB]]:
    with MariaDB() as old, MariaDB() as new:
        yield old, new


def empty_log(server: MariaDB) -> str:
    """A database with Fairlog's tables; those of two servers are equal."""
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE fairlog_switched")
    url = make_url(server.create_database()).set(database="fairlog_switched")
    return prepared(url.render_as_string(hide_password=False))


def prepared(url: str) -> str:
    with AppServer(url, SETTINGS):
        pass
    return url


def test_nobody_works_with_what_a_replaced_primary_has(servers: tuple[MariaDB, MariaDB]) -> None:
    old, new = servers
    before, after = empty_log(old), empty_log(new)
    with SwitchingProxy(before) as proxy, AppServer(proxy.url, SETTINGS) as server:
        server.client.get("/v1/stats")  # connections to the old one are kept
        old.set_read_only()
        proxy.switch(after)

        job = submit(server.client, payload={"n": 1})["id"]
        [claimed] = claim(server.client)

        assert (claimed["id"], claimed["payload"]) == (job, {"n": 1})
        assert server.client.get(f"/v1/jobs/{job}").json()["state"] == "running"


def test_reads_leave_a_server_that_has_become_read_only(servers: tuple[MariaDB, MariaDB]) -> None:
    old, new = servers
    before, after = empty_log(old), empty_log(new)
    with AppServer(after, SETTINGS) as other:
        submit(other.client, payload=1)
    with SwitchingProxy(before) as proxy, AppServer(proxy.url, SETTINGS) as server:
        assert server.client.get("/v1/stats").json()["total"] == 0
        old.set_read_only()
        proxy.switch(after)
        wait_until(
            lambda: server.client.get("/v1/stats").json()["total"] == 1,
            "reads come from the new primary",
            READ_ONLY_CHECK_SECONDS + 10,
        )


def test_a_server_that_is_read_only_can_still_be_read(servers: tuple[MariaDB, MariaDB]) -> None:
    alone, _ = servers
    with AppServer(empty_log(alone), SETTINGS) as server:
        job = submit(server.client, payload={"n": 1})["id"]
        assert server.client.get(f"/v1/jobs/{job}").is_success  # it has its row
        alone.set_read_only()
        answer = server.client.post("/v1/jobs", json={"user_id": "u", "kind": "k", "payload": 2})
        assert answer.status_code == 503, answer.text
        assert server.client.get(f"/v1/jobs/{job}").json()["payload"] == {"n": 1}


@pytest.mark.parametrize("others", [0, 20])
def test_nothing_is_written_where_events_that_were_answered_are_missing(
    servers: tuple[MariaDB, MariaDB], others: int
) -> None:
    """A replica that lagged is promoted; with `others`, it was written there meanwhile."""
    old, _ = servers
    before, after = (empty_log(server) for server in servers)
    with AppServer(after, SETTINGS) as elsewhere:
        for number in range(others):
            submit(elsewhere.client, payload=number)
    with SwitchingProxy(before) as proxy, AppServer(proxy.url, SETTINGS) as server:
        jobs = [submit(server.client, payload=number)["id"] for number in range(5)]
        old.set_read_only()
        proxy.switch(after)
        answer = server.client.post("/v1/jobs", json={"user_id": "u", "kind": "k", "payload": 0})
        missing = (
            "has another event 10" if others else "ends at event 0, and does not have event 10"
        )
        assert answer.status_code == 503
        assert missing in answer.json()["detail"]
        assert missing in server.client.get("/readyz").text
        old.set_read_only(is_read_only=False)
        proxy.switch(before)
        wait_until(lambda: server.client.get("/readyz").is_success, "the events are back")
        assert submit(server.client, payload=6)["id"] > max(jobs)
    with AppServer(after, SETTINGS) as elsewhere:
        assert elsewhere.client.get("/v1/stats").json()["total"] == others
