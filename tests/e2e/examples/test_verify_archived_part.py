"""The archived part of a log, proven by Go's code after its events have left the database."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from adapters.archive.directory import Archive
from adapters.log.tables import events, log_tiles
from entrypoints.cli.commands import cli
from entrypoints.use_cases.archive_cuts import cut_before
from entrypoints.use_cases.archiving import archive
from tests.e2e.examples.test_verify_checkpoint import Check, Log, check, log, program, settings
from tests.support.archived_history import DAY, follow

pytestmark = pytest.mark.one_database  # what others verify is the same on each

__all__ = ["check", "log", "program", "settings"]  # fixtures


class Archived:
    """A log of which most was archived, and what others have kept of that part."""

    def __init__(self, log: Log, place: Path) -> None:
        self._log = log
        place.mkdir()
        self._place = str(place)
        first = log.grow(600)
        self.old = log.client.get("/checkpoint").text
        self.old_proof = log.proof(300)
        middle = log.grow(1_500)
        self.events = log.client.get("/v1/audit?limit=1000").content
        self.tiles = {path: log.client.get(path).content for path in self._paths(first)}
        log.clock.advance(10 * DAY)
        self.size = log.grow(2_500)
        follow(log.fairlog)
        self.cut = cut_before(log.fairlog, None, middle + 1)
        archive(log.fairlog, Archive(self._place), self.cut, lambda *_: None)
        follow(log.fairlog)
        with log.fairlog.database.read() as connection:
            lowest = sa.select(sa.func.count()).where(events.c.position <= self.cut)
            assert connection.execute(lowest).scalar_one() < 10
        self.first = first

    @staticmethod
    def _paths(first: int) -> list[str]:
        full = [f"/tile/0/{number:03}" for number in range(5)]
        last, width = divmod(first, 256)
        return [*full, f"/tile/0/{last:03}.p/{width}", "/tile/1/000.p/2", "/tile/1/000.p/5"]

    def proven(self, *arguments: object) -> bytes:
        """Return what `fairlog audit prove` prints, with the segments."""
        url = str(self._log.fairlog.database.url.render_as_string(hide_password=False))
        done = CliRunner(env={"FAIRLOG_DATABASE_URL": url}).invoke(
            cli.commands["audit"],
            ["prove", *map(str, arguments), "--archive", self._place],
            standalone_mode=False,
        )
        assert done.exception is None, done.exception
        return done.stdout.encode()


def test_the_archived_part_is_proven_by_code_that_others_wrote(
    log: Log, check: Check, tmp_path: Path
) -> None:
    archived = Archived(log, tmp_path / "archive")
    assert archived.first < 1_000 < archived.cut < archived.size
    assert log.client.get("/v1/audit?limit=1").json()["events"][0]["position"] > archived.cut
    for path, content in archived.tiles.items():
        assert log.client.get(path).content == content, path
    proofs = [
        archived.proven("--position", position)
        for position in (1, 256, 257, archived.first, archived.cut, archived.cut + 1)
    ]
    proofs += [
        archived.proven("--position", 17, "--at", archived.first),
        archived.proven("--consistency", archived.first),
        archived.proven("--consistency", 256, "--at", archived.cut),
    ]
    code, said = check(archived.events, archived.old_proof, *proofs, old=archived.old)
    assert code == 0, said
    assert said.count("Proven: ") == 3 + len(proofs)
    # Checkpoints of the archived part can be signed again, and lead to the latest one.
    for at in (1, 255, 256, 700, archived.cut):
        code, said = check(proofs[0], old=log.checkpoint_at(at))
        assert code == 0, said
        code, said = check(checkpoint=log.checkpoint_at(at))
        assert code == 0, said


def test_what_was_changed_in_the_archived_part_is_refused(
    log: Log, check: Check, tmp_path: Path
) -> None:
    archived = Archived(log, tmp_path / "archive")
    proof = json.loads(archived.proven("--position", 300))
    assert check(proof, archived.events, old=archived.old)[0] == 0
    [row] = proof["events"]
    origin, size, root = archived.old.split("\n")[:3]
    forged = log.key.sign(f"{origin}\n{size}\n{'A' * len(root[:-1])}=\n")
    for documents, kept in (
        ([{**proof, "events": [{**row, "data": row["data"] + " "}]}], archived.old),
        ([{**proof, "events": [{**row, "path": row["path"][::-1]}]}], archived.old),
        ([archived.events.replace(b"user-1", b"user-2", 1)], archived.old),
        ([proof], forged),
    ):
        code, said = check(*documents, old=kept)
        assert (code, "NOT proven" in said) == (1, True), said


@pytest.mark.parametrize(("level", "tile"), [(0, 0), (0, 1)])
def test_an_archived_tile_that_was_changed_is_refused(
    log: Log, check: Check, tmp_path: Path, level: int, tile: int
) -> None:
    archived = Archived(log, tmp_path / "archive")
    proof = archived.proven("--position", 256 * tile + 40)
    assert check(proof)[0] == 0
    at = (log_tiles.c.level == level) & (log_tiles.c.tile == tile)
    with log.fairlog.database.write() as connection:
        content = bytes(connection.execute(sa.select(log_tiles.c.hashes).where(at)).scalar_one())
        changed = bytes([content[0] ^ 1]) + content[1:]
        connection.execute(log_tiles.update().where(at).values(hashes=changed))
    code, said = check(proof)
    assert (code, "NOT proven" in said) == (1, True), said
