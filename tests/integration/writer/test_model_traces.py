"""Traces of real writers are replayed against the model of the protocol, which allows each."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.engine import Connection

from adapters.log.tables import log_head
from adapters.writer import retries, transactions, writer
from adapters.writer.commits_in_doubt import CommitsInDoubt
from domain.decisions.answers import Claimed, JobsUpdated, JobUpdated, Submitted
from domain.decisions.batch import Outcome
from domain.jobs import life_cycle
from domain.language.bodies import body_of
from domain.language.commands import Command, EnforceDeadlines, SaveProjections
from domain.language.errors import LeaseHasEnded, LogUnavailable, NotTheCurrentAttempt
from domain.language.events import (
    JobCompleted,
    JobRequeued,
    JobStarted,
    JobSubmitted,
    RateLimitDecided,
    Recorded,
    SubmissionDeduplicated,
    WorkerMissed,
)
from domain.language.identifiers import JobId, WorkerId
from entrypoints.composition import rebuild_projections
from entrypoints.service.fairlog import Fairlog
from tests.model.jobs import (
    Accepted,
    Answer,
    Claim,
    Complete,
    Enforce,
    Event,
    Given,
    Request,
    Submit,
)
from tests.model.replay import (
    CLAIMS_MAX,
    Call,
    Calls,
    Killed,
    LeasesEnded,
    Looked,
    NotAllowedError,
    Queried,
    Rebuilt,
    Step,
    replay,
)
from tests.model.state import (
    NOBODY,
    Batch,
    Client,
    Node,
    State,
    Writer,
    hear,
    next_request,
    send,
)
from tests.support.clock import ManualClock
from tests.support.core import log_of, outcomes, put_as_one_batch, service, writer_of
from tests.support.stories import body, claim, complete, submit

STEPS: Final = 40  # of a trace
LEASE_SECONDS: Final = 30.0
CLIENTS: Final = (
    *(Client(f"keyed {number}", "with a key") for number in range(12)),
    *(Client(f"other {number}", "without a key") for number in range(8)),
    *(Client(f"worker {number}", "worker") for number in range(4)),
)
START: Final = State(Node(), (Writer(), Writer()), CLIENTS)
_NAMES: Final = {body(one.name).sha256: one.name for one in CLIENTS}
_WORKERS: Final = {body_of(one.name, "result").sha256: one.name for one in CLIENTS}


class Commits:
    """The COMMITs of one service's writer; the answers to some are lost."""

    def __init__(self, fairlog: Fairlog) -> None:
        self.to_lose: list[bool] = []  # for each of the next ones, True if it is carried out
        self.stays_away = False  # after the next loss the database lets nobody connect
        self._is_away = False
        engine = fairlog.database.writing_engine
        sa.event.listen(engine, "commit", self._lose)
        sa.event.listen(engine, "checkout", self._connect)

    def heal(self) -> int:
        """Let all go well again, and return the number of COMMITs that were not lost."""
        self._is_away = self.stays_away = False
        left = len(self.to_lose)
        self.to_lose.clear()
        return left

    def _lose(self, connection: Connection) -> None:
        if self.to_lose:
            self._is_away = self.stays_away
            if self.to_lose.pop():
                connection.connection.commit()
            raise ConnectionError("The answer to the COMMIT was lost.")

    def _connect(self, *_: object) -> None:
        if self._is_away:
            raise ConnectionError("The database is away.")


