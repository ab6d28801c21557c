from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from adapters.log.tables import bodies, events
from domain.decisions.answers import Claimed, JobsUpdated, JobUpdated, Submitted
from domain.jobs.job import Job, State
from domain.language.bodies import body_of
from domain.language.commands import (
    CancelJob,
    ClaimJobs,
    CompleteJob,
    EnforceDeadlines,
    EraseBodies,
    FailJob,
    RetryJob,
    SubmitJob,
)
from domain.language.errors import BodiesAreNeeded, JobHasMovedOn, JobWasErased, UnknownJob
from domain.language.events import BodiesErased
from domain.language.identifiers import JobId
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases import erasure
from entrypoints.use_cases.erasure import (
    Erased,
    count_older,
    erase_job,
    erase_older,
    erase_user,
)
from entrypoints.use_cases.proofs import Prover
from entrypoints.use_cases.time_travel import TimeTravel
from entrypoints.use_cases.verification import verify_log
from projections.verify.findings import Difference, Finding
from projections.verify.verify import Verified
from tests.support import server
from tests.support.clock import ManualClock
from tests.support.core import do, log_of, outcomes, put, service
from tests.support.stories import ALICE, BOB, ECHO, OTHER_WORKER, WORKER

SECRET = "the secret that the law wants gone"  # as it would be found in the file


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def fairlog(database_url: str, clock: ManualClock) -> Iterator[Fairlog]:
    with service(database_url, clock=clock) as fairlog:
        yield fairlog


def secret(number: int) -> Any:
    return {"n": number, "secret": SECRET, "more": "x" * 3000}


def submit(fairlog: Fairlog, user: Any = ALICE, number: int = 0) -> Job:
    command = SubmitJob(user_id=user, kind=ECHO, payload=body_of(secret(number), "payload"))
    return do(fairlog, command, Submitted).job


def run(fairlog: Fairlog, *, fails: bool = False) -> Job:
    [job] = do(fairlog, ClaimJobs(worker=WORKER, max_jobs=1), Claimed).jobs
    said = body_of(secret(-1), "outcome")
    if fails:
        return do(fairlog, FailJob(job_id=job.id, attempt=job.attempt, error=said), JobUpdated).job
    return do(fairlog, CompleteJob(job_id=job.id, attempt=job.attempt, result=said), JobUpdated).job


def tell(fairlog: Fairlog, clock: ManualClock) -> list[Job]:
    """Make Alice's jobs (done, failed after three attempts, cancelled) and one of Bob's (done)."""
    done = submit(fairlog, ALICE, 1)
    run(fairlog)
    failing = submit(fairlog, ALICE, 2)
    for _ in range(3):
        run(fairlog, fails=True)
        clock.advance(60)
        do(fairlog, EnforceDeadlines(jobs=[failing.id]), JobsUpdated)
    cancelled = submit(fairlog, ALICE, 3)
    do(fairlog, CancelJob(job_id=cancelled.id), JobUpdated)
    submit(fairlog, BOB, 4)
    run(fairlog)
    return [done, failing, cancelled]


def stored_bodies(fairlog: Fairlog) -> list[int]:
    with fairlog.database.read() as connection:
        return list(connection.execute(sa.select(bodies.c.position)).scalars())


def check(fairlog: Fairlog) -> tuple[list[str], Verified]:
    found: list[Finding | Difference] = []
    verified = verify_log(fairlog, found.append, lambda _done, _total: None)
    return [str(one) for one in found], verified


