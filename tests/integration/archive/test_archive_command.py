"""`fairlog archive` and the commands that read what it wrote, as an operator uses them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from domain.jobs.job import State
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


def test_archived_bodies_are_erased_by_the_command(
    fairlog: Fairlog, run: Run, tmp_path: Path
) -> None:
    with fairlog.database.read() as connection:
        end = fairlog.log.position(connection)
        first, second = fairlog.jobs.newest(connection, None, State.FAILED, None, 1000)[-2:]
    assert run("archive", "--before", str(end // 2), "--to", str(tmp_path)).exit_code == 0
    [before] = tmp_path.iterdir()
    archive, job = ("--archive", str(tmp_path)), ("--job", str(first.id))
    refused = run("erase", *job, "--yes")
    assert refused.exit_code != 0
    assert f"Job {first.id} is archived" in str(refused.exception)
    assert "Erase it with --archive DIR" in str(refused.exception)
    (wrong := tmp_path / "wrong").mkdir()
    missing = run("erase", *job, "--yes", "--archive", str(wrong))
    assert f"does not have the segment {before.name}" in str(missing.exception)
    done = run("erase", *job, "--yes", *archive)
    assert done.exit_code == 0, done.output
    assert "Erased 2 bodies of 1 job.\nWrote 1 segment anew, without 2 bodies." in done.stdout
    assert not before.exists()
    again = run("erase", *job, "--yes", *archive)
    assert again.stdout == "Erased 0 bodies of 0 jobs.\n"
    user = run("erase", "--user", second.user_id, "--yes")
    assert "Bodies in the archive stay" in user.stderr
    assert (
        "Wrote 1 segment anew" in run("erase", "--user", second.user_id, "--yes", *archive).stdout
    )
    counted = run("erase", "--bodies-older-than", "1d", "--dry-run", *archive)
    older = run("erase", "--bodies-older-than", "1d", "--yes", *archive)
    assert counted.stdout.replace("Would erase", "Erased") == older.stdout.splitlines()[0] + "\n"
    assert "Erased 0 " not in older.stdout
    unknown = run("erase", "--job", "1", "--yes", *archive)
    assert "no job 1" in str(unknown.exception)
    clean = run("verify", *archive)
    assert clean.exit_code == 0, clean.output
    told = run("audit", *job, "--format", "ndjson", *archive)
    assert '"BodiesErased"' in told.stdout.splitlines()[-1]


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
