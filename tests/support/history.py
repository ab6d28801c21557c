"""A log with a bit of everything in it, and the hands of an intruder who has all rights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from adapters.database.database import Database
from adapters.log.archived import ARCHIVE_EVENT_NAMES
from adapters.log.schema import protect_events
from adapters.log.tables import bodies, events, log_head
from adapters.settings import Settings
from domain.decisions.answers import Answer, Claimed, JobsUpdated, Submitted
from domain.jobs.job import Job, State
from domain.language.callbacks import CALLBACK_KIND
from domain.language.commands import (
    AcceptClock,
    AcceptLoss,
    BackfillSchedule,
    CancelJob,
    ChangeLimit,
    ClaimJobs,
    Command,
    CompleteJob,
    DeleteCallback,
    DeletePlan,
    DeleteSchedule,
    EnforceDeadlines,
    EraseBodies,
    ExtendLeases,
    FailJob,
    FireSchedule,
    Progress,
    RecoverJobs,
    ReportWrongKeys,
    RetryJob,
    ReturnJob,
    RotateCallbackSecret,
    SaveProjections,
    SetCallback,
    SetSchedule,
    SubmitJob,
    TriggerSchedule,
)
from domain.language.errors import Refusal
from domain.language.events import (
    EVENT_TYPES,
    AfterFailure,
    Event,
    EventLost,
    Role,
    Scope,
    encode,
    type_of,
)
from domain.language.identifiers import (
    CallbackName,
    JobId,
    Kind,
    PlanName,
    ResourceName,
    ScheduleName,
    ServerId,
    UserId,
    WorkerId,
)
from domain.language.limits import Rate, RetryPolicy
from domain.language.moments import later
from domain.language.schedules import Overlap, Timing
from domain.log.chain import GENESIS, leaf, link
from entrypoints.composition import compose
from entrypoints.service.fairlog import Fairlog
from tests.support.clock import NOON, ManualClock
from tests.support.core import execute_now, writer_of
from tests.support.keys import by, create_key, revoke_key, rotate_key
from tests.support.prepared import copied_or_made, prepare
from tests.support.stories import ERROR, RESULT, body

ALICE, BOB, CAROL = UserId("alice"), UserId("bob"), UserId("càrol ")
DAVE, EVE = UserId("dave"), UserId("eve")
GOLD = PlanName("gold")
RATES: Any = {"throttle": Rate(1000, 1), "weight": 100, "paused": False}
ECHO, THUMB, START, AFTER = Kind("echo"), Kind("thumb"), Kind("start"), Kind("after")
WORKER = WorkerId("worker-1")


@contextmanager
def service(database_url: str, **settings: Any) -> Iterator[tuple[Fairlog, ManualClock]]:
    """A service with a clock in our hands, on a database that is brought up to date."""
    clock = ManualClock(NOON)
    fairlog = compose(Settings(database_url=database_url, **settings), clock=clock)
    prepare(fairlog)
    fairlog.writer.start()
    try:
        yield fairlog, clock
    finally:
        fairlog.close()


@contextmanager
def service_with_history(database_url: str) -> Iterator[tuple[Fairlog, ManualClock]]:
    """A service on a new database in which `tell_everything` has told: a copy of the first one."""

    def tell() -> None:
        with service(database_url) as (fairlog, clock):
            tell_everything(fairlog, clock)

    database = Database(database_url)
    copied_or_made(database, "history", tell)
    database.close()
    with service(database_url) as (fairlog, clock):
        end = fairlog.read_now(fairlog.log.now)
        clock.advance((end - clock.now()).total_seconds())
        yield fairlog, clock


def tell_everything(fairlog: Fairlog, clock: ManualClock) -> None:
    """Let each type of event happen, and most ways to it: about 90 events.

    Those of an archive are told in `tests/integration/archive`, since it takes events away.
    """
    _tell_of_limits(fairlog, clock)
    _tell_of_runs(fairlog, clock)
    _tell_of_time(fairlog, clock)
    _tell_of_attempts(fairlog, clock)
    _tell_of_schedules(fairlog, clock)
    _tell_of_callbacks(fairlog)
    _tell_of_starts(fairlog, clock)
    _tell_of_keys(fairlog)
    _tell_of_parents(fairlog)
    _tell_of_a_loss(fairlog)
    do(fairlog, SaveProjections())
    with fairlog.database.read() as connection:
        told = {name for (name,) in connection.execute(sa.select(events.c.type).distinct())}
    assert told == set(EVENT_TYPES) - set(ARCHIVE_EVENT_NAMES)


def _tell_of_a_loss(fairlog: Fairlog) -> None:
    """A replica that lacked two events was promoted."""
    lost = (EventLost(lost_type="JobSubmitted", user_id=BOB, lost_job_id=JobId(1)), EventLost())
    do(fairlog, AcceptLoss(at=fairlog.read_now(fairlog.log.position), lost=lost))


def _tell_of_limits(fairlog: Fairlog, clock: ManualClock) -> None:
    do(fairlog, ChangeLimit(scope=Scope.USER, user_id=BOB, limit=3, running=2))
    do(fairlog, ChangeLimit(scope=Scope.KIND, kind=THUMB, running=5))
    do(fairlog, ChangeLimit(scope=Scope.GLOBAL, limit=1000))
    for plan in (GOLD, PlanName("brief")):
        do(fairlog, ChangeLimit(scope=Scope.PLAN, plan=plan, limit=900, max_attempts=5, **RATES))
    do(fairlog, ChangeLimit(scope=Scope.USER, user_id=CAROL, plan=GOLD, priority_max=9))
    refused(fairlog, DeletePlan(plan=GOLD))
    do(fairlog, DeletePlan(plan=PlanName("brief")))
    do(fairlog, ChangeLimit(scope=Scope.USER_KIND, user_id=BOB, kind=THUMB, **RATES))
    for shop in ("shop:*", "shop:a", "shop:b"):
        do(fairlog, ChangeLimit(scope=Scope.RESOURCE, resource=ResourceName(shop), running=3))
    do(
        fairlog,
        ChangeLimit(scope=Scope.RESOURCE, resource=ResourceName("shop:b"), running=None),
    )
    mail = Kind("mail")
    do(fairlog, ChangeLimit(scope=Scope.KIND, kind=mail, retry=RetryPolicy(), timeout_seconds=9.0))
    waiting = [
        writer_of(fairlog).queue.put(SubmitJob(user_id=user, kind=kind, payload=body(number)))
        for number in range(6)
        for user, kind in ((ALICE, ECHO), (BOB, THUMB), (CAROL, ECHO))
    ]
    assert sum(one.exception() is None for one in waiting) == 15
    do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body(0)))  # the same again
    clock.advance(61)


def _tell_of_runs(fairlog: Fairlog, clock: ManualClock) -> None:
    first, *others = claim(fairlog, 6)
    do(fairlog, CompleteJob(job_id=first.id, attempt=1, result=RESULT))
    do(fairlog, CompleteJob(job_id=others[0].id, attempt=1))
    do(fairlog, FailJob(job_id=others[1].id, attempt=1, error=ERROR))
    do(fairlog, FailJob(job_id=others[2].id, attempt=1, error=ERROR, may_retry=False))
    do(fairlog, RetryJob(job_id=others[2].id))
    do(fairlog, ReturnJob(job_id=others[3].id, attempt=1))
    do(fairlog, CancelJob(job_id=others[4].id))
    held = claim(fairlog, 2, claim_id="lost")  # others start its jobs, so it leaves a note
    clock.advance(20)
    do(fairlog, ExtendLeases(worker=WORKER, jobs=[(job.id, job.attempt) for job in held]))
    clock.advance(31)
    do(fairlog, EnforceDeadlines(jobs=[job.id for job in [*held, *others]]))
    do(fairlog, ClaimJobs(worker=WORKER, max_jobs=1, kinds=(Kind("none"),), claim_id="empty"))
    embedded = claim(fairlog, 2, server=ServerId("s"))
    do(fairlog, RecoverJobs(server=ServerId("s"), jobs=[job.id for job in embedded]))


def _tell_of_time(fairlog: Fairlog, clock: ManualClock) -> None:
    then = later(clock.now(), 1)
    do(fairlog, SubmitJob(user_id=CAROL, kind=ECHO, payload=body([1]), priority=2, run_at=then))
    do(fairlog, SubmitJob(user_id=CAROL, kind=ECHO, payload=body([2]), expires_at=then))
    clock.advance(2)
    due = fairlog.read_now(fairlog.with_saved_rows(fairlog._due))
    assert len(due) == 2
    woken = do(fairlog, EnforceDeadlines(jobs=due))
    assert isinstance(woken, JobsUpdated)
    [expired] = [job for job in woken.jobs if job.state is State.CANCELLED]
    do(fairlog, EraseBodies(job_id=expired.id, attempt=0, positions=(expired.id,)))
    do(fairlog, SubmitJob(user_id=ALICE, kind=ECHO, payload=body("slow"), timeout_seconds=5.0))
    running = [*claim(fairlog, 20), *claim_on(fairlog)]
    clock.advance(6)
    do(fairlog, EnforceDeadlines(jobs=[job.id for job in running]))
    for job in running:
        if job.timeout_seconds == 5.0:
            refused(fairlog, ReturnJob(job_id=job.id, attempt=job.attempt))
    clock.step(-60)
    do(fairlog, AcceptClock())
    clock.advance(700)  # and the clock has caught up


def _tell_of_attempts(fairlog: Fairlog, clock: ManualClock) -> None:
    """Plans for when handlers begin and end, and what happens to other jobs when a worker dies."""
    for number in range(4):
        do(fairlog, SubmitJob(user_id=CAROL, kind=THUMB, payload=body([number, "ahead"])))
    [begun, ahead] = claim(fairlog, 2, begins=1)
    key = (ahead.id, ahead.attempt)
    do(fairlog, ExtendLeases(worker=WORKER, jobs=[key], begun=(key,)))
    for fraction in (0.25, 0.5):
        progress = (Progress(*key, fraction, body(f"page {fraction}")),)
        do(fairlog, ExtendLeases(worker=WORKER, jobs=[key], progress=progress))
        clock.advance(1)
    do(fairlog, CancelJob(job_id=begun.id))
    refused(fairlog, CompleteJob(job_id=begun.id, attempt=begun.attempt))
    clock.advance(10)
    [late] = claim(fairlog, 1, begins=0)
    do(fairlog, CancelJob(job_id=late.id))
    [later_yet] = claim(fairlog, 1)
    clock.advance(20)
    ids = [ahead.id, late.id, later_yet.id]
    do(fairlog, EnforceDeadlines(jobs=ids))
    clock.advance(10)
    do(fairlog, EnforceDeadlines(jobs=ids))
    claim_on(fairlog)


def _tell_of_starts(fairlog: Fairlog, clock: ManualClock) -> None:
    """Throttles of a user, of a user's kind and of resources hold jobs back."""
    once = Rate(1, 60)
    do(fairlog, ChangeLimit(scope=Scope.USER, user_id=DAVE, throttle=once, weight=50))
    do(fairlog, ChangeLimit(scope=Scope.USER_KIND, user_id=ALICE, kind=START, throttle=once))
    do(fairlog, ChangeLimit(scope=Scope.RESOURCE, resource=ResourceName("shop:*"), throttle=once))
    for number in range(3):
        named: Any = {"kind": START, "payload": body(["start", number])}
        do(fairlog, SubmitJob(user_id=DAVE, **named))
        shop = ResourceName(f"shop:{number % 2}")
        do(fairlog, SubmitJob(user_id=ALICE, resources=(shop,), **named))
    assert len(claim(fairlog, 9)) == 2
    clock.advance(61)
    assert len(claim(fairlog, 9)) == 2