def test_a_user_s_bodies_are_gone_and_the_log_is_clean(
    fairlog: Fairlog, clock: ManualClock, database_url: str
) -> None:
    jobs = tell(fairlog, clock)
    assert len(stored_bodies(fairlog)) == 9
    kept = fairlog.read_now(fairlog.log.position)
    evidence = Prover(fairlog)
    evidence.catch_up()
    head = fairlog.read_now(evidence.head)

    assert erase_user(fairlog, ALICE, cancel=False) == Erased(jobs=3, bodies=7, open=0)
    assert len(stored_bodies(fairlog)) == 2
    told = [(one.job_id, one.event) for one in log_of(fairlog)[kept:]]
    assert sorted(job_id for job_id, _ in told if job_id) == [job.id for job in jobs]
    assert sum(len(event.positions) for _, event in told if isinstance(event, BodiesErased)) == 7

    found, verified = check(fairlog)
    assert (found, verified.erased) == ([], {ALICE: 7})
    evidence.catch_up()
    with fairlog.database.read() as connection:
        assert evidence.head(connection, head.position) == head
        assert evidence.prove_job(connection, jobs[0].id, None).events
    rebuild_projections(fairlog, [])
    assert check(fairlog)[0] == []
    assert erase_user(fairlog, ALICE, cancel=False) == Erased()

    erase_user(fairlog, BOB, cancel=False)
    if fairlog.database.is_sqlite:
        assert_gone_from_files(database_url)


def assert_gone_from_files(database_url: str) -> None:
    file = Path(database_url.removeprefix("sqlite:///"))
    for path in (file, file.with_name(file.name + "-wal")):
        assert SECRET.encode() not in path.read_bytes()


def test_what_has_not_ended_keeps_its_payload_unless_it_is_cancelled(fairlog: Fairlog) -> None:
    waiting, running = submit(fairlog, ALICE, 1), submit(fairlog, ALICE, 2)
    [held] = do(fairlog, ClaimJobs(worker=WORKER, max_jobs=1), Claimed).jobs
    assert erase_user(fairlog, ALICE, cancel=False) == Erased(open=2)
    [refused] = outcomes(put(fairlog, EraseBodies(job_id=running.id, attempt=0, positions=())))
    assert isinstance(refused, BodiesAreNeeded)
    assert erase_user(fairlog, ALICE, cancel=True) == Erased(jobs=2, bodies=2)
    [late] = outcomes(put(fairlog, CompleteJob(job_id=held.id, attempt=1)))
    assert isinstance(late, Exception)
    assert stored_bodies(fairlog) == []
    assert check(fairlog)[0] == []
    assert waiting.id == held.id


def test_an_erased_job_cannot_run_again(fairlog: Fairlog) -> None:
    job = submit(fairlog)
    do(fairlog, CancelJob(job_id=job.id), JobUpdated)
    assert erase_job(fairlog, job.id, cancel=False) == Erased(jobs=1, bodies=1)
    [refused] = outcomes(put(fairlog, RetryJob(job_id=job.id)))
    assert isinstance(refused, JobWasErased)
    with pytest.raises(UnknownJob):
        erase_job(fairlog, JobId(999), cancel=False)


def test_a_job_that_was_started_anew_meanwhile_is_looked_at_again(fairlog: Fairlog) -> None:
    job = submit(fairlog)
    do(fairlog, CancelJob(job_id=job.id), JobUpdated)
    do(fairlog, RetryJob(job_id=job.id), JobUpdated)
    run(fairlog)
    [refused] = outcomes(put(fairlog, EraseBodies(job_id=job.id, attempt=0, positions=(job.id,))))
    assert isinstance(refused, JobHasMovedOn)
    assert erase_job(fairlog, job.id, cancel=False) == Erased(jobs=1, bodies=2)


def test_a_body_removed_or_put_back_without_an_event_is_found(
    fairlog: Fairlog, clock: ManualClock
) -> None:
    done, failing, _ = tell(fairlog, clock)
    erase_job(fairlog, done.id, cancel=False)
    with fairlog.database.write() as connection:
        connection.execute(bodies.delete().where(bodies.c.position == failing.id))
        connection.execute(bodies.insert().values(position=done.id, body=b"1"))
        end = connection.execute(sa.select(sa.func.max(events.c.position))).scalar_one()
    found, verified = check(fairlog)
    assert f"event {failing.id}: its body is missing" in found
    assert f"event {end}: it erased the body at {done.id}, which is stored or never was" in found
    assert not verified.is_clean


