"""Histories as the writer would have recorded them, made directly: many times faster than deciding.

`verify` finds nothing wrong with them, which the benchmark of that name checks.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from typing import Final

from domain.language.bodies import Body, body_of
from domain.language.events import (
    Event,
    JobCompleted,
    JobStarted,
    JobSubmitted,
    RateLimitDecided,
    Scope,
)
from domain.language.idempotency import content_digest
from domain.language.identifiers import GLOBAL, JobId, Kind, ResourceName, UserId, WorkerId
from domain.language.moments import later
from domain.limits.rate_limits import window_start

WINDOW_SECONDS: Final = 60
LIMIT: Final = 1_000_000_000
KIND: Final = Kind("thumbnail")

_WORKER: Final = WorkerId("worker-1")
_LEASE_SECONDS: Final = 30
_KEY_SECONDS: Final = 86_400
_ATTEMPTS_MAX: Final = 3

HEAVY: Final = UserId("user-0")

# An event, the job that it is about, and its body.
Told = tuple[Event, JobId | None, bytes | None]


class Teller:
    """Tells events one behind the other, and keeps what they count."""

    def __init__(self, users: int, position: int = 0) -> None:
        """Every second job is one of `HEAVY`; the others belong to `users` - 1 others in turn."""
        self.position = position  # of the latest event told
        self.users = users
        self._jobs = 0
        self._window: datetime | None = None
        self._used: Counter[UserId] = Counter()

    def submission(
        self, now: datetime, user_id: UserId | None = None
    ) -> tuple[UserId, JobId, list[Told]]:
        """A job by that user, or the next, recorded at `now` (UTC)."""
        user_id, payload = user_id or self._next_user(), _payload(self._jobs)
        self._jobs += 1
        job_id = JobId(self.position + 2)
        told: list[Told] = [
            (self._admission(user_id, now), job_id, None),
            (_submitted(user_id, payload, now, self.resources(user_id)), job_id, payload.data),
        ]
        self.position += len(told)
        return user_id, job_id, told

    def resources(self, _: UserId) -> tuple[ResourceName, ...]:
        """Those that a user's jobs use."""
        return ()

    def life(self, now: datetime, user_id: UserId | None = None) -> list[Told]:
        """A job from submission to result: four events."""
        user_id, job_id, told = self.submission(now, user_id)
        resources = self.resources(user_id)
        result = _result(self._jobs)
        told += [
            (
                JobStarted(
                    user_id=user_id,
                    kind=KIND,
                    resources=resources,
                    attempt=1,
                    worker=_WORKER,
                    lease_expires_at=later(now, _LEASE_SECONDS),
                ),
                job_id,
                None,
            ),
            (
                JobCompleted(
                    user_id=user_id,
                    kind=KIND,
                    resources=resources,
                    attempt=1,
                    result_sha256=result.sha256,
                    result_bytes=result.size,
                ),
                job_id,
                result.data,
            ),
        ]
        self.position += 2
        return told

    def _next_user(self) -> UserId:
        if self._jobs % 2 == 0 or self.users == 1:
            return HEAVY
        return UserId(f"user-{1 + self._jobs // 2 % (self.users - 1)}")

    def _admission(self, user_id: UserId, now: datetime) -> RateLimitDecided:
        window = window_start(now, WINDOW_SECONDS)
        if window != self._window:
            self._window = window
            self._used.clear()
        self._used[user_id] += 1
        self._used[GLOBAL] += 1
        return RateLimitDecided(
            user_id=user_id,
            scope=Scope.USER,
            allowed=True,
            used=self._used[user_id],
            limit=LIMIT,
            window_start=window,
            window_seconds=WINDOW_SECONDS,
            global_used=self._used[GLOBAL],
            global_limit=LIMIT,
        )


def submissions(jobs: int, users: int, now: datetime, position: int = 0) -> Iterator[Told]:
    """Jobs that are only submitted: two events each."""
    teller = Teller(users, position)
    for _ in range(jobs):
        yield from teller.submission(now)[2]


def _submitted(
    user_id: UserId, payload: Body, now: datetime, resources: tuple[ResourceName, ...]
) -> JobSubmitted:
    return JobSubmitted(
        user_id=user_id,
        kind=KIND,
        payload_sha256=payload.sha256,
        payload_bytes=payload.size,
        max_attempts=_ATTEMPTS_MAX,
        idempotency_key=content_digest(KIND, payload),
        key_expires_at=later(now, _KEY_SECONDS),
        resources=resources,
    )


def _payload(number: int) -> Body:
    """Some 60 bytes, as a thumbnail's would be."""
    return body_of({"image": f"images/{number:09d}.jpg", "width": 640, "height": 480}, "payload")


def _result(number: int) -> Body:
    return body_of({"bytes": number, "etag": sha256(b"%d" % number).hexdigest()[:16]}, "result")
