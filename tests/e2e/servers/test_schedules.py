"""A schedule over two servers that are killed again and again runs each of its times once."""

import os
import time
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random

import pytest

from tests.support.server import FairlogServer, audit
from tests.support.waiting import wait_until

KILLS = int(os.environ.get("FAIRLOG_TEST_KILLS", "4"))
SCHEDULES = [f"s{number}" for number in range(5)]
SETTINGS = {"user_limit": 1_000_000, "global_limit": 1_000_000}


def moments(server: FairlogServer) -> dict[str, list[datetime]]:
    """The times that were run, by schedule, in the order of the log."""
    found: dict[str, list[datetime]] = {name: [] for name in SCHEDULES}
    for event in audit(server.client, type="ScheduleFired"):
        data = event["data"]
        assert data["outcome"] == "submitted", data
        found[data["name"]].append(datetime.fromisoformat(data["due_at"]))
    return found


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
def test_each_time_is_run_once_whichever_server_is_killed_when(database_url: str) -> None:
    chance = Random(23)
    with (
        FairlogServer(database_url, settings=SETTINGS) as one,
        FairlogServer(database_url, settings=SETTINGS) as two,
    ):
        for name in SCHEDULES:
            body = {
                "every_seconds": 1,
                "user_id": "ada",
                "kind": "echo",
                "overlap": "allow_all",
            }
            one.client.put(f"/v1/schedules/{name}", json=body).raise_for_status()
        began = datetime.fromisoformat(one.client.get("/v1/schedules/s0").json()["created_at"])
        servers = [one, two]
        for _ in range(KILLS):
            killed = chance.choice(servers)
            time.sleep(chance.random() * 1.5)  # it may be at any point of its work
            killed.kill()
            killed.start()
        ended = datetime.now(began.tzinfo)
        wait_until(
            lambda: all(times and times[-1] > ended for times in moments(two).values()),
            "all times so far were run",
        )
        for name in SCHEDULES:
            one.client.delete(f"/v1/schedules/{name}").raise_for_status()
        for name, times in moments(two).items():
            assert times[0] - began <= timedelta(seconds=2), name
            steps = Counter(later - earlier for earlier, later in pairwise(times))
            assert set(steps) == {timedelta(seconds=1)}, (name, steps)
        runs = audit(two.client, type="ScheduleFired")
        submitted = audit(two.client, type="JobSubmitted")
        assert [run["data"]["job"] for run in runs] == [one["position"] for one in submitted]
