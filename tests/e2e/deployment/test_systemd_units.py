"""The systemd units: checked by systemd, and run as they say."""

import shlex
import socket
import subprocess
from pathlib import Path
from typing import Final

import pytest

from entrypoints.processes.app import GRACE_SECONDS as EMBEDDED_GRACE_SECONDS
from entrypoints.processes.server import GRACEFUL_SECONDS_MAX
from entrypoints.runtime.ending import LEFT_SECONDS_MAX
from fairlog_client.worker.remote import GRACE_SECONDS as WORKER_GRACE_SECONDS
from tests.support.deployment import (
    DEPLOY,
    FAIRLOG,
    GRACE_LEFT_SECONDS,
    bearer,
    checked,
    key_created,
    result_of,
    started,
    unit_options,
    variables,
)
from tests.support.ports import free_port

UNITS: Final = DEPLOY / "systemd"
NAMES: Final = ("fairlog-server", "fairlog-worker")
INSTALLED: Final = "/opt/fairlog/bin/fairlog"
HOST: Final = "jobs.example.com"
EXPOSURE_MAX: Final = 20  # tenths of the scale of `systemd-analyze security`, which ends at 100


def options(name: str) -> dict[str, list[str]]:
    return unit_options(UNITS / f"{name}.service")


@pytest.fixture(scope="module")
def backend() -> str:
    """The units are the same on each database."""
    return "sqlite"


@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_wrong_in_a_unit(name: str, tmp_path: Path) -> None:
    # It looks for the program, which is not in /opt here.
    unit = (UNITS / f"{name}.service").read_text().replace(INSTALLED, str(FAIRLOG))
    (tmp_path / f"{name}.service").write_text(unit)
    assert checked("systemd-analyze", "verify", f"{tmp_path}/{name}.service") == ""


def test_systemd_finds_a_mistyped_option(tmp_path: Path) -> None:
    unit = (UNITS / "fairlog-server.service").read_text().replace("KillMode", "KilMode")
    (tmp_path / "fairlog-server.service").write_text(unit.replace(INSTALLED, str(FAIRLOG)))
    found = checked("systemd-analyze", "verify", f"{tmp_path}/fairlog-server.service")
    assert "KilMode" in found


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_leaves_the_service_little_of_the_system(name: str) -> None:
    checked(
        *("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}"),
        str(UNITS / f"{name}.service"),
    )


@pytest.mark.parametrize(
    ("name", "grace_seconds"),
    [
        ("fairlog-server", GRACEFUL_SECONDS_MAX + EMBEDDED_GRACE_SECONDS + LEFT_SECONDS_MAX),
        ("fairlog-worker", WORKER_GRACE_SECONDS + LEFT_SECONDS_MAX),
    ],
)
def test_systemd_waits_longer_than_the_grace_periods(name: str, grace_seconds: float) -> None:
    unit = options(name)
    assert unit["KillSignal"] == ["SIGTERM"]
    assert unit["KillMode"] == ["mixed"]
    [seconds] = map(float, unit["TimeoutStopSec"])
    assert grace_seconds + GRACE_LEFT_SECONDS < seconds


def test_what_the_units_start_runs_jobs_and_ends_at_sigterm(
    database_url: str, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "handlers.py").write_text("def double(payload):\n    return 2 * payload\n")

    def command(name: str) -> list[str]:
        [line] = options(name)["ExecStart"]
        fitted = line.replace("%H", socket.gethostname()).replace("http://127.0.0.1:8000", url)
        return [str(FAIRLOG), *shlex.split(fitted.removeprefix(INSTALLED))]

    subprocess.run([FAIRLOG, "migrate", "--database-url", database_url], check=True)
    of_server = variables(UNITS / "server.env.example") | {"FAIRLOG_DATABASE_URL": database_url}
    of_worker = variables(UNITS / "worker.env.example") | {
        "FAIRLOG_KEY": key_created(database_url, "worker-1", "worker"),
        "FAIRLOG_HANDLERS": str(tmp_path / "handlers.py"),
    }
    assert options("fairlog-worker")["Environment"] == ["FAIRLOG_HANDLERS=/etc/fairlog/handlers.py"]
    headers = bearer(key_created(database_url, "root", "admin"), HOST)
    serve = [*command("fairlog-server"), "--port", str(port)]
    with started(serve, of_server, tmp_path, "server") as server:
        server.wait_until_ready(url, HOST)
        with started(command("fairlog-worker"), of_worker, tmp_path, "worker") as worker:
            assert result_of(url, headers, "double", 21) == 42
            worker.stop()
        server.stop()
