"""The event stream over HTTP: resumed by position, read once, and over at shutdown."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from entrypoints.feeds.event_feed import EventFeed
from tests.support.server import AppServer, FairlogServer
from tests.support.waiting import wait_until


@pytest.fixture
def server(database_url: str) -> Iterator[AppServer]:
    with AppServer(database_url) as server:
        yield server


class Listening:
    """Events as they come, in a thread of its own."""

    def __init__(self, response: httpx.Response) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids: list[int] = []
        self.is_over = False
        self._response = response
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def positions(self) -> list[int]:
        return [event["position"] for event in self.events]

    def _read(self) -> None:
        try:
            for line in self._response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self.ids.append(int(value))
                elif name == "data":
                    self.events.append(msgspec.json.decode(value))
        except (httpx.TransportError, httpx.StreamClosed):
            pass
        self.is_over = True


@contextmanager
def listening(url: str, headers: dict[str, str] | None = None, **query: Any) -> Iterator[Listening]:
    with httpx.stream(
        "GET", f"{url}/v1/stream", params=query, headers=headers, timeout=30
    ) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        listener = Listening(response)
        wait_until(lambda: bool(listener.ids), "the stream begins")
        try:
            yield listener
        finally:  # closing alone would not end a connection that the thread reads from
            connection = response.extensions["network_stream"].get_extra_info("socket")
            with suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)


def submit(server: AppServer | FairlogServer, user: str = "alice", count: int = 1) -> None:
    for number in range(count):
        body = {"user_id": user, "kind": "echo", "payload": f"{time.monotonic()}-{number}"}
        assert server.client.post("/v1/jobs", json=body).status_code == 202


def log_of(server: AppServer | FairlogServer, **query: Any) -> list[dict[str, Any]]:
    answer = server.client.get("/v1/audit", params={"limit": 1000, **query}).json()
    events: list[dict[str, Any]] = answer["events"]
    return events


def test_events_come_as_they_are_written(server: AppServer) -> None:
    submit(server)
    with listening(server.url) as listener:
        submit(server, count=3)
        wait_until(lambda: len(listener.events) == 6, "six events come", 2)
        assert listener.events == log_of(server, after=2)


def test_from_a_position_nothing_is_missed_or_doubled(server: AppServer) -> None:
    submit(server, count=10)
    with listening(server.url, after=0) as listener:
        submit(server, count=5)
        wait_until(lambda: len(listener.events) == 30, "all events come", 5)
    with listening(server.url, {"Last-Event-ID": "7"}, after=0) as again:
        wait_until(lambda: len(again.events) == 23, "the rest comes", 5)
    assert listener.events == log_of(server)
    assert again.positions == list(range(8, 31))


def test_a_listener_that_is_behind_the_events_in_memory_reads_the_log(server: AppServer) -> None:
    fairlog = server.fairlog
    fairlog.event_feed = EventFeed(
        fairlog.log_watcher, fairlog._read_events, events_per_page=3, events_kept_max=4
    )
    submit(server, count=10)
    with listening(server.url, after=0) as listener:
        submit(server, count=10)
        wait_until(lambda: len(listener.events) == 40, "all events come", 5)
        assert listener.positions == list(range(1, 41))


def test_only_what_is_asked_for_comes(server: AppServer) -> None:
    submit(server, "alice", 2)
    with (
        listening(server.url, after=0, user_id="bob") as of_bob,
        listening(server.url, after=0, type="JobSubmitted") as of_type,
        listening(server.url, after=0, job_id=2) as of_job,
    ):
        submit(server, "bob")
        wait_until(lambda: len(of_type.events) == 3, "three submissions come", 5)
        wait_until(lambda: len(of_bob.events) == 2, "both of Bob's events come", 5)
        wait_until(lambda: len(of_job.events) == 2, "both events of the job come", 5)
        assert of_bob.events == log_of(server, user_id="bob")
        assert of_type.events == log_of(server, type="JobSubmitted")
        assert of_job.events == log_of(server, job_id=2)


def test_the_log_is_read_once_however_many_listen(server: AppServer) -> None:
    def reads_while(listeners: int) -> int:
        reads: list[str] = []

        def count(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "FROM events" in statement:
                reads.append(statement)

        with ExitStack() as streams:
            heard = [streams.enter_context(listening(server.url)) for _ in range(listeners)]
            sa.event.listen(server.fairlog.database.engine, "before_cursor_execute", count)
            submit(server, count=5)
            wait_until(lambda: all(len(one.events) == 10 for one in heard), "all hear all", 10)
            sa.event.remove(server.fairlog.database.engine, "before_cursor_execute", count)
        return len(reads)

    assert reads_while(20) < 60  # by 10 events; each for itself would read 400 times


def test_who_has_gone_is_forgotten(server: AppServer) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port), 5) as client:
            client.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            wait_until(lambda: server.fairlog.event_feed.listeners == 1, "the client listens", 5)
        wait_until(lambda: server.fairlog.event_feed.listeners == 0, "it is gone", 5)


@pytest.mark.parametrize(
    ("query", "header"), [({"after": -1}, {}), ({"type": "No"}, {}), ({}, {"Last-Event-ID": "x"})]
)
def test_what_cannot_be_meant_is_refused(
    server: AppServer, query: dict[str, str], header: dict[str, str]
) -> None:
    assert server.client.get("/v1/stream", params=query, headers=header).status_code == 400


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_an_open_stream_does_not_keep_the_server_from_ending(database_url: str) -> None:
    with FairlogServer(database_url) as server, listening(server.url) as listener:
        began = time.monotonic()
        server.terminate()
        assert time.monotonic() - began < 3
        wait_until(lambda: listener.is_over, "the stream ends", 2)
