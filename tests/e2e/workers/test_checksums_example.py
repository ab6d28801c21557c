"""docs/examples/checksums.py as the README shows it: real processes, on either kind of database."""

import os
import signal
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from fairlog_client.handlers.loading import JobContext, load_handlers
from tests.support.repository import ROOT
from tests.support.server import FairlogServer, ending_with_us

pytestmark = pytest.mark.one_database  # what handlers do is the same on each

EXAMPLE = ROOT / "docs" / "examples" / "checksums.py"
STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
FAIRLOG = Path(sys.executable).with_name("fairlog")
LIMITS: dict[str, object] = {"user_limit": 10_000, "global_limit": 20_000}
OTHERS_FILES = 20
ROUND_USERS = 3
SCRIPT_SECONDS_MAX = 200.0  # usual: 5


def run_script(server: FairlogServer, root: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--server", server.url, "--root", str(root), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=SCRIPT_SECONDS_MAX,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{server.output}"
    return done.stdout


@contextmanager
def worker_process(server: FairlogServer, output: Path) -> Iterator[None]:
    """Run `fairlog worker` with the example's handlers; stopped by SIGTERM, it must end well."""
    command = ["worker", "--server", server.url, "--handlers", str(EXAMPLE), "--concurrency", "4"]
    with output.open("wb") as written:
        worker = subprocess.Popen(
            [*ending_with_us(), str(FAIRLOG), *command],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
        )
    try:
        yield
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0, output.read_text()
    finally:
        worker.kill()
        worker.wait()


def events(server: FairlogServer, event_type: str) -> Iterator[dict[str, Any]]:
    after = 0
    while True:
        params: dict[str, str | int] = {"type": event_type, "after": after, "limit": 1000}
        page = server.client.get("/v1/audit", params=params).raise_for_status().json()
        yield from page["events"]
        if page["next"] is None:
            return
        after = page["next"]


def assert_served_in_turn_and_once(server: FairlogServer, jobs: int) -> None:
    """Return the events in the order of the log."""
    submitted = [event["user_id"] for event in events(server, "JobSubmitted")]
    assert [user for user, _ in groupby(submitted)] == ["alice", "bob", "carol"]
    started = [event["user_id"] for event in events(server, "JobStarted")]
    served: Counter[str] = Counter(alice=0, bob=0, carol=0)
    for user in started[: ROUND_USERS * OTHERS_FILES]:
        served[user] += 1
        assert max(served.values()) - min(served.values()) <= 1
    assert served == {"alice": OTHERS_FILES, "bob": OTHERS_FILES, "carol": OTHERS_FILES}
    completed = [event["job_id"] for event in events(server, "JobCompleted")]
    assert len(completed) == len(set(completed)) == len(submitted) == jobs


@pytest.mark.parametrize("backend", ["mariadb"], indirect=True)
@pytest.mark.timeout(2 * SCRIPT_SECONDS_MAX)
def test_the_whole_standard_library_is_checked_by_a_worker_over_http(
    database_url: str, tmp_path: Path
) -> None:
    with FairlogServer(database_url, settings=LIMITS) as server:
        run_script(server, STANDARD_LIBRARY, "--submit-only")
        jobs = server.client.get("/v1/stats").json()["total"]
        assert jobs > 1000
        assert not list(events(server, "JobStarted"))
        with worker_process(server, tmp_path / "worker.log"):
            said = run_script(server, STANDARD_LIBRARY)
        assert f"{jobs} of {jobs} results agree with hashlib." in said
        assert "'alice': 20" in said
        assert_served_in_turn_and_once(server, jobs)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_workers_inside_the_server_serve_in_turn_as_well(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = STANDARD_LIBRARY / "encodings"
    monkeypatch.setenv("CHECKSUMS_ROOT", str(root))
    with FairlogServer(database_url, settings=LIMITS) as server:
        run_script(server, root, "--submit-only")
        server.terminate()
    with_handlers = LIMITS | {"handlers": EXAMPLE}
    with FairlogServer(database_url, workers=4, settings=with_handlers) as server:
        said = run_script(server, root)
        jobs = server.client.get("/v1/stats").json()["total"]
        assert f"{jobs} of {jobs} results agree with hashlib." in said
        assert_served_in_turn_and_once(server, jobs)


def test_too_low_a_limit_is_explained_with_the_command_that_helps(database_url: str) -> None:
    with FairlogServer(database_url, settings={"user_limit": 30}) as server:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), "--server", server.url],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert "limit of 30 submissions" in done.stderr
    assert "FAIRLOG_USER_LIMIT=" in done.stderr


def test_a_path_that_leaves_the_root_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "lines.txt").write_bytes(b"one\ntwo\nthree")
    (root / "inside").symlink_to(root / "folder" / "lines.txt")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    (root / "link").symlink_to(secret)
    (root / "linked").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(root / "pipe")
    monkeypatch.setenv("CHECKSUMS_ROOT", str(root))
    monkeypatch.setattr(sys, "path", sys.path.copy())
    handler = load_handlers(str(EXAMPLE))["checksum"]

    def checksum(path: str) -> Any:
        job = JobContext(id=1, user="ada", kind="checksum", attempt=1)
        return handler.call({"path": path}, job)

    for path in ("folder/lines.txt", "inside", "folder/../inside"):
        found = checksum(path)
        assert (found["path"], found["bytes"], found["lines"]) == (path, 13, 2)
    for path in (
        "../secret.txt",
        "folder/../../secret.txt",
        str(secret),
        "link",
        "linked/secret.txt",
        "../none.txt",
        str(tmp_path / "none.txt"),
        "linked/none.txt",
    ):
        with pytest.raises(PermissionError, match="leads out of the root"):
            checksum(path)
    for path in ("none.txt", "folder", "", "pipe"):
        with pytest.raises(FileNotFoundError):
            checksum(path)
