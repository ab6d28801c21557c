"""What the domain asks of the outside world, as roles. `C` is a connection of the adapter."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from msgspec import Struct

from domain.decisions.write_model import RequiredRows, WriteModel
from domain.fairness.line import Unread
from domain.language.events import Recorded
from domain.language.identifiers import ClaimHash
from domain.log.log_time import ClockReading

C = TypeVar("C", contravariant=True)  # noqa: PLC0105 (a connection; short where it is read)
Write = Callable[[C], None]


class Clock(Protocol):
    def now(self) -> datetime:
        """UTC, a real `datetime` with microseconds."""

    def elapsed(self) -> float:
        """Seconds on a clock that is never set and counts sleep too; only differences mean
        something.
        """


class Head(Struct, frozen=True):
    """The end of the log, read under its lock."""

    position: int  # of the latest event; 0 for an empty log
    hash: bytes  # the chain up to there
    now: datetime  # UTC, by the log's clock; not before the latest event
    version: int  # another number after a change of the projection registry or of the clock
    reading: ClockReading | None = None  # of the clock, where the lock was taken just now


class EventLog(Protocol[C]):
    """The log as a rebuild sees it."""

    def lock_head(self, connection: C) -> Head:
        """Keep every other writer out until the transaction ends."""

    def position(self, connection: C) -> int:
        """The latest event's, without the lock."""

    def set_registry_digest(self, connection: C, registry_digest: int) -> None:
        """Make every process read the registry again that knows another one. Needs the lock.

        `registry_digest` is a digest of all its rows.
        """

    def hash_at(self, connection: C, position: int) -> bytes | None:
        """Give the chain's hash up to a position; None beyond the end, and for 0."""

    def read(self, connection: C, after: int, limit: int) -> Sequence[Recorded]:
        """Up to `limit` events behind `after`, in order."""


class Versioned(Protocol):
    """What a projection is registered by."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...


class Projection(Protocol[C]):
    """A read model kept in the writer's transaction.

    Its rows carry a generation, so that another one can be filled beside the one in use. The fold
    itself is the part of the write model that it loads and saves.
    """

    name: str
    version: int  # raised when the fold or the tables change; the tables are named by it
    is_lasting: bool  # its rows go on being changed: a rebuild writes them as late as it can

    def look_ahead(
        self, connection: C, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        """Read what decides which other rows are needed, and add those to the needs."""

    def load(
        self, connection: C, generation: int, required: RequiredRows, model: WriteModel
    ) -> None:
        """Load the required rows into the model. May add to what those after it require."""

    def take_changes(self, generation: int, model: WriteModel) -> "Sequence[Write[C]]":
        """What writes each row that has changed, once; from here on they count as written."""


class Projections(Protocol[C]):
    """The inline projections as the writer sees them, each at its current generation."""

    def refresh(self, connection: C) -> None:
        """Read which generation of each is current. Raises `LogTooNew` for a newer version."""

    def load(self, connection: C, position: int, required: RequiredRows) -> WriteModel:
        """The state at a position, which is the log's end, as far as it is needed."""

    def look_further(self, connection: C, unread: Unread, model: WriteModel) -> None:
        """Load more of the line into a model that was loaded, whatever was folded into it since."""

    def save(self, connection: C, model: WriteModel) -> None:
        """Write each changed row of all of them once."""

    def note_empty_claims(self, connection: C, claims: Sequence[ClaimHash], now: datetime) -> None:
        """Have claims found that were answered with nothing, for `CLAIM_SECONDS` from now."""

    def keep(self, model: WriteModel) -> None:
        """What was saved is on disk now: the rows may serve the next batch."""

    def forget(self) -> None:
        """What was loaded may not be what is stored: read everything anew."""
