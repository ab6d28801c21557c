"""A database with several hosts: another one is used when the one in use fails, and kept."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from adapters.database import database as module
from adapters.database.database import Database
from adapters.doctor import Level
from adapters.settings import Settings
from domain.decisions.answers import ProjectionsSaved, Submitted
from domain.language.commands import SaveProjections
from domain.language.errors import LogUnavailable
from entrypoints.composition import compose
from entrypoints.use_cases.diagnosis import diagnose
from tests.integration.database.test_switch_over import prepared
from tests.support.core import do
from tests.support.core import service as core_service
from tests.support.mariadb import MariaDB
from tests.support.server import AppServer, FairlogServer
from tests.support.stories import submit
from tests.support.waiting import wait_until

NAME = "fairlog_hosts"
SETTINGS = Settings(user_limit=1000, global_limit=10_000)
SECONDS_MAX = 60.0  # each host is tried in turn, for some seconds; usual: 7


@pytest.fixture
def servers() -> Iterator[list[MariaDB]]:
    with MariaDB() as one, MariaDB() as two:
        for server in (one, two):
            with server.connect() as connection, connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {NAME}")
        yield [one, two]


def url_of(servers: Sequence[MariaDB]) -> str:
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"mysql+pymysql://fairlog:fairlog@{hosts}/{NAME}"


@pytest.fixture
def database(servers: list[MariaDB]) -> Iterator[Database]:
    database = Database(url_of(servers))
    yield database
    database.close()


def ports(database: Database) -> tuple[int, int]:
    """The ports that a connection for reading and one for writing lead to."""
    with database.read() as reader, database.write() as writer:
        asked = [one.exec_driver_sql("SELECT @@port").scalar_one() for one in (reader, writer)]
    return (asked[0], asked[1])


def test_the_first_is_used_and_the_next_one_when_it_is_away(
    servers: list[MariaDB], database: Database
) -> None:
    one, two = servers
    assert ports(database) == (one.port, one.port)
    one.kill()
    assert ports(database) == (two.port, two.port)
    one.start()
    assert ports(database) == (two.port, two.port)  # until that one fails
    two.kill()
    assert ports(database) == (one.port, one.port)
    assert database.hosts is not None
    assert (database.hosts.current, database.hosts.switches) == (f"127.0.0.1:{one.port}", 2)
    one.kill()
    with pytest.raises(LogUnavailable, match="does not answer"), database.read():
        pass
    two.start()
    assert ports(database) == (two.port, two.port)


def test_a_host_that_has_become_read_only_is_left_and_reads_leave_it_too(
    servers: list[MariaDB], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_ONLY_CHECK_SECONDS", 0.1)
    one, two = servers

    def reader() -> int:
        with database.read() as connection:
            return int(connection.exec_driver_sql("SELECT @@port").scalar_one())

    assert reader() == one.port
    one.set_read_only()
    wait_until(lambda: reader() == two.port, "reads leave it")
    one.set_read_only(is_read_only=False)
    assert reader() == two.port


def test_a_host_that_lacks_events_is_left_only_for_one_that_can_be_used(
    servers: list[MariaDB], database: Database
) -> None:
    one, two = servers
    assert database.hosts is not None
    assert ports(database) == (one.port, one.port)
    two.kill()
    database.drop_readers(leaves_host=True)
    assert ports(database) == (one.port, one.port)
    assert database.hosts.switches == 0
    two.start()
    database.hosts.leave()
    with database.write() as writer:
        assert writer.exec_driver_sql("SELECT @@port").scalar_one() == one.port  # from the pool
    database.writing_engine.dispose()
    with database.write() as writer:
        assert writer.exec_driver_sql("SELECT @@port").scalar_one() == two.port
    assert ports(database) == (two.port, two.port)


def test_the_writer_follows_when_another_thread_uses_another_host(servers: list[MariaDB]) -> None:
    for server in servers:
        prepared(url_of([server]))
    with core_service(url_of(servers)) as fairlog:
        do(fairlog, SaveProjections(), ProjectionsSaved)  # so it is connected
        assert fairlog.database.hosts is not None
        fairlog.database.hosts.use(f"127.0.0.1:{servers[1].port}", "The test says so.")
        do(fairlog, submit(), Submitted)
    with closing(compose(Settings(database_url=url_of(servers[1:])))) as fairlog:
        assert fairlog.read_now(fairlog.log.position) == 2


def test_where_all_are_read_only_they_are_read(servers: list[MariaDB], database: Database) -> None:
    for server in servers:
        server.set_read_only()
    for _ in range(3):
        with database.read() as reader:
            assert reader.exec_driver_sql("SELECT @@port").scalar_one() == servers[0].port


def test_a_service_goes_on_with_the_next_host_and_says_so(servers: list[MariaDB]) -> None:
    """Two servers with equal tables stand for a primary and its replica."""
    one, two = servers
    for server in servers:
        prepared(url_of([server]))
    with AppServer(url_of(servers), SETTINGS) as service:
        client = service.client
        client.get("/v1/stats").raise_for_status()
        one.set_read_only()
        client.post("/v1/jobs", json={"user_id": "u", "kind": "k", "payload": 2})  # may be refused
        wait_until(
            lambda: (
                client.post("/v1/jobs", json={"user_id": "u", "kind": "k", "payload": 3}).is_success
            ),
            "it writes to the other one",
        )
        name = f"127.0.0.1:{two.port}"
        assert client.get("/readyz").json()["database_host"] == name
        metrics = client.get("/metrics").text
        assert f'fairlog_database_host{{host="{name}"}} 1.0' in metrics
        assert "fairlog_database_host_switches_total 1.0" in metrics
        assert f"The database is used on {name}" in client.get("/").text


@pytest.mark.timeout(300)
def test_the_writer_process_and_its_server_use_one_host_and_no_log_that_lost_events(
    servers: list[MariaDB],
) -> None:
    one, two = servers
    for server in servers:
        prepared(url_of([server]))

    def submitted() -> bool:
        job = {"user_id": "ada", "kind": "echo", "payload": 1}
        answer = service.client.post("/v1/jobs", json=job)
        assert answer.status_code in {202, 503}, answer.text
        return answer.status_code == 202

    with FairlogServer(url_of(servers), settings={"deduplicate": False}) as service:
        one.set_read_only()
        wait_until(submitted, "it writes to the other one", SECONDS_MAX)
        wait_until(
            lambda: service.client.get("/readyz").json()["database_host"].endswith(f":{two.port}"),
            "it reads from that one, too",
            SECONDS_MAX,
        )
        two.set_read_only()
        one.set_read_only(is_read_only=False)  # which has none of the events
        wait_until(
            lambda: "does not have event" in service.client.get("/readyz").text,
            "it tells",
            SECONDS_MAX,
        )
        assert not submitted()
        os.kill(service.writer_pid, signal.SIGKILL)  # the next one knows what this one knew
        wait_until(
            lambda: "does not have event" in service.client.get("/readyz").text,
            "it tells",
            SECONDS_MAX,
        )
        assert not submitted()
        two.set_read_only(is_read_only=False)
        wait_until(submitted, "the events are back", SECONDS_MAX)
        stats = service.client.get("/v1/stats").json
        wait_until(lambda: "total" in stats(), "the server finds them, too", SECONDS_MAX)
        assert stats()["total"] == 2


def test_doctor_names_the_host_in_use(servers: list[MariaDB]) -> None:
    one, two = servers
    for server in servers:
        prepared(url_of([server]))
    with closing(compose(Settings(database_url=url_of(servers)))) as fairlog:
        found = {one.check: one for one in diagnose(fairlog)}["database host"]
        assert (found.level, found.found) == (Level.OK, f"127.0.0.1:{one.port} can be used")
        one.kill()
        found = {one.check: one for one in diagnose(fairlog)}["database host"]
        assert found.level is Level.WARNING
        assert f"127.0.0.1:{one.port} does not answer" in found.found
        assert f"127.0.0.1:{two.port} is used instead" in found.found
