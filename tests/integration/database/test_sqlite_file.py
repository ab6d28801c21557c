"""The file of an embedded database is removed, moved or replaced while the service runs."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from adapters.database.database import Database
from adapters.database.sqlite_file import JOURNAL_BYTES_MAX
from adapters.servers.server_lock import ServerLock
from domain.decisions.answers import Submitted
from domain.language.commands import SubmitJob
from domain.language.errors import LogFileReplaced, LogUnavailable
from domain.language.identifiers import JobId
from entrypoints.service.fairlog import Fairlog
from tests.support.core import do, events_in, execute_now, service
from tests.support.server import AppServer, problem, submit
from tests.support.stories import ALICE, ECHO, body
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
SUFFIXES = ("", "-wal", "-shm")


def file_of(url: str) -> Path:
    return Path(make_url(url).database or "")


def beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def remove(url: str) -> None:
    """`rm fairlog.db*`"""
    for suffix in SUFFIXES:
        beside(file_of(url), suffix).unlink(missing_ok=True)


def submitted(fairlog: Fairlog, number: int) -> JobId:
    return do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body(number)), Submitted).job.id


def refused(fairlog: Fairlog, number: int) -> LogFileReplaced:
    with pytest.raises(LogFileReplaced) as caught:
        execute_now(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body(number)))
    return caught.value


@contextmanager
def moved_away(file: Path) -> Iterator[None]:
    elsewhere = file.with_suffix(".elsewhere")
    file.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(file)


def test_nothing_is_accepted_once_the_file_is_removed(database_url: str) -> None:
    with AppServer(database_url) as server:
        submit(server.client)
        remove(database_url)
        for number in range(3):
            answer = server.client.post(
                "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": number}
            )
            assert "is no longer the file" in problem(answer, 503)["detail"]
            assert answer.headers["Retry-After"]
        readiness = server.client.get("/readyz")
        assert readiness.status_code == 503
        assert "is no longer the file" in readiness.json()["reason"]
        problem(server.client.get("/v1/jobs"), 503)
        assert not file_of(database_url).exists()


def test_the_service_goes_on_when_the_file_is_put_back(database_url: str) -> None:
    with service(database_url) as fairlog:
        submitted(fairlog, 1)
        with moved_away(file_of(database_url)):
            assert refused(fairlog, 2).nothing_was_recorded
        submitted(fairlog, 2)
        assert events_in(fairlog) == 4


def test_another_file_in_its_place_is_neither_read_nor_written(database_url: str) -> None:
    other_url = database_url.replace(".db", "-other.db")
    with service(other_url) as other:
        submitted(other, 1)
    with service(database_url) as fairlog:
        submitted(fairlog, 1)
        size = file_of(other_url).stat().st_size
        file_of(other_url).replace(file_of(database_url))
        refused(fairlog, 2)
        with pytest.raises(LogFileReplaced):
            events_in(fairlog)
        assert file_of(database_url).stat().st_size == size


def test_a_file_that_goes_between_a_write_and_its_commit_leaves_no_answer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(database_url) as fairlog:
        submitted(fairlog, 1)
        move_head = fairlog.log.move_head

        def and_remove(*arguments: Any) -> None:
            move_head(*arguments)
            remove(database_url)

        monkeypatch.setattr(fairlog.log, "move_head", and_remove)
        assert not refused(fairlog, 2).nothing_was_recorded


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_write_ahead_log_or_its_index_that_is_removed_alone_stops_writes_and_loses_nothing(
    database_url: str, suffix: str
) -> None:
    with service(database_url) as fairlog:
        submitted(fairlog, 1)
        beside(file_of(database_url), suffix).unlink()
        assert suffix in str(refused(fairlog, 2))
        with suppress(LogUnavailable):
            events_in(fairlog)  # makes it again, and it is another one
        refused(fairlog, 3)
    with service(database_url) as fairlog:
        assert events_in(fairlog) == 2
        submitted(fairlog, 2)


def test_a_link_that_points_elsewhere_is_another_file(database_url: str, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(file_of(database_url))
    with service(f"sqlite:///{link}") as fairlog:
        submitted(fairlog, 1)
        link.unlink()
        link.symlink_to(tmp_path / "nothing.db")
        refused(fairlog, 2)


def test_a_reader_makes_no_file(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(LogUnavailable), database.read():
        pass
    with pytest.raises(LogUnavailable), database.write():
        pass
    assert not file_of(database_url).exists()


def test_the_file_is_the_one_in_the_folder_of_the_start(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler may change the folder of the process."""
    monkeypatch.chdir(file_of(database_url).parent)
    with service(f"sqlite:///{file_of(database_url).name}") as fairlog:
        submitted(fairlog, 1)
        monkeypatch.chdir(tmp_path)
        assert events_in(fairlog) == 2


def test_what_is_made_is_its_owners_alone(database_url: str) -> None:
    umask = os.umask(0)
    try:
        lock = ServerLock(file_of(database_url))
        lock.acquire()
        with service(database_url) as fairlog:
            submitted(fairlog, 1)
            for suffix in (*SUFFIXES, ".lock"):
                path = beside(file_of(database_url), suffix)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        lock.release()
    finally:
        os.umask(umask)


def test_a_file_that_was_there_keeps_its_rights(database_url: str) -> None:
    file_of(database_url).touch()
    file_of(database_url).chmod(0o640)
    with service(database_url) as fairlog:
        submitted(fairlog, 1)
    assert stat.S_IMODE(file_of(database_url).stat().st_mode) == 0o640


def test_a_write_ahead_log_that_a_reader_kept_from_beginning_anew_is_given_back(
    database_url: str,
) -> None:
    journal = beside(file_of(database_url), "-wal")
    with service(database_url) as fairlog:
        with fairlog.database.read() as connection:
            fairlog.log.position(connection)  # from here on it sees the database as it is now
            while journal.stat().st_size <= JOURNAL_BYTES_MAX:
                do(
                    fairlog,
                    SubmitJob(
                        user_id=ALICE,
                        kind=ECHO,
                        payload=body([journal.stat().st_size, "x" * 900_000]),
                    ),
                    Submitted,
                )
                submitted(fairlog, journal.stat().st_size)
            fairlog.database.shrink_journal()
            assert journal.stat().st_size > JOURNAL_BYTES_MAX
        fairlog.projector_runner.start()
        wait_until(lambda: journal.stat().st_size <= JOURNAL_BYTES_MAX, "the disk is given back")
        submitted(fairlog, -1)
