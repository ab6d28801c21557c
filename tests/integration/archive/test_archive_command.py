"""`fairlog archive` and the commands that read what it wrote, as an operator uses them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from entrypoints.cli.commands import cli
from entrypoints.service.fairlog import Fairlog
from tests.support.archived_history import DAY, first_event, follow, live
from tests.support.clock import ManualClock
from tests.support.core import service

Run = Callable[..., Result]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, idempotency_seconds=int(3 * DAY)) as found:
        live(found, clock, days=16, rounds=4)
        follow(found)
        yield found


@pytest.fixture
def run(database_url: str) -> Run:
    """Run a command beside the service, which does not write meanwhile."""

    def run_command(name: str, *arguments: str) -> Result:
        settings = {
            "FAIRLOG_DATABASE_URL": database_url,
            "FAIRLOG_IDEMPOTENCY_SECONDS": str(int(3 * DAY)),
            "FAIRLOG_USER_LIMIT": "1000000000",
            "FAIRLOG_GLOBAL_LIMIT": "1000000000",
        }
        return CliRunner(env=settings).invoke(cli, [name, *arguments])

    return run_command


def test_answers_with_the_archive_are_those_from_before(
    fairlog: Fairlog, run: Run, tmp_path: Path
) -> None:
    with fairlog.database.read() as connection:
        end = fairlog.log.position(connection)
        jobs = fairlog.jobs.newest(connection, None, None, end // 2, 1000)
    questions = [
        ("audit", "--user", "user-3", "--format", "ndjson", "--limit", "1000"),
        ("audit", "--type", "JobFailed", "--format", "ndjson", "--limit", "1000"),
        ("audit", "--job", str(jobs[0].id), "--format", "ndjson"),
        ("audit", "state", "--as-of", str(end // 4), "--format", "json"),
        ("audit", "export", "--format", "ndjson"),
    ]
    before = [run(*question) for question in questions]
    assert [one.exit_code for one in before] == [0] * len(questions), before[0].output
    done = run("archive", "--before", str(end // 2), "--to", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Archived events 1 to ")
    with fairlog.database.read() as connection:
        cut = fairlog.log.cut(connection).position
        assert first_event(connection) == cut + 1
    archive = ("--archive", str(tmp_path))
    for question, told in zip(questions, before, strict=True):
        again = run(*question, *archive)
        assert again.exit_code == 0, again.output
        lines = again.stdout.splitlines()
        assert lines[: len(told.stdout.splitlines())] == told.stdout.splitlines(), question
    clean = run("verify", *archive)
    assert clean.exit_code == 0, clean.output
    assert "The archive is clean" in clean.stdout


@pytest.mark.usefixtures("fairlog")
def test_bad_input_is_answered_with_what_to_do(run: Run, tmp_path: Path) -> None:
    def answer(*arguments: str) -> str:
        result = run("archive", *arguments)
        assert result.exit_code != 0, result.output
        assert "Traceback" not in result.output
        return " ".join(f"{result.output} {result.exception}".split())

    place = ("--to", str(tmp_path))
    assert "either --older-than or --before" in answer(*place)
    assert "does not exist; create it" in answer(
        "--older-than", "30d", "--to", str(tmp_path / "nowhere")
    )
    assert "--older-than 3600s or more" in answer("--older-than", "10s", *place)
    nothing = run("archive", "--older-than", "9000d", *place)
    assert nothing.exit_code == 0
    assert "Nothing to archive" in nothing.stdout
    assert list(tmp_path.iterdir()) == []
