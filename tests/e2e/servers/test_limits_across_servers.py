"""A limit holds exactly over any number of servers, and over their restarts."""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.support.clock import LONGEST_WINDOW
from tests.support.server import FairlogServer, audit, post_at_once, problem, submit
from tests.support.waiting import wait_until

LIMIT = 50
SUBMISSIONS = 500
CONNECTIONS = 50
SETTINGS = {"user_limit": LIMIT, "window_seconds": LONGEST_WINDOW}

pytestmark = pytest.mark.parametrize("backend", ["mariadb"], indirect=True)


@pytest.fixture
def servers(database_url: str) -> Iterator[list[FairlogServer]]:
    with (
        FairlogServer(database_url, settings=SETTINGS) as one,
        FairlogServer(database_url, settings=SETTINGS) as two,
    ):
        yield [one, two]


def decided(client: httpx.Client, *, allowed: bool) -> int:
    """Return the number of submissions that the log's decisions are about."""
    decisions = [event["data"] for event in audit(client, type="RateLimitDecided", user_id="ada")]
    return sum(one.get("count", 1) for one in decisions if one["allowed"] is allowed)


def refused(server: FairlogServer, payload: Any) -> None:
    answer = server.client.post(
        "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": payload}
    )
    assert problem(answer, 429)["used"] == LIMIT


def test_fifty_of_five_hundred_are_accepted_by_two_servers_and_restarts_give_nothing_back(
    servers: list[FairlogServer],
) -> None:
    client = servers[0].client
    bodies = [
        {"user_id": "ada", "kind": "echo", "payload": number} for number in range(SUBMISSIONS)
    ]
    before = datetime.now(UTC)
    answers = post_at_once([server.url for server in servers], bodies, CONNECTIONS)
    after = datetime.now(UTC)

    accepted = [answer for answer in answers if answer.status_code == 202]
    rejected = [answer for answer in answers if answer.status_code != 202]
    assert len(accepted) == LIMIT
    left = sorted(
        int(one.headers["RateLimit"].split(";")[1].removeprefix("r=")) for one in accepted
    )
    assert left == list(range(LIMIT))
    for answer in rejected:
        body = problem(answer, 429)
        assert (body["scope"], body["limit"], body["used"]) == ("user", LIMIT, LIMIT)
        seconds = int(answer.headers["Retry-After"])
        assert answer.headers["RateLimit"] == f'"user";r=0;t={seconds}'
        resets_at = datetime.fromisoformat(body["resets_at"])
        assert math.ceil((resets_at - after).total_seconds()) <= seconds
        assert seconds <= math.ceil((resets_at - before).total_seconds())

    wait_until(
        lambda: decided(client, allowed=False) == SUBMISSIONS - LIMIT, "every refusal is recorded"
    )
    assert decided(client, allowed=True) == LIMIT
    assert len(audit(client, type="JobSubmitted")) == LIMIT

    one, other = servers
    one.restart()
    refused(one, "after a restart")
    other.kill()
    other.start()
    refused(other, "after a crash")
    for server in servers:
        assert server.client.get("/v1/limits/ada").json()["used"] == LIMIT
        submit(server.client, "bob", payload=server.port)
    assert decided(client, allowed=True) == LIMIT


def test_a_limit_changed_on_one_server_holds_on_the_other(servers: list[FairlogServer]) -> None:
    one, two = (server.client for server in servers)
    for number in range(LIMIT):
        submit(two, payload=number)
    refused(servers[1], "full")
    one.put("/v1/limits/ada", json={"limit": LIMIT + 1})
    # A process that refuses by its own cache learns of the change a moment later.
    wait_until(
        lambda: (
            two.post(
                "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": "one more"}
            ).is_success
        ),
        "the other server knows",
    )
    assert two.get("/v1/limits/ada").json()["remaining"] == 0
    refused_again = one.post(
        "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": "too much"}
    )
    assert problem(refused_again, 429)["limit"] == LIMIT + 1
