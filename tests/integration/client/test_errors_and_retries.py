"""Each error class of the client, and each rule of its retries, against a real server."""

import itertools
import math
import threading
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from adapters.settings import Settings
from domain.language.errors import LogUnavailable
from domain.language.events import Role
from fairlog_client import (
    Conflict,
    Fairlog,
    FairlogError,
    InvalidArguments,
    InvalidRequest,
    KeyNotValid,
    KeyReused,
    NotAllowed,
    NotFound,
    RateLimited,
    Refused,
    Retries,
    ServerFailed,
    ServerUnavailable,
    Submission,
    UnexpectedAnswer,
)
from tests.support.core import execute_now
from tests.support.http_cutter import Cut, HttpCutter
from tests.support.keys import create_key, secret
from tests.support.ports import free_port
from tests.support.server import AppServer
from tests.support.waiting import wait_until

# A client sees no database.
pytestmark = pytest.mark.one_database

NEVER = Retries(total_seconds=0)
SHORT = Retries(total_seconds=3, first_seconds=0.01)
_numbers = itertools.count()


@pytest.fixture
def user() -> str:
    return f"user-{next(_numbers)}"


def jobs_of(server: AppServer, user: str) -> list[Any]:
    jobs: list[Any] = server.client.get("/v1/jobs", params={"user_id": user}).json()["jobs"]
    return jobs


def refusal(client: Any, user: str) -> RateLimited:
    """Submit until the window of the user is used up, and return the refusal."""
    for _ in range(100):
        try:
            client.submit(user_id=user, kind="echo")
        except RateLimited as error:
            return error
    raise AssertionError("nothing was refused")


def test_a_reused_key_names_the_job_that_it_identifies(client: Any, user: str) -> None:
    job = client.submit(user_id=user, kind="echo", payload=1, idempotency_key="k")
    with pytest.raises(KeyReused) as raised:
        client.submit(user_id=user, kind="echo", payload=2, idempotency_key="k")
    assert (raised.value.job_id, raised.value.status) == (job.id, 422)


def test_a_malformed_request_is_refused_with_a_sentence(client: Any, user: str) -> None:
    with pytest.raises(InvalidRequest, match="priority is a whole number from") as raised:
        client.submit(user_id=user, kind="echo", priority=5000)
    assert raised.value.status == 400
    with pytest.raises(InvalidRequest, match="1048576") as raised:
        client.submit(user_id=user, kind="echo", payload="x" * 1_100_000)
    assert raised.value.status == 413


def test_what_json_cannot_hold_is_never_sent(client: Any, user: str, server: AppServer) -> None:
    with pytest.raises(InvalidArguments, match="cannot be sent as JSON"):
        client.submit(user_id=user, kind="echo", payload=object())
    with pytest.raises(InvalidArguments, match="time zone"):
        client.submit(user_id=user, kind="echo", run_at=datetime(2026, 1, 1))  # noqa: DTZ001 (naive)
    with pytest.raises(InvalidArguments, match="without idempotency_key"):
        client.submit(user_id=user, kind="echo", deduplicate=True, idempotency_key="k")
    assert jobs_of(server, user) == []


def test_a_job_that_does_not_exist_is_not_found(client: Any) -> None:
    for call in (client.job, client.cancel, client.retry, client.explain, client.result):
        with pytest.raises(NotFound, match="999999999"):
            call(999_999_999)
    with pytest.raises(NotFound):
        list(client.events(999_999_999))


def test_a_job_that_has_not_ended_cannot_be_retried(client: Any, user: str) -> None:
    job = client.submit(user_id=user, kind="echo")
    with pytest.raises(Conflict, match=str(job.id)) as raised:
        job.retry()
    assert raised.value.status == 409


