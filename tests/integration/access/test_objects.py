"""Things of other users and other workers, asked for in every way that the interface has."""

import json
from collections.abc import Callable

import httpx
import pytest
from hypothesis import HealthCheck
from hypothesis import given as for_all
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from domain.decisions.answers import Claimed
from domain.language.commands import ClaimJobs
from domain.language.events import Role
from domain.language.identifiers import JobId, WorkerId
from tests.support.keyed_server import ABSENT, ALICE, ECHO, MARKER, KeyedServer, absent_as
from tests.support.keys import by, create_key

JOB_CALLS: list[tuple[str, str, object]] = [
    ("GET", "/v1/jobs/{}", None),
    ("GET", "/v1/jobs/{}?as_of=10", None),
    ("GET", "/v1/jobs/{}?as_of=1000000", None),
    ("GET", "/v1/jobs/{}/events", None),
    ("GET", "/v1/jobs/{}/events?after=3", None),
    ("GET", "/v1/jobs/{}/explain", None),
    ("POST", "/v1/jobs/{}/cancel", None),
    ("POST", "/v1/jobs/{}/retry", None),
    ("GET", "/jobs/job_status/{}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), JOB_CALLS, ids=str)
def test_anothers_job_is_answered_as_one_that_does_not_exist(
    keyed: KeyedServer, method: str, path: str, body: object
) -> None:
    client = keyed.clients["alice"]
    absent = client.request(method, path.format(ABSENT), json=body)
    for job_id in keyed.bobs:
        found = client.request(method, path.format(job_id), json=body)
        assert (found.status_code, found.text) == absent_as(job_id, absent)


WORKER_CALLS: list[tuple[str, object]] = [
    ("/v1/jobs/{}/complete", {"attempt": 1, "result": 1}),
    ("/v1/jobs/{}/fail", {"attempt": 1, "error": "x"}),
]


@pytest.mark.parametrize(("path", "body"), WORKER_CALLS, ids=str)
def test_an_attempt_of_another_key_is_answered_as_one_of_no_job(
    keyed: KeyedServer, path: str, body: object
) -> None:
    client = keyed.clients["other-worker"]
    absent = client.post(path.format(ABSENT), json=body)
    for job_id in [*keyed.bobs, *keyed.alices]:
        found = client.post(path.format(job_id), json=body)
        assert (found.status_code, found.text) == absent_as(job_id, absent)


def test_lists_hold_only_what_the_key_may_see(keyed: KeyedServer) -> None:
    client = keyed.clients["alice"]
    for query in ("", "?limit=1000&include=payload,result,error", f"?cursor={keyed.bobs[-1] + 1}"):
        answer = client.get(f"/v1/jobs{query}")
        assert {job["user_id"] for job in answer.json()["jobs"]} == {"alice"}
        assert MARKER not in answer.text
    for query in ("?user_id=bob", "?user_id=bob&state=done", f"?user_id=bob&cursor={10**9}"):
        assert client.get(f"/v1/jobs{query}").json() == {"jobs": [], "next": None}
    audit = client.get("/v1/audit?limit=1000").json()["events"]
    assert {event["user_id"] for event in audit} == {"alice"}
    queries = ("user_id=bob", f"job_id={keyed.bobs[0]}", "by=bob", "type=KeyCreated", "by=admin")
    for query in queries:
        assert client.get(f"/v1/audit?{query}").json()["events"] == []


def test_statistics_count_only_what_the_key_may_see(keyed: KeyedServer) -> None:
    client = keyed.clients["alice"]
    own, every = client.get("/v1/stats"), keyed.clients["reader"].get("/v1/stats")
    listed = client.get("/v1/jobs?limit=1000").json()["jobs"]
    assert own.json()["total"] == len(listed) < every.json()["total"]
    assert {turn["user_id"] for turn in own.json()["line"]["next"]} <= {"alice"}
    assert "bob" in every.text
    assert "bob" not in own.text
    assert client.get("/v1/stats?as_of=10").status_code == 403
    legacy = client.get("/jobs/dashboard")
    assert MARKER not in legacy.text
    assert legacy.json()["stats"]["total_jobs"] == len(listed)


@pytest.mark.one_database
@pytest.mark.parametrize("query", ["", "&user_id=bob", "&by=bob", "&type=JobSubmitted"])
def test_the_stream_has_only_what_the_key_may_see(keyed: KeyedServer, query: str) -> None:
    keyed.submit("alice", ALICE, f"last of {query}")
    text = ""
    with keyed.clients["alice"].stream("GET", f"/v1/stream?after=0{query}") as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            text += line
            if ": still here" in line or f"last of {query}" in text or len(text) > 20_000:
                break
            if line.startswith("data: ") and json.loads(line[6:])["job_id"] == keyed.alices[-1]:
                break
    assert MARKER not in text
    assert '"user_id":"bob"' not in text


def test_limits_of_others_are_refused(keyed: KeyedServer) -> None:
    client = keyed.clients["alice"]
    assert client.get("/v1/limits/alice").status_code == 200
    for user in ("bob", "nobody"):
        assert client.get(f"/v1/limits/{user}").status_code == 403
    assert client.get("/v1/limits").status_code == 403


def test_a_submission_for_another_user_shows_nothing_of_that_user(keyed: KeyedServer) -> None:
    client = keyed.clients["alice"]
    body = {"user_id": "bob", "kind": "other", "payload": f"{MARKER}-payload-0"}
    body["idempotency_key"] = f"{MARKER}-{MARKER}-payload-0-key"
    single = client.post("/v1/jobs", json=body)
    fresh = client.post("/v1/jobs", json=body | {"idempotency_key": "fresh"})
    assert single.status_code == 403
    assert single.json() == fresh.json()
    assert str(keyed.bobs[0]) not in single.text
    own = {"user_id": "alice", "kind": "echo", "payload": "in a batch"}
    batch = client.post("/v1/jobs/batch", json={"jobs": [own, body]}).json()["jobs"]
    assert [one["status"] for one in batch] == [202, 403]
    assert "job" not in batch[1]
    legacy = client.post("/jobs/submit_job", json={"user_id": "bob", "payload": "x"})
    assert legacy.status_code == 403


def test_a_window_of_another_user_that_is_used_up_is_not_shown(keyed: KeyedServer) -> None:
    operator = keyed.clients["operator"]
    assert operator.put("/v1/limits/full", json={"limit": 0}).status_code == 200
    body = {"user_id": "full", "kind": "echo", "payload": 1}
    assert operator.post("/v1/jobs", json=body).status_code == 429
    assert operator.post("/v1/jobs", json=body).status_code == 429  # by the refusal cache
    assert keyed.clients["alice"].post("/v1/jobs", json=body).status_code == 403


def test_bulk_calls_are_refused_and_forms_change_no_job_of_others(keyed: KeyedServer) -> None:
    client, reader = keyed.clients["alice"], keyed.clients["reader"]
    before = [reader.get(f"/v1/jobs/{job_id}").json() for job_id in keyed.bobs]
    assert client.post("/v1/jobs/retry", json={"state": "failed"}).status_code == 403
    for path in ("/jobs/cancel", "/jobs/retry"):
        for job_id in keyed.bobs:
            found, absent = (
                client.post(path, data={"id": str(one)}, headers={"HX-Request": "true"})
                for one in (job_id, ABSENT)
            )
            assert (found.status_code, found.text) == absent_as(job_id, absent)
    for path in ("/fairness", "/limits", "/charts.json", "/audit/state?as_of=1"):
        assert client.get(path).status_code == 403
    assert client.get(f"/jobs/{keyed.bobs[0]}").status_code == 404
    assert [reader.get(f"/v1/jobs/{job_id}").json() for job_id in keyed.bobs] == before


# Workers


def held(keyed: KeyedServer, payload: str, claim_id: str | None = None) -> JobId:
    """Have the key `worker` hold a job, under a name that another worker may use too."""
    job_id = keyed.submit("alice", ALICE, payload)
    claim = ClaimJobs(worker=WorkerId("shared"), max_jobs=1000, kinds=(ECHO,), claim_id=claim_id)
    claimed = keyed.do(by("worker", claim))
    assert isinstance(claimed, Claimed)
    assert job_id in [job.id for job in claimed.jobs]
    return job_id


def test_the_same_worker_name_with_another_key_gives_nothing(keyed: KeyedServer) -> None:
    job_id = held(keyed, "held by worker", claim_id="claim-1")
    other, own = keyed.clients["other-worker"], keyed.clients["worker"]
    one = {"id": job_id, "attempt": 1}
    ended = {"worker": "shared", "jobs": [one | {"result": 1}]}
    assert other.post("/v1/claims/complete", json=ended).json()["jobs"][0]["status"] == 404
    returned = {"worker": "shared", "jobs": [one]}
    assert other.post("/v1/claims/return", json=returned).json()["jobs"][0]["status"] == 404
    beat = other.post("/v1/claims/heartbeat", json={"worker": "shared", "jobs": [one]})
    assert beat.json()["lost"] == [job_id]
    again = {"worker": "shared", "kinds": ["echo"], "claim_id": "claim-1"}
    assert other.post("/v1/claims", json=again).json()["jobs"] == []
    assert job_id in [job["id"] for job in own.post("/v1/claims", json=again).json()["jobs"]]
    beat = own.post("/v1/claims/heartbeat", json={"worker": "shared", "jobs": [one]})
    assert beat.json()["lost"] == []
    done = own.post("/v1/claims/complete", json=ended).json()["jobs"][0]
    assert done["status"] == 200
    events = keyed.clients["alice"].get(f"/v1/jobs/{job_id}/events").json()["events"]
    assert [event["by"] for event in events] == ["alice", "alice", "worker", "worker"]


def test_an_operator_takes_back_what_a_worker_holds(keyed: KeyedServer) -> None:
    job_id = held(keyed, "taken back")
    returned = {"worker": "shared", "jobs": [{"id": job_id, "attempt": 1}]}
    answer = keyed.clients["operator"].post("/v1/claims/return", json=returned)
    assert answer.json()["jobs"][0] == {"id": job_id, "status": 200, "state": "queued"}
    late = keyed.clients["worker"].post(f"/v1/jobs/{job_id}/complete", json={"attempt": 1})
    assert late.status_code == 409


def test_an_operator_takes_back_all_that_a_key_or_a_worker_holds(keyed: KeyedServer) -> None:
    operator = keyed.clients["operator"]
    ids = {held(keyed, f"held {number}") for number in range(3)}
    nothing = operator.post(
        "/v1/claims/take-back", json={"worker": "shared", "key": "other-worker"}
    )
    assert nothing.json() == {"jobs": []}
    assert operator.post("/v1/claims/take-back", json={}).status_code == 400
    taken = operator.post("/v1/claims/take-back", json={"worker": "shared", "key": "worker"})
    assert ids <= set(taken.json()["jobs"])
    for job_id in ids:
        job = operator.get(f"/v1/jobs/{job_id}").json()
        assert (job["state"], job["failures"]) == ("queued", 0)
        events = operator.get(f"/v1/jobs/{job_id}/events").json()["events"]
        assert (events[-1]["type"], events[-1]["by"]) == ("JobRequeued", "operator")


def test_a_worker_for_some_kinds_gets_no_others(keyed: KeyedServer) -> None:
    keyed.do(create_key("some-kinds", Role.WORKER, kinds=(ECHO,)))
    with keyed.client("some-kinds") as client:
        refused = client.post("/v1/claims", json={"worker": "w", "kinds": ["other"]})
        assert (refused.status_code, refused.json()["kinds"]) == (403, ["echo"])
        keyed.submit("alice", ALICE, "some")
        claim = {"worker": "w", "max": 100, "claim_id": "c"}
        claimed = client.post("/v1/claims", json=claim).json()["jobs"]
        assert {job["kind"] for job in claimed} == {"echo"}
        keyed.submit("alice", ALICE, "some more")
        nothing_new = client.post("/v1/claims", json={**claim, "max": 0}).json()["jobs"]
        assert nothing_new == claimed
        assert (
            client.post("/v1/claims", json={**claim, "max": 0, "claim_id": "d"}).json()["jobs"]
            == []
        )


def test_changes_are_bounded_by_the_key(keyed: KeyedServer) -> None:
    keyed.do(create_key("few-changes", users=(ALICE,), changes_max=2))
    with keyed.client("few-changes") as client:
        ids = [keyed.submit("alice", ALICE, f"few {number}") for number in range(3)]
        answers = [client.post(f"/v1/jobs/{job_id}/cancel") for job_id in ids]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["Retry-After"]) <= 60


# Random calls

_IDS = st.integers(0, 80)
_USERS = st.sampled_from(["alice", "bob", "", "alice/", "BOB", "bo"])
_WORDS = st.sampled_from(["done", "failed", "queued", "payload,result,error", "payload", "x"])
_NUMBERS = st.one_of(st.integers(0, 100), st.sampled_from([1000, 10**6, 2**63 - 1, -1]))
_TYPES = st.sampled_from(["JobSubmitted", "JobCompleted", "JobFailed", "KeyCreated"])


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, str, object]:
    path = draw(
        st.one_of(
            st.sampled_from(
                [
                    "/v1/jobs",
                    "/v1/audit",
                    "/v1/stats",
                    "/v1/limits",
                    "/jobs/dashboard",
                    "/metrics",
                    "/jobs",
                    "/audit",
                ]
            ),
            st.builds("/v1/jobs/{}".format, _IDS),
            st.builds("/v1/jobs/{}/events".format, _IDS),
            st.builds("/v1/jobs/{}/explain".format, _IDS),
            st.builds("/v1/jobs/{}/cancel".format, _IDS),
            st.builds("/v1/jobs/{}/retry".format, _IDS),
            st.builds("/v1/jobs/{}/complete".format, _IDS),
            st.builds("/jobs/job_status/{}".format, _IDS),
            st.builds("/jobs/{}".format, _IDS),
            st.builds("/jobs/{}/whole/payload".format, _IDS),
            st.builds("/v1/limits/{}".format, _USERS),
            st.sampled_from(["/v1/claims", "/v1/claims/complete", "/v1/claims/heartbeat"]),
            st.sampled_from(["/v1/jobs/batch", "/v1/jobs/retry", "/jobs/submit_job", "/v1/keys"]),
        )
    )
    known: dict[str, st.SearchStrategy[object]] = {
        "user_id": _USERS,
        "job_id": _IDS,
        "state": _WORDS,
        "include": _WORDS,
        "cursor": _NUMBERS,
        "after": _NUMBERS,
        "limit": _NUMBERS,
        "as_of": _NUMBERS,
        "type": _TYPES,
        "by": st.sampled_from(["alice", "bob", "worker", "admin"]),
    }
    names = draw(st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True))
    query = "&".join(f"{name}={draw(known[name])}" for name in names)
    if draw(st.booleans()):
        return "GET", f"{path}?{query}" if query else path, None
    submission = {"user_id": draw(_USERS), "kind": "other", "payload": draw(_IDS)}
    one = {"id": draw(_IDS), "attempt": draw(st.integers(1, 3))}
    body = draw(
        st.sampled_from(
            [
                submission,
                {"jobs": [submission, {**submission, "user_id": "bob"}]},
                {"worker": "worker-1", "jobs": [one]},
                {"worker": "worker-1", "kinds": ["other"], "claim_id": "c"},
                {"state": "failed", "user_id": "bob"},
                {"attempt": 1, "result": 1},
                {},
            ]
        )
    )
    return "POST", path, body


@pytest.fixture(scope="module")
def call(keyed: KeyedServer) -> Callable[[str, str, object], httpx.Response]:
    client = keyed.clients["alice"]

    def send(method: str, path: str, body: object) -> httpx.Response:
        return client.request(method, path, json=body)

    return send


# The server's threads use `random` while this thread draws.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@hypothesis_settings(
    max_examples=500,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@for_all(asked=calls())
def test_no_call_shows_anything_of_another_user(
    call: Callable[[str, str, object], httpx.Response], asked: tuple[str, str, object]
) -> None:
    answer = call(*asked)
    assert answer.status_code < 500, answer.text
    assert MARKER not in answer.text
    assert MARKER not in str(answer.headers)


# The address that wrong keys come from


def test_wrong_keys_are_limited_by_address_and_valid_ones_are_not(keyed: KeyedServer) -> None:
    with keyed.client("nobody") as client:
        statuses = [client.get("/v1/stats").status_code for _ in range(40)]
        limited = client.get("/v1/stats")
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == limited.status_code == 429
    assert 1 <= int(limited.headers["Retry-After"]) <= 60
    assert keyed.clients["reader"].get("/v1/stats").status_code == 200