class Recorder:
    """Two services on one database, which random callers ask, and the trace of what they did."""

    def __init__(self, stack: ExitStack, database_url: str, seed: int) -> None:
        self.trace: list[Step] = []
        self._stack = stack
        self._url = database_url
        self._chance = random.Random(seed)
        self._clock = ManualClock()
        self._services = [self._new_service() for _ in range(2)]
        self._commits = [Commits(one) for one in self._services]
        self._clients = list(CLIENTS)
        self._job_ids: list[JobId] = []  # in the order of their submissions

    def run(self) -> None:
        for _ in range(STEPS):
            [act] = self._chance.choices(
                [self._call, self._end_leases, self._kill, self._rebuild, self._query],
                weights=[70, 15, 5, 2, 8],
            )
            act()
            self._look()

    def _new_service(self) -> Fairlog:
        return self._stack.enter_context(
            service(self._url, clock=self._clock, lease_seconds=LEASE_SECONDS)
        )

    def _end_leases(self) -> None:
        self._clock.advance(LEASE_SECONDS + 1)
        self.trace.append(LeasesEnded())

    def _kill(self) -> None:
        """Leave a writer that does nothing for good, and start another one, as a server does."""
        number = self._chance.randrange(2)
        known = writer_of(self._services[number]).known_end.latest
        self._services[number] = self._new_service()
        self._commits[number] = Commits(self._services[number])
        writer_of(self._services[number]).known_end.latest = known
        self.trace.append(Killed(number))

    def _rebuild(self) -> None:
        rebuild_projections(self._chance.choice(self._services), [])
        self.trace.append(Rebuilt())

    def _query(self) -> None:
        number = self._chance.randrange(2)
        page = asyncio.run(self._services[number].newest_jobs(None, None, None, 100))
        shown = [(one.state.value.replace("queued", "waiting"), one.attempt) for one in page.jobs]
        self.trace.append(Calls((Call(number, (), ()),)))
        self.trace.append(Queried(tuple(reversed(shown))))

    def _call(self) -> None:
        """Give one writer a batch, or both at the same time. Some COMMITs get no answer."""
        numbers = self._chance.sample([0, 1], self._chance.choice([1, 1, 1, 2]))
        asking = [
            (place, request)
            for place, client in enumerate(self._clients)
            if (request := next_request(client, CLAIMS_MAX)) is not None
        ]
        self._chance.shuffle(asking)
        batches = [self._batch(asking) for _ in numbers]
        lost_max = 0
        with pytest.MonkeyPatch.context() as patch:
            for number in numbers:
                commits = self._commits[number]
                if self._chance.random() < 0.5:
                    times = self._chance.choice([1, 2])
                    commits.to_lose = self._chance.choices([True, False], k=times)
                    commits.stays_away = self._chance.random() < 0.3
                    lost_max += times
                    if commits.stays_away:
                        patch.setattr(retries, "BATCH_SECONDS_MAX", 0.2)
            replies = [
                put_as_one_batch(self._services[number], *self._commands(batch))
                for number, batch in zip(numbers, batches, strict=True)
            ]
            found = [outcomes(one) for one in replies]
            lost_max -= sum(self._commits[number].heal() for number in numbers)
        self._job_ids = [
            one.job_id
            for one in log_of(self._services[0])
            if isinstance(one.event, JobSubmitted) and one.job_id is not None
        ]
        calls = []
        for number, batch, those in zip(numbers, batches, found, strict=True):
            answers = tuple(self._answer(one) for one in those) if batch else ()
            for (place, request), answer in zip(batch, answers, strict=True):
                if place != NOBODY:
                    self._clients[place] = hear(send(self._clients[place], request), answer)
            calls.append(Call(number, batch, answers))
        self.trace.append(Calls(tuple(calls), lost_max))

    def _batch(self, asking: list[tuple[int, Request]]) -> Batch:
        """Take some requests, in the order in which they are decided: claims come last."""
        batch = [
            asking.pop() for _ in range(min(len(asking), self._chance.choice([0, 1, 1, 2, 3])))
        ]
        if self._chance.random() < 0.2:
            batch.append((NOBODY, Enforce()))
        return tuple(sorted(batch, key=lambda one: isinstance(one[1], Claim)))

    def _commands(self, batch: Batch) -> list[Command]:
        return [self._command(*one) for one in batch] or [SaveProjections()]

    def _command(self, place: int, request: Request) -> Command:
        match request:
            case Submit(name, is_keyed):
                return submit(
                    payload=name,
                    idempotency_key=name if is_keyed else None,
                    deduplicate=False,
                    max_attempts=100,
                )
            case Claim(name):
                return claim(worker=WorkerId(self._clients[place].name), claim_id=name)
            case Complete(job, attempt, worker):
                return complete(attempt, self._job_ids[job], body_of(worker, "result"))
            case Enforce():
                return EnforceDeadlines(jobs=self._job_ids)

    def _answer(self, outcome: Outcome) -> Answer:
        match outcome:
            case Submitted(job=job, is_duplicate=is_duplicate):
                return Accepted(self._job_ids.index(job.id), is_duplicate)
            case Claimed(jobs=[job]):
                return Given(self._job_ids.index(job.id), job.attempt)
            case Claimed(jobs=[]):
                return "no job"
            case JobUpdated():
                return "completed"
            case JobsUpdated():
                return "enforced"
            case NotTheCurrentAttempt() | LeaseHasEnded():
                return "refused"
            case LogUnavailable():
                return "unknown"
            case _:
                raise AssertionError(outcome)

    def _look(self) -> None:
        recorded = log_of(self._services[0])
        with self._services[0].database.read() as connection:
            saved = connection.execute(sa.select(log_head.c.saved)).scalar_one()
        found = [(one.position, event) for one in recorded if (event := self._event(one))]
        log = tuple(event for _, event in found)
        self.trace.append(Looked(log, sum(position <= saved for position, _ in found)))

    def _event(self, recorded: Recorded) -> Event | None:
        """Return the event of the model; None for one that it leaves out."""
        if isinstance(recorded.event, RateLimitDecided | SubmissionDeduplicated | WorkerMissed):
            return None
        assert recorded.job_id is not None
        job = self._job_ids.index(recorded.job_id)
        match recorded.event:
            case JobSubmitted(payload_sha256=digest):
                return Event("submitted", job, 0, _NAMES[digest])
            case JobStarted(attempt=attempt, claim_id=str(name)):
                return Event("started", job, attempt, name)
            case JobRequeued(attempt=attempt):
                return Event("requeued", job, attempt, "")
            case JobCompleted(attempt=attempt, result_sha256=str(digest)):
                return Event("completed", job, attempt, _WORKERS[digest])
            case other:
                raise AssertionError(other)


