"""`fairlog audit` with its commands, `whatif` and `erase`, as their users run them."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from click.exceptions import UsageError
from click.testing import CliRunner, Result

from adapters.log.tables import bodies as bodies_table
from adapters.log.tables import events
from domain.jobs.job import State
from domain.language.commands import SubmitJob
from domain.language.moments import from_micros
from entrypoints.cli.commands import cli
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases import export
from tests.support import history as told
from tests.support.clock import ManualClock
from tests.support.core import execute_now, saved_rows, service
from tests.support.crowd import crowd
from tests.support.history import ALICE, BOB, ECHO, Intruder
from tests.support.repository import ROOT
from tests.support.server import without_settings
from tests.support.stories import body

pytestmark = pytest.mark.one_database  # what a command says is the same on each

FAIRLOG: Final = Path(sys.executable).with_name("fairlog")

Asked = Callable[..., Result]


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    """A log in which everything happened."""
    with told.service_with_history(database_url) as (fairlog, _):
        yield fairlog


@pytest.fixture
def asked(fairlog: Fairlog, database_url: str) -> Asked:
    """Run a command in this process; an error is kept as an exception."""
    assert fairlog

    def run(name: str, *arguments: object, answer: str | None = None) -> Result:
        return CliRunner(env={"FAIRLOG_DATABASE_URL": database_url}).invoke(
            cli.commands[name],
            list(map(str, arguments)),
            prog_name=f"fairlog {name}",
            standalone_mode=False,
            input=answer,
        )

    return run


def said(result: Result) -> str:
    assert result.exception is None, result.exception
    return result.stdout


def rows(fairlog: Fairlog) -> list[dict[str, Any]]:
    return Intruder.rows(_Looking(fairlog))


class _Looking(Intruder):
    """Write to the log's tables although its triggers are there."""

    def __init__(self, fairlog: Fairlog) -> None:
        self._database = fairlog.database


# State


def test_the_state_of_then_is_printed(fairlog: Fairlog, asked: Asked) -> None:
    end = len(rows(fairlog))
    found = json.loads(said(asked("audit", "state", "--as-of", end, "--format", "json")))
    with saved_rows(fairlog) as connection:
        counts = fairlog.jobs.counts(connection)
    assert found["jobs"] == {state.value: counts[state] for state in State}
    shown = said(asked("audit", "state", "--as-of", end))
    assert f"position {end}, recorded" in shown
    assert "limit of user bob: 3 submissions a window, 2 running at once" in shown
    assert "kind thumb:" in shown
    assert "position 0" in said(asked("audit", "state", "--as-of", "2020-01-01T00:00:00Z"))


def test_jobs_of_then_are_printed(fairlog: Fairlog, asked: Asked) -> None:
    submitted = [row["position"] for row in rows(fairlog) if row["type"] == "JobSubmitted"]
    line = said(asked("audit", "state", "--as-of", submitted[0], "--job", submitted[0]))
    assert line.startswith(
        f"job {submitted[0]} of alice (echo): queued, attempt 0, 0 of at most 3 failed"
    )
    of_user = said(
        asked("audit", "state", "--as-of", submitted[-1], "--user", "bob", "--format", "json")
    )
    jobs = [json.loads(line) for line in of_user.splitlines()]
    assert [job["user_id"] for job in jobs] == ["bob"] * 3
    assert [job["id"] for job in jobs] == sorted((job["id"] for job in jobs), reverse=True)


# Head and proofs


