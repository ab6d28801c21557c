"""Jobs whose live rows replace scratch rows are checked as well, however few rows are kept."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

import projections.rebuild.fold
import projections.verify.confirmed_jobs
import projections.verify.log_pages
from domain.jobs.job import State
from domain.language.commands import CompleteJob, SaveProjections, SubmitJob
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.verification import verify_log
from projections.inline.job_documents import decode_job, encode_job
from projections.inline.jobs import PREFIX, jobs
from projections.verify.findings import Difference, Finding
from tests.support.history import ALICE, ECHO, Intruder, claim, do, service, tell_everything
from tests.support.stories import RESULT, body


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write or confirm all jobs every few events, and evict them."""
    monkeypatch.setattr(projections.verify.log_pages, "EVENTS_PER_PAGE", 3)
    monkeypatch.setattr(projections.rebuild.fold, "EVENTS_PER_SAVE", 1)
    monkeypatch.setattr(projections.rebuild.fold, "ROWS_KEPT_MAX", 0)
    monkeypatch.setattr(projections.verify.confirmed_jobs, "ROWS_PER_PAGE", 2)


@pytest.fixture
def fairlog(database_url: str) -> Iterator[Fairlog]:
    """Everything has happened, and a key was taken over from a job that had ended."""
    with service(database_url) as (fairlog, clock):
        again = SubmitJob(user_id=ALICE, kind=ECHO, payload=body("again"), idempotency_key="key")
        do(fairlog, again)
        [job] = claim(fairlog, 1)
        do(fairlog, CompleteJob(job_id=job.id, attempt=1, result=RESULT))
        clock.advance(100_000)
        tell_everything(fairlog, clock)
        do(fairlog, again)
        do(fairlog, SaveProjections())
        yield fairlog


def check(fairlog: Fairlog) -> list[Finding | Difference]:
    found: list[Finding | Difference] = []
    verify_log(fairlog, found.append, lambda _done, _total: None)
    return found


def live_rows(fairlog: Fairlog) -> list[Mapping[str, Any]]:
    with fairlog.database.read() as connection:
        return [
            dict(row) for row in connection.execute(sa.select(jobs).order_by(jobs.c.id)).mappings()
        ]


def test_a_log_in_which_everything_happened_is_clean(fairlog: Fairlog) -> None:
    assert {decode_job(row["job"]).state for row in live_rows(fairlog)} > {State.DONE, State.QUEUED}
    assert check(fairlog) == []


# Each row is changed in one of these columns, or deleted: half of the rows on each database.
COLUMNS: Final = ("state", "key_hash", "job", "id", None)


@pytest.mark.parametrize("column", COLUMNS)
def test_whichever_row_differs_is_reported_and_no_other(
    fairlog: Fairlog, column: str | None
) -> None:
    intruder = Intruder(fairlog)
    others = {"state": 7, "key_hash": bytes(PREFIX), "job": b"{}", "id": 10**6}
    first = COLUMNS.index(column) + (0 if fairlog.database.is_sqlite else len(COLUMNS))
    for row in live_rows(fairlog)[first :: 2 * len(COLUMNS)]:
        this = jobs.c.id == row["id"]
        if column is None:
            intruder.run(jobs.delete().where(this))
        else:
            intruder.run(jobs.update().where(this).values({column: others[column]}))
        expected = [f"id={row['id']}"] + ([f"id={10**6}"] if column == "id" else [])
        assert [one.key for one in check(fairlog) if isinstance(one, Difference)] == expected
        intruder.run(
            jobs.delete().where(jobs.c.id.in_([row["id"], 10**6])), jobs.insert().values(**row)
        )
    assert check(fairlog) == []


def test_a_job_that_still_holds_a_key_that_was_taken_over_is_reported(fairlog: Fairlog) -> None:
    """Its row is what the log gave before another job took the key."""
    first, *_ = live_rows(fairlog)
    held = decode_job(first["job"])
    assert not held.holds_key
    holds = replace(held, holds_key=True)
    assert holds.key_hash is not None
    before = {"job": encode_job(holds), "key_hash": holds.key_hash[:PREFIX]}
    Intruder(fairlog).run(jobs.update().where(jobs.c.id == first["id"]).values(**before))
    [found] = check(fairlog)
    assert isinstance(found, Difference)
    assert found.key == f"id={first['id']}"
    assert "job.holds_key=False" in found.from_log


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("other", ["first", b"first", b"", 1.5])
def test_a_job_whose_id_is_no_number_is_reported(fairlog: Fairlog, other: Any) -> None:
    first, *_ = live_rows(fairlog)
    change = sa.text(f"UPDATE {jobs.name} SET id = :other WHERE id = :id")
    Intruder(fairlog).run(change.bindparams(other=other, id=first["id"]))
    assert len(check(fairlog)) == 2