def _tell_of_callbacks(fairlog: Fairlog) -> None:
    """Endpoints that come and go, a rotated secret, and ends that are told and not."""
    name = CallbackName("orders")
    do(fairlog, SetCallback(name=name, url="https://a.example/hook", kinds=(ECHO,)))
    do(fairlog, RotateCallbackSecret(name=name))
    url = "http://b.example:8080/?to=x"
    for number in (1, 2):
        payload = body(f"told {number}")
        told = SubmitJob(user_id=CAROL, kind=ECHO, payload=payload, callback=url)
        submitted = do(fairlog, told)
        assert isinstance(submitted, Submitted)
        do(fairlog, CancelJob(job_id=submitted.job.id))
    sender = WorkerId("sender")
    claim = ClaimJobs(worker=sender, max_jobs=3, kinds=(CALLBACK_KIND,), delivers=True)
    claimed = do(fairlog, claim)
    assert isinstance(claimed, Claimed)
    assert len(claimed.jobs) == 3
    for job in claimed.jobs[:2]:
        do(fairlog, CompleteJob(job_id=job.id, attempt=job.attempt))
    do(fairlog, DeleteCallback(name=name))


def _tell_of_schedules(fairlog: Fairlog, clock: ManualClock) -> None:
    """One of each overlap policy, and what may come of its due times."""
    names = {overlap: ScheduleName(f"{overlap.value} é") for overlap in Overlap}
    fields: Any = {"user_id": CAROL, "kind": ECHO, "payload": "{}"}
    for overlap, name in names.items():
        timing = Timing(cron="*/5 * * * *", time_zone="Europe/Berlin", jitter_seconds=9)
        do(fairlog, SetSchedule(name=name, timing=timing, overlap=overlap, **fields))
    for seconds in (310, 310, 310, 9_000):
        clock.advance(seconds)
        for name in names.values():
            do(fairlog, FireSchedule(name=name))
    claim_on(fairlog)
    buffered, skipped = names[Overlap.BUFFER_ONE], names[Overlap.SKIP]
    do(fairlog, TriggerSchedule(name=skipped))
    past: Any = {"from_at": later(clock.now(), -900), "until_at": clock.now()}
    do(fairlog, BackfillSchedule(name=skipped, **past))
    timing = Timing(every_seconds=60)
    do(fairlog, SetSchedule(name=buffered, timing=timing, paused=True, **fields))
    do(fairlog, SetSchedule(name=ScheduleName("brief"), timing=timing, **fields))
    do(fairlog, DeleteSchedule(name=ScheduleName("brief")))
    refused(fairlog, TriggerSchedule(name=ScheduleName("brief")))
    for name in (skipped, skipped, buffered):
        do(fairlog, FireSchedule(name=name))
    claim_on(fairlog)


