"""The referee of the soak has nothing against a clean log, and names each rule that one breaks."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from tests.soak.answers import Answers, Refusal, Submitted
from tests.soak.referee.findings import Findings, Rule
from tests.soak.referee.history import Event, hash_after, whole_log
from tests.soak.referee.judge import Facts, judge

SECOND: Final = 1_000_000
BEGIN: Final = 1_800_000_000 * SECOND  # the start of a window of ten seconds
WINDOW_SECONDS: Final = 10
LIMIT: Final = 3  # of a user in a window
SETTINGS: Final = {"window_seconds": WINDOW_SECONDS, "user_limit": LIMIT, "global_limit": 100}


def time(at: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).isoformat()


class Log:
    """A log that grows by hand, a hundredth of a second with each event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.at = BEGIN
        self.answers = Answers()
        self.disturbances: list[tuple[int, int]] = []
        self.orders: set[str] = set()

    @property
    def next(self) -> int:
        return len(self.events) + 1

    def add(
        self,
        type_: str,
        user: str | None = None,
        job: int | None = None,
        body: Any = None,
        /,
        **data: Any,
    ) -> int:
        self.at += SECOND // 100
        if user is not None:
            data["user_id"] = user
        content = None if body is None else json.dumps(body).encode()
        event = Event(
            position=self.next,
            at=self.at,
            type=type_,
            user=user,
            job=job,
            data=data,
            body=content,
            text=json.dumps(data).encode(),
        )
        before = self.events[-1].hash if self.events else bytes(32)
        self.events.append(replace(event, hash=hash_after(before, event)))
        return event.position

    def admit(self, user: str, used: int = 1, **data: Any) -> int:
        """Admit a submission, which must be the next event."""
        return self.add(
            "RateLimitDecided",
            user,
            self.next + 1,
            allowed=True,
            used=used,
            limit=LIMIT,
            window_start=time(self.window),
            window_seconds=WINDOW_SECONDS,
            scope="user",
            **data,
        )

    def refuse(self, user: str, **data: Any) -> int:
        return self.add(
            "RateLimitDecided",
            user,
            **{
                "allowed": False,
                "scope": "user",
                "used": LIMIT,
                "limit": LIMIT,
                "window_start": time(self.window),
                "window_seconds": WINDOW_SECONDS,
                **data,
            },
        )

    @property
    def window(self) -> int:
        length = WINDOW_SECONDS * SECOND
        return self.at // length * length

    def record(self, user: str, key: str, payload: Any = 1, kind: str = "mail", **data: Any) -> int:
        """Record a job without the admission that belongs before it."""
        return self.add(
            "JobSubmitted",
            user,
            self.next,
            payload,
            kind=kind,
            payload_sha256=sha256(json.dumps(payload).encode()).hexdigest(),
            idempotency_key=key,
            key_is_explicit=True,
            key_expires_at=time(self.at + 300 * SECOND),
            **data,
        )

    def submit(self, user: str, key: str, payload: Any = 1, kind: str = "mail", **data: Any) -> int:
        self.admit(user)
        return self.record(user, key, payload, kind, **data)

    def start(self, job: int, attempt: int = 1, worker: str = "w1") -> int:
        submitted = self.events[job - 1]
        return self.add(
            "JobStarted",
            submitted.user,
            job,
            kind=submitted.data["kind"],
            attempt=attempt,
            worker=worker,
            lease_expires_at=time(self.at + 8 * SECOND),
        )

    def complete(self, job: int, attempt: int = 1) -> int:
        submitted = self.events[job - 1]
        kind = submitted.data["kind"]
        return self.add("JobCompleted", submitted.user, job, kind=kind, attempt=attempt)

    def run(self, job: int) -> None:
        self.start(job)
        self.complete(job)

    def set_limits(self, scope: str, **data: Any) -> None:
        self.add("LimitChanged", data.pop("user", None), scope=scope, **data)

    def set_schedule(self, due: int) -> None:
        self.add(
            "ScheduleSet",
            name="often",
            timing={"every_seconds": 5},
            catch_up_seconds=20,
            next_due_at=time(due),
        )

    def fire(self, due: int, outcome: str = "submitted", **data: Any) -> None:
        job = self.next - 1 if outcome == "submitted" else None
        self.add(
            "ScheduleFired",
            name="often",
            cause="time",
            due_at=time(due),
            outcome=outcome,
            job=job,
            **data,
        )

    def answer(self, user: str, key: str, job: int, payload: Any = 1, kind: str = "mail") -> None:
        self.answers.submitted[user, key] = Submitted(job, kind, payload, None)

    def answer_refusal(self, user: str) -> None:
        self.answers.refused.append(
            Refusal(
                user=user,
                at=self.at,
                scope="user",
                limit=LIMIT,
                window_seconds=WINDOW_SECONDS,
                resets_at=self.window + WINDOW_SECONDS * SECOND,
            )
        )

    def judged(self) -> Findings:
        facts = Facts(
            settings=SETTINGS,
            kinds_of=lambda _: ("mail", "order"),
            answers=self.answers,
            disturbances=self.disturbances,
            orders=self.orders,
        )
        return judge(self.events, facts, Findings()).findings


