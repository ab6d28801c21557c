"""Jobs that come after others, on both sides of a cut of the log."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.archive.directory import Archive
from domain.decisions.answers import Claimed, Submitted
from domain.jobs.job import State
from domain.language.commands import CancelJob, SaveProjections, SubmitJob
from domain.language.errors import UnknownParent
from domain.language.identifiers import JobId
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.verification import verify_log
from tests.support.archived_history import DAY, follow, rows_of
from tests.support.clock import ManualClock
from tests.support.core import do, execute_now, service
from tests.support.stories import ALICE, ECHO, body, claim, complete


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock, idempotency_seconds=60) as found:
        yield found


def submit(fairlog: Fairlog, *after: JobId) -> JobId:
    fields = {"user_id": ALICE, "kind": ECHO, "deduplicate": False}
    command = SubmitJob(payload=body(after), after=tuple(sorted(after)), **fields)  # type: ignore[arg-type]  # of these fields
    return do(fairlog, command, Submitted).job.id


def state(fairlog: Fairlog, job_id: JobId) -> State:
    execute_now(fairlog, SaveProjections())
    return fairlog.read_now(lambda connection: fairlog.jobs.find(connection, [job_id]))[
        job_id
    ].state


def test_what_waits_goes_on_waiting_over_a_cut(
    fairlog: Fairlog, clock: ManualClock, tmp_path: Path
) -> None:
    done, running = submit(fairlog), submit(fairlog)
    for job in do(fairlog, claim(2), Claimed).jobs:
        if job.id == done:
            execute_now(fairlog, complete(1, done))
    waiting = submit(fairlog, done, running)
    cancelled = submit(fairlog, running)
    execute_now(fairlog, CancelJob(job_id=cancelled))
    last = submit(fairlog, waiting)
    clock.advance(2 * DAY)
    submit(fairlog)
    clock.advance(1)
    submit(fairlog)
    execute_now(fairlog, SaveProjections())
    follow(fairlog)
    cut = fairlog.read_now(fairlog.log.position) - 2
    archive(fairlog, Archive(tmp_path), cut, lambda *_: None)
    follow(fairlog)
    check(fairlog)

    with pytest.raises(UnknownParent) as refused:  # how it ended is known in the archive alone
        submit(fairlog, done)
    assert "archived" in str(refused.value)
    execute_now(fairlog, CancelJob(job_id=running))
    assert state(fairlog, waiting) is State.FAILED
    assert state(fairlog, last) is State.FAILED
    with fairlog.database.read() as connection:
        assert not any(one.children for one in fairlog.jobs.find(connection, [running]).values())
    follow(fairlog)
    check(fairlog)


def check(fairlog: Fairlog) -> None:
    """Check that the log is legal, and that a rebuild from the snapshot gives the same rows."""
    execute_now(fairlog, SaveProjections())
    found: list[str] = []
    verify_log(fairlog, lambda one: found.append(str(one)), lambda *_: None)
    assert found == []
    before = rows_of(fairlog)
    rebuild_projections(fairlog, [])
    assert rows_of(fairlog) == before
