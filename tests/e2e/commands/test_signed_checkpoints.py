"""`fairlog audit key` and `fairlog audit checkpoint`, and a server that signs or cannot."""

import json
import stat
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.exceptions import UsageError
from click.testing import CliRunner, Result

from adapters.settings import SettingsError
from adapters.signing_key import create_signing_key
from domain.language.errors import InvalidInput
from entrypoints.cli.commands import cli
from entrypoints.service.fairlog import Fairlog
from tests.e2e.commands.test_audit_commands import FAIRLOG, said
from tests.support import history as told
from tests.support.server import FairlogServer, without_settings

NAME = "jobs.example.com/log"

Asked = Callable[..., Result]


def secret_of(private: str) -> str:
    """Return the last part of a private key, which may itself have a plus."""
    return private.strip().split("+", 4)[4]


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    with told.service_with_history(database_url) as (fairlog, _):
        yield fairlog


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.key"


@pytest.fixture
def asked(file: Path) -> Asked:
    def run(*arguments: object, database_url: str = "", key: str | None = None) -> Result:
        variables = {
            "FAIRLOG_DATABASE_URL": database_url,
            "FAIRLOG_CHECKPOINT_KEY_FILE": str(file) if key is None else key,
        }
        return CliRunner(env=variables).invoke(
            cli.commands["audit"],
            list(map(str, arguments)),
            prog_name="fairlog audit",
            standalone_mode=False,
        )

    return run


@pytest.mark.one_database
def test_a_key_is_made_once_and_its_public_half_is_printed(asked: Asked, file: Path) -> None:
    made = asked("key", NAME)
    verifier = said(made)
    assert verifier.startswith(f"{NAME}+")
    assert str(file) in made.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    private = file.read_text()
    assert private.startswith(f"PRIVATE+KEY+{NAME}+")
    assert secret_of(private) not in made.output
    assert said(asked("key")) == verifier
    assert isinstance(asked("key", NAME).exception, SettingsError)
    assert file.read_text() == private
    other = file.with_name("other.key")
    assert said(asked("key", NAME, "--checkpoint-key-file", other)) != verifier
    assert isinstance(asked("key", "https://x", key=str(other) + "2").exception, InvalidInput)
    for command in (["key"], ["key", NAME], ["checkpoint"]):
        assert isinstance(asked(*command, key="").exception, UsageError)


def test_a_checkpoint_has_the_root_of_the_head(
    fairlog: Fairlog, asked: Asked, database_url: str
) -> None:
    said(asked("key", NAME))
    for at in ([], ["--at", 40]):
        note = said(asked("checkpoint", *at, database_url=database_url))
        head = json.loads(said(asked("head", *at, database_url=database_url)))
        origin, size, root, empty, signature, end = note.split("\n")
        assert (origin, int(size), empty, end) == (NAME, head["position"], "", "")
        assert bytes.fromhex(head["root"]) == b64decode(root)
        assert signature.startswith(f"— {NAME} ")
    beyond = fairlog.read_now(fairlog.log.position) + 1
    refused = asked("checkpoint", "--at", beyond, database_url=database_url)
    assert isinstance(refused.exception, InvalidInput)


def test_a_server_signs_what_the_command_prints(
    asked: Asked, file: Path, database_url: str
) -> None:
    said(asked("key", NAME))
    private = file.read_text().strip()
    with FairlogServer(database_url, settings={"checkpoint_key_file": file}) as server:
        server.client.post("/v1/jobs", json={"user_id": "a", "kind": "echo", "payload": 1})
        printed = said(asked("checkpoint", database_url=database_url))
        assert server.client.get("/checkpoint").text == printed
        assert private not in server.output
        assert secret_of(private) not in server.output


@pytest.mark.one_database
def test_a_server_does_not_start_with_a_key_that_others_may_read(
    file: Path, database_url: str
) -> None:
    create_signing_key(str(file), NAME)
    file.chmod(0o644)
    done = subprocess.run(
        [str(FAIRLOG), "serve", "--port", "0", "--checkpoint-key-file", str(file)],
        env=without_settings({"FAIRLOG_DATABASE_URL": database_url}),
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "may read or change (its mode is 0644): `chmod 600" in done.stderr
    assert secret_of(file.read_text()) not in done.stderr
