"""docs/production.md, "Accounts": with just those rights the service does all of its work."""

import os
import re
import secrets
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from adapters.archive.directory import Archive
from adapters.log.tables import bodies, events, log_head
from adapters.settings import Settings
from domain.decisions.answers import Claimed, JobUpdated, Submitted
from domain.jobs.job import State
from domain.language.commands import ClaimJobs, CompleteJob, SubmitJob
from domain.language.errors import LogUnavailable
from domain.language.identifiers import JobId
from entrypoints.composition import compose, prepare, rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_cuts import cut_before
from entrypoints.use_cases.archived_erasure import erase_archived_job
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.erasure import Erased, erase_job
from entrypoints.use_cases.proofs import Prover
from entrypoints.use_cases.restore import restore
from entrypoints.use_cases.segment_erasure import rewrite_segments
from entrypoints.use_cases.verification import verify_log
from tests.support.archived_history import follow, live
from tests.support.clock import ManualClock
from tests.support.core import do, service
from tests.support.mariadb import MariaDB
from tests.support.repository import ROOT
from tests.support.server import without_settings
from tests.support.stories import ALICE, ECHO, RESULT, WORKER, body

DOCUMENT = (ROOT / "docs" / "production.md").read_text()
SQL_BLOCKS = re.findall(r"```sql\n(.*?)```", DOCUMENT, re.DOTALL)
ARCHIVER = [
    line.replace("'fairlog_archiver'@", "'fairlog'@")
    for line in SQL_BLOCKS[2].splitlines()
    if line.startswith("GRANT")
]


class Accounts:
    """Makes them as the document says, in a database that its owner has migrated."""

    def __init__(self, server: MariaDB, owner_url: str) -> None:
        self._server = server
        self._url = make_url(owner_url)

    def url(self, *more_rights: str) -> str:
        """Connect as an account with more rights than the service's account has."""
        name = f"svc_{secrets.token_hex(4)}"
        self._run([f"CREATE USER '{name}'@'%' IDENTIFIED BY 'secret'"])
        of_the_log, of_projections = SQL_BLOCKS[:2]
        granted = [line for line in of_the_log.splitlines() if line.startswith("GRANT")]
        self._run([self._here(line, name) for line in [*granted, *more_rights]])
        self._run(self._run([self._here(of_projections, name)]))
        return self._url.set(username=name, password="secret").render_as_string(hide_password=False)

    def owner_url(self) -> str:
        """Connect as an account with the rights that the table gives the owner."""
        rights = re.search(r"^\| owner \|.*\| (.*) in the database \|$", DOCUMENT, re.MULTILINE)
        assert rights is not None
        name = f"own_{secrets.token_hex(4)}"
        self._run(
            [
                f"CREATE USER '{name}'@'%' IDENTIFIED BY 'secret'",
                f"GRANT {rights[1]} ON {self._url.database}.* TO '{name}'@'%'",
            ]
        )
        return self._url.set(username=name, password="secret").render_as_string(hide_password=False)

    def _here(self, statement: str, name: str) -> str:
        schema = f"= '{self._url.database}'"
        return (
            statement.replace("fairlog.", f"{self._url.database}.")
            .replace("'fairlog'@", f"'{name}'@")
            .replace("''fairlog''@", f"''{name}''@")
            .replace("= 'fairlog'", schema)
            .rstrip()
            .rstrip(";")
        )

    def _run(self, statements: list[str]) -> list[str]:
        """Return the first column of what the last statement returned."""
        with self._server.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return [str(row[0]) for row in cursor.fetchall()]


@pytest.fixture
def accounts(private_mariadb: MariaDB) -> Accounts:
    url = private_mariadb.create_database()
    with service(url) as fairlog:  # the owner migrates, and everything is there
        do_some_work(fairlog, 0)
    return Accounts(private_mariadb, url)


def do_some_work(fairlog: Fairlog, number: int) -> JobId:
    do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body(number)), Submitted)
    [job] = do(fairlog, ClaimJobs(worker=WORKER, max_jobs=1), Claimed).jobs
    do(fairlog, CompleteJob(job_id=job.id, attempt=job.attempt, result=RESULT), JobUpdated)
    return job.id