def _tell_of_keys(fairlog: Fairlog) -> None:
    do(fairlog, create_key("root", Role.ADMIN))
    do(fairlog, by("root", create_key("ci", users=(ALICE,), kinds=(ECHO,))))
    do(fairlog, by("root", create_key("w", Role.WORKER, kinds=(ECHO,))))
    do(fairlog, by("ci", SubmitJob(user_id=ALICE, kind=ECHO, payload=body("by a key"))))
    started = do(fairlog, by("w", ClaimJobs(worker=WORKER, max_jobs=1, kinds=(ECHO,))))
    assert isinstance(started, Claimed)
    [job] = started.jobs
    refused(fairlog, CompleteJob(job_id=job.id, attempt=job.attempt))
    do(fairlog, by("w", CompleteJob(job_id=job.id, attempt=job.attempt)))
    do(fairlog, rotate_key("ci", "second"))
    do(fairlog, by("root", revoke_key("ci")))
    now = fairlog.read_now(fairlog.log.now)
    do(fairlog, ReportWrongKeys(count=3, addresses=2, first_at=now, last_at=now))


def _tell_of_parents(fairlog: Fairlog) -> None:
    """Jobs come after others that are cancelled, and one goes on waiting."""
    first, second, third = (_submitted(fairlog, EVE, number) for number in range(3))
    for after_failure in AfterFailure:
        child = _submitted(fairlog, EVE, after_failure, (first, second), after_failure)
    do(fairlog, CancelJob(job_id=first))
    do(fairlog, CancelJob(job_id=second))
    do(fairlog, CancelJob(job_id=_submitted(fairlog, EVE, "alone", (third,))))
    _submitted(fairlog, EVE, "waits", (third, child))


