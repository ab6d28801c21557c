"""The inline projections for the writer: its state in memory, and the rows behind it.

The state in memory stands at the end of the log. The rows are written behind it, many batches at
once: they stand at the position that the head row names as saved. Rows that changed since are in
memory; a row that is not in memory is current in its table. A process that finds events which it
has not seen folds them, so any process can save what another one has appended, even if that one has
died.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.engine import Connection

from domain.decisions.ports import EventLog, Head, Projection
from domain.decisions.write_model import RequiredRows, WriteModel, submissions_in
from domain.fairness.known_line import KnownLine, Unread
from domain.jobs.children import UnreadChildren
from domain.language.errors import LogUnavailable
from domain.language.identifiers import ClaimHash
from domain.language.moments import to_micros
from projections.inline.callbacks import CallbacksProjection
from projections.inline.empty_claims import EmptyClaims
from projections.inline.front import FrontOfLine
from projections.inline.jobs import JobsProjection
from projections.inline.line import LineProjection
from projections.inline.parents import ParentsProjection, read_children
from projections.inline.schedules import SchedulesProjection
from projections.inline.windows import WindowsProjection
from projections.storage import registry
from projections.storage.generations import InlineProjection

ROWS_KEPT_MAX: Final = 80_000  # between batches, some 80 MB
EVENTS_PER_PAGE: Final = 2_000  # of those that other processes have appended


def inline_projections() -> tuple[InlineProjection, ...]:
    """Return the projections in the order of loading.

    Later ones depend on earlier ones: callbacks require users, schedules require jobs and users,
    and jobs require users.
    """
    return (
        CallbacksProjection(),
        SchedulesProjection(),
        JobsProjection(),
        WindowsProjection(),
        LineProjection(),
        ParentsProjection(),
    )


class LiveProjections:
    """The inline projections at their current generations, for the writer."""

    def __init__(
        self, projections: Sequence[Projection[Connection]], log: EventLog[Connection]
    ) -> None:
        self._projections: Final = projections
        self._log = log
        self._generations: dict[str, int] = {}
        self._empty_claims = EmptyClaims()
        # The state after the latest committed batch; None: to be read again.
        self._kept: WriteModel | None = None
        self._loaded = RequiredRows()  # rows that were read, or found to be absent
        self._saved = 0  # position of the rows in the tables

    def refresh(self, connection: Connection) -> None:
        """Read the current generations. Raises `LogUnavailable` and `LogTooNew`."""
        self.forget()
        registered = registry.read(connection)
        registry.check_versions(registered, self._projections)
        for projection in self._projections:
            found = registered.get(projection.name)
            if found is None or not found.is_built or found.version != projection.version:
                raise LogUnavailable(
                    f"The projection {projection.name!r} is not built for this release; "
                    "run `fairlog migrate`."
                )
            self._generations[projection.name] = found.generation

    @property
    def saved(self) -> int:
        """The position that the rows stand at, as far as the current transaction knows."""
        return self._saved

    def load(self, connection: Connection, head: Head, required: RequiredRows) -> WriteModel:
        """Return the state at the head, with the required rows in memory.

        If too many rows are in memory, saves those that changed and drops all of them before.
        """
        model, self._kept = self._kept, None
        saved = head.saved
        if saved > head.position:
            raise LogUnavailable(
                f"The head row says that the projections stand at {saved}, and the log ends at "
                f"{head.position}; run `fairlog rebuild`."
            )
        if model is not None:
            if model.position > head.position or saved not in {self._saved, model.position}:
                # The end of the log was lost, or another process has saved what it appended.
                model = None
            elif saved != self._saved:  # another process has saved what this one knows
                # Marks them as written: the other process has written the same rows.
                for projection in self._projections:
                    projection.take_changes(self._generations[projection.name], model)
            elif self._loaded.size() + len(model.jobs.rows) > ROWS_KEPT_MAX:
                self.save(connection, model)
                saved, model = model.position, None
        self._saved = saved
        if model is None:
            model = WriteModel(KnownLine(is_whole=False))
            model.limits.is_read = False
            model.callbacks.is_read = False
            model.position = saved
            self._loaded = RequiredRows()
        while model.position < head.position:
            self._catch_up(connection, model, head.position)
        self._load(connection, required, model)
        return model

    def _catch_up(self, connection: Connection, model: WriteModel, end: int) -> None:
        """Fold the next events that this process has not seen yet."""
        limit = min(EVENTS_PER_PAGE, end - model.position)
        events = self._log.read(connection, model.position, limit)
        if not events:
            raise LogUnavailable(f"The event {model.position + 1} cannot be read here yet.")
        required = RequiredRows()
        required.add_events(events)
        required.add_keys(submissions_in(events))
        # Jobs that were submitted by events which are not saved are not stored yet.
        required.jobs.difference_update([job for job in required.jobs if job > self._saved])
        self._load(connection, required, model)
        for recorded in events:
            model.evolve(recorded)

    def look_further(
        self, connection: Connection, unread: Unread | UnreadChildren, model: WriteModel
    ) -> None:
        """Load more of the line, or more children of ended jobs.

        Saves changed rows before, since it reads the stored ones.
        """
        if model.position > self._saved:
            self.save(connection, model)
        required = RequiredRows()
        generations = self._generations
        if isinstance(unread, UnreadChildren):
            stored = (generations["parents"], generations["jobs"])
            read_children(connection, *stored, unread, model, required)
            self._load(connection, required, model)
            return
        front = FrontOfLine(connection, generations["line"], generations["jobs"])
        front.read(unread, model, required)
        self._load(connection, required, model)

    def _load(self, connection: Connection, required: RequiredRows, model: WriteModel) -> None:
        for projection in self._projections:
            missing = required.without(self._loaded)
            projection.load(connection, self._generations[projection.name], missing, model)
            required.add(missing)
        self._loaded.add(required)

    def save(self, connection: Connection, model: WriteModel) -> None:
        """Write the changed rows; they stand at the model's position then."""
        for projection in self._projections:
            for write in projection.take_changes(self._generations[projection.name], model):
                write(connection)
        self._saved = model.position

    def note_empty_claims(
        self, connection: Connection, claims: Sequence[ClaimHash], now: datetime
    ) -> None:
        self._empty_claims.note(connection, claims, to_micros(now))

    def keep(self, model: WriteModel) -> None:
        """Keep a model for the next batch, once its changes are committed."""
        self._kept = model

    def forget(self) -> None:
        """Drop the model that is kept."""
        self._kept = None