def test_api_keys_are_sent_and_their_refusals_told_apart(
    database_url: str, client_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AppServer(database_url, Settings()) as server:
        execute_now(server.fairlog, create_key("root", Role.ADMIN))
        execute_now(server.fairlog, create_key("reader", Role.READER))
        with client_class(server.url, secret("root")) as client:
            assert client.submit(user_id="a", kind="echo").state == "queued"
        with client_class(server.url, secret("reader")) as client:
            assert len(list(client.jobs())) == 1
            with pytest.raises(NotAllowed):
                client.submit(user_id="a", kind="echo")
        with client_class(server.url) as client, pytest.raises(KeyNotValid):
            client.submit(user_id="a", kind="echo")
        monkeypatch.setenv("FAIRLOG_SERVER", server.url)
        monkeypatch.setenv("FAIRLOG_KEY", secret("root"))
        with client_class() as client:
            assert client.submit(user_id="a", kind="echo", payload=2).state == "queued"


def test_a_limit_says_which_and_when_to_come_back(
    server: AppServer, client_class: Any, user: str
) -> None:
    with client_class(server.url, retries=NEVER) as client:
        client.set_limits(user, limit=1)
        error = refusal(client, user)
    assert (error.scope, error.limit, error.used, error.window_seconds) == ("user", 1, 1, 2)
    assert 0 < error.retry_after <= 2
    assert error.resets_at is not None
    assert error.resets_at.tzinfo is UTC or error.resets_at.utcoffset() is not None


def test_a_submission_over_a_limit_is_sent_again_in_the_next_window(
    server: AppServer, client_class: Any, user: str
) -> None:
    with client_class(server.url, retries=Retries(total_seconds=60)) as client:
        client.set_limits(user, limit=1)
        ids = {client.submit(user_id=user, kind="echo").id for _ in range(3)}
    assert len(ids) == 3


def test_a_submission_is_not_kept_waiting_longer_than_its_retries_allow(
    server: AppServer, client_class: Any, user: str
) -> None:
    with client_class(server.url, retries=Retries(total_seconds=0.5)) as client:
        client.set_limits(user, limit=1)
        refusal(client, user)


def test_a_batch_sends_again_only_what_was_over_a_limit(
    server: AppServer, client_class: Any, user: str
) -> None:
    with client_class(server.url, retries=Retries(total_seconds=60)) as client:
        client.set_limits(user, limit=2)
        submissions = [Submission(user_id=user, kind="echo", payload=one) for one in range(5)]
        submissions.insert(2, Submission(user_id=user, kind="echo", priority=5000))
        outcomes = list(client.submit_many(submissions))
    assert isinstance(outcomes[2], InvalidRequest)
    jobs = [one for one in outcomes if not isinstance(one, FairlogError)]
    assert [job.payload for job in jobs] == list(range(5))
    assert len(jobs_of(server, user)) == 5


def test_a_batch_gives_up_when_its_retries_are_used_up(
    server: AppServer, client_class: Any, user: str
) -> None:
    with client_class(server.url, retries=NEVER) as client:
        client.set_limits(user, limit=2)
        submissions = [Submission(user_id=user, kind="echo", payload=one) for one in range(9)]
        refused = [one for one in client.submit_many(submissions) if isinstance(one, RateLimited)]
    assert refused
    assert all(one.retry_after > 0 for one in refused)


@pytest.mark.parametrize("cut", Cut)
def test_a_submission_that_is_lost_is_sent_again_and_accepted_once(
    server: AppServer, cutter: HttpCutter, client_class: Any, user: str, cut: Cut
) -> None:
    with client_class(cutter.url, retries=SHORT) as client:
        cutter.cut(cut, cut)
        job = client.submit(user_id=user, kind="echo")
        assert [one["id"] for one in jobs_of(server, user)] == [job.id]
        assert cutter.requests == 3
        cutter.cut(cut)
        outcomes = list(client.submit_many([Submission(user_id=user, kind="echo")] * 3))
    assert len({one.id for one in outcomes}) == 3
    assert len(jobs_of(server, user)) == 4


@pytest.mark.parametrize("cut", Cut)
def test_reads_are_sent_again(
    cutter: HttpCutter, client_class: Any, client: Any, user: str, cut: Cut
) -> None:
    job = client.submit(user_id=user, kind="echo")
    with client_class(cutter.url, retries=SHORT) as through_proxy:
        cutter.cut(cut)
        assert through_proxy.job(job.id).id == job.id
        cutter.cut(cut)
        assert [one.id for one in through_proxy.jobs(user_id=user)] == [job.id]


def test_a_retry_that_may_have_been_received_is_not_sent_again(
    cutter: HttpCutter, client_class: Any, client: Any, user: str
) -> None:
    job = client.submit(user_id=user, kind="echo")
    job.cancel()
    with client_class(cutter.url, retries=SHORT) as through_proxy:
        cutter.cut(Cut.AFTER)
        with pytest.raises(ServerUnavailable, match="does not answer"):
            through_proxy.retry(job.id)
    assert cutter.requests == 1
    wait_until(lambda: client.job(job.id).state == "queued", "the server has received it")


def test_a_server_that_cannot_be_reached_is_unavailable(client_class: Any, user: str) -> None:
    began = time.monotonic()
    retries = Retries(total_seconds=0.3, first_seconds=0.05)
    with (
        client_class(f"http://127.0.0.1:{free_port()}", retries=retries) as client,
        pytest.raises(ServerUnavailable, match="does not answer"),
    ):
        client.submit(user_id=user, kind="echo")
    assert time.monotonic() - began > 0.05


def test_a_server_that_comes_back_is_waited_for(
    server: AppServer, client_class: Any, user: str
) -> None:
    cutter = HttpCutter(server.port)  # it listens, and answers nobody before it is entered
    with client_class(cutter.url, timeout=0.3, retries=Retries(total_seconds=60)) as client:
        cutter.cut(Cut.BEFORE, Cut.ANSWER_503)
        with cutter:
            assert client.submit(user_id=user, kind="echo").state == "queued"


def test_a_server_that_does_not_answer_in_time_is_unavailable(client_class: Any, user: str) -> None:
    silent = HttpCutter(0)
    with (
        client_class(silent.url, timeout=0.2, retries=NEVER) as client,
        pytest.raises(ServerUnavailable, match="Timeout"),
    ):
        client.submit(user_id=user, kind="echo")
    silent.__exit__()


def test_503_of_the_server_is_retried(
    server: AppServer, client_class: Any, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = server.fairlog.submit_to_log
    failures = iter([LogUnavailable("The database is away for this test.")])

    async def fail_first(command: Any) -> Any:
        for failure in failures:
            raise failure
        return await submit(command)

    monkeypatch.setattr(server.fairlog, "submit_to_log", fail_first)
    with client_class(server.url, retries=SHORT) as client:
        assert client.submit(user_id=user, kind="echo").state == "queued"


def test_a_fault_of_the_server_is_not_retried(
    server: AppServer, client_class: Any, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    async def fail(_: Any) -> Any:
        nonlocal calls
        calls += 1
        raise RuntimeError("a fault of this test")

    monkeypatch.setattr(server.fairlog, "submit_to_log", fail)
    with client_class(server.url) as client, pytest.raises(ServerFailed) as raised:
        client.submit(user_id=user, kind="echo")
    assert (raised.value.status, calls) == (500, 1)


def test_an_answer_of_something_else_is_told_apart(server: AppServer, client_class: Any) -> None:
    with (
        client_class(f"{server.url}/no/such/path", retries=NEVER) as client,
        pytest.raises(Refused, match="/schema lists the routes"),
    ):
        client.job(1)
    page = threading.Thread(target=(web := HTTPServer(("127.0.0.1", 0), _Page)).serve_forever)
    page.start()
    try:
        with client_class(f"http://127.0.0.1:{web.server_port}") as client:
            with pytest.raises(UnexpectedAnswer, match="Welcome"):
                client.job(1)
            with pytest.raises(UnexpectedAnswer, match="501"):
                client.submit(user_id="a", kind="echo")
    finally:
        web.shutdown()
        page.join()
        web.server_close()


class _Page(BaseHTTPRequestHandler):
    """A web server that answers every GET with a page."""

    def do_GET(self) -> None:
        content = b"<h1>Welcome</h1>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


def test_a_stream_goes_on_where_it_was_cut(
    cutter: HttpCutter, client_class: Any, client: Any, user: str
) -> None:
    ids = [client.submit(user_id=user, kind="echo").id]
    with client_class(cutter.url, retries=SHORT) as through_proxy:
        events = through_proxy.stream(user_id=user, types=["JobSubmitted"], after=0)
        seen = [next(events).job_id]
        for _ in range(3):
            ids.append(client.submit(user_id=user, kind="echo").id)
            cutter.cut(Cut.ANSWER_503)
            cutter.drop_connections()
            seen.append(next(events).job_id)
        events.close()
    assert seen == ids


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000", "ftp://host", "http://", "http://user:word@host", "http://[::1"]
)
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(FairlogError, match="server's address"):
        Fairlog(address)


def test_a_key_that_cannot_be_one_is_refused_without_being_shown() -> None:
    with pytest.raises(FairlogError, match="begins with fl_") as raised:
        Fairlog("http://localhost", "secret with spaces\n")
    assert "secret" not in str(raised.value)


def test_an_authority_that_cannot_be_read_is_named(tmp_path: Any) -> None:
    with pytest.raises(FairlogError, match="cannot be read"):
        Fairlog("https://localhost", ca_file=str(tmp_path / "none.pem"))
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(FairlogError, match="no PEM certificate"):
        Fairlog("https://localhost", ca_file=str(tmp_path / "text.pem"))


def test_pauses_double_have_jitter_and_keep_to_what_the_server_asks() -> None:
    retries = Retries(total_seconds=100, first_seconds=1, seconds_max=8)
    for failures, full in enumerate([1, 2, 4, 8, 8]):
        pauses = {retries.pause(failures, 0, None) for _ in range(50)}
        assert len(pauses) > 1
        assert all(pause is not None and full / 2 <= pause <= full for pause in pauses)
    asked = retries.pause(0, 0, 10)
    assert asked is not None
    assert 10.5 <= asked <= 11
    assert retries.pause(0, 99.9, None) is None
    assert retries.pause(0, 0, 200) is None
    assert NEVER.pause(0, 0, None) is None
    assert math.isfinite(retries.pause(10_000, 0, None) or 0)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"loss": float("nan")}, "payload.loss is NaN"),
        ({"tags": {"a"}}, "payload.tags is of type set"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, "payload.at is of type datetime"),
        ({1: "x"}, "payload has a key of type int"),
    ],
)
def test_a_payload_is_never_changed_on_its_way(
    client: Any, user: str, payload: object, said: str
) -> None:
    with pytest.raises(InvalidArguments, match=said):
        client.submit(user_id=user, kind="echo", payload=payload)