def test_the_service_s_account_starts_works_rebuilds_and_verifies(accounts: Accounts) -> None:
    with service(accounts.url()) as fairlog:
        do_some_work(fairlog, 1)
        rebuild_projections(fairlog, [])
        evidence = Prover(fairlog)
        evidence.catch_up()
        assert verify_log(fairlog, print, lambda _done, _total: None).is_clean
        assert prepare(fairlog) == []
        for statement in (
            events.update().values(version=1),
            events.delete(),
            bodies.delete(),
            bodies.update().values(body=b"1"),
            sa.text("TRUNCATE events"),
            log_head.update().values(archived=1),
        ):
            with (
                pytest.raises(LogUnavailable, match="refuses the account"),
                fairlog.database.write() as connection,
            ):
                connection.execute(statement)


def erase(url: str, *arguments: str, debug: bool = False) -> "subprocess.CompletedProcess[str]":
    """Run it with the command of a user."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("fairlog")),
            *(["--debug"] if debug else []),
            "erase",
            "--yes",
            *arguments,
        ],
        env=without_settings(os.environ) | {"FAIRLOG_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done


@pytest.mark.parametrize("arguments", [["--job", "2"], ["--user", ALICE]])
def test_erasing_with_the_service_s_account_names_the_right_it_lacks(
    accounts: Accounts, arguments: list[str]
) -> None:
    [line] = erase(accounts.url(), *arguments).stderr.splitlines()
    assert line.startswith("fairlog: The account lacks DELETE on bodies")


def test_another_right_that_lacks_is_told_without_a_traceback(accounts: Accounts) -> None:
    url = accounts.url(
        "GRANT DELETE ON fairlog.bodies TO 'fairlog'@'%'",
        "REVOKE INSERT ON fairlog.events FROM 'fairlog'@'%'",
    )
    *logged, said = erase(url, "--job", "2").stderr.splitlines()
    assert any("code=1142" in line for line in logged)
    assert said.startswith("fairlog: The account lacks a right in ")
    assert "Traceback" in erase(url, "--job", "2", debug=True).stderr


def test_only_the_eraser_s_account_may_erase(accounts: Accounts) -> None:
    fairlog = compose(
        Settings(database_url=accounts.url("GRANT DELETE ON fairlog.bodies TO 'fairlog'@'%'"))
    )
    fairlog.writer.start()
    try:
        assert erase_job(fairlog, JobId(2), cancel=False) == Erased(jobs=1, bodies=2)
    finally:
        fairlog.close()


def test_the_eraser_s_account_erases_in_segments(private_mariadb: MariaDB, tmp_path: Path) -> None:
    url, clock = private_mariadb.create_database(), ManualClock()
    with service(url, clock=clock) as fairlog:
        live(fairlog, clock, days=8, rounds=3)
        follow(fairlog)
        with fairlog.database.read() as connection:
            job = fairlog.jobs.newest(connection, None, State.FAILED, None, 1000)[-1]
        cut = cut_before(fairlog, clock.now() - timedelta(days=5), None)
        archive(fairlog, Archive(tmp_path), cut, lambda *_: None)
        follow(fairlog)
    eraser = Accounts(private_mariadb, url).url("GRANT DELETE ON fairlog.bodies TO 'fairlog'@'%'")
    done = Erased()
    with closing(compose(Settings(database_url=eraser), clock=clock)) as fairlog:
        fairlog.writer.start()
        erase_archived_job(fairlog, str(tmp_path), job.id, done)
        rewritten = rewrite_segments(fairlog, Archive(tmp_path), lambda *_: None)
    assert done.jobs == rewritten.segments == 1
    assert done.bodies == rewritten.bodies


def test_the_archiver_s_account_archives_and_an_owner_s_restores(
    private_mariadb: MariaDB, tmp_path: Path
) -> None:
    url, clock = private_mariadb.create_database(), ManualClock()
    with service(url, clock=clock) as fairlog:
        live(fairlog, clock, days=8, rounds=3)
        follow(fairlog)
    archiver = Accounts(private_mariadb, url).url(*ARCHIVER)
    with closing(compose(Settings(database_url=archiver), clock=clock)) as fairlog:
        fairlog.writer.start()
        cut = cut_before(fairlog, clock.now() - timedelta(days=5), None)
        done = archive(fairlog, Archive(tmp_path), cut, lambda *_: None)
    new_url = private_mariadb.create_database()
    owner = Accounts(private_mariadb, new_url).owner_url()
    with closing(compose(Settings(database_url=owner), clock=clock)) as fairlog:
        position, _ = restore(fairlog, str(tmp_path), lambda *_: None)
        assert position == done.last
        assert verify_log(fairlog, print, lambda _done, _total: None).is_clean
