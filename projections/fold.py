"""Folding the log into a generation of the inline projections, each changed row written once.

Rows stay in memory between pages of the log and are written together every so often; then those
that history is hardly going to touch again are let go: jobs that have ended, and with very many
users all of them. What was let go is read again when an event names it, and what cannot be there is
never asked for.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, Final

from sqlalchemy.engine import Connection

from domain.events import JobSubmitted, Recorded
from domain.idempotency import key_hash
from domain.identifiers import JobId
from domain.life_cycle import ENDED
from domain.moments import to_micros
from domain.ports import Projection, Write
from domain.rate_limits import WindowKey
from domain.world import Needs, World

EVENTS_A_SAVE: Final = 20_000
ROWS_KEPT_MAX: Final = 60_000  # after a save, some 60 MB
_SEEN_BITS_A_KEY: Final = 10  # about 1 % of the keys are looked up in vain
_SEEN_BITS_MAX: Final = 1 << 29  # 64 MiB; beyond it more keys are looked up in vain


Judge = Callable[[World, Recorded], None]


class GenerationFold:
    """The events must come in log order, from the first.

    `settle` is called before rows are read back: what was to be written has to be by then.
    """

    def __init__(
        self,
        building: Sequence[tuple[Projection[Connection], int]],
        events_expected: int,
        settle: Callable[[], None] = lambda: None,
        rows_kept_max: int = ROWS_KEPT_MAX,
    ) -> None:
        self._building = building
        self._settle = settle
        self._rows_kept_max = rows_kept_max
        self._world = World()
        self._absent = Needs()  # looked for since rows were let go, and not stored
        self._has_let_go = False
        self._seen = _SeenKeys(events_expected)
        self._unsaved = 0
        self._now = 0  # of the latest event; UTC, microseconds

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
        repeated = self._repeated_keys(events)
        if self._has_let_go:
            self._read_back(connection, events, repeated)
        evolve = self._world.evolve
        for recorded in events:
            if judge is not None:
                judge(self._world, recorded)
            evolve(recorded)
        self._unsaved += len(events)
        if events:
            self._now = to_micros(events[-1].recorded_at)

    def save(self, connection: Connection) -> None:
        """Write what has changed since the last time."""
        for write in self.changes():
            write(connection)

    def changes(self) -> list[Write[Connection]]:
        """`save` for who writes elsewhere, as long as `settle` waits for it."""
        writes = [
            write
            for projection, generation in self._building
            for write in projection.changes(generation, self._world)
        ]
        self._unsaved = 0
        if self._size() > self._rows_kept_max:
            self._let_go()
        return writes

    def _size(self) -> int:
        world = self._world
        return len(world.jobs.rows) + len(world.line.users) + len(world.windows.counters)

    def _let_go(self) -> None:
        """Of everything, if what is left would still be too much."""
        self._has_let_go = True
        self._absent = Needs()
        jobs, line, windows = self._world.jobs, self._world.line, self._world.windows
        windows.counters = {
            key: counter for key, counter in windows.counters.items() if _end(key) > self._now
        }
        going_on = [job for job in jobs.rows.values() if job.state not in ENDED]
        for rows in (jobs.rows, jobs.key_holders, jobs.claims):
            rows.clear()
        for job in going_on:
            jobs.put(job)
        if self._size() > self._rows_kept_max:
            for known in (
                jobs.rows, jobs.key_holders, jobs.claims, line.users, line.lanes,
                line.stored_lanes, line.kinds, windows.counters, windows.limits,
            ):  # fmt: skip
                known.clear()

    def _repeated_keys(self, events: Sequence[Recorded]) -> set[bytes]:
        """Of submissions: those that may have come before, and so may be stored."""
        return {
            key
            for recorded in events
            if isinstance(event := recorded.event, JobSubmitted)
            and self._seen.add(
                key := key_hash(
                    event.user_id, event.idempotency_key, is_explicit=event.key_is_explicit
                )
            )
        }

    def _read_back(
        self, connection: Connection, events: Sequence[Recorded], repeated: set[bytes]
    ) -> None:
        needs = Needs()
        needs.add_events(events)
        needs.keys &= repeated
        # A job is new at its submission.
        needs.jobs.difference_update(
            JobId(one.position) for one in events if isinstance(one.event, JobSubmitted)
        )
        for projection, generation in self._building:
            missing = self._unknown(needs)
            if missing.size():
                self._settle()
                projection.load(connection, generation, missing, self._world)
                needs.add(missing)  # the users of the jobs that were read
        self._absent.add(self._unknown(needs))

    def _unknown(self, needs: Needs) -> Needs:
        """What is not in memory: of what is there, the stored row may be older."""
        jobs, line, windows = self._world.jobs, self._world.line, self._world.windows
        missing = needs.without(self._absent)
        known: tuple[Container[Any], ...] = (
            line.users, line.kinds, jobs.rows, jobs.key_holders, jobs.claims, windows.counters,
        )  # fmt: skip
        for rows, there in zip(missing.sets(), known, strict=True):
            rows -= {row for row in rows if row in there}
        return missing


def _end(window: WindowKey) -> int:
    """UTC, microseconds."""
    _, seconds, start = window
    return start + seconds * 1_000_000


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
        first = int.from_bytes(key[:8], "little") & mask
        second = int.from_bytes(key[8:16], "little") & mask
        first_bit, second_bit = 1 << (first & 7), 1 << (second & 7)
        seen = bool(field[first >> 3] & first_bit and field[second >> 3] & second_bit)
        field[first >> 3] |= first_bit
        field[second >> 3] |= second_bit
        return seen
