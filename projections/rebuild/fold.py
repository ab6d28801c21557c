"""Folding the log into a generation of the inline projections, each changed row written seldom.

Rows stay in memory between pages of the log. Those that history is soon done with are written every
so often, the others when there are too many, or at the end. Then what is hardly going to be touched
again is let go: jobs that have ended, and with very many users everything.
What was let go is read again when an event names it, and what cannot be there is never asked for.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy.engine import Connection

from domain.decisions.ports import Projection, Write
from domain.decisions.write_model import RequiredRows, RowKeys, WriteModel
from domain.jobs.job import ENDED
from domain.language.events import JobSubmitted, RateLimitDecided, Recorded
from domain.language.idempotency import key_hash
from domain.language.identifiers import KeyHash

EVENTS_PER_SAVE: Final = 20_000
ROWS_KEPT_MAX: Final = 60_000  # after a save, some 60 MB
# Two words a submission where they are a quarter of the events: some 1 in 100,000 is taken for
# another and looked up in vain, behind all that has to be written. With more than this (64 MiB),
# more are.
_SEEN_WORDS_MAX: Final = 1 << 23


Judge = Callable[[WriteModel, Recorded], None]
Building = tuple[Projection[Connection], int]  # and its generation


class GenerationFold:
    """The events must come in log order, from the first.

    `settle` is called before rows are read back: what was to be written has to be by then.
    """

    def __init__(
        self,
        building: Sequence[Building],
        events_expected: int,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._building = building
        self._settle = settle
        self._model = WriteModel(is_served=False)
        self._absent = RequiredRows()  # looked for since rows were let go, and not stored
        self._has_let_go = False
        self._has_let_go_of_all = False
        self._seen = _SeenKeys(events_expected)
        self._unsaved = 0

    @property
    def position(self) -> int:
        return self._model.position

    @property
    def is_save_due(self) -> bool:
        return self._unsaved >= EVENTS_PER_SAVE

    def take(
        self, connection: Connection, events: Sequence[Recorded], judge: Judge | None = None
    ) -> None:
        """Fold events in; `connection` is where the generation's own rows are read.

        `judge` is shown each event, with the state before it.
        """
        repeated = self._repeated_keys(events)
        if self._has_let_go:
            self._read_back(connection, events, repeated)
        evolve = self._model.evolve
        for recorded in events:
            if judge is not None:
                judge(self._model, recorded)
            evolve(recorded)
        self._unsaved += len(events)

    def save(self, connection: Connection) -> None:
        """Write what has changed since the last time."""
        for write in self.take_changes():
            write(connection)

    def take_changes(self) -> list[Write[Connection]]:
        """`save` for who writes elsewhere, as long as `settle` waits for it."""
        writes = self._changes_of(self._building)
        self._unsaved = 0
        if self._size() > ROWS_KEPT_MAX:
            self._let_go_of_jobs()
        if self._size() > ROWS_KEPT_MAX:
            self._let_go_of_all()
        return writes

    def take_due_changes(self) -> list[Write[Connection]]:
        """Those of them that had better not wait for later changes of the same rows."""
        writes = self._changes_of([one for one in self._building if not one[0].is_lasting])
        self._unsaved = 0
        if self._size() > ROWS_KEPT_MAX:
            self._let_go_of_jobs()
        if self._size() > ROWS_KEPT_MAX:
            writes += self.take_changes()
        return writes

    def _changes_of(self, building: Sequence[Building]) -> list[Write[Connection]]:
        return [
            write
            for projection, generation in building
            for write in projection.take_changes(generation, self._model)
        ]

    def _size(self) -> int:
        model = self._model
        line, windows = model.line, model.windows
        names = len(line.users) + len(line.kinds) + len(windows.counters) + len(windows.limits)
        return len(model.jobs.rows) + names

    def _let_go_of_jobs(self) -> None:
        """Of those that have ended."""
        jobs = self._model.jobs
        going_on = [job for job in jobs.rows.values() if job.state not in ENDED]
        self._forget(jobs.rows, jobs.key_holders, jobs.keys, jobs.claims.jobs)
        for job in going_on:
            jobs.put(job)

    def _let_go_of_all(self) -> None:
        self._has_let_go_of_all = True
        jobs, line, windows = self._model.jobs, self._model.line, self._model.windows
        self._forget(
            jobs.rows,
            jobs.key_holders,
            jobs.keys,
            jobs.claims.jobs,
            line.users,
            line.lanes,
            line.stored_lanes,
            line.kinds,
            windows.counters,
            windows.limits,
        )

    def _forget(self, *known: dict[Any, Any] | set[Any]) -> None:
        for rows in known:
            rows.clear()
        self._has_let_go = True
        self._absent = RequiredRows()

    def _repeated_keys(self, events: Sequence[Recorded]) -> set[KeyHash]:
        """Of submissions: those that may have come before, and so may be stored."""
        submissions = [
            event for recorded in events if type(event := recorded.event) is JobSubmitted
        ]
        return {
            key_hash(event.user_id, event.idempotency_key, is_explicit=event.key_is_explicit)
            for event in self._seen.repeated(submissions)
        }

    def _read_back(
        self, connection: Connection, events: Sequence[Recorded], repeated: set[KeyHash]
    ) -> None:
        required = RequiredRows(keys=repeated)
        required.add_events(events if self._has_let_go_of_all else self._of_jobs(events))
        # Jobs that these events submit are not stored yet.
        required.jobs.difference_update([job for job in required.jobs if job > self.position])
        for projection, generation in self._building:
            missing = self._unknown(required)
            if missing.size():
                self._settle()
                projection.load(connection, generation, missing, self._model)
                required.add(missing)  # the users of the jobs that were read
        self._absent.add(self._unknown(required))

    def _of_jobs(self, events: Sequence[Recorded]) -> Iterator[Recorded]:
        """The events of jobs that may have been let go."""
        jobs, position = self._model.jobs.rows, self.position
        for recorded in events:
            job_id = recorded.job_id
            if isinstance(recorded.event, RateLimitDecided):
                continue
            if job_id is None or (job_id <= position and job_id not in jobs):
                yield recorded

    def _unknown(self, required: RequiredRows) -> RequiredRows:
        """What is not in memory: of what is there, the stored row may be older."""
        jobs, line, windows = self._model.jobs, self._model.line, self._model.windows
        in_memory = RowKeys(
            users=line.users,
            kinds=line.kinds,
            jobs=jobs.rows,
            keys=jobs.key_holders,
            claims=jobs.claims.jobs,
            windows=windows.counters,
        )
        return required.without(self._absent).without(in_memory)


# Three bits of a word each, which two numbers tell.
_PATTERNS: Final = tuple(
    1 << one | 1 << other | 1 << (one + other) % 64 for one in range(64) for other in range(64)
)


class _SeenKeys:
    """A Bloom filter: which keys may have come before. All bits of a key are in one word."""

    def __init__(self, events_expected: int) -> None:
        words = 1 << (events_expected // 2).bit_length()
        self._words = array("Q", bytes(8 * min(max(1024, words), _SEEN_WORDS_MAX)))
        self._mask = len(self._words) - 1

    def repeated(self, submissions: Iterable[JobSubmitted]) -> Iterator[JobSubmitted]:
        """Those whose key may have come before; from here on all of them have."""
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
