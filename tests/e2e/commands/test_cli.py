"""The real command in a process of its own."""

import csv
import errno
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from click import ClickException
from click.testing import CliRunner, Result
from sqlalchemy import make_url

from adapters.log.tables import log_head
from domain.language.commands import SubmitJob
from domain.language.events import EVENT_TYPES
from domain.language.identifiers import ServerId
from entrypoints.cli.commands import cli
from entrypoints.cli.failure import CHECK_FAILED, WRONG_USE, failure_of
from entrypoints.processes.server import unavailable
from entrypoints.service.fairlog import Fairlog
from projections.following.checkpoints import checkpoints
from projections.following.snapshots import snapshots
from projections.inline.jobs import jobs
from projections.inline.line import users
from tests.support.databases import DatabaseServer
from tests.support.forked import run_forked
from tests.support.history import ALICE, ECHO, Intruder, claim, do, service, service_with_history
from tests.support.mariadb import MariaDB
from tests.support.ports import free_port
from tests.support.pseudo_terminal import PseudoTerminal
from tests.support.server import FairlogServer, without_settings
from tests.support.stories import body
from tests.support.waiting import wait_until

FAIRLOG: Final = Path(sys.executable).with_name("fairlog")
SECONDS_MAX: Final = 60.0

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `fairlog` in an empty folder. Keywords are environment variables."""

    def fairlog(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
        return run_forked(
            list(map(str, arguments)),
            cwd=tmp_path,
            env=without_settings(os.environ) | environment,
            seconds_max=SECONDS_MAX,
        )

    return fairlog


@pytest.fixture
def history(database_url: str) -> Iterator[Fairlog]:
    """A log in which everything happened, and nobody at work on it."""
    with service_with_history(database_url) as (fairlog, _):
        yield fairlog


def failed(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """The one line that a failed command says."""
    assert done.returncode == code, done
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("fairlog: ")
    assert "Traceback" not in line
    return line


def succeeded(done: "subprocess.CompletedProcess[str]") -> str:
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def asked(name: str, *arguments: object, url: str = "", **environment: str) -> Result:
    """Run a command inside this process, which is quicker; an error is kept as an exception."""
    return CliRunner(env={"FAIRLOG_DATABASE_URL": url, **environment}).invoke(
        cli.commands[name],
        list(map(str, arguments)),
        prog_name=f"fairlog {name}",
        standalone_mode=False,
    )


def test_every_command_explains_itself(run: Run) -> None:
    overview = succeeded(run("--help"))
    for name, command in cli.commands.items():
        assert name in overview
        help_text = asked(name, "--help").stdout
        assert f"Usage: fairlog {name}" in help_text
        for parameter in command.params:
            is_option = isinstance(parameter, click.Option)
            assert (parameter.opts[0] if is_option else str(parameter.metavar)) in help_text
    assert succeeded(run("--version")).startswith("fairlog, version ")


def test_the_help_names_every_type_of_event() -> None:
    help_text = asked("audit", "--help").stdout
    assert [name for name in EVENT_TYPES if name not in help_text] == []


def test_without_a_command_the_overview_is_shown(run: Run) -> None:
    done = run()
    assert done.returncode == 2
    assert "Usage: fairlog" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit", "--format", "xml"], "'xml' is not one of"),
        (["nonsense"], "fairlog --help"),
        (["audit", "--limit", "0"], "fairlog audit --help"),
        (["serve", "--host", "0.0.0.0"], "--insecure"),  # noqa: S104  (it is refused)
        (["serve", "--port", "0", "--handlers", "no_such_module"], "no_such_module"),
        (["worker", "--server", "nonsense"], "http://127.0.0.1:8000"),
        (["migrate", "--database-url", "postgresql://somewhere/x"], "mysql+pymysql://"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_to_do(
    run: Run, arguments: list[str], says: str
) -> None:
    assert says in failed(run(*arguments), 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit", "--since", "yesterday"], "2026-01-31T12:00:00Z"),
        (["audit", "--since", "2026-01-31T12:00:00"], "offset"),
        (["audit", "--type", "Nothing"], "JobSubmitted"),
        (["audit", "--user", ""], "1 to 255 bytes"),
        (["audit", "--job", "0"], "from 1 to"),
        (["verify", "--from", "3"], "or neither"),
        (["verify", "--from", "3", "--hash", "00"], "64 hexadecimal digits"),
        (["verify", "--from", "3", "--hash", "00" * 32], "--chain-only"),
        (["verify", "--chain-only", "--repair"], "--repair cannot be combined"),
        (["serve", "--host", "example.com"], "--insecure"),
        (["serve", "--host", "::"], "--insecure"),
        (["serve", "--port", "70000"], "0<=x<=65535"),
        (["worker"], "--server"),
    ],
)
def test_what_is_wrong_with_an_argument_is_said(arguments: list[str], says: str) -> None:
    error = asked(*arguments).exception
    assert isinstance(error, Exception)
    failure = failure_of(error)
    message = error.format_message() if isinstance(error, ClickException) else str(failure)
    assert says in message
    assert isinstance(error, ClickException) or failure.exit_code == WRONG_USE


@pytest.mark.parametrize(
    "environment",
    [{"FAIRLOG_WINDOW_SECONDS": "0"}, {"FAIRLOG_DATABASE_URL": "mysql://user:sekret@host:x/name"}],
)
def test_a_wrong_setting_is_named(run: Run, environment: dict[str, str]) -> None:
    line = failed(run("migrate", **environment), 2)
    assert next(iter(environment)) in line
    assert "sekret" not in line


def test_settings_come_from_a_file_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fairlog.toml").write_text('database_url = "sqlite:///from_file.db"')
    succeeded(run("migrate"))
    assert (tmp_path / "from_file.db").exists()
    (tmp_path / "fairlog.toml").write_text("window_second = 1")
    assert "did you mean window_seconds" in failed(run("migrate"), 2)


def test_a_password_on_the_command_line_is_taken_with_a_warning(
    run: Run, mariadb: DatabaseServer
) -> None:
    url = mariadb.create_database()
    done = run("migrate", "--database-url", url)
    assert done.returncode == 0
    assert done.stderr.startswith("Warning: ")
    assert (make_url(url).password or "") not in done.stderr.replace("fairlog.toml", "")
    assert succeeded(run("verify", FAIRLOG_DATABASE_URL=url)).startswith("Clean: 0 events.")
    mariadb.drop_database(url)


@pytest.mark.parametrize("password", ["pässwört", "пароль €"])
def test_a_password_may_have_any_characters(
    run: Run, private_mariadb: MariaDB, password: str
) -> None:
    url = make_url(private_mariadb.create_database())
    with private_mariadb.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE USER 'any'@'127.0.0.1' IDENTIFIED BY %s", [password])
        cursor.execute(f"GRANT ALL ON {url.database}.* TO 'any'@'127.0.0.1'")
    ours = url.set(username="any", password=password)
    succeeded(run("migrate", FAIRLOG_DATABASE_URL=ours.render_as_string(hide_password=False)))
    asked = url.set(username="any", password=None).update_query_dict({"password": password})
    succeeded(run("migrate", FAIRLOG_DATABASE_URL=asked.render_as_string(hide_password=False)))
    wrong = ours.set(password=password + "ж").render_as_string(hide_password=False)
    for command in (["doctor"], ["serve", "--port", "0"]):
        line = failed(run(*command, FAIRLOG_DATABASE_URL=wrong), 1)
        assert "refuses the account or its password" in line
        assert password not in line


@pytest.mark.parametrize("command", [["migrate"], ["verify"], ["serve", "--port", "0"]], ids=str)
def test_a_wrong_password_is_one_line_without_it(
    run: Run, mariadb: DatabaseServer, command: list[str]
) -> None:
    url = make_url(mariadb.create_database())
    wrong = url.set(password="sekret").render_as_string(hide_password=False)
    line = failed(run(*command, FAIRLOG_DATABASE_URL=wrong), 1)
    assert "refuses the account or its password" in line
    assert line.endswith(f"The server sees '{url.username}'@'127.0.0.1' (using password: YES).")
    assert "sekret" not in line
    mariadb.drop_database(url.render_as_string(hide_password=False))


def test_an_unknown_database_is_one_line(run: Run, mariadb: DatabaseServer) -> None:
    url = mariadb.create_database()
    mariadb.drop_database(url)
    line = failed(run("migrate", FAIRLOG_DATABASE_URL=url), 1)
    assert "does not exist" in line
    assert "CREATE DATABASE" in line


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid"])
def test_a_host_that_does_not_answer_is_one_line(run: Run, host: str) -> None:
    line = failed(run("doctor", FAIRLOG_DATABASE_URL=f"mysql://user:sekret@{host}/name"), 1)
    assert "does not answer" in line
    assert host in line
    assert "sekret" not in line


def test_a_file_that_is_no_database_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("This is a text and no database. " * 100)
    line = failed(run("migrate", FAIRLOG_DATABASE_URL="sqlite:///text.db"), 1)
    assert "not an SQLite database" in line
    line = failed(run("migrate", FAIRLOG_DATABASE_URL="sqlite:///no/such/folder/x.db"), 1)
    assert "There is no folder" in line
    assert line.endswith("create it, or name another.")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "is a folder: name a file in it"),
        ("missing/fairlog.db", "There is no folder"),
        ("text", "is not an SQLite database"),
    ],
)
@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["migrate"], ["audit"]], ids=str)
def test_a_wrong_path_is_explained_and_nothing_is_left_there(
    run: Run, tmp_path: Path, command: list[str], path: str, says: str
) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "text").write_text("no database")
    url = f"sqlite:///{tmp_path / 'place' / path}"
    assert says in failed(run(*command, FAIRLOG_DATABASE_URL=url), 1)
    assert [one.name for one in tmp_path.rglob("*")] == ["place", "text"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.EACCES, "may not use port 80: choose one from 1024 on"),
        (errno.EADDRNOTAVAIL, "192.0.2.1 is not an address of this machine"),
        (errno.EADDRINUSE, "stop the program that uses it"),
    ],
)
def test_a_port_that_cannot_be_used_is_explained(code: int, says: str) -> None:
    assert says in unavailable("192.0.2.1", 80, OSError(code, os.strerror(code)))


@pytest.mark.parametrize("command", ["verify", "rebuild", "audit"])
def test_a_log_that_is_not_there_is_to_be_migrated(
    run: Run, database_url: str, command: str
) -> None:
    assert "fairlog migrate" in failed(run(command, FAIRLOG_DATABASE_URL=database_url), 1)


def test_migrate_and_doctor_take_a_database_into_service(run: Run, database_url: str) -> None:
    environment = {"FAIRLOG_DATABASE_URL": database_url}
    assert "jobs, windows, line" in succeeded(run("migrate", **environment))
    assert "rebuilt: nothing" in succeeded(run("migrate", **environment))
    report = succeeded(run("doctor", **environment))
    assert "ok       tables: the log's own are those of this release" in report
    assert "ok       projections: all their tables are there" in report
    assert "error" not in report.replace("errors", "")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "no log of this release"),
        ("INSERT INTO alembic_version VALUES ('9999')", "alembic_version has 2 rows"),
    ],
)
def test_a_changed_number_of_the_schema_is_told_of(
    history: Fairlog, database_url: str, change: str, says: str
) -> None:
    with history.database.write() as connection:
        connection.exec_driver_sql(change)
    told = failure_of(asked("verify", url=database_url).exception)  # type: ignore[arg-type]  # one
    assert (told.exit_code, says in str(told)) == (CHECK_FAILED, True), told


def test_verify_names_what_was_changed_repairs_it_and_doctor_tells_of_it(
    history: Fairlog, database_url: str
) -> None:
    with history.database.write() as connection:
        connection.execute(checkpoints.update().values(position=10**9))
        connection.execute(log_head.update().values(epoch=1))
    found = asked("verify", url=database_url)
    assert found.return_value == CHECK_FAILED
    assert "log_head.epoch" in found.stdout
    assert f"{checkpoints.name} name='merkle'" in found.stdout
    told = asked("doctor", url=database_url)
    assert told.return_value == CHECK_FAILED
    assert "error    bookkeeping:" in told.stdout
    repaired = asked("verify", "--repair", url=database_url)
    assert repaired.exception is None
    assert repaired.stdout.splitlines()[-2].startswith("Clean: ")
    assert "ok       bookkeeping:" in asked("doctor", url=database_url).stdout


def test_doctor_finds_missing_tables_of_projections_and_migrate_mends_them(
    history: Fairlog, database_url: str
) -> None:
    with history.database.write() as connection:
        for table in (jobs, snapshots):
            table.drop(connection)
    done = asked("doctor", url=database_url)
    assert done.return_value == CHECK_FAILED
    assert f"error    projections: no tables {jobs.name}, {snapshots.name}" in done.stdout
    assert "run `fairlog migrate`" in done.stdout
    assert asked("migrate", url=database_url).exception is None
    assert "ok       projections:" in asked("doctor", url=database_url).stdout
    assert asked("verify", url=database_url).stdout.splitlines()[-2].startswith("Clean: ")


def test_a_clean_log_is_told_with_its_head(run: Run, history: Fairlog, database_url: str) -> None:
    last = Intruder(history).rows()[-1]
    output = succeeded(run("verify", FAIRLOG_DATABASE_URL=database_url))
    assert output.splitlines()[-2:] == [
        f"Clean: {last['position']} events.",
        f"position {last['position']}, hash {last['hash'].hex()}",
    ]
    assert all(line.startswith("erased, as the log says: ") for line in output.splitlines()[:-2])
    head = ("--from", last["position"], "--hash", last["hash"].hex())
    output = succeeded(run("verify", "--chain-only", *head, FAIRLOG_DATABASE_URL=database_url))
    assert output.startswith("Clean: 0 events.")


def test_a_log_that_was_tampered_with_is_told_by_position(
    run: Run, history: Fairlog, database_url: str
) -> None:
    intruder = Intruder(history)
    end = intruder.rows()[-1]
    intruder.change(7, data=intruder.row(7)["data"].replace(b'"', b"'", 1))
    done = run("verify", "--repair", FAIRLOG_DATABASE_URL=database_url)
    assert done.returncode == 1
    assert "event 7: its hash is" in done.stdout
    assert "NOT clean" in done.stdout
    intruder.cut_off(end["position"])
    head = ("--from", end["position"], "--hash", end["hash"].hex())
    done = run("verify", "--chain-only", *head, FAIRLOG_DATABASE_URL=database_url)
    assert done.returncode == 1
    assert f"event {end['position']}: the trusted head is not in the log" in done.stdout


def test_a_projection_that_differs_is_repaired(
    run: Run, history: Fairlog, database_url: str
) -> None:
    Intruder(history).run(users.update().where(users.c.user_id == b"alice").values(waiting=99))
    environment = {"FAIRLOG_DATABASE_URL": database_url}
    done = run("verify", **environment)
    assert done.returncode == 1
    assert f"projection line, {users.name} user_id='alice': live waiting=99, from the log" in (
        done.stdout
    )
    assert "projections that differ: line" in done.stdout
    repaired = succeeded(run("verify", "--repair", **environment))
    assert "Rebuilt: line." in repaired
    assert "Clean: " in repaired


def test_projections_are_rebuilt_by_name_or_all(
    run: Run, history: Fairlog, database_url: str
) -> None:
    environment = {"FAIRLOG_DATABASE_URL": database_url}
    end = len(Intruder(history).rows())
    assert f"all projections from {end} events" in succeeded(run("rebuild", **environment))
    some = ("--projection", "jobs", "--projection", "line")
    assert f"jobs, line from {end} events" in succeeded(run("rebuild", *some, **environment))
    assert "the names are" in failed(run("rebuild", "--projection", "x", **environment), 1)


def test_on_a_terminal_a_rebuild_shows_a_bar(history: Fairlog, database_url: str) -> None:
    assert history
    ours, theirs = pty.openpty()
    terminal = PseudoTerminal(ours)
    with subprocess.Popen(
        [str(FAIRLOG), "rebuild"],
        env=without_settings(os.environ)
        | {"FAIRLOG_DATABASE_URL": database_url, "TERM": "xterm", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        wait_until(lambda: terminal.shows("100%"), "it shows the end", SECONDS_MAX)

        def has_ended() -> bool:
            terminal.read()  # a program whose terminal nobody reads may never end
            return process.poll() is not None

        wait_until(has_ended, "it ends", SECONDS_MAX)
    os.close(ours)
    assert process.returncode == 0
    assert "rebuilding" in terminal.text


def test_the_log_is_audited_in_three_formats(run: Run, history: Fairlog, database_url: str) -> None:
    stored = Intruder(history).rows()
    environment = {"FAIRLOG_DATABASE_URL": database_url}
    lines = succeeded(run("audit", "--all", "--format", "ndjson", **environment)).splitlines()
    rows = list(
        csv.DictReader(
            io.StringIO(succeeded(run("audit", "--all", "--format", "csv", **environment)))
        )
    )
    table = succeeded(run("audit", "--all", **environment)).splitlines()
    assert len(lines) == len(rows) == len(table) - 1 == len(stored)
    for event, line, row, shown in zip(stored, lines, rows, table[1:], strict=True):
        told = json.loads(line)
        assert told["position"] == int(row["position"]) == event["position"]
        assert told["type"] == row["type"] == event["type"]
        assert told["hash"] == row["hash"] == event["hash"].hex()
        assert told["data"] == json.loads(row["data"]) == json.loads(event["data"])
        assert (told["user_id"] or "") == row["user_id"] == (event["user_id"] or b"").decode()
        assert shown.split()[:3] == [str(event["position"]), row["recorded_at"], event["type"]]


def test_conditions_of_an_audit_are_combined(history: Fairlog, database_url: str) -> None:
    stored = Intruder(history).rows()

    def positions(*conditions: object) -> list[int]:
        result = asked("audit", "--format", "ndjson", *conditions, url=database_url)
        assert result.exception is None, result.exception
        return [json.loads(line)["position"] for line in result.stdout.splitlines()]

    bobs = [row["position"] for row in stored if row["user_id"] == b"bob"]
    started = [row["position"] for row in stored if row["type"] == "JobStarted"]
    assert positions("--user", "bob") == bobs
    both = ("--type", "JobStarted", "--type", "LimitChanged")
    assert positions("--user", "bob", *both) == [
        row["position"]
        for row in stored
        if row["user_id"] == b"bob" and row["type"] in {"JobStarted", "LimitChanged"}
    ]
    job = stored[started[0] - 1]["job_id"]
    assert positions("--job", job) == [row["position"] for row in stored if row["job_id"] == job]
    assert positions("--user", "bob", "--after", bobs[2], "--limit", 2) == bobs[3:5]
    later = [row["position"] for row in stored if row["recorded_at"] > stored[0]["recorded_at"]]
    since, until = "2026-01-31T12:00:00.000001Z", "2026-01-31T13:00:01+01:00"
    assert positions("--since", since, "--limit", 1000) == later
    assert positions("--until", until) == list(range(1, later[0]))
    assert positions("--since", since, "--until", until) == []


def test_an_audit_that_goes_on_says_how(run: Run, history: Fairlog, database_url: str) -> None:
    assert history
    done = run("audit", "--after", 0, "--limit", 5, FAIRLOG_DATABASE_URL=database_url)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 6
    assert "--after 5," in done.stderr


def test_an_audit_shows_the_newest_events_by_default_in_log_order(
    history: Fairlog, database_url: str
) -> None:
    end = history.read_now(history.log.position)

    def positions(*conditions: object) -> list[int]:
        result = asked("audit", *conditions, "--format", "ndjson", url=database_url)
        return [json.loads(line)["position"] for line in result.stdout.splitlines()]

    assert positions("--limit", 3) == [end - 2, end - 1, end]
    assert positions("--limit", end) == positions("--all") == list(range(1, end + 1))
    assert positions("--after", 0, "--limit", 3) == [1, 2, 3]
    started = positions("--type", "JobStarted", "--all")
    assert positions("--type", "JobStarted", "--limit", 2) == started[-2:]
    shown = asked("audit", "--limit", 3, url=database_url)
    assert "There are older events" in shown.stderr
    assert "older" not in asked("audit", "--limit", end, url=database_url).stderr


@pytest.mark.parametrize("form", ["table", "ndjson", "csv"])
def test_an_audit_without_a_match_says_so(history: Fairlog, database_url: str, form: str) -> None:
    assert history
    result = asked("audit", "--job", 999, "--format", form, url=database_url)
    assert (result.exception, result.exit_code) == (None, 0)
    assert result.stderr == "No event matches.\n"
    result = asked("audit", "--limit", 1, "--format", form, url=database_url)
    assert "No event matches." not in result.stderr


def test_an_audit_ends_quietly_when_its_reader_has_enough(
    history: Fairlog, database_url: str
) -> None:
    assert history
    environment = without_settings(os.environ) | {"FAIRLOG_DATABASE_URL": database_url}
    process = subprocess.Popen(
        [str(FAIRLOG), "audit", "--all"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=SECONDS_MAX)
    assert errors == b""


def test_recovery_queues_again_what_a_dead_server_ran(run: Run, database_url: str) -> None:
    server = "embedded" if database_url.startswith("sqlite") else "server-1"
    with service(database_url) as (fairlog, _):
        do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body()))
        [job] = claim(fairlog, 1, server=ServerId(server))
    done = run("recover", "--server-id", "server-1", FAIRLOG_DATABASE_URL=database_url)
    assert succeeded(done).splitlines() == [
        f"job {job.id} of alice (echo): queued",
        "1 jobs recovered.",
    ]
    done = run("recover", "--server-id", "server-1", FAIRLOG_DATABASE_URL=database_url)
    assert succeeded(done) == "0 jobs recovered.\n"


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_second_server_and_a_recovery_are_refused_while_a_server_runs(
    run: Run, database_url: str
) -> None:
    environment = {"FAIRLOG_DATABASE_URL": database_url}
    with FairlogServer(database_url) as server:
        assert "Another server" in failed(run("recover", **environment), 1)
        assert "--port" in failed(run("serve", "--port", server.port, **environment), 1)
        line = failed(run("serve", "--port", free_port(), **environment), 1)
        assert "Another server" in line
        server.terminate()


def test_a_server_runs_jobs_and_ends_well_at_a_signal(database_url: str) -> None:
    with FairlogServer(database_url, workers=2) as server:
        job = server.client.post(
            "/v1/jobs", json={"user_id": "alice", "kind": "echo", "payload": {"n": 1}}
        )
        assert job.status_code == 202
        path = f"/v1/jobs/{job.json()['id']}"
        wait_until(lambda: server.client.get(path).json()["state"] == "done", "the job is done")
        server.terminate()
        events = [json.loads(line) for line in server.output.splitlines()]
        names = ["projections_built", "recovered", "worker_started", "listening", "stopped"]
        assert [one["event"] for one in events] == names
        assert events[3]["url"] == server.url
        assert not server.output.count("alice")


def test_a_long_poll_and_a_stream_do_not_keep_a_server_from_ending(database_url: str) -> None:
    with (
        FairlogServer(database_url) as server,
        socket.create_connection(("127.0.0.1", server.port)) as stream,
    ):
        stream.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stream.recv(1000).startswith(b"HTTP/1.1 200")
        server.terminate()


def test_unsafe_settings_are_told_at_the_start(run: Run) -> None:
    with MariaDB(["--innodb-flush-log-at-trx-commit=0"]) as careless:
        url = careless.create_database()
        assert "innodb_flush_log_at_trx_commit is 0" in (
            run("doctor", FAIRLOG_DATABASE_URL=url).stdout
        )
        with FairlogServer(url) as server:
            [warning] = [line for line in server.output.splitlines() if "unsafe" in line]
            assert json.loads(warning)["level"] == "error"
            assert "innodb_flush_log_at_trx_commit" in warning


def test_a_worker_of_its_own_runs_jobs(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "shouting.py").write_text("def shout(payload):\n    return payload.upper()\n")
    with FairlogServer(database_url) as server:
        worker = subprocess.Popen(
            [str(FAIRLOG), "worker", "--server", server.url, "--handlers", "shouting.py"],
            cwd=tmp_path,
            env=without_settings(os.environ),
            stderr=subprocess.PIPE,
        )
        request = {"user_id": "alice", "kind": "shout", "payload": "hello"}
        path = f"/v1/jobs/{server.client.post('/v1/jobs', json=request).json()['id']}"
        wait_until(lambda: server.client.get(path).json()["state"] == "done", "the job is done")
        assert server.client.get(path).json()["result"] == "HELLO"
        worker.send_signal(signal.SIGTERM)
        _, errors = worker.communicate(timeout=SECONDS_MAX)
        assert worker.returncode == 0, errors
