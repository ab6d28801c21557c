"""Servers of one database: each has its name to itself, and all have the same settings."""

import os
import signal
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters.database.database import Database
from adapters.servers.live_servers import live_servers
from domain.language.events import JobRequeued
from tests.e2e.commands.test_cli import Run, failed, run, succeeded
from tests.support.ports import free_port
from tests.support.server import FairlogServer
from tests.support.waiting import wait_until
from tests.support.workers import log_at

__all__ = ["run"]  # a fixture

SLOW = {"user_limit": 1000, "global_limit": 1000, "lease_seconds": 600}
MARIADB = pytest.mark.parametrize("backend", ["mariadb"], indirect=True)


def start_beside(run: Run, database_url: str, **settings: object) -> str:
    """The sentence with which another server `a` ends at once."""
    environment = {f"FAIRLOG_{name.upper()}": str(value) for name, value in settings.items()}
    done = run(
        "serve",
        "--server-id",
        "a",
        "--port",
        free_port(),
        "--workers",
        0,
        FAIRLOG_DATABASE_URL=database_url,
        **environment,
    )
    assert done.returncode == 1, done
    return done.stderr.splitlines()[-1]


def submit_slow_job(server: FairlogServer) -> str:
    fields = {"user_id": "ada", "kind": "sleep", "payload": {"seconds": 300}}
    path = f"/v1/jobs/{server.client.post('/v1/jobs', json=fields).json()['id']}"
    wait_until(lambda: server.client.get(path).json()["state"] == "running", "it runs")
    return path


def requeued(database_url: str) -> int:
    return sum(isinstance(one.event, JobRequeued) for one in log_at(database_url))


@MARIADB
def test_a_name_is_refused_while_its_server_lives(run: Run, database_url: str) -> None:
    with FairlogServer(database_url, workers=1, server_id="a", settings=SLOW) as first:
        submit_slow_job(first)
        sentence = start_beside(run, database_url, **SLOW)
        assert "A server named 'a' is running already" in sentence
        assert "--server-id" in sentence
        environment = {f"FAIRLOG_{name.upper()}": str(value) for name, value in SLOW.items()}
        done = run("recover", "--server-id", "a", FAIRLOG_DATABASE_URL=database_url, **environment)
        assert "A server named 'a' is running already" in done.stderr
        assert done.returncode == 1
        assert requeued(database_url) == 0


@MARIADB
def test_after_a_kill_the_name_is_free_at_once_and_what_ran_is_queued_again(
    database_url: str,
) -> None:
    with FairlogServer(database_url, workers=1, server_id="a", settings=SLOW) as server:
        path = submit_slow_job(server)
        server.kill()
        server.start()
        assert '"event":"waiting_for_lease"' not in server.output.replace(": ", ":")
        assert requeued(database_url) == 1
        wait_until(lambda: server.client.get(path).json()["attempt"] == 2, "it runs again")
        server.restart()  # in order, as in a rolling restart


@MARIADB
def test_where_death_is_not_certain_the_lease_is_waited_for(database_url: str) -> None:
    with FairlogServer(database_url, workers=1, server_id="a", settings=SLOW) as server:
        submit_slow_job(server)
        server.kill()
        move_to_another_machine(database_url)
        server.start()
        assert "waiting_for_lease" in server.output
        assert requeued(database_url) == 1


@MARIADB
def test_a_server_that_was_frozen_for_longer_than_its_lease_ends(database_url: str) -> None:
    with FairlogServer(database_url, workers=1, server_id="a", settings=SLOW) as first:
        submit_slow_job(first)
        os.kill(first.pid, signal.SIGSTOP)
        try:
            with FairlogServer(database_url, workers=1, server_id="a", settings=SLOW) as second:
                assert requeued(database_url) == 1
                os.kill(first.pid, signal.SIGCONT)
                assert first.wait_until_ended() == 1
                assert "A server named 'a' is running already" in first.output
                assert second.client.get("/readyz").status_code == 200
        finally:
            os.kill(first.pid, signal.SIGCONT) if first._process else None


@MARIADB
@pytest.mark.parametrize("setting", [*SLOW, "window_seconds", "timeout_seconds"])
def test_a_setting_that_differs_from_a_live_server_s_is_refused(
    run: Run, database_url: str, setting: str
) -> None:
    with FairlogServer(database_url, server_id="b", settings=SLOW) as first:
        sentence = start_beside(run, database_url, **{**SLOW, setting: 7})
        assert f"FAIRLOG_{setting.upper()} is 7 here and" in sentence
        assert "'b'" in sentence
        first.terminate()


def test_a_command_that_writes_needs_the_settings_of_the_servers(
    run: Run, database_url: str
) -> None:
    named = {**SLOW, "retry_never": "ValueError,LeaseLost"}
    with FairlogServer(database_url, settings=named) as server:
        job = server.client.post(
            "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": 1}
        ).json()["id"]
        erase = ("erase", "--job", job, "--cancel", "--yes")
        line = failed(run(*erase, FAIRLOG_DATABASE_URL=database_url), 1)
        assert "FAIRLOG_USER_LIMIT is 600 here and 1000 at the server" in line
        environment = {f"FAIRLOG_{name.upper()}": str(value) for name, value in named.items()}
        succeeded(run(*erase, FAIRLOG_DATABASE_URL=database_url, **environment))
        server.terminate()
    succeeded(run(*erase, FAIRLOG_DATABASE_URL=database_url))


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_link_to_the_file_leads_to_the_same_lock(
    run: Run, database_url: str, tmp_path: Path
) -> None:
    link = tmp_path / "elsewhere.db"
    with FairlogServer(database_url):
        link.symlink_to(database_url.removeprefix("sqlite:///"))
        line = failed(
            run("serve", "--port", free_port(), FAIRLOG_DATABASE_URL=f"sqlite:///{link}"), 1
        )
        assert "Another server already runs" in line
        line = failed(run("recover", FAIRLOG_DATABASE_URL=f"sqlite:///{link}"), 1)
        assert "Another server already runs" in line


def move_to_another_machine(database_url: str) -> None:
    """Have the rows say that their processes are of a machine that cannot be asked."""
    database = Database(database_url)
    with database.write() as connection:
        for row in connection.execute(sa.select(live_servers)).all():
            about = row.about.replace('"boot":"', '"boot":"another-')
            connection.execute(
                live_servers.update().where(live_servers.c.name == row.name).values(about=about)
            )
    database.close()
