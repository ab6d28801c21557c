"""A history of some weeks, of which most can be archived, and what can be asked about it."""

import random
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from adapters.archive.directory import Archive
from adapters.log.archived import KEPT_NAMES
from adapters.log.tables import events
from domain.decisions.answers import Claimed, Submitted
from domain.language.bodies import body_of
from domain.language.commands import (
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    CompleteJob,
    EnforceDeadlines,
    FailJob,
    RetryJob,
    SaveProjections,
    SubmitJob,
)
from domain.language.errors import FairlogError
from domain.language.events import Scope
from domain.language.identifiers import JobId, Kind, ResourceName, UserId, WorkerId
from domain.language.limits import Rate
from domain.language.moments import to_micros
from entrypoints.composition import projection_tables
from entrypoints.service.fairlog import Fairlog
from entrypoints.use_cases.archive_cuts import cut_before
from entrypoints.use_cases.archive_verification import verify_archive
from entrypoints.use_cases.archiving import archive
from entrypoints.use_cases.verification import verify_log
from projections.following.async_projector import step_all
from projections.storage import registry
from tests.support.clock import ManualClock
from tests.support.core import execute_now

USERS: Final = [UserId(f"user-{number}") for number in range(8)]
KINDS: Final = [Kind("mail"), Kind("export")]
DAY: Final = 86_400.0


def live(
    fairlog: Fairlog, clock: ManualClock, *, days: int, rounds: int, seed: int = 1
) -> list[JobId]:
    """Let several users submit and several workers work for some days; return all jobs.

    Some jobs fail, are retried or cancelled, run at a time far ahead, stay in the line, or use a
    resource; keys of some hold for long.
    """
    chance = random.Random(seed)
    jobs: list[JobId] = []
    held: list[tuple[JobId, int]] = []
    execute_now(
        fairlog, ChangeLimit(scope=Scope.USER, user_id=USERS[0], throttle=Rate(3, 3_600), running=2)
    )
    for number in range(days * rounds):
        for _ in range(chance.randrange(4)):
            key = f"{seed}-{number}-{len(jobs)}"
            submission = SubmitJob(
                user_id=chance.choice(USERS),
                kind=chance.choice(KINDS),
                payload=body_of({"text": "x" * chance.randrange(60), "key": key}, "payload"),
                idempotency_key=chance.choice([None, key]),
                run_at=clock.now() + timedelta(days=400) if chance.random() < 0.03 else None,
                resources=(ResourceName("shop:one"),) if chance.random() < 0.2 else (),
                max_attempts=chance.choice([None, 1]),
            )
            for _ in range(chance.choice([1, 1, 1, 2])):
                done = execute_now(fairlog, submission)
                assert isinstance(done, Submitted)
                if not done.is_duplicate:
                    jobs.append(done.job.id)
        worker = WorkerId(f"worker-{number % 3}")
        claimed = execute_now(fairlog, ClaimJobs(worker=worker, max_jobs=chance.randrange(1, 5)))
        assert isinstance(claimed, Claimed)
        for job in claimed.jobs:
            body = body_of({"by": worker}, "result")
            outcome = chance.random()
            if outcome < 0.7:
                execute_now(fairlog, CompleteJob(job_id=job.id, attempt=job.attempt, result=body))
            elif outcome < 0.95:
                execute_now(fairlog, FailJob(job_id=job.id, attempt=job.attempt, error=body))
            else:
                held.append((job.id, job.attempt))
        for job_id in chance.sample(jobs, k=min(2, len(jobs))):
            if chance.random() < 0.15:
                _try(
                    fairlog,
                    CancelJob(job_id=job_id) if chance.random() < 0.5 else RetryJob(job_id=job_id),
                )
        clock.advance(DAY / rounds)
        execute_now(fairlog, SaveProjections())
        now = to_micros(clock.now())
        due = fairlog.read_now(partial(fairlog.jobs.due, now_micros=now, after=None, limit=100))
        execute_now(fairlog, EnforceDeadlines(jobs=[one.id for one in due]))
    return jobs


def _try(fairlog: Fairlog, command: CancelJob | RetryJob) -> None:
    with suppress(FairlogError):
        execute_now(fairlog, command)


def submission(clock: ManualClock, *, days_ahead: float) -> SubmitJob:
    return SubmitJob(
        user_id=USERS[1],
        kind=KINDS[0],
        payload=body_of({"number": 1}, "payload"),
        run_at=clock.now() + timedelta(days=days_ahead),
    )


def follow(fairlog: Fairlog) -> None:
    """Apply all events to the asynchronous projections."""
    while step_all(fairlog.projector_runner.projectors).left:
        pass


def rows_of(fairlog: Fairlog) -> dict[str, Sequence[object]]:
    """All rows of the projections' current generations, by table, without the generation."""
    found: dict[str, Sequence[object]] = {}
    with fairlog.database.read() as connection:
        generations = {name: one.generation for name, one in registry.read(connection).items()}
        for name, tables in projection_tables(fairlog).items():
            for table in tables if name in generations else ():
                query = sa.select(*table.c[1:]).where(table.c.generation == generations[name])
                found[str(table.name)] = sorted(map(tuple, connection.execute(query)), key=repr)
    return found


def first_event(connection: Connection) -> int:
    """The position of the first row of the log that no archive keeps; there is one."""
    first = sa.select(sa.func.min(events.c.position)).where(events.c.type.not_in(KEPT_NAMES))
    return int(connection.execute(first).scalar_one())


def archive_older(fairlog: Fairlog, clock: ManualClock, place: Archive, days: float) -> int:
    """Archive what is older than so many days; return the position of the cut."""
    cut = cut_before(fairlog, clock.now() - timedelta(days=days), None)
    assert archive(fairlog, place, cut, lambda *_: None).last == cut > 0
    follow(fairlog)
    return cut


def findings(fairlog: Fairlog, place: Path) -> list[str]:
    """What is wrong with a log and its archive."""
    found: list[str] = []
    follow(fairlog)
    verify_log(fairlog, lambda one: found.append(str(one)), lambda *_: None)
    verify_archive(fairlog, str(place), lambda one: found.append(str(one)), lambda *_: None)
    return found