def _submitted(
    fairlog: Fairlog,
    user_id: UserId,
    number: object,
    after: tuple[JobId, ...] = (),
    after_failure: AfterFailure = AfterFailure.FAIL,
) -> JobId:
    payload = body(["after", number])
    fields: Any = {"kind": AFTER, "after": after, "after_failure": after_failure}
    done = do(fairlog, SubmitJob(user_id=user_id, payload=payload, **fields))
    assert isinstance(done, Submitted)
    return done.job.id


def do(fairlog: Fairlog, command: Command) -> Answer:
    return execute_now(fairlog, command)


def refused(fairlog: Fairlog, command: Command) -> None:
    with pytest.raises(Refusal):
        do(fairlog, command)


def claim(
    fairlog: Fairlog,
    jobs_max: int,
    server: ServerId | None = None,
    begins: int | None = None,
    claim_id: str | None = None,
) -> Sequence[Job]:
    answer = do(
        fairlog,
        ClaimJobs(
            worker=WORKER, max_jobs=jobs_max, server=server, begins=begins, claim_id=claim_id
        ),
    )
    assert isinstance(answer, Claimed)
    assert answer.jobs
    return answer.jobs


def claim_on(fairlog: Fairlog) -> Sequence[Job]:
    """Claim until there is nothing left: a suspect is served by itself."""
    found: list[Job] = []
    while True:
        answer = do(fairlog, ClaimJobs(worker=WORKER, max_jobs=20))
        assert isinstance(answer, Claimed)
        if not answer.jobs:
            return found
        found += answer.jobs


