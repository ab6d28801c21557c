"""Folding the log into a generation of the inline projections, each changed row written once.

Rows stay in memory between pages of the log and are written together every so often; then those
that history is hardly going to touch again are let go. What was let go is read again when an event
names it, and what cannot be there is never asked for.
"""

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy.engine import Connection

from domain.events import JobSubmitted, Recorded
from domain.idempotency import key_hash
from domain.identifiers import JobId
from domain.ports import Projection
from domain.world import Needs, World

EVENTS_A_SAVE: Final = 20_000
ROWS_KEPT_MAX: Final = 60_000  # after a save, some 60 MB
_SEEN_BITS_A_KEY: Final = 10  # about 1 % of the keys are looked up in vain
_SEEN_BITS_MAX: Final = 1 << 29  # 64 MiB; beyond it more keys are looked up in vain
_SEEN_PROBES: Final = 4


Judge = Callable[[World, Recorded], None]


class GenerationFold:
    """The events must come in log order, from the first."""

    def __init__(
        self, building: Sequence[tuple[Projection[Connection], int]], events_expected: int
    ) -> None:
        self._building = building
        self._world = World()
        self._known = Needs()  # which rows are in memory, or known not to be stored
        self._has_let_go = False
        self._seen = _SeenKeys(events_expected)
        self._unsaved = 0

    @property
    def position(self) -> int:
        return self._world.position

    @property
    def is_save_due(self) -> bool:
        return self._unsaved >= EVENTS_A_SAVE

    def take(
        self, connection: Connection, events: Sequence[Recorded], judge: Judge | None = None
    ) -> None:
        """Fold events in; `connection` is where the generation's own rows are read.

        `judge` is shown each event, with the state before it.
        """
        needs = Needs()
        needs.add_events(events)
        self._mark_new(events)
        if self._has_let_go:
            for projection, generation in self._building:
                missing = needs.without(self._known)
                projection.load(connection, generation, missing, self._world)
                needs.add(missing)
        self._known.add(needs)
        evolve = self._world.evolve
        for recorded in events:
            if judge is not None:
                judge(self._world, recorded)
            evolve(recorded)
        self._unsaved += len(events)

    def save(self, connection: Connection) -> None:
        """Write what has changed since the last time."""
        for projection, generation in self._building:
            projection.save(connection, generation, self._world)
        self._unsaved = 0
        if self._known.size() > ROWS_KEPT_MAX:
            position = self._world.position
            self._world, self._known, self._has_let_go = World(), Needs(), True
            self._world.position = position

    def _mark_new(self, events: Sequence[Recorded]) -> None:
        """A job is new at its submission, and most keys are: neither can be stored yet."""
        for recorded in events:
            event = recorded.event
            if isinstance(event, JobSubmitted):
                self._known.jobs.add(JobId(recorded.position))
                key = key_hash(
                    event.user_id, event.idempotency_key, is_explicit=event.key_is_explicit
                )
                if not self._seen.add(key):
                    self._known.keys.add(key)


class _SeenKeys:
    """A Bloom filter: whether a key may have come before. The keys are hashes, and their parts
    serve as the filter's.
    """

    def __init__(self, events_expected: int) -> None:
        wanted = (events_expected * _SEEN_BITS_A_KEY // 2).bit_length()
        self._bits = 1 << min(max(16, wanted), _SEEN_BITS_MAX.bit_length() - 1)
        self._field = bytearray(self._bits // 8)

    def add(self, key: bytes) -> bool:
        """Whether it may have been added before; it is now."""
        field, mask = self._field, self._bits - 1
        number = int.from_bytes(key[:32], "little")
        seen = True
        for _ in range(_SEEN_PROBES):
            index = number & mask
            number >>= 64
            bit = 1 << (index & 7)
            if not field[index >> 3] & bit:
                seen = False
                field[index >> 3] |= bit
        return seen
