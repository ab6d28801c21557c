"""Ids of users do nothing in a spreadsheet or a terminal, and are shown on a page."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapters.settings import Settings
from domain.language.errors import FairlogError
from entrypoints.cli.commands import cli
from tests.support.server import AppServer, submit, without_settings

_FAIRLOG = Path(sys.executable).with_name("fairlog")
FORMULA, TURNED = "=HYPERLINK(1)", "a\u202eb"


def fairlog(database_url: str, *arguments: str) -> str:
    environment = without_settings(os.environ) | {"FAIRLOG_DATABASE_URL": database_url}
    done = subprocess.run(
        [_FAIRLOG, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_ids_are_harmless_wherever_they_are_told(database_url: str) -> None:
    with AppServer(database_url, Settings()) as server:
        for user in (FORMULA, "-5", TURNED):
            submit(server.client, user)
        page = server.client.get("/jobs").text
        log = server.client.get("/audit").text
    assert "\u202e" not in page + log
    assert "a\\u202eb" in page
    for command in ("audit", "audit export"):
        lines = fairlog(database_url, *command.split(), "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(lines)))
        assert {row["user_id"] for row in rows} == {f"'{FORMULA}", "-5", TURNED}
        assert [row["position"] for row in rows] == [str(number) for number in range(1, 7)]
    table = fairlog(database_url, "audit")
    assert "\u202e" not in table
    assert "a\\u202eb" in table


def test_numbers_of_any_length_are_told_by_every_command(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AppServer(database_url, Settings()) as server:
        submit(server.client)
    monkeypatch.setenv("FAIRLOG_DATABASE_URL", database_url)
    for arguments in (
        "audit --after {}",
        "audit --job {}",
        "audit state --as-of {}",
        "audit state --as-of 1 --job {}",
        "audit prove --job {}",
        "audit prove --at {} --job 2",
        "audit prove --consistency {}",
        "audit export --after {}",
        "erase --job {}",
        "verify --chain-only --from {}",
        "whatif --user-limit {}",
        "whatif --throttle alice={}/1s",
        "whatif --throttle alice=5/{}",
        "whatif --weight alice={}",
    ):
        for number in ("9" * 5000, str(2**63), "٢x"):
            done = CliRunner().invoke(cli, arguments.format(number).split())
            assert done.exit_code != 0, (arguments, number)
            # Others would be told as a fault of ours.
            assert isinstance(done.exception, SystemExit | FairlogError), (arguments, number)
