"""The fold of the log into new generations of the inline projections, with few writes per row.

Rows stay in memory between pages of the log. Rows of projections that are not lasting are written
every `EVENTS_PER_SAVE` events; lasting ones when there are too many rows, or at the end. Written
rows that are hardly needed again are evicted: ended jobs, and with very many users all rows. An
evicted row is read again when an event names it; a row that cannot be stored is never read.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from sqlalchemy.engine import Connection

from domain.decisions.ports import Projection, Write
from domain.decisions.write_model import RequiredRows, RowKeys, WriteModel, submissions_in
from domain.jobs.job import Job
from domain.language.events import JobSubmitted, RateLimitDecided, Recorded
from projections.inline.job_documents import decode_job
from projections.inline.jobs import jobs
from projections.storage.snapshot import SnapshotPart

EVENTS_PER_SAVE: Final = 20_000
ROWS_KEPT_MAX: Final = 60_000  # after a save, some 60 MB
_OF_LIMITS: Final = "windows"  # name of the projection that stores limits
# With two words per submission (at one submission in four events) about 1 key in 100,000 is a false
# positive, which costs a query that waits for all writes. This limit (64 MiB) raises the rate.
_SEEN_WORDS_MAX: Final = 1 << 23

K = TypeVar("K", JobSubmitted, Job, JobSubmitted | Job)
Inspect = Callable[[WriteModel, Recorded], None]  # called before each event is folded
Target = tuple[Projection[Connection], int]  # a projection and the generation to build


class GenerationFold:
    """Folds events, which must come in log order from the first one, or from the one after a cut,
    if the rows of the snapshot there are in the tables.

    `flush` is called before rows are read back, and has to wait for all writes that were taken.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        events_expected: int,
        flush: Callable[[], None] = lambda: None,
        after: int = 0,
    ) -> None:
        """`after` is the position of the cut, and 0 for a fold from the first event on.

        A fold from a cut needs all inline projections as targets, since the line needs the limits.
        """
        self._targets = targets
        self._flush = flush
        self._model = WriteModel()
        self._model.position = after
        # The line needs the users' limits; where they are not built too, they are not read back.
        self._evicts_limits = any(one.name == _OF_LIMITS for one, _ in targets)
        self._absent = RequiredRows()  # looked up since the last eviction, and not stored
        # The rows of a snapshot are in the tables, as if they had been evicted.
        self._has_evicted = after > 0
        self._has_evicted_all = after > 0
        if after > 0:
            self._model.limits.is_read = False
            self._model.callbacks.is_read = False
            self._model.line.has_virtual_time = False
        self._seen = _SeenKeys(events_expected)
        self._unsaved = 0

    @property
    def position(self) -> int:
        return self._model.position

    @property
    def is_save_due(self) -> bool:
        return self._unsaved >= EVENTS_PER_SAVE

    def know(self, part: SnapshotPart) -> None:
        """Know the idempotency keys of a snapshot's jobs."""
        if part.table == jobs.name:
            self._seen.add(decode_job(row[-1]) for row in part.rows)

    def know_earlier(self, events: Iterable[Recorded]) -> None:
        """Fold the events that stayed in the log before the cut, of which no row stands."""
        for recorded in events:
            self._model.keys.evolve(recorded)
            self._model.archive.evolve(recorded)

    def take(
        self, connection: Connection, events: Sequence[Recorded], inspect: Inspect | None = None
    ) -> None:
        """Fold events; evicted rows are read back over `connection`.

        `inspect` is called with each event and the state before it.
        """
        repeated = list(self._seen.repeated(submissions_in(events)))
        if self._has_evicted:
            self._read_back(connection, events, repeated)
        evolve = self._model.evolve
        for recorded in events:
            if inspect is not None:
                inspect(self._model, recorded)
            evolve(recorded)
        self._unsaved += len(events)

    def save(self, connection: Connection) -> None:
        """Write what has changed since the last time."""
        for write in self.take_changes():
            write(connection)

    def take_changes(self) -> list[Write[Connection]]:
        """Return the writes of all changes; the caller runs them, and `flush` waits for them."""
        writes = self._take_changes_of(self._targets)
        self._unsaved = 0
        if self._size() > ROWS_KEPT_MAX:
            self._evict_ended_jobs()
        if self._size() > ROWS_KEPT_MAX:
            self._evict_all()
        return writes

    def take_due_changes(self) -> list[Write[Connection]]:
        """Return the writes of rows that hardly change again; all, if there are too many rows."""
        writes = self._take_changes_of([one for one in self._targets if not one[0].is_lasting])
        self._unsaved = 0
        if self._size() > ROWS_KEPT_MAX:
            self._evict_ended_jobs()
        if self._size() > ROWS_KEPT_MAX:
            writes += self.take_changes()
        return writes

    def _take_changes_of(self, targets: Sequence[Target]) -> list[Write[Connection]]:
        return [
            write
            for projection, generation in targets
            for write in projection.take_changes(generation, self._model)
        ]

    def _size(self) -> int:
        """Return about how many rows are in memory."""
        model = self._model
        limits = len(model.limits.users) if self._evicts_limits else 0
        size = len(model.jobs.rows) + model.line.size() + len(model.windows.counters)
        return size + len(model.schedules.rows) + limits

    def _evict_ended_jobs(self) -> None:
        self._model.jobs.evict_ended()
        self._note_eviction()

    def _evict_all(self) -> None:
        model = self._model
        model.jobs.evict()
        model.line.evict()
        model.windows.evict()
        model.schedules.evict()
        if self._evicts_limits:
            model.limits.evict_users()
        self._has_evicted_all = True
        self._note_eviction()

    def _note_eviction(self) -> None:
        self._has_evicted = True
        self._absent = RequiredRows()

    def _read_back(
        self, connection: Connection, events: Sequence[Recorded], repeated: Sequence[JobSubmitted]
    ) -> None:
        """`repeated` are submissions whose key may have come before, and so may be stored."""
        required = RequiredRows()
        required.add_keys(repeated)
        required.add_events(events if self._has_evicted_all else self._of_evicted_jobs(events))
        # Jobs that these events submit are not stored yet.
        required.jobs.difference_update([job for job in required.jobs if job > self.position])
        for projection, generation in self._targets:
            missing = self._not_in_memory(required)
            if missing.size():
                self._flush()
                projection.load(connection, generation, missing, self._model)
                required.add(missing)  # the users of the jobs that were read
        self._absent.add(self._not_in_memory(required))

    def _of_evicted_jobs(self, events: Sequence[Recorded]) -> Iterator[Recorded]:
        """Yield the events that name a job, unless it is in memory or new."""
        jobs, position = self._model.jobs.rows, self.position
        for recorded in events:
            job_id, event = recorded.job_id, recorded.event
            if isinstance(event, RateLimitDecided):
                continue
            if isinstance(event, JobSubmitted) and event.delivery is not None:
                yield recorded  # the job whose end it tells may be evicted
                continue
            if job_id is None or (job_id <= position and job_id not in jobs):
                yield recorded

    def _not_in_memory(self, required: RequiredRows) -> RequiredRows:
        """Return the required rows that are not in memory; a stored row may be older than those."""
        jobs, line, windows = self._model.jobs, self._model.line, self._model.windows
        in_memory = RowKeys(
            users=line.users,
            kinds=line.kinds,
            resources=line.resources,
            starts=line.starts,
            jobs=jobs.rows,
            keys=jobs.key_holders,
            claims=jobs.claims.jobs,
            windows=windows.counters,
            schedules=self._model.schedules.rows,
        )
        return required.without(self._absent).without(in_memory)


# Masks of three bits, each derived from two numbers below 64.
_PATTERNS: Final = tuple(
    1 << one | 1 << other | 1 << (one + other) % 64 for one in range(64) for other in range(64)
)


class _SeenKeys:
    """A blocked Bloom filter of idempotency keys: all bits of a key are in one word."""

    def __init__(self, events_expected: int) -> None:
        words = 1 << (events_expected // 2).bit_length()
        self._words = array("Q", bytes(8 * min(max(1024, words), _SEEN_WORDS_MAX)))
        self._mask = len(self._words) - 1

    def repeated(self, submissions: Iterable[K]) -> Iterator[K]:
        """Yield the submissions whose key may have come before, and add all keys."""
        words, mask = self._words, self._mask
        for event in submissions:
            key = hash((event.user_id, event.idempotency_key, event.key_is_explicit))
            at = key & mask
            before = words[at]
            bits = _PATTERNS[key >> 36 & 4095] | _PATTERNS[key >> 48 & 4095]
            if before & bits == bits:
                yield event
            else:
                words[at] = before | bits

    def add(self, submitted: Iterable[JobSubmitted | Job]) -> None:
        """Add the keys of all of these."""
        deque(self.repeated(submitted), maxlen=0)