class Intruder:
    """Somebody with all rights on the database, who puts the triggers back behind them."""

    def __init__(self, fairlog: Fairlog) -> None:
        self._database = fairlog.database

    def run(self, *statements: sa.Executable) -> None:
        """Run statements in one transaction, with no triggers in the way."""
        self.drop_triggers()
        try:
            with self._database.write() as connection:
                for statement in statements:
                    connection.execute(statement)
        finally:
            protect_events(self._database)

    def drop_triggers(self) -> None:
        for trigger in ("events_no_update", "events_no_delete"):
            with self._database.write() as connection:
                connection.execute(sa.text(f"DROP TRIGGER IF EXISTS {trigger}"))

    def rows(self) -> list[dict[str, Any]]:
        with self._database.read() as connection:
            found = connection.execute(sa.select(events).order_by(events.c.position))
            return [dict(row) for row in found.mappings()]

    def row(self, position: int) -> dict[str, Any]:
        return self.rows()[position - 1]

    def position_of(self, event_type: str) -> int:
        """Return the position of the first event of a type."""
        return next(int(row["position"]) for row in self.rows() if row["type"] == event_type)

    def change(self, position: int, **columns: Any) -> None:
        self.run(events.update().where(events.c.position == position).values(**columns))

    def replace_all(self, rows: Sequence[dict[str, Any]]) -> None:
        """Put these rows in the place of the log, one after the other from position 1."""
        self.run(events.delete())
        self.run(
            *(
                events.insert().values(**(row | {"position": position}))
                for position, row in enumerate(rows, start=1)
            )
        )

    def cut_off(self, position: int) -> None:
        """Take away all from this position on, and let the head say so."""
        *_, last = self.rows()[: position - 1]
        self.run(
            events.delete().where(events.c.position >= position),
            bodies.delete().where(bodies.c.position >= position),
            log_head.update().values(
                position=last["position"],
                hash=last["hash"],
                recorded_at=last["recorded_at"],
                saved=last["position"],
            ),
        )

    def link_anew(self) -> None:
        """Compute the whole chain again, as one who knows how it is made would."""
        tail = GENESIS
        changes: list[sa.Executable] = []
        for row in self.rows():
            tail = link(
                tail,
                leaf(
                    row["position"],
                    row["version"],
                    row["type"].encode(),
                    row["user_id"],
                    row["job_id"],
                    row["recorded_at"],
                    row["data"],
                ),
            )
            at = events.c.position == row["position"]
            changes.append(events.update().where(at).values(hash=tail))
        self.run(*changes, log_head.update().values(position=row["position"], hash=tail))

    def append(self, event: Event, user_id: str, job_id: int | None) -> int:
        """Put an event of our own behind the last one, on the chain; its position."""
        last = self.rows()[-1]
        position = int(last["position"]) + 1
        row = {
            "position": position,
            "type": type_of(event),
            "user_id": user_id.encode(),
            "job_id": job_id,
            "data": encode(event),
        }
        self.run(events.insert().values(**(last | row)))
        self.link_anew()
        return position
