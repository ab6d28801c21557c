"""Rows of the log as events: they decode, their columns and bodies agree with them, and each was
legal when it was recorded, which the fold tells on its way.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy.engine import Connection

from domain.errors import LogTooNew
from domain.events import (
    EVENT_TYPES,
    VERSION,
    BodiesErased,
    Event,
    JobCompleted,
    JobFailed,
    JobSubmitted,
    LeasesExtended,
    Recorded,
)
from domain.identifiers import POSITION_MAX
from domain.legality import illegality, miscount
from domain.moments import EPOCH, from_micros
from domain.stored_log import StoredLog, StoredRow
from domain.upcasting import read, version_of
from domain.world import World
from projections.erasure_check import ErasureCheck
from projections.findings import Told
from projections.fold import GenerationFold
from projections.follower import FollowingProjection
from projections.generations import InlineProjection
from projections.rows import create_all

BODIES_A_PAGE: Final = 4000
SCRATCH_GENERATION: Final = 1


class EventCheck:
    """Takes the rows page by page, and hands on what can be folded."""

    def __init__(
        self, log: StoredLog[Connection], snapshot: Connection, fold: "ScratchFold",
        erasures: ErasureCheck, told: Told,
    ) -> None:  # fmt: skip
        self._erasures = erasures
        self._log = log
        self._snapshot = snapshot
        self._fold = fold
        self._told = told

    def take(self, rows: Sequence[StoredRow], after: int, up_to: int, end: int) -> None:
        """Take a page of rows behind `after` to `up_to`; those behind `end` are not folded."""
        events: list[Recorded] = []
        bodies: dict[int, tuple[str, int]] = {}
        erasures: list[tuple[int, BodiesErased]] = []
        last_at, moment = 0, EPOCH
        unreadable: int | None = None
        for position, type_name, version, user_id, job_id, recorded_at, data, _ in rows:
            if not isinstance(position, int) or position > up_to:
                break
            try:
                if recorded_at != last_at:
                    last_at, moment = recorded_at, from_micros(recorded_at)
                event = read(version, data)
            except (msgspec.DecodeError, ValueError, TypeError, OverflowError, LogTooNew) as error:
                self._told.about(position, _unreadable(error))
                unreadable = unreadable or position
                continue
            if type(event) is not EVENT_TYPES.get(type_name) or not _is_version(version, type_name):
                self._told.about(position, "its data are of another type or version than its row")
            user = getattr(event, "user_id", None)
            if (None if user is None else user.encode()) != user_id:
                self._told.about(position, "the user of its data is not the one of its row")
            if (body := _body_of(event)) is not None:
                bodies[position] = body
            elif isinstance(event, BodiesErased):
                erasures.append((position, event))
            if unreadable is None and position <= end:
                events.append(Recorded(position, moment, job_id, event))
        self._take_bodies(bodies, after, up_to)
        for position, event in erasures:
            self._erasures.take(position, event)
        self._fold.apply(events)
        if unreadable is not None:
            self._fold.stop(unreadable)

    def take_end(self, position: int) -> None:
        """Look for bodies behind the last event, and tell of those that nothing explains."""
        self._take_bodies({}, position, POSITION_MAX)
        self._erasures.take_end()

    def _take_bodies(self, expected: dict[int, tuple[str, int]], after: int, up_to: int) -> None:
        found: Sequence[tuple[int, str, int]] = ()
        while not found or len(found) == BODIES_A_PAGE:
            found = self._log.body_digests(self._snapshot, after, up_to, BODIES_A_PAGE)
            if not found:
                break
            after = found[-1][0]
            for position, digest, size in found:
                wanted = expected.pop(position, None)
                if wanted is None:
                    self._told.about(position, "there is a body that no event speaks of")
                elif wanted != (digest, size):
                    self._told.about(
                        position,
                        f"its body has {size} bytes and the SHA-256 {digest}, but the event says "
                        f"{wanted[1]} and {wanted[0]}",
                    )
        self._erasures.take_missing(expected)


class ScratchFold:
    """The fold of a rebuild, into a scratch database; each event is judged before it is folded.

    Those `following` are folded as far as they have come themselves: each up to its position.
    """

    def __init__(
        self,
        scratch: Connection,
        inline: Sequence[InlineProjection],
        following: Mapping[str, tuple[FollowingProjection[Recorded], int]],
        events_expected: int,
        told: Told,
    ) -> None:
        self.stopped_at: int | None = None  # the first event that could not be folded
        self._scratch = scratch
        self._fold = GenerationFold(
            [(projection, SCRATCH_GENERATION) for projection in inline], events_expected
        )
        self._following = dict(following)
        self._told = told
        for projection in inline:
            create_all(scratch, projection.tables)
        for follower, _ in following.values():
            create_all(scratch, follower.tables)

    def stop(self, position: int) -> None:
        if self.stopped_at is None:
            self.stopped_at = position

    def apply(self, events: Sequence[Recorded]) -> None:
        if self.stopped_at is None and events:
            self._apply_inline(events)
        if self.stopped_at is None and events:
            for projection, up_to in self._following.values():
                self._apply_following(projection, up_to, events)

    def _apply_inline(self, events: Sequence[Recorded]) -> None:
        try:
            self._fold.take(self._scratch, events, self._judge)
            if self._fold.is_save_due:
                self._fold.save(self._scratch)
        except Exception as error:  # noqa: BLE001 (a history that no rule made may do anything)
            self._cannot_fold(self._fold.position + 1, error)

    def _judge(self, world: World, recorded: Recorded) -> None:
        if wrong := _illegality(world, recorded):
            self._told.about(
                recorded.position, f"{type(recorded.event).__name__} was illegal: {wrong}"
            )

    def finish(self) -> None:
        """Write what has not been written yet, so that the tables can be compared."""
        if self.stopped_at is None:
            try:
                self._fold.save(self._scratch)
            except Exception as error:  # noqa: BLE001 (see above)
                self._cannot_fold(self._fold.position, error)

    def _apply_following(
        self, projection: FollowingProjection[Recorded], up_to: int, events: Sequence[Recorded]
    ) -> None:
        reached = [recorded for recorded in events if recorded.position <= up_to]
        if not reached:
            return
        try:
            projection.apply(self._scratch, SCRATCH_GENERATION, reached)
        except Exception as error:  # noqa: BLE001 (see above)
            self._cannot_fold(reached[0].position, error)

    def _cannot_fold(self, position: int, error: Exception) -> None:
        self._told.about(position, f"it cannot be folded ({type(error).__name__}: {error})")
        self.stop(position)


def _illegality(world: World, recorded: Recorded) -> str | None:
    jobs = world.jobs.rows
    if isinstance(recorded.event, LeasesExtended):
        wrongs = (illegality(jobs.get(job_id), recorded) for job_id, _ in recorded.event.jobs)
        return next(filter(None, wrongs), None)
    before = None if recorded.job_id is None else jobs.get(recorded.job_id)
    return illegality(before, recorded) or miscount(world.windows, recorded)


def _is_version(version: Any, type_name: str) -> bool:  # noqa: ANN401 (whatever is in the column)
    return isinstance(version, int) and VERSION <= version <= version_of(type_name)


def _unreadable(error: Exception) -> str:
    if isinstance(error, LogTooNew):
        return f"it cannot be read: {error}"
    return f"it cannot be read ({type(error).__name__}: {error})"


def _body_of(event: Event) -> tuple[str, int] | None:
    """The SHA-256 and the size of the body that belongs to an event."""
    match event:
        case JobSubmitted():
            return event.payload_sha256, event.payload_bytes
        case JobCompleted(result_sha256=str(digest)):
            return digest, event.result_bytes
        case JobFailed(error_sha256=str(digest)):
            return digest, event.error_bytes
        case _:
            return None