def answers_in(trace: Sequence[Step]) -> list[Answer]:
    return [
        answer
        for step in trace
        if isinstance(step, Calls)
        for call in step.calls
        for answer in call.answers
    ]


def changed(answer: Answer) -> Answer:
    """Return another answer to the same request."""
    match answer:
        case Accepted(job, is_duplicate):
            return Accepted(job, not is_duplicate)
        case Given(job, attempt):
            return Given(job, attempt + 1)
        case "completed":
            return "refused"
        case _:
            return "completed"


def tampered(step: Step) -> Iterator[Step]:
    """Yield the step with one answer changed, for each that says what was carried out."""
    if not isinstance(step, Calls):
        return
    for number, call in enumerate(step.calls):
        for place, answer in enumerate(call.answers):
            if answer not in {"unknown", "enforced"}:
                answers = (*call.answers[:place], changed(answer), *call.answers[place + 1 :])
                calls = (
                    *step.calls[:number],
                    replace(call, answers=answers),
                    *step.calls[number + 1 :],
                )
                yield replace(step, calls=calls)


@pytest.fixture
def rows_are_saved_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "IDLE_SAVE_SECONDS", 3600.0)
    monkeypatch.setattr(transactions, "SAVE_SECONDS_MAX", 3600.0)


def recorded(database_url: str, seed: int) -> list[Step]:
    with ExitStack() as stack:
        recorder = Recorder(stack, database_url, seed)
        recorder.run()
    return recorder.trace


@pytest.mark.usefixtures("rows_are_saved_on_request")
def test_what_real_writers_do_is_allowed_and_a_changed_answer_is_not(database_url: str) -> None:
    trace = recorded(database_url, seed=1)
    states = replay([START], trace)
    answers = answers_in(trace)
    assert {"unknown", "refused", "completed", "enforced"} <= set(answers)
    for place in range(1, len(trace)):
        for step in tampered(trace[place]):
            with pytest.raises(NotAllowedError):
                replay(states[place - 1], [step, *trace[place + 1 :]])


@pytest.mark.one_database
@pytest.mark.usefixtures("rows_are_saved_on_request")
@pytest.mark.parametrize(
    ("place", "rule"),
    [
        (CommitsInDoubt, "find"),  # no look for a COMMIT whose outcome is unknown
        (life_cycle, "_require_current"),  # no fence
    ],
)
def test_a_writer_without_one_of_its_rules_does_what_is_not_allowed(
    database_url: str, monkeypatch: pytest.MonkeyPatch, place: object, rule: str
) -> None:
    monkeypatch.setattr(place, rule, lambda *_: None)
    trace = recorded(database_url, seed=3)
    with pytest.raises(NotAllowedError):
        replay([START], trace)
