"""`/checkpoint` and `/tile`: the log as a transparency log, from the rows of its Merkle tree."""

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from adapters.log.tables import events
from adapters.settings import Settings
from adapters.signing_key import create_signing_key
from domain.language.commands import SubmitJob
from domain.log.merkle import EMPTY_ROOT, complete_root
from entrypoints.use_cases.proofs import Prover
from projections.following.checkpoints import checkpoints
from projections.following.merkle import tiles
from tests.support.core import outcomes, put
from tests.support.history import ALICE, ECHO, Intruder
from tests.support.keyed_server import keyed_server
from tests.support.server import AppServer, problem
from tests.support.stories import body
from tests.unit.domain.log.test_merkle import tree_hash

NAME = "jobs.example.com/log"
FOR_EVER = "max-age=31536000, immutable"
MANY = 1_000_000


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = str(tmp_path / "checkpoint.key")
    create_signing_key(file, NAME)
    return Settings(checkpoint_key_file=file, user_limit=MANY, global_limit=MANY)


@pytest.fixture
def server(database_url: str, settings: Settings) -> Iterator[AppServer]:
    with AppServer(database_url, settings) as server:
        server.fairlog.projector_runner.stop()  # the tree grows where a test says so
        yield server


def grow(server: AppServer, jobs: int) -> int:
    """Submit jobs, which makes at least an event each; return the size of the tree with them."""
    before = server.fairlog.read_now(server.fairlog.log.position)
    outcomes(
        put(
            server.fairlog,
            *(
                SubmitJob(user_id=ALICE, kind=ECHO, payload=body([before, number]))
                for number in range(jobs)
            ),
        )
    )
    return catch_up(server)


def catch_up(server: AppServer) -> int:
    Prover(server.fairlog).catch_up()
    return server.fairlog.read_now(server.fairlog.log.position)


