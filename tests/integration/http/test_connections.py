"""Clients hold a bounded share of a server, and a slow client delays only itself."""

import contextlib
import select
import socket
import sqlite3
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from adapters.settings import Settings
from domain.access.keys import ApiKey
from domain.language.identifiers import JobId
from entrypoints.http.protocol import PIPELINED_MAX
from entrypoints.service.views import JobView
from tests.conftest import NewDatabase
from tests.support.server import AppServer, exchange, problem
from tests.support.waiting import wait_until

MIB = 1024 * 1024
CONNECTIONS_MAX = 40
SETTINGS = Settings(
    max_connections=CONNECTIONS_MAX, keep_alive_seconds=1, request_seconds=1, bodies_mib=16
)


@pytest.fixture(scope="module", params=["sqlite"])
def backend(request: pytest.FixtureRequest) -> str:
    """No database has a part in it."""
    return str(request.param)


@pytest.fixture(scope="module")
def server(new_database_url: NewDatabase) -> Iterator[AppServer]:
    with AppServer(new_database_url(), SETTINGS) as server:
        yield server


@contextlib.contextmanager
def connections(server: AppServer, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 30))
            with contextlib.suppress(ConnectionError):  # room was made already
                one.sendall(sent)
            opened.append(one)
        yield opened


def answer_on(connection: socket.socket) -> httpx.Response:
    answer = HTTPResponse(connection)
    answer.begin()
    return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def whole_answer_on(connection: socket.socket) -> httpx.Response | None:
    """Read the answer; None if the server gave up the connection."""
    try:
        return answer_on(connection)
    except (HTTPException, ConnectionError):
        return None


def is_closed(connection: socket.socket) -> bool:
    """Wait for the server's end of it."""
    try:
        while connection.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


def is_alive(server: AppServer) -> bool:
    return httpx.get(f"{server.url}/livez", timeout=10).text == "ok"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /livez?" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"no request at all\r\n\r\n", 400),
    ],
    ids=["a long field", "many fields", "a long address", "no HTTP"],
)
def test_a_head_beyond_the_bounds_is_refused(server: AppServer, head: bytes, status: int) -> None:
    answer = exchange(server.port, head)
    problem(answer, status)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Connection"] == "close"


def test_a_head_that_never_ends_is_read_no_further(server: AppServer) -> None:
    with connections(server, 1, b"GET /livez HTTP/1.1\r\nX: ") as [one]:
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 60 * MIB:
                sent += one.send(b"x" * 65_536)
        assert sent < 60 * MIB or is_closed(one)
    assert is_alive(server)


def test_the_largest_head_is_accepted(server: AppServer) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 98
    assert exchange(server.port, head + b"Y: " + b"y" * 60_000 + b"\r\n\r\n").status_code == 200


def test_a_request_that_does_not_come_in_time_is_given_up(server: AppServer) -> None:
    begun = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    with connections(server, 1, begun) as [one]:
        problem(answer_on(one), 408)
        assert is_closed(one)
    with connections(server, 1, begun[:40]) as [one]:
        problem(answer_on(one), 408)
        assert is_closed(one)


@pytest.mark.parametrize("sent", [b"", b"\r\n"], ids=["nothing", "an empty line"])
def test_a_silent_connection_is_closed(server: AppServer, sent: bytes) -> None:
    with connections(server, 1, sent) as [one]:
        assert is_closed(one)


def test_a_connection_that_rests_between_two_requests_is_closed(server: AppServer) -> None:
    with connections(server, 1, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n") as [one]:
        assert answer_on(one).status_code == 200
        one.sendall(b"\r\n")  # which is no request
        assert is_closed(one)


def test_a_connection_whose_request_was_answered_before_it_had_come_is_closed(
    server: AppServer,
) -> None:
    head = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    with connections(server, 1, head) as [one]:
        assert answer_on(one).status_code == 404
        one.sendall(b"x" * 10)
        assert is_closed(one)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /liv",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["silent", "half a head", "half a body"],
)
def test_others_are_answered_while_very_many_connections_wait(
    new_database_url: NewDatabase, sent: bytes
) -> None:
    patient = Settings(max_connections=CONNECTIONS_MAX, request_seconds=3600)
    with AppServer(new_database_url(), patient) as server:
        with connections(server, 3 * CONNECTIONS_MAX, sent) as opened:
            assert is_alive(server)
            # Those that were open for longest have made room.
            assert all(is_closed(one) for one in opened[:CONNECTIONS_MAX])
        assert is_alive(server)