def clean() -> Log:
    """A log in which each rule is checked, and holds."""
    log = Log()
    log.set_limits("plan", plan="free", limit=LIMIT, running=1, throttle={"limit": 2, "seconds": 1})
    log.set_limits("user", user="ann", plan="free")
    log.set_limits("kind", kind="mail", running=2)
    first = log.submit("ann", "a1", payload={"n": 1})
    second, third = log.submit("ann", "a2"), log.submit("bob", "b1")
    log.start(first)  # ann is at her cap now, and out of the line
    log.start(third)
    log.complete(first)
    log.start(second)
    log.complete(second)
    log.complete(third)
    log.answer("ann", "a1", first, {"n": 1})
    log.answers.started.append((first, 1, "w1"))
    log.answers.outcomes.append((first, 1, "done"))
    fourth = log.submit("ann", "a3", priority=1)
    log.refuse("ann")
    log.answer_refusal("ann")
    log.at += SECOND  # her throttle has a new window
    log.add("LineUpdated", users=["ann"])
    log.start(fourth)
    kind = "mail"
    log.add("JobRequeued", "ann", fourth, kind=kind, attempt=1, reason="lease_lost", attempts_max=3)
    log.start(fourth, attempt=2, worker="w2")
    log.complete(fourth, attempt=2)
    log.set_schedule(BEGIN + 5 * SECOND)
    log.fire(BEGIN + 5 * SECOND, "deferred", next_due_at=time(BEGIN + 5 * SECOND))
    log.run(log.submit("cron", "c1"))
    job = log.submit("cron", "c2")
    log.fire(BEGIN + 5 * SECOND)
    log.run(job)
    log.run(log.submit("shop", "o1", {"order": "17"}, "order"))
    log.orders.add("17")
    return log


def test_a_clean_log_breaks_no_rule_and_has_each_checked() -> None:
    findings = clean().judged()
    assert findings.sentences() == []
    assert set(Rule) - set(findings.checked) == {Rule.HEAD, Rule.SEGMENTS}  # of a database


def lose_an_event(log: Log) -> None:
    del log.events[2]


def go_back_in_time(log: Log) -> None:
    log.at -= 2 * SECOND
    log.add("LineUpdated", users=[])


def change_an_event(log: Log) -> None:
    log.events[0] = replace(log.events[0], text=b"{}")


def lose_an_answered_submission(log: Log) -> None:
    log.answer("ann", "lost", 999)


def record_another_payload(log: Log) -> None:
    job = log.submit("eve", "e1", payload=1)
    log.run(job)
    log.answer("eve", "e1", job, payload=2)