def test_answers_say_that_it_was_erased(database_url: str) -> None:
    with server.AppServer(database_url) as app:
        client = app.client
        job = server.submit(client, "ada", payload={"secret": SECRET})
        [held] = server.claim(client, worker=OTHER_WORKER)
        address = f"/v1/jobs/{job['id']}"
        client.post(f"{address}/complete", json={"attempt": held["attempt"], "result": SECRET})
        before = client.get(address).json()
        assert "erased" not in before
        erase_job(app.fairlog, JobId(job["id"]), cancel=False)
        view = client.get(address).json()
        assert (view["erased"], view["payload"], view["result"]) == (True, None, None)
        then = client.get(address, params={"as_of": 4}).json()
        assert (then["erased"], then["payload"], then["state"]) == (True, None, "done")
        again = client.post(
            "/v1/jobs", json={"user_id": "ada", "kind": "echo", "payload": {"secret": SECRET}}
        )
        assert (again.status_code, again.json()["erased"]) == (200, True)
        told = server.audit(client, job_id=job["id"])
        assert [event["type"] for event in told][-3] == "BodiesErased"
        everything = client.get("/v1/audit").text + client.get("/v1/jobs").text
        assert SECRET not in everything
        server.problem(client.post(f"{address}/retry"), 409)


def test_time_travel_tells_of_it_as_of_then(fairlog: Fairlog) -> None:
    job = submit(fairlog)
    do(fairlog, CancelJob(job_id=job.id), JobUpdated)
    before = fairlog.read_now(fairlog.log.position)
    erase_job(fairlog, job.id, cancel=False)
    past = TimeTravel(fairlog)
    with fairlog.database.read() as connection:
        [then] = past.jobs(connection, [job.id], before)
        [now] = past.jobs(connection, [job.id], before + 1)
    assert (then.erased_at, then.state) == (None, State.CANCELLED)
    assert now.erased_at is not None


def test_only_jobs_that_ended_long_ago_are_erased(
    fairlog: Fairlog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "BODIES_PER_PAGE", 2)
    later_job = submit(fairlog, BOB, 9)  # it ends after the others, although it is the first
    do(fairlog, CancelJob(job_id=later_job.id), JobUpdated)
    jobs = tell(fairlog, clock)
    do(fairlog, RetryJob(job_id=later_job.id), JobUpdated)
    waiting = submit(fairlog, ALICE, 5)
    clock.advance(1000)
    moment = fairlog.read_now(fairlog.log.now)
    newer = submit(fairlog, ALICE, 6)
    for job in (later_job, newer):
        do(fairlog, CancelJob(job_id=job.id), JobUpdated)
    kept = [later_job.id, waiting.id, newer.id]

    expected = Erased(jobs=4, bodies=9)
    end = fairlog.read_now(fairlog.log.position)
    assert count_older(fairlog, moment) == expected
    assert fairlog.read_now(fairlog.log.position) == end
    assert len(stored_bodies(fairlog)) == 12

    class KilledError(Exception):
        """The command ends in the middle."""

    def die(_done: int, _end: int) -> None:
        if len(stored_bodies(fairlog)) < 12:
            raise KilledError

    with pytest.raises(KilledError):
        erase_older(fairlog, moment, progress=die)
    first = expected.bodies - count_older(fairlog, moment).bodies
    assert 0 < first < expected.bodies
    rest = erase_older(fairlog, moment)
    assert rest.bodies == expected.bodies - first
    assert stored_bodies(fairlog) == kept
    told = [one.job_id for one in log_of(fairlog)[end:] if isinstance(one.event, BodiesErased)]
    assert len(told) == expected.jobs
    assert {job.id for job in jobs} < set(told)
    assert check(fairlog)[0] == []
    assert erase_older(fairlog, moment) == Erased()
    assert run(fairlog).id == waiting.id


def test_nothing_is_older_than_the_log(fairlog: Fairlog, clock: ManualClock) -> None:
    assert erase_older(fairlog, clock.now()) == Erased()
    do(fairlog, CancelJob(job_id=submit(fairlog).id), JobUpdated)
    assert erase_older(fairlog, clock.now()) == Erased()
    clock.advance(1)
    assert erase_older(fairlog, clock.now()) == Erased(jobs=1, bodies=1)
