"""Callbacks: the ends of jobs are told to receivers that answer well, badly or not at all."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from adapters.outgoing.signatures import read_secret_key
from adapters.settings import Settings
from domain.language.identifiers import CallbackName
from entrypoints.worker import deliveries
from entrypoints.worker.deliveries import callback_secret
from tests.support.clock import ManualClock
from tests.support.endpoint import (
    Answer,
    Asked,
    Break,
    Endpoint,
    Hang,
    Reply,
    secret_key_file,
)
from tests.support.server import AppServer, audit, claim, problem, submit
from tests.support.waiting import wait_until


class Receiver(Endpoint):
    """Answers with the next of `answers`, and 200 after them; the path /hang is never answered,
    /reset is broken off, and /redirect redirects to loopback. While it is `away`, all break off.
    """

    def __init__(self) -> None:
        super().__init__(self._answer_to)
        self.answers: list[int] = []
        self.away = False

    def _answer_to(self, asked: Asked) -> Reply:
        if self.away:
            return Break()
        match asked.path:
            case "/hang":
                return Hang(Future())
            case "/reset":
                return Break()
            case "/redirect":
                return Answer(302, headers={"Location": "http://127.0.0.1:9/"})
            case _:
                return Answer(self.answers.pop(0) if self.answers else 200)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    file = secret_key_file(tmp_path_factory.mktemp("keys"))
    return Settings(callback_key_file=str(file), callback_allow="127.0.0.1,localhost")


def verified(got: Asked, settings: Settings, name: str = "default", version: int = 1) -> Any:
    key = read_secret_key(str(settings.callback_key_file))
    secret = callback_secret(key, CallbackName(name), version)
    return Webhook(secret).verify(got.body, dict(got.headers))


def finish(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Submit a job, and complete it."""
    submit(client, **fields)
    [job] = claim(client)
    path = f"/v1/jobs/{job['id']}/complete"
    client.post(path, json={"attempt": job["attempt"], "result": {"n": 1}}).raise_for_status()
    return job


