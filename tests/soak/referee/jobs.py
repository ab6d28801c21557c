"""The life of jobs: keys, attempts and outcomes."""

from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256

from tests.soak.referee.findings import Findings, Rule
from tests.soak.referee.history import Event, micros


@dataclass(slots=True)
class Job:
    submitted: Event
    attempt: int = 0
    is_running: bool = False
    has_ended: bool = False
    lease_ends_at: int = 0
    workers: dict[int, str] = field(default_factory=dict)  # by attempt
    outcomes: dict[int, str] = field(default_factory=dict)  # by attempt: "done" or "failed"


class Jobs:
    def __init__(self, findings: Findings) -> None:
        self.by_id: dict[int, Job] = {}
        self.ids_of_key: dict[tuple[str, str], list[int]] = {}  # of explicit keys, by user and key
        self.events: Counter[str] = Counter()  # by type
        self._findings = findings
        self._holders: dict[tuple[str, bool, str], int] = {}  # job that a key stands for

    def see(self, event: Event) -> None:
        self.events[event.type] += 1
        if event.type == "JobSubmitted":
            self._submit(event)
        elif event.type == "LeasesExtended":
            for job_id, attempt in event.data["jobs"]:
                job = self.by_id[job_id]
                if job.attempt == attempt and job.is_running:
                    job.lease_ends_at = micros(event.data["lease_expires_at"])
        elif event.job is not None and event.job in self.by_id:
            self._move(self.by_id[event.job], event)

    def check_ends(self) -> None:
        """Check that no job is left, once the servers had time to run them all."""
        for job_id, job in self.by_id.items():
            self._findings.check(Rule.ENDED, job.has_ended, "job", job_id)

    def _submit(self, event: Event) -> None:
        data = event.data
        is_explicit = data.get("key_is_explicit", False)
        key = (data["user_id"], is_explicit, data["idempotency_key"])
        holder = self._holders.get(key)
        is_free = holder is None or not self._holds(self.by_id[holder], event.at)
        self._findings.check(Rule.KEY, is_free, key, "made", holder, "and", event.position)
        self._holders[key] = event.position
        if is_explicit:
            ids = self.ids_of_key.setdefault((key[0], key[2]), [])
            ids.append(event.position)
        has_payload = (
            event.job == event.position
            and event.body is not None
            and sha256(event.body).hexdigest() == data["payload_sha256"]
        )
        self._findings.check(Rule.SUBMITTED, has_payload, "payload of job", event.position)
        self.by_id[event.position] = Job(event)

    def _holds(self, job: Job, at: int) -> bool:
        """Return True if the key still stands for the job."""
        if not job.has_ended or at < micros(job.submitted.data["key_expires_at"]):
            is_explicit = job.submitted.data.get("key_is_explicit", False)
            return is_explicit or not job.has_ended or job.outcomes.get(job.attempt) == "done"
        return False

    def _move(self, job: Job, event: Event) -> None:
        data = event.data
        match event.type:
            case "JobStarted":
                is_next = (
                    data["attempt"] == job.attempt + 1 and not job.is_running and not job.has_ended
                )
                self._findings.check(Rule.START, is_next, "at", event.position)
                job.attempt, job.is_running = data["attempt"], True
                job.workers[job.attempt] = data["worker"]
                job.lease_ends_at = micros(data["lease_expires_at"])
            case "JobCompleted" | "JobFailed" if data.get("parent") is None:
                self._end_attempt(job, event)
            case "JobFailed" | "JobCancelled":
                job.is_running, job.has_ended = False, True
            case "JobRequeued":
                if data["reason"] == "retried":
                    job.has_ended = False
                job.is_running = False
            case _:
                pass

    def _end_attempt(self, job: Job, event: Event) -> None:
        attempt, is_done = event.data["attempt"], event.type == "JobCompleted"
        is_report = is_done or event.data["reason"] == "error"
        is_first = (
            attempt == job.attempt
            and job.is_running
            and attempt not in job.outcomes
            and (not is_report or event.at < job.lease_ends_at)
        )
        self._findings.check(Rule.OUTCOME, is_first, "at", event.position)
        job.outcomes.setdefault(attempt, "done" if is_done else "failed")
        job.is_running = False
        job.has_ended = job.has_ended or is_done or event.data.get("retry_at") is None
