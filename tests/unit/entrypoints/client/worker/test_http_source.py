"""A remote worker's treatment of a server's answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
import pytest

from fairlog_client.worker.bodies import encoded
from fairlog_client.worker.http_source import BATCH_BYTES_MAX, RemoteSource
from fairlog_client.worker.job_source import AttemptLost, SourceAway, SourceRefused
from fairlog_client.worker.outcomes import (
    Completed,
    Failed,
    Outcome,
    Returned,
)
from fairlog_client.worker.remote import run_remote_worker
from fairlog_client.worker.runner import LocalExecutor

Answer = Callable[[str, dict[str, Any]], httpx.Response]  # to a path and a body


def ask(answer: Answer, question: Callable[[RemoteSource], Awaitable[Any]]) -> Any:
    def respond(request: httpx.Request) -> httpx.Response:
        body = msgspec.json.decode(request.content)
        assert body.pop("worker") == "w"
        return answer(request.url.path, body)

    async def story() -> Any:
        transport = httpx.MockTransport(respond)
        async with httpx.AsyncClient(base_url="http://server/below", transport=transport) as client:
            return await question(RemoteSource(client, "w"))

    return asyncio.run(story())


async def claim(source: RemoteSource) -> Any:
    return await source.claim(3, ("echo",), 20.0, "c1", 2)


def completed(number: int, result: Any = None) -> Completed:
    body = None if result is None else encoded(result, "result")
    return Completed(job_id=number, attempt=1, result=body)


def problem(status: int, detail: str) -> httpx.Response:
    body = {"title": "t", "status": status, "detail": detail}
    return httpx.Response(
        status, json=body, headers={"Content-Type": "application/problem+json; charset=utf-8"}
    )


def settled(body: dict[str, Any], **by_id: dict[str, Any]) -> httpx.Response:
    jobs = [by_id.get(f"job_{one['id']}", {"status": 200}) for one in body["jobs"]]
    return httpx.Response(200, json={"jobs": jobs})


def test_a_claim_sends_what_it_wants_and_learns_how_long_a_lease_lasts() -> None:
    given = {
        "id": 7,
        "user_id": "ada",
        "kind": "echo",
        "payload": {"a": 10**30},
        "attempt": 2,
        "lease_expires_at": "2026-01-31T12:00:00Z",
        "timeout_seconds": None,
        "new_field": 1,
    }

    def answer(path: str, body: dict[str, Any]) -> httpx.Response:
        assert path == "/below/v1/claims"
        assert body == {
            "max": 3,
            "kinds": ["echo"],
            "wait_seconds": 20.0,
            "claim_id": "c1",
            "begins": 2,
        }
        return httpx.Response(
            200, content=msgspec.json.encode({"jobs": [given], "lease_seconds": 9})
        )

    async def question(source: RemoteSource) -> Any:
        assert source.lease_seconds == 30
        jobs = await claim(source)
        assert source.lease_seconds == 9
        return jobs

    [job] = ask(answer, question)
    assert (job.id, job.attempt, msgspec.json.decode(job.payload)) == (7, 2, {"a": 10**30})


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_server_in_trouble_is_away(status: int) -> None:
    with pytest.raises(SourceAway, match=f"answers {status}: Busy; try again"):
        ask(lambda *_: problem(status, "Busy;\ntry again"), claim)


def test_a_server_that_cannot_be_reached_is_away() -> None:
    def answer(*_: object) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(SourceAway, match=r"http://server/below/? does not answer: ConnectError"):
        ask(answer, claim)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_claim_that_our_server_cannot_read_is_hopeless_and_says_so_in_one_line(
    status: int,
) -> None:
    with pytest.raises(SourceRefused, match=f"answers {status}: kinds has 1 to 1000 entries"):
        ask(lambda *_: problem(status, "kinds has\n1 to 1000 entries."), claim)


# What a proxy, a load balancer or another program answers in place of our server.
OF_OTHERS = [
    httpx.Response(404, text="default backend - 404"),
    httpx.Response(403, text="<html>\n<h1>Forbidden</h1>\x1b"),
    httpx.Response(401, headers={"WWW-Authenticate": "Basic"}),
    httpx.Response(400, text="<html>400 Bad Request</html>"),
    httpx.Response(413, text="<html>413 Request Entity Too Large</html>"),
    httpx.Response(422, json={"detail": "of another program"}),
    httpx.Response(409, json={"status": 409, "detail": "of another program"}),
    httpx.Response(400, content=b"\xff", headers={"Content-Type": "application/problem+json"}),
    httpx.Response(502, text="<html>"),
    httpx.Response(301, headers={"Location": "/"}),
    httpx.Response(204),
    httpx.Response(200, text="<html>maintenance</html>"),
    httpx.Response(200, json=[]),
    problem(404, "There is no resource at this address; /schema lists the routes."),
    problem(403, "This key may not claim."),
    problem(401, "A key is needed."),
]


@pytest.mark.parametrize("answer", OF_OTHERS, ids=lambda one: f"{one.status_code}")
def test_whatever_else_answers_the_worker_asks_again_and_says_in_one_line_what_it_saw(
    answer: httpx.Response,
) -> None:
    with pytest.raises(SourceAway) as caught:
        ask(lambda *_: answer, claim)
    said = str(caught.value)
    assert said.startswith("http://server/below/v1/claims ")
    assert str(answer.status_code) in said or "does not answer as a Fairlog server does" in said
    assert said.isprintable()


@pytest.mark.parametrize(
    "answer", [one for one in OF_OTHERS if one.status_code != 413], ids=lambda one: one.status_code
)
def test_outcomes_are_kept_while_something_else_than_the_server_answers(
    answer: httpx.Response,
) -> None:
    outcomes: list[Outcome] = [completed(1), Returned(job_id=2, attempt=1)]
    answers = ask(lambda *_: answer, lambda source: source.report(outcomes))
    assert all(isinstance(one, SourceAway) for one in answers)


def test_a_result_too_large_for_a_proxy_fails_alone_and_its_neighbours_go_through() -> None:
    def answer(_: str, body: dict[str, Any]) -> httpx.Response:
        if any(one.get("result") == "x" * 100 for one in body["jobs"]):
            return httpx.Response(413, text="<html>")
        return settled(body)

    outcomes = [completed(1), completed(2, "x" * 100), completed(3)]
    answers = ask(answer, lambda source: source.report(outcomes))
    assert (answers[0], answers[2]) == (None, None)
    assert isinstance(answers[1], SourceRefused)
    assert "413" in str(answers[1])


def test_outcomes_of_each_sort_go_to_their_calls_and_are_answered_in_order() -> None:
    calls: list[tuple[str, Any]] = []

    def answer(path: str, body: dict[str, Any]) -> httpx.Response:
        calls.append((path, body["jobs"]))
        return settled(
            body,
            job_2={"status": 409, "detail": "taken"},
            job_4={"status": 503, "detail": "away"},
            job_5={"status": 413, "detail": "large"},
        )

    error = encoded({"message": "m"}, "error")
    outcomes: list[Outcome] = [
        completed(1, {"a": [1]}),
        Returned(job_id=2, attempt=3),
        Failed(job_id=3, attempt=1, error=error, may_retry=False),
        completed(4),
        completed(5, "x"),
    ]
    answers = ask(answer, lambda source: source.report(outcomes))
    assert [type(one) for one in answers] == [
        type(None),
        AttemptLost,
        type(None),
        SourceAway,
        SourceRefused,
    ]
    assert calls == [
        ("/below/v1/claims/return", [{"id": 2, "attempt": 3}]),
        (
            "/below/v1/claims/complete",
            [
                {"id": 1, "attempt": 1, "result": {"a": [1]}},
                {"id": 3, "attempt": 1, "error": {"message": "m"}, "retry": False},
                {"id": 4, "attempt": 1},
                {"id": 5, "attempt": 1, "result": "x"},
            ],
        ),
    ]


def test_an_outcome_that_the_server_cannot_read_does_not_hold_up_the_others() -> None:
    def answer(_: str, body: dict[str, Any]) -> httpx.Response:
        ids = [one["id"] for one in body["jobs"]]
        return problem(400, "unreadable") if 2 in ids else settled(body)

    outcomes = [completed(1), completed(2), completed(3)]
    answers = ask(answer, lambda source: source.report(outcomes))
    assert (answers[0], answers[2]) == (None, None)
    assert isinstance(answers[1], SourceRefused)


def test_large_outcomes_are_sent_in_calls_that_the_server_accepts() -> None:
    sizes: list[int] = []

    def answer(_: str, body: dict[str, Any]) -> httpx.Response:
        sizes.append(sum(len(one["result"]) for one in body["jobs"]))
        return settled(body)

    outcomes = [completed(number, "x" * 1_000_000) for number in range(1, 21)]
    assert ask(answer, lambda source: source.report(outcomes)) == [None] * 20
    assert sum(sizes) == 20_000_000
    assert max(sizes) <= BATCH_BYTES_MAX


def test_a_heartbeat_of_many_jobs_is_sent_in_calls_that_the_server_accepts() -> None:
    def answer(_: str, body: dict[str, Any]) -> httpx.Response:
        assert len(body["jobs"]) <= 1000
        last = body["jobs"][-1]
        assert last.get("started") == (True if last["id"] == 2001 else None)
        lost = {"id": last["id"], "attempt": last["attempt"]}
        return httpx.Response(200, json={"lost": [last["id"]], "lost_attempts": [lost]})

    held = [(number, 1) for number in range(1, 2002)]
    lost = ask(answer, lambda source: source.heartbeat(held, held[-1:]))
    assert lost == [(1000, 1), (2000, 1), (2001, 1)]


@pytest.mark.parametrize(("lease", "waits"), [(3, 1.0), (9, 1.5), (30, 5.0), (600, 15.0)])
@pytest.mark.anyio
async def test_a_heartbeat_without_an_answer_leaves_time_for_another_within_the_lease(
    lease: int, waits: float
) -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/heartbeat"):
            assert request.extensions["timeout"]["read"] == waits
            return httpx.Response(200, json={"lost_attempts": []})
        return httpx.Response(200, json={"jobs": [], "lease_seconds": lease})

    transport = httpx.MockTransport(respond)
    async with httpx.AsyncClient(base_url="http://server", transport=transport) as client:
        source = RemoteSource(client, "w")
        await claim(source)
        assert await source.heartbeat([(1, 1)], ()) == []


def test_a_recall_can_give_nothing_new() -> None:
    def answer(_: str, body: dict[str, Any]) -> httpx.Response:
        assert body == {"max": 1, "kinds": ["c1"], "wait_seconds": 0, "claim_id": "c1", "begins": 0}
        return httpx.Response(200, json={"jobs": []})

    assert ask(answer, lambda source: source.recall("c1")) == []


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://server", "http://", "http://a:b", "http://a b"]
)
def test_what_is_no_server_s_url_is_said_before_anything_starts(url: str) -> None:
    with pytest.raises(SourceRefused, match="is not a server's URL"):
        run_remote_worker(url, LocalExecutor({}), 1)
