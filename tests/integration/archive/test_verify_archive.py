"""Each thing that can be wrong with an archive is found and named."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner, Result

from adapters.archive.directory import Archive
from adapters.archive.segment_format import FOOTER_KEY
from adapters.log.tables import bodies, events
from domain.language.commands import EraseBodies
from domain.language.identifiers import JobId
from domain.log.segments import Segment
from entrypoints.cli.commands import cli
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_verification import verify_archive
from tests.support import history
from tests.support.archives import write_up_to
from tests.support.clock import ManualClock
from tests.support.core import execute_now, service
from tests.support.crowd import crowd
from tests.support.history import Intruder

Tamper = Callable[[Path, Sequence[Segment]], object]


@pytest.fixture(scope="module")
def log(new_database_url: Any) -> Iterator[tuple[str, Fairlog]]:
    url = new_database_url()
    with history.service_with_history(url) as (fairlog, _):
        yield url, fairlog


@pytest.fixture
def fairlog(log: tuple[str, Fairlog]) -> Fairlog:
    return log[1]


@pytest.fixture
def segments(fairlog: Fairlog, tmp_path: Path) -> Sequence[Segment]:
    return write_up_to(fairlog, Archive(tmp_path), [50, 90, 130])


def findings(fairlog: Fairlog, location: Path) -> list[str]:
    found: list[str] = []
    result = verify_archive(
        fairlog, str(location), lambda one: found.append(str(one)), lambda *_: None
    )
    assert result.findings == len(found)
    return found


def test_an_archive_as_it_was_written_is_clean(
    fairlog: Fairlog, segments: Sequence[Segment], tmp_path: Path
) -> None:
    assert [one.last for one in segments] == [50, 90, 130]
    assert findings(fairlog, tmp_path) == []


def changed_byte(folder: Path, segments: Sequence[Segment]) -> None:
    file = folder / segments[1].name
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def missing(folder: Path, segments: Sequence[Segment]) -> None:
    (folder / segments[1].name).unlink()


def swapped(folder: Path, segments: Sequence[Segment]) -> None:
    one, two = (folder / segment.name for segment in segments[:2])
    one.rename(folder / "aside")
    two.rename(one)
    (folder / "aside").rename(two)


def cut_short(folder: Path, segments: Sequence[Segment]) -> None:
    file = folder / segments[1].name
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (changed_byte, "000000000051-000000000090-"),
        (missing, "events 51 to 90, before it, are in no segment"),
        (swapped, "is not the one that had this name when it was written"),
        (cut_short, "is not a segment, or was cut short or changed"),
    ],
)
def test_a_wrong_segment_is_named(
    fairlog: Fairlog, segments: Sequence[Segment], tmp_path: Path, tamper: Tamper, named: str
) -> None:
    tamper(tmp_path, segments)
    found = findings(fairlog, tmp_path)
    assert any(named in one for one in found), found
    assert any("0000" in one for one in found)


def test_a_segment_of_another_log_is_named(
    fairlog: Fairlog, segments: Sequence[Segment], tmp_path: Path, new_database_url: Any
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with service(new_database_url(), clock=ManualClock()) as elsewhere:
        crowd(elsewhere, ManualClock(), 200)
        foreign = write_up_to(elsewhere, Archive(other), [50, 90])
    (tmp_path / segments[1].name).unlink()
    shutil.copy(other / foreign[1].name, tmp_path)
    found = findings(fairlog, tmp_path)
    assert f"segment {foreign[1].name}: it belongs to another log than the first segment" in found


def rewritten(folder: Path, segment: Segment, change: Callable[[list[Any], Any], Any]) -> None:
    """Write a file that is whole, with the right names and checksums, by somebody who knows how."""
    file = pq.ParquetFile(folder / segment.name)
    table, told = file.read(), file.metadata.metadata[FOOTER_KEY]
    table = change(table.to_pylist(), table.schema)
    target = folder / "new"
    with pq.ParquetWriter(target, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({FOOTER_KEY: told})
    (folder / segment.name).unlink()
    size, digest = Archive(folder)._digest("new")
    assert size
    target.rename(folder / f"{segment.first:012}-{segment.last:012}-{digest[:12]}.parquet")


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        ("user_id", "mallory", "the hash of event 61 does not fit"),
        ("data", "{}", "the hash of event 61 does not fit"),
        ("hash", bytes(32), "the hash of event 61 does not fit"),
        ("position", 60, "event 61 is missing: 60 follows 60"),
    ],
)
def test_a_forged_segment_is_found_by_its_chain(
    fairlog: Fairlog,
    segments: Sequence[Segment],
    tmp_path: Path,
    column: str,
    value: Any,
    named: str,
) -> None:
    def change(rows: list[Any], schema: Any) -> Any:
        rows[10][column] = value
        return pa.Table.from_pylist(rows, schema=schema)

    rewritten(tmp_path, segments[1], change)
    found = findings(fairlog, tmp_path)
    assert len([one for one in found if named in one]) == 1, found


@pytest.mark.parametrize(
    ("body", "named"),
    [(None, "segment 0"), ('"forged"', "its body has 8 bytes and the SHA-256")],
)
def test_a_forged_or_missing_body_is_named(
    fairlog: Fairlog, segments: Sequence[Segment], tmp_path: Path, body: str | None, named: str
) -> None:
    places: list[int] = []

    def change(rows: list[Any], schema: Any) -> Any:
        row = next(row for row in rows if row["body"] is not None)
        row["body"] = body
        places.append(row["position"])
        return pa.Table.from_pylist(rows, schema=schema)

    rewritten(tmp_path, segments[1], change)
    found = findings(fairlog, tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f"event {places[0]}: {named}")
    assert body or found[0].endswith(f": the body of event {places[0]} is missing")


def test_rows_that_are_gone_without_a_segment_are_named(
    new_database_url: Any, tmp_path: Path
) -> None:
    with history.service_with_history(new_database_url()) as (fairlog, _):
        write_up_to(fairlog, Archive(tmp_path), [50])
        Intruder(fairlog).run(
            events.delete().where(events.c.position <= 60),
            bodies.delete().where(bodies.c.position <= 60),
        )
        [found] = findings(fairlog, tmp_path)
        assert "ends at event 50, and the database begins at 61: segments are missing" in found


def test_a_body_that_was_erased_later_must_leave_the_segment_too(
    new_database_url: Any, tmp_path: Path
) -> None:
    archive = Archive(tmp_path)
    with service(new_database_url(), clock=ManualClock()) as fairlog:
        crowd(fairlog, ManualClock(), 300)
        end = fairlog.read_now(fairlog.log.position)
        with fairlog.database.read() as connection:
            job = next(
                one.job_id
                for one in fairlog.log.read(connection, 0, end)
                if one.job_id is not None and type(one.event).__name__ == "JobCompleted"
            )
        [segment] = write_up_to(fairlog, archive, [end])
        known = fairlog.read_now(lambda c: fairlog.jobs.find(c, [JobId(job)])[job])
        erased = tuple(sorted(known.body_positions))
        execute_now(fairlog, EraseBodies(job_id=job, attempt=known.attempt, positions=erased))
        found = findings(fairlog, tmp_path)
        assert len(found) == len(erased)
        assert found[0].startswith(
            f"event {end + 1}: segment {segment.name}: event {end + 1} erased the body of event "
            f"{job}, which is in it or never was"
        )
        archive.rewrite(segment, erased)
        archive.remove(segment.name)
        assert findings(fairlog, tmp_path) == []


def test_the_command_checks_database_and_archive(
    log: tuple[str, Fairlog], segments: Sequence[Segment], tmp_path: Path
) -> None:
    def run(*options: str) -> Result:
        return CliRunner(env={"FAIRLOG_DATABASE_URL": log[0]}).invoke(
            cli.commands["verify"], ["--archive", str(tmp_path), *options], standalone_mode=False
        )

    clean = run()
    assert clean.exception is None
    assert "The archive is clean: 130 events in 3 segments.\nClean: " in clean.stdout
    changed_byte(tmp_path, segments)
    wrong = run()
    assert wrong.return_value == 1
    assert "The archive is NOT clean" in wrong.stdout
    assert "cannot be combined with --chain-only" in str(run("--chain-only").exception)
