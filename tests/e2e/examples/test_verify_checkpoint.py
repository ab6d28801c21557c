"""docs/examples/verify_checkpoint.go: signed notes and trees by Go's code, on a server of ours."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from adapters.log.tables import events
from adapters.settings import Settings
from adapters.signing_key import create_signing_key, read_signing_key
from entrypoints.use_cases.proofs import Prover
from entrypoints.use_cases.signed_checkpoints import SignedCheckpoints
from projections.following.merkle import tiles
from tests.support.clock import ManualClock
from tests.support.crowd import crowd
from tests.support.go_program import compiled
from tests.support.history import Intruder
from tests.support.keyed_server import keyed_server
from tests.support.keys import secret
from tests.support.repository import ROOT
from tests.support.server import AppServer

pytestmark = pytest.mark.one_database  # what others verify is the same on each

SOURCE = ROOT / "docs" / "examples" / "verify_checkpoint.go"
NAME = "jobs.example.com/log"
MANY = 1_000_000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(SOURCE, tmp_path_factory.mktemp("go"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = str(tmp_path / "checkpoint.key")
    create_signing_key(file, NAME)
    return Settings(checkpoint_key_file=file, user_limit=MANY, global_limit=MANY)


class Log:
    """A server with a log of some thousand events, and the documents that it gives."""

    def __init__(self, server: AppServer, settings: Settings, clock: ManualClock) -> None:
        self.fairlog = server.fairlog
        self.url = server.url
        self.client = server.client
        self.key = read_signing_key(settings.checkpoint_key_file or "")
        self.clock = clock

    def grow(self, events: int) -> int:
        """Add events until there are so many; return how many there are, in the tree too."""
        crowd(self.fairlog, self.clock, events)
        Prover(self.fairlog).catch_up()
        return self.fairlog.read_now(self.fairlog.log.position)

    def checkpoint_at(self, position: int) -> str:
        signed = SignedCheckpoints(self.key)
        return self.fairlog.read_now(lambda connection: signed.at(connection, position))

    def proof(self, event: int, at: int | None = None) -> Any:
        prover = Prover(self.fairlog)
        with self.fairlog.database.read() as connection:
            return prover.prove_event(connection, event, at)

    def growth(self, first: int, at: int | None = None) -> Any:
        prover = Prover(self.fairlog)
        with self.fairlog.database.read() as connection:
            return prover.prove_growth(connection, first, at)


@pytest.fixture
def log(database_url: str, settings: Settings) -> Iterator[Log]:
    clock = ManualClock()
    with AppServer(database_url, settings, clock) as server:
        server.fairlog.projector_runner.stop()  # the tree grows where a test says so
        yield Log(server, settings, clock)


Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(program: Path, log: Log, tmp_path: Path) -> Check:
    """Run the program; keywords become files that are given to it, `files` without an option."""

    def run(*files: Any, key: str | None = None, **options: Any) -> tuple[int, str]:
        written = [tmp_path / f"file-{number}.json" for number in range(len(files))]
        for path, content in zip(written, files, strict=True):
            path.write_bytes(
                content if isinstance(content, bytes) else msgspec.json.encode(content)
            )
        arguments = ["-server", log.url, "-key", key or str(log.key.verifier)]
        for name, text in options.items():
            path = tmp_path / f"{name}.txt"
            path.write_text(text)
            arguments += [f"-{name}", str(path)]
        done = subprocess.run(
            [str(program), *arguments, *map(str, written)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_everything_that_the_server_gives_is_proven_by_code_that_others_wrote(
    log: Log, check: Check
) -> None:
    first = log.grow(300)
    old = log.client.get("/checkpoint").text
    size = log.grow(3_000)
    in_pages = log.client.get("/v1/audit?limit=1000&after=200").content
    last = log.client.get(f"/v1/audit?after={size - 5}").content
    [job] = log.client.get("/v1/jobs?limit=1").json()["jobs"]
    of_job = log.client.get(f"/v1/jobs/{job['id']}/events").content
    proofs = [log.proof(event) for event in (1, 256, 257, size)]
    earlier = [log.proof(1, at=first), log.proof(first, at=first)]
    growths = [log.growth(one) for one in (1, 255, 256, first, size)]
    growths.append(log.growth(first, at=first + 1))
    code, said = check(in_pages, last, of_job, *proofs, *earlier, *growths, old=old)
    assert code == 0, said
    assert f"Signed by {NAME}: a log of {size} events." in said
    assert f"Proven: it begins with the log of {first} events." in said
    assert "the log has its 1000 events" in said
    assert said.count("Proven: ") == 1 + 3 + len(proofs) + len(earlier) + len(growths)


def test_a_checkpoint_of_any_size_is_proven_later(log: Log, check: Check) -> None:
    size = log.grow(1_500)
    kept = [log.checkpoint_at(at) for at in (1, 2, 255, 256, 257, 512, 700, size - 1, size)]
    for number, checkpoint in enumerate(kept):
        at = int(checkpoint.split("\n")[1])
        proof = log.proof(at, at=at)
        for old in kept[: number + 1]:
            code, said = check(proof, checkpoint=checkpoint, old=old)
            assert code == 0, (said, checkpoint, old)


def test_a_log_whose_older_events_are_gone_is_still_proven(log: Log, check: Check) -> None:
    """The events are in the hands of others; tiles and checkpoints do not need the rows."""
    log.grow(2_000)
    old = log.client.get("/checkpoint").text
    kept = log.client.get("/v1/audit?limit=1000").content
    proof, growth = log.proof(700), log.growth(600)
    Intruder(log.fairlog).run(events.delete().where(events.c.position <= 1_800))
    log.grow(2_500)
    code, said = check(kept, proof, growth, old=old)
    assert code == 0, said
    code, said = check(kept.replace(b"echo", b"ecko", 1), old=old)
    assert (code, "is not what the log has" in said) == (1, True), said


def test_a_note_that_was_changed_is_refused(log: Log, check: Check, tmp_path: Path) -> None:
    size = log.grow(600)
    good = log.client.get("/checkpoint").text
    assert check(checkpoint=good)[0] == 0
    origin, number, root, _, signature, _ = good.split("\n")
    other = create_signing_key(str(tmp_path / "other.key"), NAME)
    for changed in (
        good.replace(f"\n{number}\n", f"\n{size - 1}\n"),
        good.replace(root, root[:-4] + "AAA="),
        good.replace(origin, "jobs.example.com/other", 1),
        good.replace(signature[-10:], "AAAAAAAAA="),
        good.replace(f"\n{root}\n", f"\n{root}\nmore\n"),
        good.removesuffix(f"{signature}\n"),
        other.sign(f"{origin}\n{number}\n{root}\n"),
        log.key.sign(f"jobs.example.com/other\n{number}\n{root}\n"),
        log.key.sign(f"{origin}\n"),
        "",
    ):
        code, said = check(checkpoint=changed)
        assert (code, said.startswith("NOT proven: the checkpoint: ")) == (1, True), said
    assert check(checkpoint=good, key=str(other.verifier))[0] == 1


def test_a_log_that_was_rewritten_is_refused(log: Log, check: Check) -> None:
    size = log.grow(600)
    old = log.client.get("/checkpoint").text
    forked = log.key.sign(old.split("\n\n")[0].replace(f"\n{size}\n", f"\n{size - 2}\n") + "\n")
    log.grow(900)
    code, said = check(old=forked)
    assert (code, "is not the beginning of this one" in said) == (1, True), said
    code, said = check(old=log.client.get("/checkpoint").text, checkpoint=old)
    assert (code, "more than" in said) == (1, True), said


@pytest.mark.parametrize(("level", "tile"), [(0, 0), (0, 2), (1, 0)])
def test_a_tile_that_was_changed_is_refused(log: Log, check: Check, level: int, tile: int) -> None:
    log.grow(1_000)
    checkpoint = log.client.get("/checkpoint").text
    proof = log.proof(tile * 256 + 7)
    assert check(proof, checkpoint=checkpoint)[0] == 0
    at = (tiles.c.level == level) & (tiles.c.tile == tile)
    with log.fairlog.database.write() as connection:
        content = bytes(connection.execute(sa.select(tiles.c.hashes).where(at)).scalar_one())
        changed = content[:33] + bytes([content[33] ^ 1]) + content[34:]
        connection.execute(tiles.update().where(at).values(hashes=changed))
    code, said = check(proof, checkpoint=checkpoint)
    assert (code, "NOT proven" in said) == (1, True), said


def test_an_event_or_a_proof_that_was_changed_is_refused(log: Log, check: Check) -> None:
    log.grow(1_000)
    page = log.client.get("/v1/audit?limit=2&after=400").json()
    raw = log.client.get("/v1/audit?limit=2&after=400").content
    assert check(raw)[0] == 0
    [event, _] = page["events"]
    for field, value in (
        ("position", event["position"] + 1),
        ("position", 0),
        ("position", 10**9),
        ("version", event["version"] + 1),
        ("type", event["type"] + "s"),
        ("user_id", "mallory"),
        ("job_id", 17),
        ("recorded_at", "2026-01-31T12:00:00Z"),
    ):
        text = json.dumps(event[field]).encode()
        name = json.dumps(field).encode() + b":"
        changed = raw.replace(name + text, name + json.dumps(value).encode(), 1)
        assert changed != raw, field
        assert check(changed)[0] == 1, field
    proof = msgspec.to_builtins(log.proof(500))
    [row] = proof["events"]
    growth = msgspec.to_builtins(log.growth(600))
    zero = "00" * 32
    for document in (
        {**proof, "events": [{**row, "data": row["data"] + " "}]},
        {**proof, "events": [{**row, "recorded_at": row["recorded_at"] + 1}]},
        {**proof, "events": [{**row, "path": row["path"][:-1]}]},
        {**proof, "events": [{**row, "path": [zero, *row["path"][1:]]}]},
        {**proof, "events": [{**row, "path": []}]},
        {**proof, "events": []},
        {**proof, "head": {**proof["head"], "root": zero}},
        {**growth, "path": growth["path"][:-1]},
        {**growth, "path": [*growth["path"], zero]},
        {**growth, "path": [zero, *growth["path"][1:]]},
        {**growth, "first": {**growth["first"], "root": zero}},
        {**growth, "second": {**growth["second"], "position": 900}},
        {},
    ):
        code, said = check(document)
        assert (code, "NOT proven" in said) == (1, True), (document, said)


def test_a_server_that_requires_keys_is_asked_with_one(
    database_url: str, settings: Settings, program: Path
) -> None:
    assert settings.checkpoint_key_file is not None
    key = read_signing_key(settings.checkpoint_key_file)
    with keyed_server(database_url, settings) as keyed:
        Prover(keyed.fairlog).catch_up()
        command = [str(program), "-key", str(key.verifier), "-server", keyed.server.url]
        for name, code in (("reader", 0), ("alice", 1)):
            done = subprocess.run(
                command,
                env={"FAIRLOG_KEY": secret(name)},
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert done.returncode == code, done
        assert "lacks the right" in done.stderr
