"""Log lines for the person on call: failed attempts, expired leases, retries, refusals and slow
batches.

They are about what this server's writer has recorded. The lines of a burst are bounded: the rest is
counted.
"""

import time
from collections import Counter, deque
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import structlog
from sqlalchemy.engine import Connection

from adapters.log import audit_log
from adapters.log.histories import of_types
from adapters.writer.write_path import BatchWritten
from domain.language.events import (
    FailureReason,
    JobFailed,
    JobRequeued,
    Recorded,
    RequeueReason,
)
from domain.language.identifiers import UserId
from entrypoints.runtime.text import message_of
from entrypoints.service.fairlog import Fairlog

WRITE_SECONDS: Final = 0.5  # between two calls of `write`, give or take a fifth
LINES_PER_WRITE_MAX: Final = 100
BATCHES_KEPT_MAX: Final = 1_000  # while nothing can be read
SLOW_BATCH_SECONDS: Final = 1.0
REFUSAL_SECONDS: Final = 10.0  # between two lines about refused submissions
_TYPES: Final = (JobFailed.__name__, JobRequeued.__name__)
_ERROR_CHARACTERS_MAX: Final = 200

_log = structlog.get_logger()


class JobLog:
    """The lines about jobs in the log of one server. The writer calls `batch_written`."""

    def __init__(self, fairlog: Fairlog) -> None:
        self._fairlog = fairlog
        self._batches: deque[BatchWritten] = deque(maxlen=BATCHES_KEPT_MAX)
        self._refused: Counter[UserId] = Counter()
        self._refusals_logged_at = time.monotonic()
        fairlog.writer.observe(self.batch_written)
        fairlog.limiter.on_refused = self._count_refused

    def batch_written(self, batch: BatchWritten) -> None:
        """Note a batch, and log it at once if it was slow."""
        if batch.seconds > SLOW_BATCH_SECONDS:
            _log.warning(
                "slow_batch",
                seconds=round(batch.seconds, 2),
                commands=batch.commands,
                events=sum(batch.events.values()),
            )
        if batch.has_any(_TYPES):
            self._batches.append(batch)

    async def write(self) -> None:
        """Log what happened since the last call."""
        self._log_refusals()
        batches = [self._batches.popleft() for _ in range(len(self._batches))]
        room, unread = LINES_PER_WRITE_MAX, 0
        for batch in batches:
            if room <= 0:
                unread += _count(batch)
                continue
            lines = await self._fairlog.read(partial(_lines, batch=batch))
            for level, name, fields in lines[:room]:
                _log.log(level, name, **fields)
            if len(lines) > room:
                unread += _count(batch) - room
            room -= len(lines)
        if unread:
            _log.warning("job_lines_left_out", events=unread)

    def _count_refused(self, user_id: UserId, count: int) -> None:
        self._refused[user_id] += count

    def _log_refusals(self) -> None:
        now = time.monotonic()
        if not self._refused or now - self._refusals_logged_at < REFUSAL_SECONDS:
            return
        refused, self._refused = self._refused, Counter()
        [(user_id, most)] = refused.most_common(1)
        _log.warning(
            "submissions_refused",
            count=refused.total(),
            users=len(refused),
            most_by=user_id,
            most=most,
            seconds=round(now - self._refusals_logged_at, 1),
        )
        self._refusals_logged_at = now


_Line = tuple[int, str, Mapping[str, Any]]  # level, event name, fields
_INFO, _WARNING, _ERROR = 20, 30, 40


def _count(batch: BatchWritten) -> int:
    return sum(count for (name, _), count in batch.events.items() if name in _TYPES)


def _lines(connection: Connection, batch: BatchWritten) -> list[_Line]:
    """Return the lines about one batch, at most one more than fit into a call of `write`."""
    after = batch.position - sum(batch.events.values())
    found = list(of_types(connection, _TYPES, after, batch.position))[: LINES_PER_WRITE_MAX + 1]
    failed = [
        one.position
        for one in found
        if isinstance(one.event, JobFailed) and one.event.error_sha256 is not None
    ]
    errors = audit_log.bodies_at(connection, failed)
    return [line for one in found if (line := _line(one, errors.get(one.position))) is not None]


def _line(recorded: Recorded, error: bytes | None) -> _Line | None:
    event = recorded.event
    assert isinstance(event, JobFailed | JobRequeued)
    fields: dict[str, Any] = {
        "job": recorded.job_id,
        "kind": event.kind,
        "user": event.user_id,
        "attempt": event.attempt,
    }
    if isinstance(event, JobRequeued):
        match event.reason:
            case RequeueReason.GIVEN_BACK:
                return None
            case RequeueReason.RETRIED:
                return _INFO, "job_retried", fields
            case _:
                return _WARNING, event.reason.value, fields
    if event.reason is not FailureReason.ERROR:
        fields["reason"] = event.reason.value
    if error is not None:
        fields["error"] = message_of(error)[:_ERROR_CHARACTERS_MAX]
    if event.retry_at is None:
        return _ERROR, "job_failed", fields
    return _WARNING, "attempt_failed", {**fields, "retry_at": event.retry_at.isoformat()}