def signed_head(answer: httpx.Response) -> tuple[int, bytes]:
    """Return the size and the root of a checkpoint, after a look at its form."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    origin, size, root, empty, signature, end = answer.text.split("\n")
    assert (origin, empty, end) == (NAME, "", "")
    dash, name, content = signature.split(" ")
    assert (dash, name, len(b64decode(content))) == ("—", NAME, 4 + 64)
    return int(size), b64decode(root)


def leaves_of(server: AppServer) -> list[bytes]:
    projector = server.fairlog.projector_runner.projectors[2]
    with server.fairlog.database.read() as connection:
        return [leaf.hash for leaf in projector._events(connection, 0, 100_000)]


def path_of(level: int, index: int, width: int | None = None) -> str:
    last, groups = f"{index % 1000:03}", ""
    while index >= 1000:
        index //= 1000
        groups = f"x{index % 1000:03}/{groups}"
    return f"/tile/{level}/{groups}{last}" + ("" if width is None else f".p/{width}")


def test_a_checkpoint_has_the_head_that_is_kept_elsewhere(server: AppServer) -> None:
    assert signed_head(server.client.get("/checkpoint")) == (0, EMPTY_ROOT)
    sizes = []
    for more in (1, 300, 500):
        size = grow(server, more)
        answer = server.client.get("/checkpoint")
        assert signed_head(answer) == (size, tree_hash(leaves_of(server)))
        head = server.fairlog.read_now(Prover(server.fairlog).head)
        assert (head.position, head.root) == (size, signed_head(answer)[1].hex())
        assert server.client.get("/checkpoint").text == answer.text
        sizes.append(size)
    assert len(set(sizes)) == 3


def test_each_tile_has_the_hashes_of_its_level(server: AppServer) -> None:
    size = grow(server, 900)
    leaves = leaves_of(server)
    levels = [leaves]
    while len(levels[-1]) >= 256:
        below = levels[-1]
        levels.append(
            [
                complete_root(b"".join(below[at : at + 256]))
                for at in range(0, len(below) // 256 * 256, 256)
            ]
        )
    assert len(levels) == 2
    assert len(leaves) == size > 3 * 256
    for level, hashes in enumerate(levels):
        for index in range(len(hashes) // 256):
            answer = server.client.get(path_of(level, index))
            assert answer.content == b"".join(hashes[256 * index :][:256])
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert answer.headers["Cache-Control"] == f"private, {FOR_EVER}"
        index, width = divmod(len(hashes), 256)
        for fewer in (1, width // 2, width):
            answer = server.client.get(path_of(level, index, fewer))
            assert answer.content == b"".join(hashes[256 * index :][:fewer])
            assert answer.headers["Cache-Control"] == f"private, {FOR_EVER}"
        # What is not there yet may not be cached, since it will be.
        for missing in (path_of(level, index, width + 1), path_of(level, index)):
            refused = server.client.get(missing)
            assert "not yet" in problem(refused, 404)["detail"]
            assert refused.headers["Cache-Control"] == "no-store"
    for level, index in ((0, len(leaves) // 256 + 1), (2, 0), (63, 0), (0, 1_234_067)):
        problem(server.client.get(path_of(level, index, 1)), 404)


def test_a_partial_tile_stays_when_it_has_grown(server: AppServer) -> None:
    size = grow(server, 100)
    assert size < 256
    before = server.client.get(path_of(0, 0, size)).content
    grow(server, 400)
    assert server.client.get(path_of(0, 0, size)).content == before
    assert server.client.get(path_of(0, 0)).content.startswith(before)


def test_a_tile_has_one_address(server: AppServer) -> None:
    for path in (
        "/tile/0/0",
        "/tile/0/0000",
        "/tile/00/000",
        "/tile/64/000",
        "/tile/100/000",
        "/tile/-1/000",
        "/tile/0/x000/000",
        "/tile/0/001/000",
        "/tile/0/x00/000",
        "/tile/0/x001",
        "/tile/0/000.p/0",
        "/tile/0/000.p/01",
        "/tile/0/000.p/256",
        "/tile/0/000.p",
        "/tile/0/000.p/1/2",
        "/tile/0/x999/x999/x999/x999/x999/x999/999",
        "/tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        "/tile/0/x000/x999/x999/x999/x999/x999/999",
        "/tile/0/%30%30%30",
        "/tile/0//000",
        "/tile/8/0/000",
        "/tile",
        "/tile/x",
        "/checkpoint/0",
        "/checkpoint/",
    ):
        problem(server.client.get(path), 404)


def test_entries_are_not_published(server: AppServer) -> None:
    grow(server, 300)
    for path in ("/tile/entries/000", "/tile/entries/001.p/7"):
        assert "/v1/audit" in problem(server.client.get(path), 404)["detail"]


def test_answers_are_as_the_reference_describes_them(server: AppServer) -> None:
    described = server.client.get("/schema").json()["paths"]
    size = grow(server, 20)
    for path, template in (
        ("/checkpoint", "/checkpoint"),
        (path_of(0, 0, size), "/tile/{path}"),
        (path_of(0, 0), "/tile/{path}"),
    ):
        answer = server.client.get(path)
        answers = described[template]["get"]["responses"]
        media_type = answer.headers["Content-Type"].partition(";")[0]
        assert media_type in answers[str(answer.status_code)]["content"]
    assert {"404", "503"} <= set(described["/checkpoint"]["get"]["responses"])


def test_head_and_unknown_parameters_are_as_for_every_route(server: AppServer) -> None:
    answer = server.client.head("/checkpoint")
    assert (answer.status_code, answer.content) == (200, b"")
    problem(server.client.get("/checkpoint?size=1"), 400)


def test_without_a_key_there_are_tiles_and_a_sentence_how_to_make_one(
    database_url: str,
) -> None:
    with AppServer(database_url, Settings(user_limit=MANY, global_limit=MANY)) as server:
        size = grow(server, 100)
        detail = problem(server.client.get("/checkpoint"), 404)["detail"]
        assert "fairlog audit key NAME" in detail
        assert len(server.client.get(path_of(0, 0, size)).content) == 32 * size


def test_checkpoints_need_a_key_of_a_reader_unless_a_setting_shows_them_to_all(
    database_url: str, settings: Settings
) -> None:
    for is_public in (False, True):
        chosen = replace(settings, public_checkpoints=is_public)
        with keyed_server(database_url, chosen) as keyed:
            catch_up(keyed.server)
            with keyed.client(None) as nobody:
                for path in ("/checkpoint", path_of(0, 0, 5)):
                    answers = {
                        name: keyed.clients[name].get(path).status_code
                        for name in ("reader", "operator", "admin", "alice", "worker")
                    }
                    refused = 200 if is_public else 403
                    assert answers == {
                        "reader": 200,
                        "operator": 200,
                        "admin": 200,
                        "alice": refused,
                        "worker": refused,
                    }
                    assert nobody.get(path).status_code == (200 if is_public else 401)
                assert nobody.get("/metrics").status_code == 401
            shown = keyed.clients["reader"].get(path_of(0, 0, 5)).headers["Cache-Control"]
            assert shown == f"{'public' if is_public else 'private'}, {FOR_EVER}"
        if not is_public:
            _forget_keys(database_url)


def _forget_keys(database_url: str) -> None:
    """Give the next server an empty database: names of keys are never used again."""
    engine = sa.create_engine(database_url)
    found = sa.MetaData()
    found.reflect(engine)
    found.drop_all(engine)
    engine.dispose()


def test_nothing_is_signed_that_does_not_continue_what_was_signed(server: AppServer) -> None:
    first = grow(server, 300)
    kept = server.client.get("/checkpoint").text
    change_tile(server, 1, 0, lambda content: bytes([content[0] ^ 1]) + content[1:])
    grow(server, 10)
    detail = problem(server.client.get("/checkpoint"), 503)["detail"]
    assert f"differs from the one that was signed at position {first}" in detail
    change_tile(server, 1, 0, lambda content: bytes([content[0] ^ 1]) + content[1:])
    assert server.client.get("/checkpoint").text.split("\n")[1] > kept.split("\n")[1]


def change_tile(server: AppServer, level: int, tile: int, change: Any) -> None:
    at = (tiles.c.level == level) & (tiles.c.tile == tile)
    with server.fairlog.database.write() as connection:
        content = connection.execute(sa.select(tiles.c.hashes).where(at)).scalar_one()
        connection.execute(tiles.update().where(at).values(hashes=change(bytes(content))))


def test_while_the_tree_is_built_again_nothing_smaller_is_signed(server: AppServer) -> None:
    size = grow(server, 300)
    server.client.get("/checkpoint")
    with server.fairlog.database.write() as connection:
        connection.execute(
            checkpoints.update().where(checkpoints.c.name == "merkle").values(position=size - 1)
        )
    answer = server.client.get("/checkpoint")
    assert "being built again" in problem(answer, 503)["detail"]
    assert "Retry-After" in answer.headers


def test_neither_checkpoints_nor_tiles_read_events(server: AppServer) -> None:
    """So they stay when older events are no longer in the database."""
    size = grow(server, 700)
    kept = [server.client.get(path_of(0, index)).content for index in range(2)]
    Intruder(server.fairlog).run(events.delete().where(events.c.position <= 512))
    grow(server, 100)
    assert [server.client.get(path_of(0, index)).content for index in range(2)] == kept
    assert signed_head(server.client.get("/checkpoint"))[0] > size


def test_a_tile_is_one_row_and_a_checkpoint_one_row_a_level(server: AppServer) -> None:
    grow(server, 700)
    statements: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "merkle_tiles" in statement:
            statements.append(statement)

    engine = server.fairlog.database._reading
    sa.event.listen(engine, "before_cursor_execute", note)
    server.client.get(path_of(0, 1))
    assert len(statements) == 1
    server.client.get("/checkpoint")
    assert len(statements) == 1 + 2
    server.client.get("/checkpoint")
    assert len(statements) == 1 + 2
