"""Rows of the log as events: they decode, their columns and bodies agree with them, and each was
legal when it was recorded, which the fold tells on its way.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy.engine import Connection

from domain.events import (
    EVENT_TYPES,
    VERSION,
    Event,
    JobCompleted,
    JobFailed,
    JobSubmitted,
    LeasesExtended,
    Recorded,
    decode,
)
from domain.identifiers import POSITION_MAX
from domain.legality import illegality, miscount
from domain.moments import EPOCH, from_micros
from domain.ports import Projection
from domain.stored_log import StoredLog, StoredRow
from domain.world import Needs, World
from projections.findings import Told
from projections.follower import FollowingProjection
from projections.rows import create_all

BODIES_A_PAGE: Final = 4000
SCRATCH_GENERATION: Final = 1


class EventCheck:
    """Takes the rows page by page, and hands on what can be folded."""

    def __init__(
        self, log: StoredLog[Connection], snapshot: Connection, fold: "ScratchFold", told: Told
    ) -> None:
        self._log = log
        self._snapshot = snapshot
        self._fold = fold
        self._told = told

    def take(self, rows: Sequence[StoredRow], after: int, up_to: int, end: int) -> None:
        """Take a page of rows behind `after` to `up_to`; those behind `end` are not folded."""
        events: list[Recorded] = []
        bodies: dict[int, tuple[str, int]] = {}
        last_at, moment = 0, EPOCH
        unreadable: int | None = None
        for position, type_name, version, user_id, job_id, recorded_at, data, _ in rows:
            if not isinstance(position, int) or position > up_to:
                break
            try:
                if recorded_at != last_at:
                    last_at, moment = recorded_at, from_micros(recorded_at)
                event = decode(data)
            except (msgspec.DecodeError, ValueError, TypeError, OverflowError) as error:
                self._told.about(position, _unreadable(version, error))
                unreadable = unreadable or position
                continue
            if type(event) is not EVENT_TYPES.get(type_name) or version != VERSION:
                self._told.about(position, "its data are of another type or version than its row")
            user = getattr(event, "user_id", None)
            if (None if user is None else user.encode()) != user_id:
                self._told.about(position, "the user of its data is not the one of its row")
            if (body := _body_of(event)) is not None:
                bodies[position] = body
            if unreadable is None and position <= end:
                events.append(Recorded(position, moment, job_id, event))
        self._take_bodies(bodies, after, up_to)
        self._fold.apply(events)
        if unreadable is not None:
            self._fold.stop(unreadable)

    def take_end(self, position: int) -> None:
        """Look for bodies behind the last event."""
        self._take_bodies({}, position, POSITION_MAX)

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
        for position in sorted(expected):
            self._told.about(position, "its body is missing")


class ScratchFold:
    """The fold of a rebuild, into a scratch database; each event is judged before it is folded.

    Those `following` are folded as far as they have come themselves: each up to its position.
    """

    def __init__(
        self,
        scratch: Connection,
        inline: Sequence[Projection[Connection]],
        following: Mapping[str, tuple[FollowingProjection[Recorded], int]],
        told: Told,
    ) -> None:
        self.stopped_at: int | None = None  # the first event that could not be folded
        self._scratch = scratch
        self._inline = inline
        self._following = dict(following)
        self._told = told
        for projection in inline:
            projection.create_tables(scratch)
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
        needs = Needs()
        needs.add_events(events)
        world = World()
        for projection in self._inline:
            projection.load(self._scratch, SCRATCH_GENERATION, needs, world)
        world.position = events[0].position - 1
        try:
            for recorded in events:
                if wrong := _illegality(world, recorded):
                    self._told.about(
                        recorded.position, f"{type(recorded.event).__name__} was illegal: {wrong}"
                    )
                world.evolve(recorded)
            for projection in self._inline:
                projection.save(self._scratch, SCRATCH_GENERATION, world)
        except Exception as error:  # noqa: BLE001 (a history that no rule made may do anything)
            self._cannot_fold(world.position + 1, error)

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


def _unreadable(version: Any, error: Exception) -> str:  # noqa: ANN401 (whatever is in the column)
    if isinstance(version, int) and version > VERSION:
        return f"it has version {version}, and this release knows up to {VERSION}"
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
