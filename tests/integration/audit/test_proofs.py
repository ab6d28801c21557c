import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from adapters.log.archived import archived_tile
from domain.language.errors import InvalidInput, LogCorrupt
from domain.language.identifiers import JobId
from domain.log.merkle import root
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.proofs import Prover
from entrypoints.use_cases.verification import verify_log
from projections.following import merkle
from projections.following.merkle import TileTree, tiles
from tests.support.clock import ManualClock
from tests.support.core import service
from tests.support.crowd import crowd
from tests.support.history import Intruder
from tests.support.repository import ROOT
from tests.unit.domain.log.test_merkle import tree_hash

SCRIPT = ROOT / "docs" / "examples" / "verify_proof.py"

Check = Callable[..., tuple[int, str]]


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    clock = ManualClock()
    with service(database_url, clock=clock) as fairlog:
        crowd(fairlog, clock, 1_500)
        yield fairlog


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Run the standalone script; keywords become files that are given to it."""

    def run(**documents: Any) -> tuple[int, str]:
        options: list[str] = []
        for name, document in documents.items():
            file = tmp_path / f"{name}.json"
            file.write_bytes(msgspec.json.encode(document))
            options += (
                [str(file)] if name == "proof" else [f"--{name.replace('_', '-')}", str(file)]
            )
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(SCRIPT), *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    return run


def evidence(fairlog: Fairlog) -> Prover:
    found = Prover(fairlog)
    found.catch_up()
    return found


def end(fairlog: Fairlog) -> int:
    return fairlog.read_now(fairlog.log.position)


def a_job(fairlog: Fairlog) -> JobId:
    """One to which much happened."""
    with fairlog.database.read() as connection:
        return JobId(
            connection.execute(
                sa.text(
                    "SELECT job_id FROM events WHERE job_id IS NOT NULL GROUP BY job_id"
                    " ORDER BY COUNT(*) DESC, job_id LIMIT 1"
                )
            ).scalar_one()
        )


def test_the_tree_is_that_of_the_rows_at_any_size(fairlog: Fairlog) -> None:
    evidence(fairlog)
    with fairlog.database.read() as connection:
        projector = fairlog.projector_runner.projectors[2]
        leaves = [leaf.hash for leaf in projector._events(connection, 0, 10_000)]
        tree = TileTree(connection, archived_tile)
        for size in (0, 1, 2, 255, 256, 257, 511, 512, 700, 1024, len(leaves) - 1, len(leaves)):
            assert root(tree, size) == tree_hash(leaves[:size])


def test_tiles_do_not_depend_on_where_the_batches_end(
    fairlog: Fairlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence(fairlog)
    before = stored(fairlog)
    for events_per_batch in (1_000, 7, 256):
        monkeypatch.setattr(
            fairlog.projector_runner.projectors[2], "_events_per_batch", events_per_batch
        )
        rebuild_projections(fairlog, ["merkle"])
        assert stored(fairlog) == before
    assert verify_log(fairlog, print, lambda _done, _total: None).is_clean


def stored(fairlog: Fairlog) -> list[tuple[int, int, bytes]]:
    with fairlog.database.read() as connection:
        rows = connection.execute(
            sa.select(tiles.c.level, tiles.c.tile, tiles.c.hashes).order_by(
                tiles.c.level, tiles.c.tile
            )
        )
        return [(level, tile, bytes(hashes)) for level, tile, hashes in rows]


def test_a_changed_tile_is_found_and_built_again(fairlog: Fairlog) -> None:
    evidence(fairlog)
    with fairlog.database.write() as connection:
        connection.execute(
            tiles.update().where(tiles.c.tile == 1).values(hashes=b"\0" * 32 * merkle.TILE)
        )
    assert verify_log(fairlog, print, lambda _done, _total: None).differing == ["merkle"]
    rebuild_projections(fairlog, ["merkle"])
    assert verify_log(fairlog, print, lambda _done, _total: None).is_clean


def test_a_row_that_was_changed_differs_from_the_tree(fairlog: Fairlog) -> None:
    proofs = evidence(fairlog)
    intruder = Intruder(fairlog)
    position = intruder.position_of("JobStarted")
    data = intruder.row(position)["data"]
    intruder.change(position, data=data.replace(b'":"worker-', b'":"wroker-'))
    found = verify_log(fairlog, print, lambda _done, _total: None)
    assert "merkle" in found.differing
    with fairlog.database.read() as connection, pytest.raises(LogCorrupt, match="has changed"):
        proofs.prove_event(connection, position, None)


def test_a_log_with_a_hole_ends_the_check_of_the_tree(fairlog: Fairlog) -> None:
    evidence(fairlog)
    Intruder(fairlog).run(sa.text("DELETE FROM events WHERE position = 700"))
    found = verify_log(fairlog, print, lambda _done, _total: None)
    assert not found.is_clean
    assert "merkle" not in found.differing


def test_the_history_of_a_job_is_proven_by_the_script_alone(fairlog: Fairlog, check: Check) -> None:
    proofs = evidence(fairlog)
    job_id = a_job(fairlog)
    with fairlog.database.read() as connection:
        head = proofs.head(connection)
        proof = proofs.prove_job(connection, job_id, None)
        single = proofs.prove_event(connection, 1, head.position)
    assert head.position == end(fairlog)
    assert len(proof.events) > 4
    code, said = check(proof=proof, head=head)
    assert (code, said.startswith("Proven: events ")) == (0, True), said
    assert check(proof=single, head=head)[0] == 0


def test_with_one_byte_changed_the_proof_fails(fairlog: Fairlog, check: Check) -> None:
    proofs = evidence(fairlog)
    with fairlog.database.read() as connection:
        head = json.loads(msgspec.json.encode(proofs.head(connection)))
        proof = json.loads(msgspec.json.encode(proofs.prove_job(connection, a_job(fairlog), None)))
    event = proof["events"][1]
    changes: list[tuple[str, Any]] = [
        ("data", event["data"].replace("echo", "ecko").replace("thumb", "thumc") + " "),
        ("type", event["type"] + "s"),
        ("version", 2),
        ("user_id", "mallory"),
        ("user_id", None),
        ("job_id", event["job_id"] + 1),
        ("recorded_at", event["recorded_at"] + 1),
        ("position", event["position"] + 1),
        ("path", event["path"][:-1]),
        ("path", ["00" * 32, *event["path"][1:]]),
    ]
    for field, value in changes:
        changed = {**proof, "events": [proof["events"][0], {**event, field: value}]}
        code, said = check(proof=changed, head=head)
        assert (code, said[:11]) == (1, "NOT proven:"), (field, said)
    assert check(proof=proof, head={**head, "root": "00" * 32})[0] == 1
    assert check(proof={}, head=head)[0] == 1


def test_a_later_head_is_shown_to_begin_with_a_kept_one(fairlog: Fairlog, check: Check) -> None:
    proofs = evidence(fairlog)
    last = end(fairlog)
    with fairlog.database.read() as connection:
        new = proofs.head(connection)
        proof = proofs.prove_event(connection, last, None)
        for first in (1, 2, 255, 256, 600, last - 1, last):
            kept = proofs.head(connection, first)
            growth = proofs.prove_growth(connection, first, None)
            assert check(head=kept, consistency=growth)[0] == 0
            assert check(head=kept, consistency=growth, new_head=new)[0] == 0
            assert check(proof=proof, head=kept, consistency=growth)[0] == 0
        old = msgspec.structs.replace(kept, position=600)
        assert check(head=old, consistency=growth)[0] == 1
        code, said = check(proof=proof, head=proofs.head(connection, 600))
        assert (code, "--at 600" in said) == (1, True)
        assert check(head=kept, consistency=growth, new_head=proofs.head(connection, 5))[0] == 1


def test_what_is_not_there_cannot_be_proven(fairlog: Fairlog) -> None:
    proofs = evidence(fairlog)
    last = end(fairlog)
    with fairlog.database.read() as connection:
        for ask in (
            lambda: proofs.prove_event(connection, last + 1, None),
            lambda: proofs.prove_event(connection, 700, 600),
            lambda: proofs.prove_job(connection, JobId(last + 1), None),
            lambda: proofs.prove_growth(connection, last + 1, None),
            lambda: proofs.prove_growth(connection, 700, 600),
            lambda: proofs.head(connection, last + 1),
        ):
            with pytest.raises(InvalidInput):
                ask()
