"""Holds what clients were answered against the log."""

from collections import Counter

from domain.language.events import JobCompleted, JobFailed, JobStarted, JobSubmitted, Recorded
from tests.soak.load import Answers, Attempt

SHOWN_MAX = 5


def judge(answers: Answers, recorded: list[Recorded]) -> list[str]:
    """Return each disagreement of the log and the answers as a sentence; empty when all is well."""
    jobs: dict[tuple[str, str], list[int]] = {}
    started: dict[Attempt, str] = {}
    ended: dict[Attempt, list[str]] = {}
    for one in recorded:
        event, job_id = one.event, one.job_id
        if isinstance(event, JobSubmitted):
            jobs.setdefault((event.user_id, event.idempotency_key), []).append(one.position)
        elif isinstance(event, JobStarted):
            assert job_id is not None
            started[job_id, event.attempt] = event.worker
        elif isinstance(event, JobCompleted | JobFailed):
            assert job_id is not None
            outcome = "done" if isinstance(event, JobCompleted) else "failed"
            ended.setdefault((job_id, event.attempt), []).append(outcome)
    faults: dict[str, list[object]] = {
        "a key made more than one job": [(key, ids) for key, ids in jobs.items() if len(ids) > 1],
        "an answered submission is not in the log": [
            (key, job) for key, job in answers.submitted.items() if jobs.get(key) != [job]
        ],
        "an attempt was given to somebody for whom the log has no start": [
            (attempt, worker)
            for attempt, worker in answers.started.items()
            if started.get(attempt) != worker
        ],
        "an attempt was given to two workers": [*answers.started_twice],
        "an acknowledged outcome is not in the log": [
            (attempt, outcome)
            for attempt, outcome in answers.outcomes.items()
            if outcome not in ended.get(attempt, [])
        ],
        "an attempt has more than one outcome": [
            (attempt, found) for attempt, found in ended.items() if len(found) > 1
        ],
        "an answer is a 500": [*answers.unforeseen],
        "an answer came late": [*answers.late],
    }
    return [
        f"{what} ({len(found)}): {found[:SHOWN_MAX]}" for what, found in faults.items() if found
    ]


def ends(recorded: list[Recorded]) -> Counter[str]:
    """Return the number of events of each type."""
    return Counter(type(one.event).__name__ for one in recorded)
