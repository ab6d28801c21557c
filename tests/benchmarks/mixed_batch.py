"""A batch of 200 commands of all sorts, of 200 users, and how many statements the writer needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pymysql
from msgspec import Struct
from sqlalchemy import event

from adapters.database.database import Database
from adapters.settings import Settings
from domain.decisions.answers import Answer, Claimed, Submitted
from domain.jobs.job import Job
from domain.language.bodies import body_of
from domain.language.commands import (
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteJob,
    ExtendLeases,
    FailJob,
    SubmitJob,
)
from domain.language.events import Scope
from domain.language.identifiers import JobId, Kind, PlanName, ResourceName, UserId, WorkerId
from domain.language.limits import Rate
from entrypoints.composition import compose, prepare
from entrypoints.service.fairlog import Fairlog
from tests.support.clock import ManualClock
from tests.support.core import MANY, outcomes, put, put_as_one_batch

COMMANDS: Final = 200
USERS: Final = 200

_KINDS: Final = (Kind("thumbnail"), Kind("export"), Kind("webhook"))
_PLANS: Final = (PlanName("free"), PlanName("bronze"), PlanName("platinum"))
_PLENTY: Final = Rate(100_000, 3600)
_WORKER: Final = WorkerId("worker-1")
_RUNNING: Final = 110  # jobs, the first of as many users
_COMPLETED, _FAILED, _KEPT = range(35), range(35, 70), range(70, 100)  # of those running
_CANCELLED: Final = range(110, 140)  # users
_SUBMITTING: Final = range(140, 200)  # users
_CLAIMS: Final = 10
_HEARTBEATS_MATTER_SECONDS: Final = 20.0  # past half of a lease of 30 s
_SUBMITTED_AT_ONCE: Final = 5000


class Counted(Struct, frozen=True):
    """Statements of one transaction, BEGIN and COMMIT included."""

    by_client: int  # given to the driver; a multi-row one is one
    by_server: int | None  # of MariaDB, which has no BEGIN to count; None: SQLite has no server

    @property
    def statements(self) -> int:
        return max(self.by_client, self.by_server or 0)


def count_statements(
    database_url: str, jobs_a_user: int, *, has_start_limits: bool = False
) -> Counted:
    """Fill an empty database, open it anew so that nothing of it is in memory, and count.

    With `has_start_limits`, all users are on plans with throttles, and all jobs use resources with
    throttles and caps; none is used up.
    """
    clock = ManualClock()
    resources = (ResourceName("shop"),) if has_start_limits else ()
    with _service(database_url, clock) as (fairlog, _):
        if has_start_limits:
            _all_well(fairlog, list(_start_limits()))
        batch = _prepare(fairlog, jobs_a_user, resources)
    clock.advance(_HEARTBEATS_MATTER_SECONDS)
    with _service(database_url, clock) as (fairlog, counter):
        _all_well(
            fairlog, [_submit(UserId("somebody"), "first")]
        )  # connects, and reads the registry
        counter.start()
        batches = fairlog.writer.stats.batches
        answers = outcomes(put_as_one_batch(fairlog, *batch))
        counted = counter.stop()
        assert fairlog.writer.stats.batches == batches + 1
    assert len(answers) == COMMANDS
    _raise_first(answers)
    served = [one for one in answers if isinstance(one, Claimed)]
    assert len(served) == _CLAIMS
    assert all(one.jobs for one in served)
    return counted


def _start_limits() -> Iterator[Command]:
    for plan in _PLANS:
        yield ChangeLimit(scope=Scope.PLAN, plan=plan, throttle=_PLENTY, weight=len(plan) * 100)
    for number in range(USERS):
        plan = _PLANS[number % len(_PLANS)]
        yield ChangeLimit(scope=Scope.USER, user_id=UserId(f"user-{number}"), plan=plan)
    for kind in _KINDS:
        yield ChangeLimit(scope=Scope.KIND, kind=kind, throttle=_PLENTY, running=_PLENTY.limit)
    shops = ResourceName("shop*")
    yield ChangeLimit(scope=Scope.RESOURCE, resource=shops, throttle=_PLENTY, running=_PLENTY.limit)


def _prepare(
    fairlog: Fairlog, jobs_a_user: int, resources: tuple[ResourceName, ...]
) -> list[Command]:
    """Let every user have jobs waiting, and one running for more than half of them."""
    submissions = [
        _submit(UserId(f"user-{number}"), f"{round_}-{number}", resources)
        for round_ in range(jobs_a_user)
        for number in range(USERS)
    ]
    submitted: list[Answer] = []
    for start in range(0, len(submissions), _SUBMITTED_AT_ONCE):
        submitted += _all_well(fairlog, submissions[start : start + _SUBMITTED_AT_ONCE])
    latest = [one.job.id for one in submitted[-USERS:] if isinstance(one, Submitted)]
    [claimed] = _all_well(fairlog, [ClaimJobs(worker=_WORKER, max_jobs=_RUNNING)])
    assert isinstance(claimed, Claimed)
    assert len({job.user_id for job in claimed.jobs}) == _RUNNING
    return _mixed(claimed.jobs, latest, resources)


def _mixed(
    running: Sequence[Job], latest: Sequence[JobId], resources: tuple[ResourceName, ...]
) -> list[Command]:
    """`latest` is each user's latest job."""
    by_kind: list[list[Command]] = [
        [_submit(UserId(f"user-{number}"), f"mixed-{number}", resources) for number in _SUBMITTING],
        [_complete(running[index]) for index in _COMPLETED],
        [_fail(running[index], may_retry=index % 2 == 0) for index in _FAILED],
        [_keep(running[index]) for index in _KEPT],
        [CancelJob(job_id=latest[number]) for number in _CANCELLED],
        [_claim(number) for number in range(_CLAIMS)],
    ]
    mixed = [command for commands in by_kind for command in commands]
    assert len(mixed) == COMMANDS
    return mixed[::3] + mixed[1::3] + mixed[2::3]