def test_a_head_and_a_proof_go_together(fairlog: Fairlog, asked: Asked, tmp_path: Path) -> None:
    script = ROOT / "docs" / "examples" / "verify_proof.py"
    stored = rows(fairlog)
    kept = said(asked("audit", "head", "--at", 40))
    assert json.loads(kept)["hash"] == stored[39]["hash"].hex()
    files = {
        "head": kept,
        "proof": said(asked("audit", "prove", "--job", _job(stored))),
        "growth": said(asked("audit", "prove", "--consistency", 40)),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    done = subprocess.run(
        [sys.executable, str(script), "proof", "--head", "head", "--consistency", "growth"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert json.loads(said(asked("audit", "head")))["position"] == len(stored)


def _job(stored: list[dict[str, Any]]) -> int:
    return next(int(row["job_id"]) for row in stored if row["type"] == "JobCompleted")


# Export


def test_every_format_has_every_event(fairlog: Fairlog, asked: Asked, tmp_path: Path) -> None:
    stored = rows(fairlog)
    lines = [json.loads(line) for line in said(asked("audit", "export")).splitlines()]
    table = list(csv.DictReader(said(asked("audit", "export", "--format", "csv")).splitlines()))
    file = tmp_path / "log.parquet"
    said(asked("audit", "export", "--output", file))
    parquet = pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist()
    assert len(lines) == len(table) == len(parquet) == len(stored)
    for row, line, record, group in zip(stored, lines, table, parquet, strict=True):
        assert line["position"] == int(record["position"]) == group["position"] == row["position"]
        assert line["data"] == json.loads(record["data"]) == json.loads(group["data"])
        assert line["data"] == json.loads(row["data"])
        assert line["hash"] == record["hash"] == group["hash"] == row["hash"].hex()
        assert (line["job_id"], line["user_id"]) == (group["job_id"], group["user_id"])
        micros = group["recorded_at"].timestamp() * 1_000_000
        assert abs(micros - row["recorded_at"]) < 1
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
def test_bodies_are_exported_and_erased_ones_are_named(
    fairlog: Fairlog, asked: Asked, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "EVENTS_PER_PAGE_WITH_BODIES", 7)
    file = tmp_path / "log"
    said(asked("audit", "export", "--bodies", "--format", form, "--output", file))
    found: list[dict[str, Any]]
    match form:
        case "ndjson":
            found = [json.loads(line) for line in file.read_text().splitlines()]
            shown = {one["position"]: one["body"] for one in found if one["body"] is not None}
        case "csv":
            found = list(csv.DictReader(file.read_text().splitlines()))
            shown = {int(one["position"]): json.loads(one["body"]) for one in found}
        case _:
            found = pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist()
            shown = {one["position"]: json.loads(one["body"]) for one in found}
    with fairlog.database.read() as connection:
        stored = {
            position: json.loads(data)
            for position, data in connection.execute(sa.select(bodies_table))
        }
    assert {position: value for position, value in shown.items() if value is not None} == {
        position: value for position, value in stored.items() if value is not None
    }
    erased = [row for row in rows(fairlog) if row["type"] == "BodiesErased"]
    named = [int(one["position"]) for one in found if str(one["erased"]).lower() == "true"]
    assert named == [row["job_id"] for row in erased]


def test_conditions_and_times_bound_an_export(fairlog: Fairlog, asked: Asked) -> None:
    stored = rows(fairlog)

    def positions(*conditions: object) -> list[int]:
        lines = said(asked("audit", "export", *conditions)).splitlines()
        return [json.loads(line)["position"] for line in lines]

    bobs = [row["position"] for row in stored if row["user_id"] == b"bob"]
    assert positions("--user", "bob") == bobs
    assert positions("--user", "bob", "--after", bobs[3]) == bobs[4:]
    later = [row["position"] for row in stored if row["recorded_at"] > stored[0]["recorded_at"]]
    assert positions("--since", "2026-01-31T12:00:00.000001Z") == later
    assert positions("--until", "2026-01-31T12:00:00.000001Z") == list(range(1, later[0]))
    assert positions("--after", len(stored)) == []


def test_an_export_that_fails_leaves_no_file(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Iterator[list[export.ExportedEvent]]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("entrypoints.cli.export.pages", broken)
    result = asked("audit", "export", "--output", tmp_path / "log.csv")
    assert isinstance(result.exception, OSError)
    assert list(tmp_path.iterdir()) == []


def test_parquet_without_pyarrow_says_what_to_install(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "fairlog[parquet]" in str(asked("audit", "export", "--format", "parquet").exception)


# Follow


def test_follow_prints_what_comes(database_url: str) -> None:
    environment = without_settings(os.environ) | {"FAIRLOG_DATABASE_URL": database_url}
    with service(database_url) as fairlog:
        do_submit(fairlog, 0)
        process = subprocess.Popen(
            [str(FAIRLOG), "audit", "follow", "--type", "JobSubmitted", "--after", "0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            found = [json.loads(process.stdout.readline())["position"]]  # it follows from here
            for number in range(1, 4):
                do_submit(fairlog, number)
                found.append(json.loads(process.stdout.readline())["position"])
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert found == [2, 4, 6, 8]
    assert (process.returncode, errors.strip()) == (130, "")


def do_submit(fairlog: Fairlog, number: int) -> None:
    execute_now(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body(number)))


# What if


def test_what_if_tells_what_other_limits_would_have_made(fairlog: Fairlog, asked: Asked) -> None:
    assert fairlog
    same = json.loads(said(asked("whatif", "--format", "json")))
    assert not same["total"]["is_estimate"]
    assert same["total"]["would_be_admitted"] == same["total"]["admitted"]
    bob = next(one for one in same["users"] if one["user_id"] == "bob")
    assert (bob["admitted"], bob["refused"]) == (3, 3)
    other = json.loads(said(asked("whatif", "--user-limit", 5, "--format", "json")))
    bob = next(one for one in other["users"] if one["user_id"] == "bob")
    assert (bob["would_be_admitted"], bob["would_be_refused"]) == (5, 1)
    table = said(asked("whatif", "--user-limit", 5)).splitlines()
    assert table[0].split()[:4] == ["user", "submissions", "admitted", "refused"]
    assert [line.split()[0] for line in table[1:]] == [
        "eve",
        "bob",
        "alice",
        "càrol",
        "dave",
        "all",
    ]


def test_what_if_over_part_of_a_busy_log_is_exact_with_its_limits(database_url: str) -> None:
    clock = ManualClock()
    with service(database_url, clock=clock, user_limit=100, global_limit=2_000) as fairlog:
        crowd(fairlog, clock, 4_000)
        with fairlog.database.read() as connection:
            query = sa.select(events.c.recorded_at).where(events.c.position == 2_000)
            moment = connection.execute(query).scalar_one()
            decided = connection.execute(
                sa.select(events.c.data, events.c.recorded_at).where(
                    events.c.type == "RateLimitDecided", events.c.recorded_at >= moment
                )
            )
            recorded = [json.loads(data) for data, _ in decided]
        since = f"{from_micros(moment):%Y-%m-%dT%H:%M:%S.%fZ}"
        result = CliRunner(env={"FAIRLOG_DATABASE_URL": database_url}).invoke(
            cli.commands["whatif"], ["--since", since, "--format", "json"], standalone_mode=False
        )
    total = json.loads(said(result))["total"]
    assert total["refused"] == sum(one.get("count", 1) for one in recorded if not one["allowed"])
    # A duplicate is allowed and uses nothing up.
    assert total["admitted"] == sum(one.get("count", 1) for one in recorded if one["allowed"])
    assert total["refused"] > 0
    assert (total["would_be_admitted"], total["is_estimate"]) == (total["admitted"], False)


# Erase


def test_erasing_asks_first_and_says_what_is_left(
    fairlog: Fairlog, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["entrypoints.cli.erase"]  # by its path it is the command
    monkeypatch.setattr(module, "has_terminal", lambda: True)
    with fairlog.database.read() as connection:
        before = connection.execute(sa.select(sa.func.count()).select_from(bodies_table)).scalar()
    result = asked("erase", "--user", BOB, answer="n\n")
    assert type(result.exception).__name__ == "Abort"
    with fairlog.database.read() as connection:
        count = connection.execute(sa.select(sa.func.count()).select_from(bodies_table)).scalar()
    assert count == before
    done = asked("erase", "--user", ALICE, "--cancel", "--yes")
    assert done.exception is None
    assert done.stdout.startswith("Erased ")
    assert "erased, as the log says:" in said(asked("verify"))
    assert asked("erase", "--user", ALICE, "--yes").stdout == "Erased 0 bodies of 0 jobs.\n"
    assert asked("erase").exception is not None
    assert "no job 999" in str(asked("erase", "--job", 999, "--yes").exception)
    unasked = asked("erase", "--job", 999)
    assert "no job 999" in str(unasked.exception)
    assert "permanently?" not in unasked.stderr


def test_bodies_older_than_an_age_are_counted_and_erased(asked: Asked) -> None:
    """The log was told by a clock that is years behind."""
    older = ("erase", "--bodies-older-than", "90d")
    counted = said(asked(*older, "--dry-run"))
    assert re.fullmatch(r"Would erase [1-9]\d* bodies of [1-9]\d* jobs\.\n", counted)
    erased = said(asked(*older, "--yes"))
    assert erased == counted.replace("Would erase", "Erased")
    assert said(asked(*older, "--yes")) == "Erased 0 bodies of 0 jobs.\n"
    for wrong in (("--user", ALICE), ("--cancel",), ()):
        assert isinstance(asked(*older, *wrong).exception, UsageError)
    assert isinstance(asked("erase", "--user", ALICE, "--dry-run").exception, UsageError)
    assert isinstance(asked("erase", "--bodies-older-than", "90").exception, UsageError)


def test_without_a_terminal_erasing_needs_a_yes(asked: Asked) -> None:
    error = asked("erase", "--user", BOB, answer="y\n").exception
    assert isinstance(error, UsageError)
    assert "add --yes" in str(error)


def test_what_was_erased_is_counted_in_words_that_fit(database_url: str) -> None:
    with service(database_url) as fairlog:
        do_submit(fairlog, 0)
        do_submit(fairlog, 1)

        def erase(*arguments: object) -> Result:
            return CliRunner(env={"FAIRLOG_DATABASE_URL": database_url}).invoke(
                cli.commands["erase"], ["--yes", *map(str, arguments)], standalone_mode=False
            )

        left = erase("--job", 2)
        assert left.stdout == "Erased 0 bodies of 0 jobs.\n"
        assert left.stderr.startswith("1 job has not ended and keeps its payload")
        assert erase("--job", 2, "--cancel").stdout == "Erased 1 body of 1 job.\n"
        do_submit(fairlog, 2)
        assert erase("--user", ALICE, "--cancel").stdout == "Erased 2 bodies of 2 jobs.\n"