def record_another_kind(log: Log) -> None:
    job = log.submit("eve", "e1")
    log.run(job)
    log.answer("eve", "e1", job, kind="order")


def make_two_jobs_of_a_key(log: Log) -> None:
    for _ in range(2):
        log.run(log.submit("eve", "again"))


def submit_without_admission(log: Log) -> None:
    log.run(log.record("eve", "e1"))


def admit_one_too_many(log: Log) -> None:
    for number in range(LIMIT + 1):
        log.run(log.submit("eve", f"e{number}"))


def refuse_with_room(log: Log) -> None:
    log.run(log.submit("eve", "e1"))
    log.refuse("eve")


def report_refusals_from_before_the_window_was_full(log: Log) -> None:
    at = log.at
    for number in range(LIMIT):
        log.run(log.submit("eve", f"e{number}"))
    log.refuse("eve", count=4, first_at=time(at), last_at=time(log.at))


def answer_a_refusal_with_room(log: Log) -> None:
    log.run(log.submit("eve", "e1"))
    log.disturbances.append((BEGIN, log.at))  # it need not be counted
    log.answer_refusal("eve")


def count_too_few_refusals(log: Log) -> None:
    for number in range(LIMIT):
        log.run(log.submit("eve", f"e{number}"))
    log.refuse("eve")
    log.answer_refusal("eve")
    log.answer_refusal("eve")


def start_twice(log: Log) -> None:
    job = log.submit("eve", "e1")
    log.start(job)
    log.start(job)
    log.complete(job)


def complete_twice(log: Log) -> None:
    job = log.submit("eve", "e1")
    log.run(job)
    log.complete(job)


def complete_an_old_attempt(log: Log) -> None:
    job = log.submit("eve", "e1")
    log.start(job)
    log.add("JobRequeued", "eve", job, kind="mail", attempt=1, reason="lease_lost")
    log.complete(job, attempt=1)


def complete_after_the_lease(log: Log) -> None:
    job = log.submit("eve", "e1")
    log.start(job)
    log.at += 9 * SECOND
    log.complete(job)


def give_an_attempt_to_another(log: Log) -> None:
    job = log.submit("eve", "e1")
    log.run(job)
    log.answers.started.append((job, 1, "somebody"))


def lose_an_acknowledged_outcome(log: Log) -> None:
    job = log.submit("eve", "e1")
    log.run(job)
    log.answers.outcomes.append((job, 1, "failed"))


def exceed_the_cap_of_a_user(log: Log) -> None:
    log.at += 10 * SECOND
    log.set_limits("user", user="eve", running=1)
    jobs = [log.submit("eve", f"e{number}") for number in range(2)]
    for job in jobs:
        log.start(job)
    for job in jobs:
        log.complete(job)


def exceed_the_cap_of_a_kind(log: Log) -> None:
    jobs = [log.submit("eve", f"e{number}") for number in range(3)]
    for job in jobs:
        log.start(job)
    for job in jobs:
        log.complete(job)


def exceed_a_throttle(log: Log) -> None:
    log.set_limits("user", user="eve", throttle={"limit": 1, "seconds": 60})
    for number in range(2):
        log.run(log.submit("eve", f"e{number}"))


def serve_out_of_turn(log: Log) -> None:
    jobs = [log.submit("eve", "e1"), log.submit("fay", "f1")]
    log.run(jobs[1])
    log.run(jobs[0])


def serve_a_user_twice_in_a_row(log: Log) -> None:
    jobs = [log.submit("eve", "e1"), log.submit("eve", "e2"), log.submit("fay", "f1")]
    for job in jobs:
        log.run(job)


def let_a_user_who_comes_back_wait(log: Log) -> None:
    log.run(log.submit("eve", "e1"))
    waiting = log.submit("fay", "f1"), log.submit("eve", "e2")
    for job in waiting:
        log.run(job)


