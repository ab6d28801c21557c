import errno
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from adapters.archive import segment_format
from adapters.archive.directory import Archive
from adapters.archive.segment_format import COLUMNS, StoredState
from adapters.archive.source import bodies_between, row_pages
from domain.language.errors import ArchiveUnavailable, LogCorrupt, SegmentUnusable
from domain.log.segments import SegmentRows, end_faults, sequence_faults
from domain.log.stored_log import StoredRow
from entrypoints.service.fairlog import Fairlog
from tests.support import history
from tests.support.archives import bodies_of, rows_between, stored_log, write_up_to
from tests.support.clock import ManualClock
from tests.support.core import service
from tests.support.crowd import crowd
from tests.support.repository import ROOT


@pytest.fixture(scope="module")
def fairlog(new_database_url: Any) -> Iterator[Fairlog]:
    """Every type of event, and an erased body. Tests only read it."""
    with history.service_with_history(new_database_url()) as (told, _):
        yield told


@pytest.fixture(scope="module")
def end(fairlog: Fairlog) -> int:
    return fairlog.read_now(fairlog.log.position)


@pytest.fixture(params=["directory", "file", "memory"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    locations = {
        "directory": str(tmp_path),
        "file": f"file://{tmp_path}",
        "memory": f"memory://{secrets.token_hex(4)}",
    }
    found = Archive(locations[request.param])
    found.check_writable()
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def test_a_segment_gives_back_every_column_and_body_as_it_is_stored(
    fairlog: Fairlog, end: int, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.archive.segment_writer.ROWS_PER_GROUP", 7)
    first, second = segments = write_up_to(fairlog, archive, [40, end])
    assert sequence_faults(segments) == []
    for segment in segments:
        expected = rows_between(fairlog, segment.first - 1, segment.last)
        bodies = bodies_of(fairlog, segment.first - 1, segment.last)
        assert len(expected) == segment.events
        assert len(bodies) == segment.bodies > 0
        with archive.open(segment) as reader:
            assert reader.rows(0, 10**6) == expected
            assert dict(reader.bodies_between(0, end)) == bodies
            assert reader.bodies(range(1, end + 1)) == bodies
            for after in range(segment.first - 3, segment.last + 2, 5):
                inside = [row for row in expected if row[0] > after]
                assert reader.rows(after, 9) == inside[:9]
            places = [segment.last, segment.first, segment.first + 20]
            assert [row[0] for row in reader.rows_at(places)] == places
            with fairlog.database.read() as connection:
                live = fairlog.log.read(connection, segment.first - 1, segment.events)
            assert reader.events(0, 10**6) == live
        archive.check_digest(segment)
    assert archive.segments() == ([first, second], [])


def test_what_is_known_of_a_segment_follows_from_its_rows(
    fairlog: Fairlog, end: int, directory: Archive
) -> None:
    for segment in write_up_to(fairlog, directory, [33, end]):
        rows = SegmentRows(segment.first, bytes.fromhex(segment.previous_hash))
        with directory.open(segment) as reader:
            assert [rows.take(row) for row in reader.rows(0, 10**6)].count(None) == segment.events
        assert end_faults(segment, rows) == []


def test_positions_are_found_by_job_user_and_type_in_either_direction(
    fairlog: Fairlog, end: int, directory: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.archive.segment_writer.ROWS_PER_GROUP", 11)
    [segment] = write_up_to(fairlog, directory, [end])
    rows = rows_between(fairlog, 0, end)
    with directory.open(segment) as reader:
        for job in {row[4] for row in rows if row[4] is not None}:
            assert reader.by_job(job) == [row[0] for row in rows if row[4] == job]
        for user in {row[3] for row in rows if row[3] is not None}:
            expected = [row[0] for row in rows if row[3] == user]
            assert reader.by_user(user.decode()) == expected
            newest = reader.matching(
                "user_id", [user.decode()], after=20, up_to=90, newest_first=True
            )
            inside = [one for one in reversed(expected) if 20 < one <= 90]
            assert [one for page in newest for one in page] == inside
        types = ["JobStarted", "LimitChanged"]
        found = [one for page in reader.matching("type", types) for one in page]
        assert found == [row[0] for row in rows if row[1] in types]
        assert reader.by_job(10**9) == reader.by_user("nobody") == []


def test_a_segment_is_compared_with_the_rows_as_it_lies(
    fairlog: Fairlog, end: int, archive: Archive
) -> None:
    [segment] = write_up_to(fairlog, archive, [end])

    def read_back(rows: Any, bodies: Any) -> None:
        archive.read_back(segment, rows, bodies)

    with fairlog.database.read() as connection:
        read_back(
            row_pages(stored_log(fairlog), connection, 0, end), bodies_between(connection, 0, end)
        )
    rows, bodies = rows_between(fairlog, 0, end), list(bodies_of(fairlog, 0, end).items())
    read_back([rows], bodies)
    changed = (*rows[5][:6], b"{}", rows[5][7])
    with pytest.raises(SegmentUnusable, match="events 4 to 8"):
        read_back([rows[:3], [*rows[3:5], changed, *rows[6:8]], rows[8:]], bodies)
    with pytest.raises(SegmentUnusable, match=f"its end after event {end - 1} differs"):
        read_back([rows[:-1]], bodies)
    with pytest.raises(SegmentUnusable, match="the number of bodies differs"):
        read_back([rows], bodies[:-1])
    with pytest.raises(SegmentUnusable, match=f"the body of event {bodies[3][0]}"):
        read_back([rows], [*bodies[:3], (bodies[3][0], b'"other"'), *bodies[4:]])


def test_rows_that_do_not_continue_the_chain_are_not_archived(
    fairlog: Fairlog, end: int, directory: Archive, tmp_path: Path
) -> None:
    rows, bodies = rows_between(fairlog, 0, end), list(bodies_of(fairlog, 0, end).items())
    for wrong, what in (
        ([rows[0], rows[2]], "event 2 is missing"),
        ([rows[0], (*rows[1][:6], b"{}", rows[1][7])], "the hash of event 2 does not fit"),
        ([], "the log has no event 1"),
    ):
        with pytest.raises(LogCorrupt, match=what):
            directory.write([wrong], [], first=1)
    strange = [(1, b"1"), *[one for one in bodies if one[0] != 1]]
    assert bodies[0][0] > 1
    with pytest.raises(SegmentUnusable):
        directory.read_back(directory.write([rows], strange, first=1), [rows], bodies)
    beyond = [*bodies, (end + 1, b"1")]
    with pytest.raises(LogCorrupt, match=f"at {end + 1} belongs to no event"):
        directory.write([rows], beyond, first=1)
    assert [one for one in tmp_path.iterdir() if one.suffix != ".parquet"] == []


@pytest.mark.parametrize("place", ["header", "middle", "footer", "cut", "empty", "text"])
def test_a_damaged_segment_is_named_and_never_read_as_another(
    fairlog: Fairlog, end: int, directory: Archive, tmp_path: Path, place: str
) -> None:
    [segment] = write_up_to(fairlog, directory, [end])
    file = tmp_path / segment.name
    content = file.read_bytes()
    at = {"header": 1, "middle": len(content) // 4, "footer": len(content) - 300}.get(place)
    damaged = {"cut": content[:-20], "empty": b"", "text": b"x" * len(content)}.get(place)
    if at is not None:
        damaged = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    assert damaged is not None
    file.write_bytes(damaged)
    with pytest.raises(SegmentUnusable, match=segment.name):
        directory.check_digest(segment)
    if place == "header":  # which no read needs: the rest is as it was
        with directory.open(segment) as reader:
            assert reader.rows(0, 10**6) == rows_between(fairlog, 0, end)
        return
    with pytest.raises(SegmentUnusable, match=segment.name), directory.open(segment) as reader:
        reader.rows(0, 10**6)


def test_a_missing_a_swapped_and_a_foreign_segment_are_named(
    fairlog: Fairlog, end: int, tmp_path: Path, new_database_url: Any
) -> None:
    archive = Archive(tmp_path)
    first, second = write_up_to(fairlog, archive, [end // 2, end])
    one, two = (tmp_path / segment.name for segment in (first, second))
    one.rename(tmp_path / "aside")
    with pytest.raises(SegmentUnusable, match=f"{first.name} is missing"):
        archive.open(first)
    (tmp_path / "aside").rename(one)
    with pytest.raises(SegmentUnusable, match="was cut short or changed"):
        archive.open(msgspec.structs.replace(first, name=second.name))
    swapped = msgspec.structs.replace(first, name=second.name, size=second.size)
    with pytest.raises(SegmentUnusable, match="is not the segment of events 1 to"):
        archive.open(swapped)
    with service(new_database_url(), clock=ManualClock()) as other:
        crowd(other, ManualClock(), 200)
        [foreign] = write_up_to(other, archive, [100])
    asked = msgspec.structs.replace(
        first, name=foreign.name, size=foreign.size, sha256=foreign.sha256
    )
    with pytest.raises(SegmentUnusable, match="belongs to another log"):
        archive.open(asked)
    assert two.exists()


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ArchiveUnavailable, match=r"nowhere does not exist; create it\."):
        Archive(tmp_path / "nowhere").check_writable()
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveUnavailable, match=r"file is not a directory\."):
        Archive(tmp_path / "file").check_writable()
    with pytest.raises(ArchiveUnavailable, match="There is no directory"):
        Archive(tmp_path / "nowhere").segments()
    with pytest.raises(ArchiveUnavailable, match="nosuchstore"):
        Archive("nosuchstore://bucket/log")


def test_a_full_disk_leaves_nothing_behind(
    fairlog: Fairlog, end: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("adapters.archive.places.os.fsync", full)
    with pytest.raises(ArchiveUnavailable, match="cannot be written: No space left on device"):
        write_up_to(fairlog, Archive(tmp_path), [end])
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_killed_process_is_removed_and_one_in_work_stays(tmp_path: Path) -> None:
    script = (
        "import sys, time; from adapters.archive.places import place_of\n"
        "with place_of(sys.argv[1]).new_file() as new:\n"
        "    new.file.write(b'x'); new.file.flush(); print('written', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    archive = Archive(tmp_path)
    archive.check_writable()
    assert len(list(tmp_path.iterdir())) == 1
    assert archive.segments() == ([], [])
    child.kill()
    child.wait(10)
    child.stdout.close()
    archive.check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_segment_is_reported_beside_the_others(
    fairlog: Fairlog, end: int, tmp_path: Path
) -> None:
    archive = Archive(tmp_path)
    [segment] = write_up_to(fairlog, archive, [end])
    (tmp_path / "notes.txt").write_text("not looked at")
    (tmp_path / "other.parquet").write_bytes(b"PAR1")
    found, unusable = archive.segments()
    assert found == [segment]
    assert "other.parquet is not a segment" in str(unusable[0])


def test_bodies_can_be_taken_out_of_a_segment(fairlog: Fairlog, end: int, tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    [segment] = write_up_to(fairlog, archive, [end])
    bodies = bodies_of(fairlog, 0, end)
    erased = sorted(bodies)[3:5]
    rewritten = archive.rewrite(segment, erased)
    same = {"name": "", "size": 0, "sha256": "", "bodies": 0}
    assert msgspec.structs.replace(rewritten, **same) == msgspec.structs.replace(segment, **same)
    with archive.open(rewritten) as reader:
        assert reader.rows(0, 10**6) == rows_between(fairlog, 0, end)
        left = {place: body for place, body in bodies.items() if place not in erased}
        assert dict(reader.bodies_between(0, end)) == left
    archive.remove(segment.name)
    archive.remove(segment.name)
    assert archive.segments() == ([rewritten], [])


def test_other_tools_read_a_segment(fairlog: Fairlog, end: int, tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    [segment] = write_up_to(fairlog, archive, [end])
    file = pq.ParquetFile(tmp_path / segment.name)
    table = file.read()
    assert table.column_names == [*COLUMNS, "body"]
    assert table["position"].to_pylist() == list(range(1, end + 1))
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    told = msgspec.json.decode(file.metadata.metadata[b"fairlog"])
    assert (told["format"], told["first"], told["last"]) == ("fairlog-segment-1", 1, end)
    bodies = bodies_of(fairlog, 0, end)
    assert {
        row["position"]: row["body"].encode()
        for row in table.select(["position", "body"]).to_pylist()
        if row["body"] is not None
    } == bodies


def test_the_program_in_the_documentation_checks_a_segment(
    fairlog: Fairlog, end: int, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "reference" / "segments.md").read_text()
    program = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "check.py").write_text(f"{program}\n\nimport sys\n\ncheck(sys.argv[1])\n")

    def run(*rows: StoredRow) -> subprocess.CompletedProcess[str]:
        place = tmp_path / "archive"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        state = StoredState("fairlog-state-3", b"a state")
        segment = Archive(place).write([rows], [], first=1, state=lambda: state)
        return subprocess.run(
            [sys.executable, str(tmp_path / "check.py"), str(place / segment.name)],
            capture_output=True,
            text=True,
            check=False,
        )

    rows = rows_between(fairlog, 0, end)
    assert (run(*rows).returncode, run(*rows).stderr) == (0, "")
    table = segment_format.table_of(rows, [None] * len(rows))
    changed = table.to_pylist()
    changed[40]["user_id"] = "mallory"
    told = msgspec.json.encode({"previous_hash": bytes(32).hex(), "last_hash": rows[-1][7].hex()})
    with pq.ParquetWriter(tmp_path / "forged.parquet", table.schema) as writer:
        writer.write_table(type(table).from_pylist(changed, schema=table.schema))
        writer.add_key_value_metadata({b"fairlog": told})
    forged = subprocess.run(
        [sys.executable, str(tmp_path / "check.py"), str(tmp_path / "forged.parquet")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "event 41 was changed" in forged.stderr
    [file] = (tmp_path / "archive").iterdir()
    told = msgspec.json.decode(pq.ParquetFile(file).metadata.metadata[b"fairlog"])
    content = bytearray(file.read_bytes())
    content[told["state"]["offset"] + told["state"]["size"] - 1] ^= 1
    file.write_bytes(content)
    program_run = [sys.executable, str(tmp_path / "check.py"), str(file)]
    forged = subprocess.run(program_run, capture_output=True, text=True, check=False)
    assert "the state was changed" in forged.stderr


def test_big_bodies_make_small_groups(
    fairlog: Fairlog, end: int, directory: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.archive.segment_writer.BYTES_PER_GROUP", 2_000)
    [segment] = write_up_to(fairlog, directory, [end])
    with directory.open(segment) as reader:
        assert reader._parquet.metadata.num_row_groups > 5
        assert reader.rows(0, 10**6) == rows_between(fairlog, 0, end)


def test_a_segment_that_is_written_again_has_the_same_file(
    fairlog: Fairlog, end: int, tmp_path: Path
) -> None:
    archive = Archive(tmp_path)
    assert write_up_to(fairlog, archive, [end]) == write_up_to(fairlog, archive, [end])
    assert len(list(tmp_path.iterdir())) == 1