def told(client: httpx.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    """The deliveries of a job, as explain names them."""
    reasons = client.get(f"/v1/jobs/{job['id']}/explain").json()["reasons"]
    named = [one["deliveries"] for one in reasons if one["code"] == "callbacks"]
    return [client.get(f"/v1/jobs/{one}").json() for one in (named[0] if named else [])]


def until(client: httpx.Client, job: dict[str, Any], done: Callable[[Any], bool]) -> Any:
    """Wait until all its deliveries are as wanted, and return them."""
    found: list[dict[str, Any]] = []

    def are_done() -> bool:
        found[:] = told(client, job)
        return all(map(done, found))

    try:
        wait_until(are_done, "the deliveries are as wanted")
    except AssertionError as error:
        raise AssertionError(f"{error}: {found}") from error
    return found


def test_the_end_of_a_job_is_told_signed_to_its_url_and_to_endpoints(
    client: httpx.Client, receiver: Receiver, settings: Settings
) -> None:
    body = {"url": f"{receiver.url}/orders", "kinds": ["echo"], "users": ["ada"]}
    set_ = client.put("/v1/callbacks/orders", json=body)
    assert set_.status_code == 200, set_.text
    other = {"url": f"{receiver.url}/other", "kinds": ["sleep"]}
    client.put("/v1/callbacks/other", json=other).raise_for_status()
    job = finish(client, callback={"url": f"{receiver.url}/own?x=1"})
    deliveries_ = until(client, job, lambda one: one["state"] == "done")
    assert {one["user_id"] for one in deliveries_} == {"fairlog.callback/127.0.0.1"}
    assert {one["result"]["status"] for one in deliveries_} == {200}
    got = {asked.path: asked for asked in receiver.asked}
    assert set(got) == {"/orders", "/own?x=1"}
    assert len(receiver.asked) == 2
    event = verified(got["/own?x=1"], settings)
    headers = got["/own?x=1"].headers
    assert headers["content-type"] == "application/cloudevents+json"
    assert (event["specversion"], event["type"]) == ("1.0", "fairlog.job.done")
    assert (event["id"], event["subject"]) == (headers["webhook-id"], str(job["id"]))
    assert event["data"]["id"] == job["id"]
    assert event["data"]["state"] == "done"
    assert "payload" not in event["data"]
    ends = [one for one in audit(client, type="JobCompleted") if one["job_id"] == job["id"]]
    assert event["data"]["position"] == ends[0]["position"]
    assert event["data"]["result_sha256"] == ends[0]["data"]["result_sha256"]
    verified(got["/orders"], settings, "orders")
    with pytest.raises(Exception, match="signature"):
        verified(got["/orders"], settings)
    client.delete("/v1/callbacks/orders").raise_for_status()
    client.delete("/v1/callbacks/other").raise_for_status()
    problem(client.get("/v1/callbacks/orders"), 404)
    before = len(receiver.asked)
    assert told(client, finish(client)) == []
    assert len(receiver.asked) == before


def test_a_receiver_that_fails_is_told_again_the_same(
    client: httpx.Client, receiver: Receiver, settings: Settings, clock: ManualClock
) -> None:
    receiver.answers = [500]
    job = finish(client, callback={"url": f"{receiver.url}/"})
    [delivery] = until(client, job, lambda one: one["failures"] == 1)
    assert delivery["state"] == "scheduled"
    assert "answered 500" in delivery["error"]["message"]
    clock.advance(7)
    until(client, job, lambda one: one["state"] == "done")
    first, second = receiver.asked
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert verified(second, settings)["subject"] == str(job["id"])


def test_a_receiver_that_was_away_for_an_hour_is_told_then(
    client: httpx.Client, receiver: Receiver, settings: Settings, clock: ManualClock
) -> None:
    back_at = clock.now() + timedelta(hours=1)
    receiver.away = True
    job = finish(client, callback={"url": receiver.url})
    failures = count(1)
    while receiver.away:
        failed = next(failures)
        [delivery] = until(client, job, lambda one: one["failures"] == failed)  # noqa: B023 (called at once)
        next_at = datetime.fromisoformat(delivery["run_at"])
        receiver.away = next_at < back_at
        clock.advance((next_at - clock.now()).total_seconds())
    [delivery] = until(client, job, lambda one: one["state"] == "done")
    assert 8 <= delivery["failures"] < delivery["max_attempts"] == 34
    assert len({asked.headers["webhook-id"] for asked in receiver.asked}) == 1
    assert verified(receiver.asked[-1], settings)["subject"] == str(job["id"])


def test_a_rotated_secret_and_the_one_before_it_sign_while_they_overlap(
    client: httpx.Client,
    receiver: Receiver,
    settings: Settings,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliveries, "ENDPOINTS_FRESH_SECONDS", 0.0)
    answer = client.post("/v1/callbacks/default/rotate", json={"overlap_seconds": 60})
    assert answer.status_code == 200, answer.text
    rotated = answer.json()
    assert (rotated["name"], rotated["secret_version"]) == ("default", 2)
    problem(client.get("/v1/callbacks/default"), 404)
    problem(client.post("/v1/callbacks/none/rotate", json={}), 404)
    too_long = client.post("/v1/callbacks/default/rotate", json={"overlap_seconds": 1e9})
    problem(too_long, 400)
    job = finish(client, callback={"url": receiver.url})
    until(client, job, lambda one: one["state"] == "done")
    for version in (1, 2):
        verified(receiver.asked[0], settings, version=version)
    clock.advance(61)
    job = finish(client, payload="later", callback={"url": receiver.url})
    until(client, job, lambda one: one["state"] == "done")
    verified(receiver.asked[1], settings, version=2)
    with pytest.raises(WebhookVerificationError):
        verified(receiver.asked[1], settings, version=1)


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("path", "answers", "state", "says"),
    [
        ("/", (410,), "failed", "answered 410"),
        ("/reset", (), "scheduled", "broke off"),
        ("/redirect", (), "scheduled", "redirect"),
        ("/hang", (), "scheduled", "no complete answer"),
    ],
)
def test_what_came_instead_is_the_error_of_the_delivery(
    client: httpx.Client,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    answers: tuple[int, ...],
    state: str,
    says: str,
) -> None:
    if path == "/hang":
        monkeypatch.setattr(deliveries, "SEND_SECONDS_MAX", 0.5)
    receiver.answers = [*answers]  # the receiver takes them out
    job = finish(client, callback={"url": receiver.url + path})
    [delivery] = until(client, job, lambda one: one["failures"] == 1)
    assert delivery["state"] == state
    assert says in delivery["error"]["message"]