def serve_a_later_job_first(log: Log) -> None:
    jobs = [log.submit("eve", "e1"), log.submit("eve", "e2")]
    log.run(jobs[1])
    log.run(jobs[0])


def pass_over_a_priority(log: Log) -> None:
    jobs = [log.submit("eve", "e1"), log.submit("eve", "e2", priority=1)]
    log.run(jobs[0])
    log.run(jobs[1])


def run_a_time_twice(log: Log) -> None:
    for number in range(2):
        job = log.submit("cron", f"c{3 + number}")
        log.fire(BEGIN + 10 * SECOND)
        log.run(job)
        log.at += 10 * SECOND
        log.set_schedule(BEGIN + 10 * SECOND)
    log.set_schedule(log.at)


def skip_a_due_time(log: Log) -> None:
    log.at += 10 * SECOND
    job = log.submit("cron", "c3")
    log.fire(BEGIN + 15 * SECOND)
    log.run(job)


def miss_a_time_within_the_catch_up_window(log: Log) -> None:
    log.fire(BEGIN + 10 * SECOND, "missed", next_due_at=time(BEGIN + 15 * SECOND))


def forget_a_schedule(log: Log) -> None:
    log.at += 60 * SECOND
    log.add("LineUpdated", users=[])


def lose_a_committed_order(log: Log) -> None:
    log.orders.add("18")


def run_an_order_twice(log: Log) -> None:
    log.run(log.submit("shop", "o2", {"order": "17"}, "order"))


def run_an_order_that_was_rolled_back(log: Log) -> None:
    log.run(log.submit("shop", "o2", {"order": "19"}, "order"))


def leave_a_job(log: Log) -> None:
    log.submit("eve", "e1")


BREAKS: Final[list[tuple[Callable[[Log], None], set[Rule]]]] = [
    (lose_an_event, {Rule.POSITIONS, Rule.CHAIN}),
    (go_back_in_time, {Rule.TIME}),
    (change_an_event, {Rule.CHAIN}),
    (lose_an_answered_submission, {Rule.SUBMITTED}),
    (record_another_payload, {Rule.SUBMITTED}),
    (record_another_kind, {Rule.SUBMITTED}),
    (make_two_jobs_of_a_key, {Rule.KEY}),
    (submit_without_admission, {Rule.ADMISSION}),
    (admit_one_too_many, {Rule.OVER}),
    (refuse_with_room, {Rule.UNDER}),
    (report_refusals_from_before_the_window_was_full, {Rule.UNDER}),
    (answer_a_refusal_with_room, {Rule.UNDER}),
    (count_too_few_refusals, {Rule.COUNTED}),
    (start_twice, {Rule.START, Rule.OWN_ORDER}),
    (complete_twice, {Rule.OUTCOME}),
    (complete_an_old_attempt, {Rule.OUTCOME}),
    (complete_after_the_lease, {Rule.OUTCOME}),
    (give_an_attempt_to_another, {Rule.CLAIMED}),
    (lose_an_acknowledged_outcome, {Rule.ACKNOWLEDGED}),
    (exceed_the_cap_of_a_user, {Rule.CAP}),
    (exceed_the_cap_of_a_kind, {Rule.CAP}),
    (exceed_a_throttle, {Rule.THROTTLE}),
    (serve_out_of_turn, {Rule.TURN}),
    (serve_a_user_twice_in_a_row, {Rule.TURN}),
    (let_a_user_who_comes_back_wait, {Rule.TURN}),
    (serve_a_later_job_first, {Rule.OWN_ORDER}),
    (pass_over_a_priority, {Rule.OWN_ORDER}),
    (run_a_time_twice, {Rule.SCHEDULED_ONCE}),
    (skip_a_due_time, {Rule.SCHEDULED_ALL}),
    (miss_a_time_within_the_catch_up_window, {Rule.SCHEDULED_ALL}),
    (forget_a_schedule, {Rule.SCHEDULED_ALL}),
    (lose_a_committed_order, {Rule.OUTBOX_COMMITTED}),
    (run_an_order_twice, {Rule.OUTBOX_COMMITTED}),
    (run_an_order_that_was_rolled_back, {Rule.OUTBOX_ROLLED_BACK}),
    (leave_a_job, {Rule.ENDED}),
]