def _submit(user_id: UserId, word: str, resources: tuple[ResourceName, ...] = ()) -> SubmitJob:
    kind = _KINDS[len(word) % len(_KINDS)]
    payload = body_of({"image": word}, "payload")
    numbered = tuple(ResourceName(f"{name}-{len(word)}") for name in resources)
    return SubmitJob(user_id=user_id, kind=kind, payload=payload, resources=numbered)


def _complete(job: Job) -> CompleteJob:
    result = body_of({"of": job.id}, "result")
    return CompleteJob(job_id=job.id, attempt=job.attempt, result=result)


def _fail(job: Job, *, may_retry: bool) -> FailJob:
    error = body_of({"message": "it broke"}, "error")
    return FailJob(job_id=job.id, attempt=job.attempt, error=error, may_retry=may_retry)


def _keep(job: Job) -> ExtendLeases:
    return ExtendLeases(worker=_WORKER, jobs=[(job.id, job.attempt)])


def _claim(number: int) -> ClaimJobs:
    """Each second one for some kinds alone."""
    kinds = _KINDS[:2] if number % 2 else None
    return ClaimJobs(worker=WorkerId(f"worker-{number + 2}"), max_jobs=5, kinds=kinds)


def _all_well(fairlog: Fairlog, commands: Sequence[Command]) -> list[Answer]:
    return _raise_first(outcomes(put(fairlog, *commands)))


def _raise_first(answers: Sequence[Answer | Exception]) -> list[Answer]:
    """All were answered well, or the first error."""
    well: list[Answer] = []
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        well.append(answer)
    return well


class StatementCounter:
    """Counts what goes over the writer's connections. Made before they are opened."""

    def __init__(self, database: Database) -> None:
        self._is_sqlite = database.is_sqlite
        self._connections: list[Any] = []
        self._sent = 0
        engine = database.writing_engine
        event.listen(engine, "connect", lambda connection, _: self._connections.append(connection))
        event.listen(engine, "before_cursor_execute", self._count)
        event.listen(engine, "commit", self._count)
        if not self._is_sqlite:  # there, BEGIN is a statement like any other
            event.listen(engine, "begin", self._count)

    def start(self) -> None:
        """Call it while the writer is idle."""
        self._sent = 0
        self._questions = self._ask_server()

    def stop(self) -> Counted:
        """Call it when the writer is idle again."""
        sent = self._sent
        if self._is_sqlite:
            return Counted(sent, None)
        itself = 1  # the second look
        found = self._ask_server()
        return Counted(sent, max(found[one] - self._questions[one] - itself for one in found))

    def _count(self, *_: object) -> None:
        self._sent += 1

    def _ask_server(self) -> dict[int, int]:
        """Return the statements of each connection; several in a packet count as several."""
        if self._is_sqlite:
            return {}
        return {
            id(connection): _questions(connection)
            for connection in self._connections
            if connection.open
        }


def _questions(connection: "pymysql.Connection[Any]") -> int:
    with connection.cursor() as cursor:
        cursor.execute("SHOW SESSION STATUS LIKE 'Questions'")
        found = cursor.fetchone()
    assert found is not None
    return int(found[1])


@contextmanager
def _service(database_url: str, clock: ManualClock) -> Iterator[tuple[Fairlog, StatementCounter]]:
    settings = Settings(database_url=database_url, user_limit=MANY, global_limit=MANY)
    fairlog = compose(settings, clock=clock)
    try:
        counter = StatementCounter(fairlog.database)
        prepare(fairlog)
        fairlog.writer.start()
        yield fairlog, counter
    finally:
        fairlog.close()
