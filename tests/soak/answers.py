"""What clients were answered, kept aside for the referee."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Submitted:
    """A submission that was answered with a job."""

    job: int
    kind: str
    payload: Any
    by: str | None  # the name of the API key


@dataclass(frozen=True)
class Refusal:
    """A submission that was answered with 429. Times are Unix times in microseconds."""

    user: str
    at: int  # when the answer came
    scope: str  # "user" or "global"
    limit: int
    window_seconds: int
    resets_at: int


@dataclass
class Answers:
    """Each field only grows. Hold `guard` to change one or to look at all of one."""

    submitted: dict[tuple[str, str], Submitted] = field(default_factory=dict)  # by user and key
    started: list[tuple[int, int, str]] = field(default_factory=list)  # job, attempt, worker
    outcomes: list[tuple[int, int, str]] = field(default_factory=list)  # job, attempt, done|failed
    refused: list[Refusal] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)  # by request and status
    unforeseen: list[tuple[str, str]] = field(default_factory=list)  # request, answer of 500
    # When (Unix time in microseconds) a submission was answered that had taken long, and how many
    # seconds it had taken since its first try.
    pauses: list[tuple[int, float]] = field(default_factory=list)
    guard: threading.Lock = field(default_factory=threading.Lock)