CLAIM = b'{"worker": "w", "wait_seconds": 20}'
HEAD = b"%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
WAITING = {
    "claims": HEAD % (b"POST /v1/claims", len(CLAIM)) + CLAIM,
    "streams": b"GET /v1/stream?user_id=nobody HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "open dashboards": b"GET /pulse HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("sent", WAITING.values(), ids=WAITING.keys())
def test_clients_that_wait_for_news_make_room_for_others(server: AppServer, sent: bytes) -> None:
    with connections(server, CONNECTIONS_MAX, sent):
        wait_until(lambda: server.connections_waiting == CONNECTIONS_MAX, "all of them wait")
        assert is_alive(server)
        submitted = server.client.post(
            "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": sent.decode()}
        )
        assert submitted.status_code == 202
    wait_until(lambda: server.connections_waiting == 0, "they have gone")


def test_a_connection_is_refused_where_all_others_are_worked_on(
    new_database_url: NewDatabase,
) -> None:
    url = new_database_url()
    job = b'{"user_id": "ada", "kind": "echo", "payload": null}'
    request = HEAD % (b"POST /v1/jobs", len(job))
    with AppServer(url, SETTINGS) as server:
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # nothing is written meanwhile
        with contextlib.closing(other), connections(server, CONNECTIONS_MAX, request + job):
            wait_until(lambda: server.connections_worked_on == CONNECTIONS_MAX, "all are worked on")
            answer = exchange(server.port, b"")
            assert "Too many connections" in problem(answer, 503)["detail"]
            assert answer.headers["Retry-After"] == "1"
        wait_until(lambda: not _is_full(server), "there is room again")


def _is_full(server: AppServer) -> bool:
    try:
        return httpx.get(f"{server.url}/livez", timeout=10).status_code == 503
    except httpx.TransportError:
        return True


def test_bodies_of_all_requests_together_are_bounded(new_database_url: NewDatabase) -> None:
    patient = Settings(request_seconds=3600, bodies_mib=16)
    head = b"POST /v1/jobs/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    begun = head % (16 * MIB) + b" " * (6 * MIB)
    with AppServer(new_database_url(), patient) as server, connections(server, 4, begun) as opened:
        # The first two have made room for the others.
        for one in opened[:2]:
            assert "bodies" in problem(answer_on(one), 503)["detail"]
        submitted = server.client.post(
            "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": "x" * 100_000}
        )
        assert submitted.status_code == 202
        opened[2].close()
        opened[3].sendall(b" " * (10 * MIB))
        problem(answer_on(opened[3]), 400)


def test_an_answer_that_nobody_reads_is_given_up(server: AppServer) -> None:
    job = {"user_id": "ada", "kind": "echo", "payload": "x" * (MIB - 2)}
    assert server.client.post("/v1/jobs", json=job).status_code == 202
    jobs = server.client.get("/v1/jobs").json()["jobs"]
    request = b"GET /v1/jobs/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % jobs[0]["id"]
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", server.port))
        one.sendall(request * 16)
        wait_until(lambda: server.connections_open == 0, "the connection is given up")


def test_answers_that_nobody_reads_are_bounded_together(new_database_url: NewDatabase) -> None:
    patient = Settings(request_seconds=3600, bodies_mib=16)
    with AppServer(new_database_url(), patient, send_buffer_bytes=64 * 1024) as server:
        for number in range(4):
            job = {"user_id": "ada", "kind": "echo", "payload": str(number) * (MIB - 2)}
            assert server.client.post("/v1/jobs", json=job).status_code == 202
        request = b"GET /v1/jobs?include=payload HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.socket()) for _ in range(20)]
            for one in clients:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.connect(("127.0.0.1", server.port))
                one.sendall(request)
            wait_until(
                lambda: len(select.select(clients, [], [], 0)[0]) == len(clients),
                "every request has been answered",
            )
            wait_until(
                lambda: server.connections_open <= 8, "those unread for longest are given up"
            )
            answers = [answer for one in clients if (answer := whole_answer_on(one))]
            assert answers  # of those that read at last
            assert all(len(answer.json()["jobs"]) >= 3 for answer in answers)
        assert is_alive(server)


