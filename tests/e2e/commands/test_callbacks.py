"""`fairlog callbacks`, and what `doctor` says of callbacks that nobody sends."""

import json
from pathlib import Path

import pytest

from domain.language.commands import CancelJob
from domain.language.errors import InvalidInput, UnknownCallback
from domain.language.identifiers import JobId
from tests.support.command_line import Run, commands_on
from tests.support.core import service
from tests.support.endpoint import secret_key_file

URL = "https://a.example/hook"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return secret_key_file(tmp_path)


@pytest.fixture
def run(database_url: str) -> Run:
    return commands_on(database_url, notes=True)


def test_an_endpoint_is_set_listed_and_deleted(run: Run) -> None:
    assert "fairlog callbacks secret orders" in run(
        "callbacks", "set", "orders", URL, "--kind", "a"
    )
    assert run("callbacks", "list") == f"orders; {URL}; kinds a; all users; secret 1\n"
    shown = json.loads(run("callbacks", "list", "--format", "json"))
    assert (shown["name"], shown["url"], shown["kinds"]) == ("orders", URL, ["a"])
    run("callbacks", "delete", "orders")
    assert run("callbacks", "list") == ""
    with pytest.raises(UnknownCallback):
        run("callbacks", "delete", "orders")
    with pytest.raises(InvalidInput, match="choose another"):
        run("callbacks", "set", "default", URL)


def test_a_secret_is_shown_and_rotated(run: Run, key_file: Path) -> None:
    key = ("--callback-key-file", key_file)
    first = run("callbacks", "secret", "default", *key)
    assert first.startswith("whsec_")
    assert run("callbacks", "secret", "default", *key) == first
    second = run("callbacks", "secret", "default", "--rotate", *key)
    assert second.splitlines()[0] not in {first.strip(), ""}
    assert "until its overlap is over" in second
    with pytest.raises(UnknownCallback):
        run("callbacks", "secret", "orders", *key)


def test_doctor_says_that_callbacks_wait_for_a_server_with_a_key(
    run: Run, database_url: str
) -> None:
    assert "callbacks: 0 wait" in run("doctor")
    job = run("submit", "--user", "a", "--kind", "echo", "--callback", URL).split()[1]
    with service(database_url) as fairlog:
        fairlog.execute_now(CancelJob(job_id=JobId(int(job))))
    assert "callbacks: 1 wait" in run("doctor")
    assert "FAIRLOG_CALLBACK_KEY_FILE" in run("doctor")
    assert "a.example (queued)" in run("explain", job)
