"""The ports of the domain: interfaces that adapters implement. `C` is their connection."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from msgspec import Struct

from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.known_line import Unread
from domain.jobs.children import UnreadChildren
from domain.language.events import Recorded
from domain.language.identifiers import ClaimHash
from domain.language.moments import UNIX_EPOCH
from domain.log.chain import GENESIS
from domain.log.log_time import ClockReading

C = TypeVar("C", contravariant=True)  # noqa: PLC0105 (a connection; short where it is read)
Write = Callable[[C], None]


class Clock(Protocol):
    """A source of time."""

    def now(self) -> datetime:
        """Return the time, UTC: a real `datetime` with microseconds."""

    def elapsed(self) -> float:
        """Return seconds of a monotonic clock that counts sleep too; only differences count."""


class Head(Struct, frozen=True):
    """The head of the log, read under its lock."""

    position: int  # of the latest event; 0 for an empty log
    hash: bytes  # of the chain up to that event
    now: datetime  # UTC, the log's time; not before the latest event
    # A digest of the registry plus the positions of the latest clock correction, change of an API
    # key, event of the archive and accepted loss: another number after each of these.
    version: int
    saved: int = 0  # position that the rows of the inline projections stand at
    archived: int = 0  # position of the last event that may be gone; 0: none
    archive_begun: int = 0  # see `domain.jobs.archive.ArchiveState`, as of the next field
    closed_at: datetime = UNIX_EPOCH
    reading: ClockReading | None = None  # of the clock, after the lock was taken


class Cut(Struct, frozen=True):
    """The end of the archived part of the log: what comes before it may be gone."""

    position: int = 0  # of its last event; 0: nothing is archived
    hash: bytes = GENESIS  # of the chain up to there
    snapshot: int = 0  # position of the `ArchiveBegun` of the snapshot there


class EventLog(Protocol[C]):
    """The log, for a rebuild."""

    def lock_head(self, connection: C) -> Head:
        """Lock out every other writer until the transaction ends, and return the head."""

    def position(self, connection: C) -> int:
        """Return the position of the latest event, without the lock."""

    def set_registry_digest(self, connection: C, registry_digest: int) -> None:
        """Make every process that knows another registry read it again. Needs the lock.

        `registry_digest` is a digest of all its rows.
        """

    def set_saved(self, connection: C, position: int) -> None:
        """Note the position that the rows of the inline projections stand at. Needs the lock."""

    def hash_at(self, connection: C, position: int) -> bytes | None:
        """Return the chain's hash at a position; None beyond the head, and for 0."""

    def read(self, connection: C, after: int, limit: int) -> Sequence[Recorded]:
        """Return up to `limit` events after position `after`, in order. Raises `EventsArchived`."""

    def cut(self, connection: C) -> Cut:
        """Return the end of the archived part."""

    def snapshot_parts(self, connection: C, snapshot: int) -> Iterator[bytes]:
        """Yield the parts of a snapshot where the log was cut; see `Cut`."""


class Versioned(Protocol):
    """The key of a projection in the registry."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...


class Projection(Protocol[C]):
    """A read model whose rows the writer writes (an inline projection).

    Its rows have a generation, so that another one can be filled while one is in use. Its fold is
    the part of the write model that it loads and saves.
    """

    name: str
    version: int  # raised when the fold or the tables change; part of the tables' names
    is_lasting: bool  # its rows keep changing, so a rebuild writes them as late as possible

    def load(
        self, connection: C, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        """Load the required rows into the model. May add rows of later projections."""

    def take_changes(self, generation: int, model: WriteModel) -> "Sequence[Write[C]]":
        """Return functions that write each changed row once, and mark the rows as written."""


class Projections(Protocol[C]):
    """The inline projections for the writer, each at its current generation."""

    def refresh(self, connection: C) -> None:
        """Read the current generation of each. Raises `LogTooNew` for a newer version."""

    @property
    def saved(self) -> int:
        """The position that the rows stand at; the model has what changed since.

        After `load`, `look_further` and `save` it may be another one, which the caller has to note
        in the head row, in the same transaction.
        """

    def load(self, connection: C, head: Head, required: RequiredRows) -> WriteModel:
        """Return the state at the head, with the required rows in memory."""

    def look_further(
        self, connection: C, unread: Unread | UnreadChildren, model: WriteModel
    ) -> None:
        """Load more of the line, or more children of ended jobs, into a loaded model, into which
        events may have been folded.

        Saves the model before, in the same transaction.
        """

    def save(self, connection: C, model: WriteModel) -> None:
        """Write each changed row of all projections once."""

    def note_empty_claims(self, connection: C, claims: Sequence[ClaimHash], now: datetime) -> None:
        """Store that claims were answered empty; they can be repeated for `CLAIM_SECONDS`."""

    def keep(self, model: WriteModel) -> None:
        """Reuse the rows of a committed model for the next batch."""

    def forget(self) -> None:
        """Drop all rows in memory, since they may differ from the stored ones."""
