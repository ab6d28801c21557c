"""Shows a log to every rule, and holds what clients were answered against it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.answers import Answers, Refusal
from tests.soak.referee.chain import Chain
from tests.soak.referee.findings import Findings, Rule
from tests.soak.referee.history import Event, whole_log
from tests.soak.referee.jobs import Job, Jobs
from tests.soak.referee.limits import Limits
from tests.soak.referee.quotas import Quotas
from tests.soak.referee.schedules import Schedules
from tests.soak.referee.sql import connect, rows
from tests.soak.referee.starts import Kinds, Starts

# A server records the refusals that it counts within a second; see `Referee._count_refusals`.
UNRECORDED_MICROS = 2_000_000


@dataclass(frozen=True)
class Facts:
    """What the soak knows beside the log."""

    settings: Mapping[str, int]  # window_seconds, user_limit and global_limit of the servers
    kinds_of: Kinds
    answers: Answers = field(default_factory=Answers)
    # Begin and end, in microseconds, of whatever may have ended a server, its writer or a
    # statement: a refusal that is answered shortly before or meanwhile may be counted nowhere.
    disturbances: list[tuple[int, int]] = field(default_factory=list)
    orders: set[str] | None = None  # that the application has committed; None: no outbox was used


class Referee:
    """Show it every event with `see`, then call `check_end`."""

    def __init__(self, facts: Facts, findings: Findings) -> None:
        self.findings = findings
        self._facts = facts
        self._limits = Limits()
        self.jobs = Jobs(findings)
        self._quotas = Quotas(
            findings,
            self._limits,
            window_seconds=facts.settings["window_seconds"],
            user_limit=facts.settings["user_limit"],
            global_limit=facts.settings["global_limit"],
        )
        self._schedules = Schedules(findings)
        self._rules = (
            self._limits,
            Chain(findings),
            self._quotas,
            self.jobs,
            Starts(findings, self._limits, facts.kinds_of),
            self._schedules,
        )
        self._at = 0

    def see(self, event: Event) -> None:
        for rule in self._rules:
            rule.see(event)
        self._at = event.at

    def check_end(self) -> None:
        self.jobs.check_ends()
        self._schedules.check_end(self._at)
        self._check_submissions()
        self._check_attempts()
        self._check_refusals()
        self._count_refusals()
        if self._facts.orders is not None:
            self._check_outbox(self._facts.orders)

    def _check_submissions(self) -> None:
        for (user, key), sent in self._facts.answers.submitted.items():
            ids = self.jobs.ids_of_key.get((user, key), [])
            self.findings.check(Rule.KEY, len(ids) <= 1, user, key, "made", ids)
            is_there = ids == [sent.job] and _is_as_sent(
                self.jobs.by_id[sent.job], user, sent.kind, sent.payload, sent.by
            )
            self.findings.check(
                Rule.SUBMITTED, is_there, user, key, "answered as", sent.job, "in the log:", ids
            )

    def _check_attempts(self) -> None:
        answers = self._facts.answers
        for job_id, attempt, worker in answers.started:
            job = self.jobs.by_id.get(job_id)
            is_his = job is not None and job.workers.get(attempt) == worker
            self.findings.check(Rule.CLAIMED, is_his, "job", job_id, attempt, worker)
        for job_id, attempt, outcome in answers.outcomes:
            job = self.jobs.by_id.get(job_id)
            is_there = job is not None and job.outcomes.get(attempt) == outcome
            self.findings.check(Rule.ACKNOWLEDGED, is_there, "job", job_id, attempt, outcome)

    def _check_refusals(self) -> None:
        """Each refusal that a client had names a window; the log must have it used up."""
        for one in self._facts.answers.refused:
            start = one.resets_at - one.window_seconds * 1_000_000
            has_room = self._quotas.has_room(
                one.user, one.scope, one.window_seconds, start, one.limit
            )
            self.findings.check(Rule.UNDER, not has_room, "answered:", one)

    def _count_refusals(self) -> None:
        """A server that is killed may lose the refusals of its last second, so those that were
        answered around a disturbance may be missing. All others are counted, user by user.
        """
        certain = Counter(one.user for one in self._facts.answers.refused if self._is_certain(one))
        for user, count in certain.items():
            counted = self._quotas.refused[user]
            self.findings.check(Rule.COUNTED, counted >= count, user, counted, "of", count)

    def _is_certain(self, refusal: Refusal) -> bool:
        return not any(
            begin - UNRECORDED_MICROS <= refusal.at <= end + UNRECORDED_MICROS
            for begin, end in self._facts.disturbances
        )

    def _check_outbox(self, orders: set[str]) -> None:
        made = Counter(
            number
            for job in self.jobs.by_id.values()
            if (number := _order_of(job.submitted)) is not None
        )
        for number in orders:
            self.findings.check(
                Rule.OUTBOX_COMMITTED, made[number] == 1, number, "made", made[number], "jobs"
            )
        for number in made:
            self.findings.check(Rule.OUTBOX_ROLLED_BACK, number in orders, number)


def _is_as_sent(job: Job, user: str, kind: str, payload: object, by: str | None) -> bool:
    submitted = job.submitted
    return (
        (submitted.user, submitted.data["user_id"], submitted.data["kind"]) == (user, user, kind)
        and submitted.data.get("by") == by
        and submitted.body is not None
        and json.loads(submitted.body) == payload
    )


def _order_of(submitted: Event) -> str | None:
    """Return the number of the order that a row of the outbox was about."""
    if submitted.body is None or submitted.data["kind"] != "order":
        return None
    return str(json.loads(submitted.body)["order"])


def judge(events: Iterable[Event], facts: Facts, findings: Findings) -> Referee:
    """Return the referee who has seen all events and the answers."""
    referee = Referee(facts, findings)
    for event in events:
        referee.see(event)
    referee.check_end()
    return referee


def judge_database(url: str, archive: Path, facts: Facts) -> Referee:
    """Judge the log in a database and in its archive."""
    findings = Findings()
    return judge(whole_log(url, archive, findings), facts, findings)


def orders_of(url: str) -> set[str]:
    """Return the numbers of the orders that the application has committed."""
    connection = connect(url)
    try:
        return {str(number) for (number,) in rows(connection, "SELECT number FROM orders")}
    finally:
        connection.close()