@pytest.mark.parametrize(("fault", "named"), BREAKS, ids=[one.__name__ for one, _ in BREAKS])
def test_a_log_that_breaks_a_rule_is_named(fault: Callable[[Log], None], named: set[Rule]) -> None:
    log = clean()
    fault(log)
    findings = log.judged()
    assert set(findings.broken) == named, findings.sentences()
    assert all(any(rule in one for one in findings.sentences()) for rule in named)


def test_refusals_around_a_fault_need_not_be_counted() -> None:
    log = clean()
    count_too_few_refusals(log)
    log.disturbances.append((log.at + SECOND, log.at + 2 * SECOND))
    assert log.judged().sentences() == []


class Stored:
    """A log in a database, of which the beginning is in a segment."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder
        self.url = f"sqlite:///{folder / 'log.db'}"
        self.log = clean()
        events = self.log.events
        cut = len(events) // 2
        self.segment = folder / "1.parquet"
        _write_segment(self.segment, events[:cut])
        self.log.add(
            "SegmentArchived",
            first=1,
            last=cut,
            previous_hash=bytes(32).hex(),
            name=self.segment.name,
            sha256=sha256(self.segment.read_bytes()).hexdigest(),
        )
        with closing(sqlite3.connect(folder / "log.db")) as connection, connection:
            connection.execute(
                "CREATE TABLE events (position INTEGER PRIMARY KEY, version, type, user_id BLOB, "
                "job_id, recorded_at, data BLOB, hash BLOB)"
            )
            connection.execute("CREATE TABLE bodies (position INTEGER PRIMARY KEY, body BLOB)")
            connection.execute("CREATE TABLE log_head (position, hash BLOB)")
            for one in events[cut:]:
                user = None if one.user is None else one.user.encode()
                row = (one.position, one.version, one.type, user, one.job, one.at, one.text)
                connection.execute(
                    "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, one.hash)
                )
                if one.body is not None:
                    connection.execute("INSERT INTO bodies VALUES (?, ?)", (one.position, one.body))
            last = events[-1]
            connection.execute("INSERT INTO log_head VALUES (?, ?)", (last.position, last.hash))

    def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.archive / "log.db")) as connection, connection:
            connection.execute(statement)

    def read(self) -> tuple[list[Event], set[Rule]]:
        findings = Findings()
        events = list(whole_log(self.url, self.archive, findings))
        return events, set(findings.broken)


def _write_segment(file: Path, events: list[Event]) -> None:
    times = pa.array([one.at for one in events], pa.timestamp("us", "UTC"))
    columns = {
        "position": [one.position for one in events],
        "type": [one.type for one in events],
        "version": [one.version for one in events],
        "user_id": [one.user for one in events],
        "job_id": [one.job for one in events],
        "recorded_at": times,
        "data": [one.text.decode() for one in events],
        "hash": [one.hash for one in events],
        "body": [None if one.body is None else one.body.decode() for one in events],
    }
    pq.write_table(pa.table(columns), file)


def test_segments_and_rows_are_read_as_one_log(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    assert stored.read() == (stored.log.events, set())


def test_a_head_that_is_not_the_last_event_is_named(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    stored.execute("UPDATE log_head SET position = position + 1")
    assert stored.read()[1] == {Rule.HEAD}


def test_a_segment_that_is_not_what_the_log_names_is_named(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    with stored.segment.open("ab") as file:
        file.write(b"more")
    assert Rule.SEGMENTS in stored.read()[1]
