"""The folder in which Fairlog is started holds modules with the names of ours and of Python's."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.database.database import Database
from adapters.settings import Settings
from domain.decisions.answers import Submitted
from domain.language.commands import SubmitJob
from entrypoints.composition import compose_server, prepare
from entrypoints.use_cases.verifying import history_check_in_child
from tests.support.core import service
from tests.support.server import without_settings
from tests.support.stories import ALICE, ECHO, body

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
FAIRLOG = Path(sys.executable).with_name("fairlog")
NAMES = (
    "domain/__init__",
    "adapters/__init__",
    "projections/__init__",
    "entrypoints/__init__",
    "queue",
    "socket",
    "json/__init__",
    "msgspec",
    "sqlalchemy",
    "structlog",
    "sitecustomize",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one, in which each module says that it was imported."""
    for name in NAMES:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise SystemExit('imported {name} of the start folder')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fairlog(*arguments: str, path: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    """Run the command; `path` is what PYTHONPATH holds."""
    environment = without_settings(os.environ) | {"PYTHONPATH": os.pathsep.join(path)}
    return subprocess.run(
        [FAIRLOG, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.usefixtures("folder")
def test_the_writer_process_imports_nothing_from_it(database_url: str) -> None:
    server = compose_server(Settings(database_url=database_url), logs_json=False)
    try:
        prepare(server)
        server.writer.start()
        command = SubmitJob(user_id=ALICE, kind=ECHO, payload=body(1))
        [outcome] = server.writer.execute_all([command])
        assert isinstance(outcome, Submitted)
    finally:
        server.close()


@pytest.mark.usefixtures("folder")
def test_the_second_process_of_a_check_imports_nothing_from_it(database_url: str) -> None:
    with service(database_url):
        pass
    database = Database(database_url)
    with history_check_in_child(database) as part:
        assert [page.position for page in part.pages()][-1:] == [0]
        assert part.stopped_at() is None


@pytest.mark.usefixtures("folder")
def test_the_command_imports_nothing_from_it(database_url: str) -> None:
    done = fairlog("migrate", "--database-url", database_url)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("entries", [[""], ["", "/nowhere"], ["{folder}"]])
@pytest.mark.parametrize("name", ["queue.py", "domain/__init__.py"])
def test_a_folder_on_pythonpath_that_would_replace_ours_is_refused_in_one_line(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    entries: list[str],
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    path = [entry.format(folder=tmp_path) for entry in [*entries, ""]]
    done = fairlog("migrate", "--database-url", database_url, path=path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fairlog: PYTHONPATH has {tmp_path}, where ")
    assert done.stderr.count("\n") == 1


def test_pythonpath_goes_on_giving_modules_to_handlers(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "helping.py").write_text("def help(x): return x\n")
    start = tmp_path / "start"
    start.mkdir()
    (start / "jobs.py").write_text("from helping import help\n\ndef f(x): return 1 / 0\n")
    monkeypatch.chdir(start)
    program = (
        "from fairlog_client.handlers.loading import load_handlers;"
        " print(sorted(load_handlers('jobs')), end='')"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(elsewhere)},
    )
    assert done.stdout == "['echo', 'f', 'fail', 'sleep']"
    assert fairlog("--version", path=[str(elsewhere)]).returncode == 0
    assert fairlog("migrate", "--database-url", database_url).returncode == 0
