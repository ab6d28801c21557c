"""Jobs that come after others, as callers see them."""

from typing import Any

import httpx
import pytest

from adapters.settings import Settings
from domain.language.events import Role
from domain.language.identifiers import UserId
from projections.inline.parents import parents
from tests.support.clock import ManualClock
from tests.support.inline_rows import rows_of
from tests.support.keyed_server import keyed_server
from tests.support.keys import create_key
from tests.support.server import AppServer, audit, claim, log_position, problem, submit

SETTINGS = Settings(user_limit=100_000, global_limit=100_000)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return SETTINGS


def post(client: httpx.Client, **fields: Any) -> httpx.Response:
    body = {"user_id": "ada", "kind": "echo", "payload": 1, "deduplicate": False}
    return client.post("/v1/jobs", json=body | fields)


def entry(**fields: Any) -> dict[str, Any]:
    return {"user_id": "ada", "kind": "echo", "payload": 1, "deduplicate": False} | fields


def submit_all(client: httpx.Client, *entries: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post("/v1/jobs/batch", json={"jobs": entries})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["jobs"]
    return found


def end(client: httpx.Client, job: dict[str, Any], *, error: str | None = None) -> None:
    path = f"/v1/jobs/{job['id']}/{'complete' if error is None else 'fail'}"
    body = {"attempt": job["attempt"]}
    body |= {} if error is None else {"error": error, "retry": False}
    assert client.post(path, json=body).status_code == 200


def found(client: httpx.Client, job_id: int) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return job


def test_a_chain_runs_in_order(client: httpx.Client) -> None:
    first = submit(client)["id"]
    second = post(client, after=[first])
    assert second.status_code == 202
    assert (second.json()["state"], second.json()["waits_for"]) == ("scheduled", [first])
    third = post(client, user_id="bob", after=[second.json()["id"]]).json()
    assert third["after_failure"] == "fail"
    order = []
    for _ in range(3):
        [job] = claim(client, 9)
        order.append(job["id"])
        end(client, job)
    assert order == [first, second.json()["id"], third["id"]]
    last = found(client, third["id"])
    assert (last["state"], last["after"], last["waits_for"]) == ("done", [order[1]], [])


def test_a_fan_in_waits_for_all_and_says_for_whom(client: httpx.Client) -> None:
    parents = [submit(client, payload=number)["id"] for number in range(12)]
    last = post(client, after=parents[::-1], after_failure="run").json()
    assert last["after"] == parents
    for job in claim(client, 11):
        end(client, job, error="no" if job["id"] == parents[0] else None)
    assert found(client, last["id"])["waits_for"] == [parents[11]]
    explained = client.get(f"/v1/jobs/{last['id']}/explain").json()
    [reason] = explained["reasons"]
    assert (reason["code"], reason["waits_for"]) == ("waits_for", [parents[11]])
    assert f"job {parents[11]} (queued); 11 others that it comes after ended" in reason["text"]
    listed = client.get("/v1/jobs", params={"state": "scheduled"}).json()["jobs"]
    assert [one["waits_for"] for one in listed] == [[parents[11]]]
    [job] = claim(client, 9)
    end(client, job)
    assert [one["id"] for one in claim(client, 9)] == [last["id"]]


def test_a_failure_reaches_the_end_of_a_chain(client: httpx.Client) -> None:
    first = submit(client)["id"]
    second = post(client, after=[first]).json()["id"]
    third = post(client, after=[second], after_failure="cancel").json()["id"]
    before = log_position(client)
    end(client, *claim(client, 9), error="torn")
    failed, cancelled = found(client, second), found(client, third)
    assert (failed["state"], cancelled["state"]) == ("failed", "cancelled")
    assert (failed["attempt"], failed["failures"]) == (0, 0)
    assert failed["failure"]["reason"] == "parent_failed"
    assert f"Job {first}" in failed["failure"]["message"]
    [reason, *_] = client.get(f"/v1/jobs/{third}/explain").json()["reasons"]
    assert (reason["code"], reason["parent"]) == ("parent_failed", second)
    told = [one for one in audit(client, job_id=second) if one["type"] == "ParentEnded"]
    assert [(one["data"]["parent"], one["data"]["state"]) for one in told] == [(first, "failed")]
    past = client.get(f"/v1/jobs/{second}", params={"as_of": before}).json()
    assert (past["state"], past["waits_for"]) == ("scheduled", [first])
    assert client.post(f"/v1/jobs/{second}/retry").json()["state"] == "queued"


def test_one_that_has_ended_is_not_waited_for(client: httpx.Client) -> None:
    done, torn = submit(client, payload=1)["id"], submit(client, payload=2)["id"]
    for job in claim(client, 9):
        end(client, job, error="torn" if job["id"] == torn else None)
    assert post(client, after=[done]).json()["state"] == "queued"
    assert post(client, after=[done, torn]).json()["state"] == "failed"
    assert post(client, after=[torn], after_failure="cancel").json()["state"] == "cancelled"
    assert post(client, after=[torn], after_failure="run").json()["state"] == "queued"


# Batches


def test_an_entry_of_a_batch_may_come_after_earlier_ones(client: httpx.Client) -> None:
    outside = submit(client)["id"]
    made = submit_all(
        client,
        entry(),
        entry(payload=2, after=[outside, {"entry": 0}]),
        entry(payload=3, after=[{"entry": 0}], after_failure="run"),
        entry(payload=4, after=[{"entry": 2}, {"entry": 1}]),
    )
    assert [one["status"] for one in made] == [202] * 4
    ids = [one["job"]["id"] for one in made]
    assert [one["job"]["after"] for one in made] == [
        [],
        [outside, ids[0]],
        [ids[0]],
        sorted(ids[1:3]),
    ]


def test_a_chain_as_long_as_a_batch(client: httpx.Client) -> None:
    entries = [entry(payload=0)]
    entries += [entry(payload=number, after=[{"entry": number - 1}]) for number in range(1, 60)]
    ids = [one["job"]["id"] for one in submit_all(client, *entries)]
    assert [found(client, job_id)["after"] for job_id in ids[1:]] == [[one] for one in ids[:-1]]


def test_a_batch_that_is_sent_again_gives_the_same_jobs(client: httpx.Client) -> None:
    entries = [{"user_id": "ada", "kind": "echo", "payload": 1}]
    entries += [entries[0] | {"after": [{"entry": 0}]}]
    first, again = (submit_all(client, *entries) for _ in range(2))
    assert [one["status"] for one in (*first, *again)] == [202, 202, 200, 200]
    assert [one["job"]["id"] for one in first] == [one["job"]["id"] for one in again]


def test_what_comes_after_a_refused_entry_is_refused(client: httpx.Client) -> None:
    made = submit_all(
        client,
        entry(priority="high"),
        entry(after=[{"entry": 0}]),
        entry(after=[{"entry": 1}]),
        entry(),
    )
    assert [one["status"] for one in made] == [400, 424, 424, 202]
    assert made[1]["problem"]["detail"].startswith("Entry 0 of the batch, which this one comes")


@pytest.mark.parametrize("number", [1, 2, 999])
def test_an_entry_comes_after_earlier_ones_alone(shared: httpx.Client, number: int) -> None:
    made = submit_all(shared, entry(), entry(after=[{"entry": number}]), entry())
    assert [one["status"] for one in made] == [202, 400, 202]
    assert f"after names entry {number}" in made[1]["problem"]["detail"]


# What cannot be


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (list(range(1, 10_001)), "after names at most 1000 jobs; this names 10000."),
        ([7, 7], "after names a job twice"),
        ([0], "a whole number from 1"),
        ([-1], "a whole number from 1"),
        ([2**63], ""),
        (["7"], "after"),
        ([{"entry": 0}], "names an entry of a batch, and this is none"),
        ([{"entry": -1}], ""),
        ([{"position": 1}], ""),
        ([None], ""),
        (7, "after"),
    ],
)
def test_an_impossible_list_is_a_400(shared: httpx.Client, after: Any, said: str) -> None:
    assert said in problem(post(shared, after=after), 400)["detail"]


