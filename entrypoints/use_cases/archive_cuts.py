"""Chooses where `fairlog archive` may cut the log."""

from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from adapters.log import audit_log
from domain.language.errors import InvalidInput
from entrypoints.service.fairlog import Fairlog
from projections.activity.projection import LOG_KEPT_SECONDS
from projections.following.snapshots import SPACING


def cut_before(fairlog: Fairlog, moment: datetime | None, position: int | None) -> int:
    """Return the latest position where the log can be cut: before a moment (UTC) or a position.

    It is the end of a batch, and projections are folded beyond it. Some days before the latest
    event stay in the log, since the dashboard shows them. Returns 0 if nothing can be archived.
    """

    def find(connection: Connection) -> int:
        log, before = fairlog.log, fairlog.log.cut(connection).position
        end = log.position(connection)
        latest = audit_log.times_at(connection, [end]).get(end) if end else None
        if latest is None:
            return 0
        bounds = [audit_log.first_at(connection, latest - timedelta(seconds=LOG_KEPT_SECONDS))]
        if moment is not None:
            bounds.append(audit_log.first_at(connection, moment))
        if position is not None:
            bounds.append(position)
        checkpoints = [one.checkpoint(connection) for one in fairlog.projector_runner.projectors]
        bounds += [1 if at is None else at.position + 1 for at in checkpoints]
        return _end_of_batch(connection, min(bounds) - 1, before)

    return fairlog.read_now(find)


def check_windows(fairlog: Fairlog, older_than_seconds: float) -> None:
    """Raise `InvalidInput` if a window of a limit is longer than what stays in the log."""
    longest = fairlog.policy.window_seconds
    settings = fairlog.read_now(
        lambda connection: fairlog.windows.set_limits(connection, None, 100_000)
    )
    for _, limits in settings:
        longest = max([longest, *(one.seconds for one in limits.windows or ())])
        if limits.throttle is not None:
            longest = max(longest, int(limits.throttle.seconds))
    if older_than_seconds < longest:
        raise InvalidInput(
            f"A limit counts over a window of {longest} seconds, which would be cut: archive what "
            f"is older than that, with --older-than {longest}s or more."
        )


def _end_of_batch(connection: Connection, position: int, before: int) -> int:
    """Return the latest position at or before this one that ends a batch and is no multiple of the
    distance of snapshots; 0: there is none after `before`.
    """
    while position > before:
        times = audit_log.times_at(connection, [position, position + 1])
        at = times.get(position)
        if at is None:
            return 0
        if times.get(position + 1, at) > at and position % SPACING:
            return position
        position = min(position, audit_log.first_at(connection, at)) - 1
    return 0