@pytest.mark.one_database
def test_a_fault_of_the_service_fails_the_attempt_and_says_so(
    client: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "ANSWER_BYTES_MAX", None)  # cannot be compared
    job = finish(client, callback={"url": receiver.url})
    [delivery] = until(client, job, lambda one: one["failures"] == 1)
    assert delivery["state"] == "scheduled"
    assert delivery["error"]["type"] == "TypeError"


@pytest.mark.parametrize("url", ["http://[::1]:9/", "http://10.0.0.1/", "http://2130706434/"])
def test_nothing_is_sent_to_an_address_that_is_not_allowed(client: httpx.Client, url: str) -> None:
    job = finish(client, callback={"url": url})
    [delivery] = until(client, job, lambda one: one["failures"] == 1)
    assert delivery["failure"]["reason"] == "error"
    assert delivery["error"]["type"] == "AddressRefused"


def test_a_host_that_hangs_delays_no_other(client: httpx.Client, receiver: Receiver) -> None:
    for _ in range(9):  # more than there are slots
        finish(client, deduplicate=False, callback={"url": f"{receiver.url}/hang"})
    url = receiver.url.replace("127.0.0.1", "localhost")
    job = finish(client, callback={"url": f"{url}/here"})
    until(client, job, lambda one: one["state"] == "done")
    assert [asked.path for asked in receiver.asked].count("/hang") <= 2


@pytest.mark.one_database
@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a.example/",
        "http://",
        "http://u:p@a.example/",
        "http://é.example",
        "//a",
        "x",
        "http://a.example/" + "x" * 2048,
        "http://[::1/",
        "http://a.example:99999/",
    ],
)
def test_a_url_that_cannot_be_is_refused(shared: httpx.Client, url: str) -> None:
    body = {"user_id": "ada", "kind": "echo", "payload": 1, "callback": {"url": url}}
    assert "callback" in problem(shared.post("/v1/jobs", json=body), 400)["detail"]
    problem(shared.put("/v1/callbacks/a", json={"url": url}), 400)


def test_the_kind_and_users_of_callbacks_are_the_service_s_own(
    shared: httpx.Client, receiver: Receiver
) -> None:
    for fields in ({"kind": "fairlog.callback"}, {"user_id": "fairlog.callback/a.example"}):
        body = {"user_id": "ada", "kind": "echo", "payload": 1} | fields
        assert "callbacks" in problem(shared.post("/v1/jobs", json=body), 400)["detail"]
    problem(shared.put("/v1/callbacks/default", json={"url": receiver.url}), 400)


def test_without_a_key_deliveries_wait_and_no_client_gets_them(
    database_url: str, receiver: Receiver, settings: Settings
) -> None:
    with AppServer(database_url) as server:
        job = finish(server.client, callback={"url": receiver.url})
        claimed = {"worker": "w", "max": 9}
        for kinds in (["fairlog.callback"], None):
            answer = server.client.post("/v1/claims", json=claimed | {"kinds": kinds})
            assert answer.json()["jobs"] == []
        [delivery] = told(server.client, job)
        assert delivery["state"] == "queued"
        why = server.client.get(f"/v1/jobs/{delivery['id']}/explain").json()["summary"]
        assert "start one with FAIRLOG_CALLBACK_KEY_FILE" in why
    with AppServer(database_url, settings) as server:  # as after a restart
        until(server.client, job, lambda one: one["state"] == "done")
    assert receiver.asked[0].job["subject"] == str(job["id"])
