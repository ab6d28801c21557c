"""A database of an earlier release is upgraded, served, verified and rebuilt by this one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.verification import verify_log
from tests.support import release_log
from tests.support.clock import ManualClock
from tests.support.release_log import SETTINGS, ReleaseLog
from tests.support.server import AppServer

CORPUS: Final = Path(__file__).parents[2] / "corpus"
RELEASES: Final = sorted(path.stem for path in CORPUS.glob("release_*.jsonl"))
# e2f5fe1 returned the number of a retried job's last attempt, later releases return how many
# attempts it may use (ADR 27).
#
# An attempt that was lost or ran too long had no error, or the error of an earlier attempt.
CHANGED_ON_PURPOSE: Final = re.compile(
    r".*(\.max_attempts: [45] became 2"
    r"|\.error(_message)?: .* became .*(LeaseLost|ServerRestarted|TimeoutError|[Aa]ttempt \d).*"
    r"|\.error\.(type|message): .* became '(LeaseLost|ServerRestarted|.*attempt \d.*)'"
    r"|\.error\.traceback: .* became 'missing')",
    re.DOTALL,
)


@pytest.fixture(params=RELEASES)
def recorded(request: pytest.FixtureRequest) -> ReleaseLog:
    return release_log.read(CORPUS / f"{request.param}.jsonl")


@pytest.fixture
def server(recorded: ReleaseLog, database_url: str) -> Iterator[AppServer]:
    """This release on the other one's database, at the moment when the answers were recorded."""
    release_log.load(recorded, database_url)
    with AppServer(database_url, SETTINGS, ManualClock(recorded.now)) as server:
        yield server


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Yield what the old release answered and the new one does not; new fields are allowed."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name, value in old.items():
            yield from differences(value, new.get(name, "missing"), f"{place}.{name}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{place}[{index}]")
    elif old != new:
        yield f"{place}: {old!r} became {new!r}"


def verdict(fairlog: Fairlog) -> list[str]:
    """Verify the log and its projections; return the findings."""
    findings: list[str] = []
    verify_log(fairlog, lambda one: findings.append(str(one)), lambda _done, _total: None)
    return findings


def test_it_answers_as_the_release_that_wrote_the_log(
    recorded: ReleaseLog, server: AppServer
) -> None:
    changed = {}
    for path, old in recorded.answers.items():
        response = server.client.get(path)
        assert response.status_code == 200, (path, response.text)
        found = list(differences(old, response.json()))
        if unexpected := [one for one in found if not CHANGED_ON_PURPOSE.fullmatch(one)]:
            changed[path] = unexpected
    assert changed == {}


def test_it_verifies_and_rebuilds_the_log(recorded: ReleaseLog, server: AppServer) -> None:
    assert verdict(server.fairlog) == []
    events = len(recorded.tables["events"])
    assert rebuild_projections(server.fairlog, []) >= events
    assert verdict(server.fairlog) == []


def test_it_continues_the_log(recorded: ReleaseLog, server: AppServer) -> None:
    claimed = server.client.post("/v1/claims", json={"worker": "new", "max": 1}).json()["jobs"]
    [job] = claimed
    path = f"/v1/jobs/{job['id']}/complete"
    assert server.client.post(path, json={"attempt": job["attempt"]}).is_success
    submission = {"user_id": "eve", "kind": "echo", "payload": "new"}
    assert server.client.post("/v1/jobs", json=submission).status_code == 202
    events = server.client.get("/v1/stats").json()["position"]
    assert events > len(recorded.tables["events"])
    assert verdict(server.fairlog) == []