def test_a_request_that_is_none_leaves_no_line_in_the_log(
    server: AppServer, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        problem(exchange(server.port, b"no request at all\r\n\r\n"), 400)
    assert not caplog.records


@pytest.mark.parametrize("call", ["/v1/jobs", "/v1/jobs/batch", "/v1/claims/complete"])
def test_an_answer_repeats_no_megabytes_of_what_was_sent(server: AppServer, call: str) -> None:
    entry = b'{"%s": 1}' % (b"x" * (2 * MIB))
    one = b'{"worker": "w", "jobs": [%s]}' % entry if call.endswith("complete") else entry
    sent = b'{"jobs": [%s]}' % entry if call.endswith("batch") else one
    answer = server.client.post(call, content=sent, headers={"Content-Type": "application/json"})
    assert "unknown field `xxx" in answer.text
    assert len(answer.content) < 10_000


def test_requests_that_are_sent_ahead_are_answered_in_order(server: AppServer) -> None:
    first = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /v1/limits HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connections(server, 1, first * 3 + last) as [one]:
        received = b""
        while chunk := one.recv(65_536):
            received += chunk
    assert received.count(b"HTTP/1.1 200 OK") == 4
    assert received.index(b"resets_at") > received.rindex(b"ok")


def test_requests_that_are_sent_ahead_without_end_are_read_no_further(server: AppServer) -> None:
    one_request = b"GET /v1/limits HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connections(server, 1, one_request * 1000) as [one]:
        received = b""
        with contextlib.suppress(ConnectionError):  # closed before all was read
            while chunk := one.recv(65_536):
                received += chunk
    assert 0 < received.count(b"HTTP/1.1 200 OK") <= PIPELINED_MAX + 2
    assert is_alive(server)


def test_nothing_more_is_begun_for_a_client_that_does_not_read(
    new_database_url: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = Settings(request_seconds=3600)
    with AppServer(new_database_url(), patient) as server:
        job = {"user_id": "ada", "kind": "echo", "payload": "x" * (MIB - 2)}
        job_id = server.client.post("/v1/jobs", json=job).json()["id"]
        begun = []
        ask = server.fairlog.job

        async def counted(job_id: JobId, seen_by: ApiKey | None) -> JobView:
            begun.append(job_id)
            return await ask(job_id, seen_by)

        monkeypatch.setattr(server.fairlog, "job", counted)
        request = b"GET /v1/jobs/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % job_id
        with connections(server, 1) as [one]:
            one.sendall(request * PIPELINED_MAX)
            wait_until(lambda: server.connections_unread == 1, "nobody reads")
            assert is_alive(server)
            assert 0 < len(begun) < PIPELINED_MAX
            size = 0
            while size < PIPELINED_MAX * MIB:
                received = len(one.recv(MIB))
                assert received
                size += received
        assert len(begun) == PIPELINED_MAX


def test_a_body_in_very_many_pieces_is_put_together_once(
    server: AppServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = []
    take = HttpToolsProtocol.on_body

    def counted(self: HttpToolsProtocol, body: bytes) -> None:
        pieces.append(len(body))
        take(self, body)

    monkeypatch.setattr(HttpToolsProtocol, "on_body", counted)
    text = "".join(map(str, range(10_000)))
    body = b'{"user_id": "ada", "kind": "echo", "payload": "%s"}' % text.encode()
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    answer = exchange(
        server.port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    )
    assert answer.status_code == 202
    assert answer.json()["payload"] == text
    assert sum(pieces) == len(body)
    assert len(pieces) < len(body) / 10


def test_a_bad_request_behind_one_that_is_worked_on_does_not_cut_its_answer(
    server: AppServer,
) -> None:
    sent = b"GET /v1/limits HTTP/1.1\r\nHost: localhost\r\n\r\nno request at all\r\n\r\n"
    with connections(server, 1, sent) as [one]:
        assert answer_on(one).json()["limit"] == 6000
        assert is_closed(one)