def test_a_job_that_does_not_exist_is_a_422(shared: httpx.Client) -> None:
    for unknown in (1, 10**15):
        refused = problem(post(shared, after=[unknown]), 422)
        assert refused["job_id"] == unknown
        assert "there is no such job" in refused["detail"]


def test_what_follows_needs_something_to_follow(shared: httpx.Client) -> None:
    refused = problem(post(shared, after_failure="run"), 400)
    assert "after_failure is for a job with after" in refused["detail"]
    problem(post(shared, after=[1], after_failure="explode"), 400)


def test_another_user_s_job_is_unknown_to_a_bound_key(database_url: str) -> None:
    with keyed_server(database_url) as keyed:
        created = create_key("bound", Role.SUBMITTER, users=(UserId("ada"),))
        keyed.do(created)
        client = keyed.clients["bound"] = keyed.client("bound")
        theirs = keyed.submit("admin", UserId("bob"), "theirs")
        own = keyed.submit("admin", UserId("ada"), "own")
        refused = problem(post(client, after=[theirs]), 422)
        assert refused["detail"] == problem(post(client, after=[10**15]), 422)["detail"].replace(
            str(10**15), str(theirs)
        )
        assert post(client, after=[own]).json()["waits_for"] == [own]


# The dashboard


def test_the_dashboard_shows_what_waits_for_what(client: httpx.Client) -> None:
    first = submit(client)["id"]
    second = post(client, after=[first]).json()["id"]
    page = client.get(f"/jobs/{second}").text
    assert f'<dt>Comes after</dt><dd><a href="/jobs/{first}">#{first}</a>' in page
    assert f"It waits for the end of job {first} (queued)" in page
    page = client.get(f"/jobs/{first}").text
    assert f'<dt>Waiting for it</dt><dd><a href="/jobs/{second}">#{second}</a>' in page
    assert " after " in client.get("/jobs", params={"state": "scheduled"}).text


def test_very_many_children_are_told_by_the_timers(
    database_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("domain.decisions.batch.CHILDREN_TOLD_PER_BATCH_MAX", 20)
    with AppServer(database_url, SETTINGS, clock) as server:
        client = server.client
        first = submit(client)["id"]
        submit_all(client, *[entry(payload=number, after=[first]) for number in range(150)])
        end(client, *claim(client, 9))
        server.fairlog.recover(None)
        assert client.get("/v1/stats").json()["jobs"]["queued"] == 150
        assert rows_of(server.fairlog)[parents.name] == []
